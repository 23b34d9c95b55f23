"""`jvp`, `jacobian`, `hessian` and `hvp` on every backend, against JAX in float64."""

import contextvars
import functools

import numpy as np
import pytest

import xdev
from xdev.errors import GradientError
from xdev.testing import assert_close

jax = pytest.importorskip("jax")

RNG = np.random.default_rng(0)
POINT = {"w": RNG.normal(size=(3, 2)), "b": RNG.normal(size=2)}
DIRECTION = {"w": RNG.normal(size=(3, 2)), "b": RNG.normal(size=2)}


@pytest.fixture(autouse=True)
def float64():
    with xdev.precision("float64"):
        yield


def layers(t):
    xp = xdev.namespace(t["w"], t["b"])
    return {"y": xp.matmul(xp.sin(t["w"]), t["b"]), "z": t["b"] ** 3}


def loss(t):
    xp = xdev.namespace(t["w"], t["b"])
    return xp.sum(xp.matmul(xp.sin(t["w"]), t["b"])) ** 2


def jax_layers(t):
    return {"y": jax.numpy.sin(t["w"]) @ t["b"], "z": t["b"] ** 3}


def jax_loss(t):
    return (jax.numpy.sin(t["w"]) @ t["b"]).sum() ** 2


def oracle(function, *args):
    with jax.enable_x64(True):
        return xdev.to_numpy(function(*jax.tree.map(jax.numpy.asarray, args)))


def there(tree, device):
    return xdev.to_device(tree, device, copy=True)


def same(found, expected):
    assert_close(xdev.to_numpy(found), expected, rtol=1e-9, atol=1e-12)


def test_jvp(device):
    value, tangent = xdev.jvp(layers, (there(POINT, device),), (there(DIRECTION, device),))
    want_value, want = oracle(lambda t, v: jax.jvp(jax_layers, (t,), (v,)), POINT, DIRECTION)
    same(value, want_value)
    same(tangent, want)


def test_jacobian(device):
    same(xdev.jacobian(layers)(there(POINT, device)), oracle(jax.jacobian(jax_layers), POINT))


def test_jacobian_by_several_arguments(device):
    def product(x, n, y):
        return x * y * n

    x, y = there(POINT["b"], device), there(DIRECTION["b"], device)
    by_x, by_y = xdev.jacobian(product, argnums=(0, 2))(x, 3.0, y)
    same(by_x, np.diag(3 * DIRECTION["b"]))
    same(by_y, np.diag(3 * POINT["b"]))


def test_hessian(device):
    same(xdev.hessian(loss)(there(POINT, device)), oracle(jax.hessian(jax_loss), POINT))


def test_hvp(device):
    (found,) = xdev.hvp(loss, (there(POINT, device),), (there(DIRECTION, device),))
    same(found, oracle(lambda t, v: jax.jvp(jax.grad(jax_loss), (t,), (v,))[1], POINT, DIRECTION))


def test_third_order(device):
    x = there(POINT["b"], device)
    third = xdev.jacobian(xdev.hessian(lambda x: xdev.namespace(x).sum(x**4)))(x)
    same(third, oracle(jax.jacobian(jax.hessian(lambda x: (x**4).sum())), POINT["b"]))


def test_complex_directions(device):
    z, v = np.asarray([1 + 2j, 3 - 1j]), np.asarray([1j, 1 + 0j])
    _, tangent = xdev.jvp(lambda z: z * z, (there(z, device),), (there(v, device),))
    same(tangent, 2 * z * v)


def test_what_is_not_differentiated_has_zeros(device):
    point = there({"x": POINT["b"], "n": np.asarray([1, 2])}, device) | {"k": 3}
    direction = there({"x": DIRECTION["b"], "n": np.asarray([0, 0])}, device) | {"k": 0}

    def f(t):
        return {"y": t["x"] * t["k"], "n": t["n"]}

    value, tangent = xdev.jvp(f, (point,), (direction,))
    same(tangent["y"], 3 * DIRECTION["b"])
    assert xdev.to_numpy(value["n"]).tolist() == [1, 2]
    assert xdev.to_numpy(tangent["n"]).tolist() == [0, 0]
    (found,) = xdev.hvp(lambda t: xdev.namespace(t["x"]).sum(t["x"] ** 3), (point,), (direction,))
    same(found["x"], 6 * POINT["b"] * DIRECTION["b"])


class Tied(xdev.nn.Module):
    a: object
    b: object


def cube(model):
    xp = xdev.namespace(model.a)
    return xp.sum(model.a * model.a * model.b)


def test_tied_leaves_count_once(device):
    w, v = there(POINT["b"], device), there(DIRECTION["b"], device)
    model, direction = Tied(w, w), Tied(v, v)
    same(xdev.jvp(cube, (model,), (direction,))[1], (3 * POINT["b"] ** 2 * DIRECTION["b"]).sum())
    (found,) = xdev.hvp(cube, (model,), (direction,))
    same(found.a, 6 * POINT["b"] * DIRECTION["b"])
    assert found.a is found.b


def test_leaves_beside_the_differentiated_ones(device):
    point = there({"w": POINT["b"], "n": np.asarray([1, 2])}, device) | {"k": 3, "name": "a"}
    jacobian = xdev.jacobian(lambda t: t["w"] * t["k"])(point)
    same(jacobian["w"], 3 * np.eye(2))
    assert jacobian["name"] == "a"
    hessian = xdev.hessian(lambda t: xdev.namespace(t["w"]).sum(t["w"] ** 3 * t["k"]))(point)
    same(hessian["w"]["w"], np.diag(18 * POINT["b"]))
    assert hessian["k"] == 0


def test_constant_inner_gradients(device):
    x = there(POINT["b"], device)

    def outer(x):
        xp = xdev.namespace(x)
        return xp.sum(x * xdev.grad(lambda y: xp.sum(2 * y))(x))

    same(xdev.grad(outer)(x), np.full(2, 2.0))
    same(xdev.hessian(lambda x: xdev.namespace(x).sum(3 * x))(x), np.zeros((2, 2)))


def test_arrays_of_float64_after_the_block(device):
    x, v = there(POINT["b"], device), there(DIRECTION["b"], device)
    context = contextvars.Context()  # one in which no block is open

    def after():
        return xdev.jvp(lambda x: x**3, (x,), (v,))[1], xdev.jacobian(lambda x: x * x)(x)

    tangent, jacobian = context.run(after)
    same(tangent, 3 * POINT["b"] ** 2 * DIRECTION["b"])
    same(jacobian, np.diag(2 * POINT["b"]))


def test_empty_and_scalar_arrays(device):
    xp = device.xp
    assert tuple(xdev.jacobian(lambda x: x * 2)(xp.zeros((0, 3))).shape) == (0, 3, 0, 3)
    assert xdev.item(xdev.hessian(lambda x: x**3)(xp.asarray(2.0))) == 12.0


# -- orders and mixtures, all against JAX ----------------------------------------------------------------------------

TREE = {"w": RNG.normal(size=(2, 2)), "b": [RNG.normal(size=2), None]}
ALONG = {"w": RNG.normal(size=(2, 2)), "b": [RNG.normal(size=2), None]}
POSITION, SPEED = RNG.normal(size=2), RNG.normal(size=2)


def energy(t, y, xp):
    """A scalar of a tree and an array, linear in nothing; on strict, captured arrays stand on the right."""
    h = xp.sin(xp.matmul(t["w"], y) + y * t["b"][0])
    return xp.sum(h * h * y) + y[0] ** 3 * xp.sum(xp.exp(t["b"][0] * 0.3))


def field(t, y, xp):
    return {"a": xp.matmul(t["w"], y) ** 3 + y[0] ** 4, "c": (xp.sum(y * t["b"][0] ** 2), None)}


def square(tree, d):
    """A scalar of all arrays of a tree."""
    return sum(d.xp(x).sum(x * x * 0.5) for x in xdev.tree.leaves(tree))


class Ours:
    """xdev's functions, under the names of JAX's."""

    grad, value_and_grad, vjp, jvp = xdev.grad, xdev.value_and_grad, xdev.vjp, xdev.jvp
    jacobian, hessian, stop_gradient = xdev.jacobian, xdev.hessian, xdev.stop_gradient
    xp = staticmethod(xdev.namespace)


class Jax:
    grad, value_and_grad, vjp, jvp = jax.grad, jax.value_and_grad, jax.vjp, jax.jvp
    jacobian, hessian = jax.jacrev, jax.hessian
    stop_gradient = staticmethod(lambda tree: jax.tree.map(jax.lax.stop_gradient, tree))
    xp = staticmethod(lambda *_: jax.numpy)


for _cls in (Ours, Jax):
    for _name, _function in list(vars(_cls).items()):
        if callable(_function) and not isinstance(_function, staticmethod):
            setattr(_cls, _name, staticmethod(_function))


def _with(f, d):
    return lambda t, y: f(t, y, d.xp(y))


MIXTURES = {
    "grad grad grad": lambda d, t, y, v, u: d.grad(
        lambda t: square(d.grad(lambda t: square(d.grad(_with(energy, d))(t, y), d))(t), d)
    )(t),
    "grad by each argument in turn": lambda d, t, y, v, u: d.grad(
        lambda t, y: square(
            d.grad(lambda t, y: square(d.grad(_with(energy, d), argnums=1)(t, y), d), argnums=-2)(t, y), d
        ),
        argnums=(1, 0),
    )(t, y),
    "grad of jvp of grad": lambda d, t, y, v, u: d.grad(
        lambda t: square(d.jvp(lambda t: d.grad(_with(energy, d))(t, y), (t,), (v,))[1], d)
    )(t),
    "jvp of vjp of grad": lambda d, t, y, v, u: d.jvp(
        lambda y: d.vjp(lambda y: d.grad(_with(energy, d), argnums=1)(t, y), y)[1](y)[0], (y,), (u,)
    ),
    "jvp of jvp of jvp": lambda d, t, y, v, u: d.jvp(
        lambda y: d.jvp(lambda y: d.jvp(lambda y: field(t, y, d.xp(y)), (y,), (u,)), (y,), (u,)), (y,), (u,)
    ),
    "vjp of hessian": lambda d, t, y, v, u: d.vjp(d.hessian(_with(energy, d), argnums=1), t, y)[1](
        d.xp(y).ones((2, 2), dtype=y.dtype)
    ),
    "jacobian of hessian": lambda d, t, y, v, u: d.jacobian(lambda y: d.hessian(lambda y: energy(t, y, d.xp(y)))(y))(y),
    "hessian by two arguments": lambda d, t, y, v, u: d.hessian(_with(energy, d), argnums=(1, 0))(t, y),
    "jacobian of a tree by two trees": lambda d, t, y, v, u: d.jacobian(_with(field, d), argnums=(0, 1))(t, y),
    "grad of jacobian with aux": lambda d, t, y, v, u: d.value_and_grad(
        lambda y: (square(d.jacobian(_with(field, d), argnums=1)(t, y), d), {"y": y * 2, "t": [t["w"], None]}),
        has_aux=True,
    )(y),
    "an inner gradient of an outer array": lambda d, t, y, v, u: d.grad(
        lambda y: square(d.grad(lambda z: energy(t, z * y, d.xp(y)))(d.stop_gradient(y)), d)
    )(y),
    "a pullback of an outer cotangent": lambda d, t, y, v, u: d.grad(
        lambda y: square(d.vjp(lambda z: z**3 * y, u)[1](y * y), d)
    )(y),
}


@functools.cache
def by_jax(name):
    return oracle(lambda *args: MIXTURES[name](Jax, *args), TREE, POSITION, ALONG, SPEED)


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_to_third_order(device, name):
    args = [there(x, device) for x in (TREE, POSITION, ALONG, SPEED)]
    same(MIXTURES[name](Ours, *args), by_jax(name))


def test_dtypes_and_complex_arrays_beside_each_other(device):
    """Each gradient has the dtype of its array; of complex ones it is JAX's, not the conjugate."""
    point = {
        "half": np.asarray([0.5, 2.0], np.float32),
        "whole": np.asarray([1.5, -1.0]),
        "z": np.asarray([1 + 2j, -0.5j]),
    }

    def f(t, xp):
        y = xp.astype(t["half"], xp.float64) * t["whole"] if xp is not jax.numpy else t["half"] * t["whole"]
        return xp.sum(xp.real(t["z"] ** 3 * y)) + xp.sum(xp.abs(t["z"]) ** 2 * y)

    found = xdev.grad(lambda t: f(t, xdev.namespace(t["z"])))(there(point, device))
    want = oracle(jax.grad(lambda t: f(t, jax.numpy)), point)
    assert {name: str(xdev.to_numpy(x).dtype) for name, x in found.items()} == {
        "half": "float32", "whole": "float64", "z": "complex128",
    }  # fmt: skip
    assert_close(xdev.to_numpy(found), want, rtol=1e-6)
    z = there(point["z"], device)
    same(
        xdev.vjp(lambda z: z * z * z, z)[1](there(np.asarray([1j, 2 + 1j]), device))[0],
        oracle(lambda z, c: jax.vjp(lambda z: z * z * z, z)[1](c)[0], point["z"], np.asarray([1j, 2 + 1j])),
    )


def test_rules_of_the_users_and_remat_to_third_order(device):
    """A rule with arguments that are no arrays, under `remat` with a generator, whose numbers are drawn again."""

    @xdev.custom_vjp
    def scaled(x, power, options):
        return x**power * options["by"]

    def forward(x, power, options):
        return scaled(x, power, options), (x, power, options["by"])

    def backward(residuals, g):
        x, power, by = residuals
        return g * x ** (power - 1) * (power * by), None, None

    scaled.defvjp(forward, backward)

    def noisy(x, rng):
        return scaled(x, 4, {"by": 2.0, "name": "text"}) * rng.uniform((2,), dtype=x.dtype), rng

    rng = xdev.random.Generator(3, device)
    noise = xdev.to_numpy(xdev.random.Generator(3, device).uniform((2,), dtype=device.xp.float64))

    def f(x):
        return xdev.namespace(x).sum(xdev.remat(noisy)(x, rng)[0])

    x = there(POSITION, device)
    same(xdev.grad(f)(x), 8 * POSITION**3 * noise)
    same(xdev.hessian(f)(x), np.diag(24 * POSITION**2 * noise))
    same(xdev.jacobian(xdev.hessian(f))(x)[0, 0, 0], 48 * POSITION[0] * noise[0])
    same(xdev.hvp(f, (x,), (x,))[0], 24 * POSITION**3 * noise)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: xdev.jvp(abs, x, (x,)), r"primals is a ndarray, expected a tuple with one entry an argument"),
        (lambda x: xdev.jvp(abs, (x,), (x, x)), "there are 1 primals and 2 tangents"),
        (lambda x: xdev.jvp(abs, (x,), ({"x": x},)), "expected that of the primals"),
        (
            lambda x: xdev.hvp(abs, (x,), (x[:1],)),
            r"tangents\[0\] is float64 of shape \(1,\), expected float64 of shape \(2,\), as its primal",
        ),
        (
            lambda x: xdev.jvp(abs, (x,), (x.astype("float32"),)),
            r"tangents\[0\] is float32 of shape \(2,\), expected float64 of shape \(2,\)",
        ),
        (
            lambda x: xdev.jacobian(lambda x: (x, 3))(x),
            "jacobian takes functions that return floating arrays, and one is an int",
        ),
        (lambda x: xdev.jacobian(lambda x: x > 0)(x), "and one is an array of bool"),
        (lambda x: xdev.jacobian(lambda x: x, 3)(x), "argnums=3, but <lambda> was called with 1 positional arguments"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(GradientError, match=text):
        call(np.ones(2))
