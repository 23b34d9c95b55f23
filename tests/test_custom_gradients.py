"""`custom_vjp` and `remat` on every backend: values, gradients, second derivatives, memory, and errors."""

import tracemalloc

import numpy as np
import pytest

import xdev
from xdev.errors import ArrayTypeError, GradientError
from xdev.testing import assert_close

X = np.random.default_rng(0).normal(size=(2, 3))
W = np.random.default_rng(1).normal(size=(3, 3))
float64 = pytest.mark.usefixtures("wide")


@pytest.fixture
def wide():
    with xdev.precision("float64"):
        yield


def there(tree, device):
    return xdev.to_device(tree, device, copy=True)


def same(found, expected):
    expected = np.asarray(expected) if isinstance(expected, list | float) else expected
    assert_close(xdev.to_numpy(found), expected, rtol=1e-9, atol=1e-12)


# -- custom_vjp --------------------------------------------------------------------------------------


@xdev.custom_vjp
def ruled(tree, scale):
    """Return a sine and its argument; the rule says 3 x cos(x) of the first."""
    xp = xdev.namespace(tree["x"])
    return {"y": xp.sin(tree["x"]) * scale, "n": tree["n"]}, tree["x"]


def forward(tree, scale):
    xp = xdev.namespace(tree["x"])
    return ruled(tree, scale), {"cos": xp.cos(tree["x"]), "x": tree["x"], "name": "kept"}


def backward(saved, cotangent):
    assert saved["name"] == "kept"
    of_first, of_second = cotangent
    return {"x": 3 * saved["cos"] * of_first["y"] * saved["x"] + of_second, "n": saved["x"]}, None


ruled.defvjp(forward, backward)


def loss_of(tree):
    first, second = ruled(tree, 2.0)
    xp = xdev.namespace(tree["x"])
    return xp.sum(first["y"] ** 2) + xp.sum(second)


@float64
def test_the_rule_is_the_gradient(device):
    gradient = xdev.grad(loss_of)(there({"x": X, "n": np.asarray([1, 2])}, device))
    same(gradient["x"], 3 * np.cos(X) * X * (4 * np.sin(X)) + 1)
    assert xdev.to_numpy(gradient["n"]).tolist() == [0, 0]


@float64
def test_higher_orders_follow_the_rule(device):
    tree = there({"x": X, "n": np.asarray([1, 2])}, device)
    second = xdev.grad(lambda tree: xdev.namespace(tree["x"]).sum(xdev.grad(loss_of)(tree)["x"]))(tree)
    cotangent, rule = 4 * np.sin(X), 3 * np.cos(X) * X
    same(second["x"], 3 * (np.cos(X) - np.sin(X) * X) * cotangent + rule * 2 * rule)


@float64
def test_values_without_a_gradient(device):
    tree = there({"x": X, "n": np.asarray([1, 2])}, device)
    first, second = ruled(tree, 2.0)
    same(first["y"], 2 * np.sin(X))
    same(second, X)


@float64
def test_a_rule_within_jit_and_within_a_step(device):
    tree = there({"x": X, "n": np.asarray([1, 2])}, device)
    same(xdev.jit(xdev.grad(loss_of))(tree)["x"], xdev.to_numpy(xdev.grad(loss_of)(tree)["x"]))


@float64
def test_a_straight_through_estimator(device):
    @xdev.custom_vjp
    def rounded(x):
        return xdev.namespace(x).round(x)

    rounded.defvjp(lambda x: (rounded(x), None), lambda _, g: (g,))
    x = there(X, device)
    same(xdev.grad(lambda x: xdev.namespace(x).sum(rounded(x) * x))(x), np.round(X) + X)


@float64
def test_complex_cotangents_are_xdevs(device):
    """The gradient is d/dRe - i d/dIm on every backend, in rules too."""

    @xdev.custom_vjp
    def square(z):
        return z * z

    square.defvjp(lambda z: (square(z), z), lambda z, g: (2 * z * g,))
    z = there(np.asarray([1 + 2j, 3 - 1j]), device)

    def loss(f):
        return lambda z: xdev.namespace(z).sum(xdev.namespace(z).real(f(z)))

    same(xdev.grad(loss(square))(z), xdev.to_numpy(xdev.grad(loss(lambda z: z * z))(z)))


def test_an_output_without_cotangent_has_zeros(device):
    @xdev.custom_vjp
    def two(x):
        return x * 2, x * 3

    seen = []

    def pull(_, cotangents):
        seen.append(xdev.item(xdev.namespace(cotangents[1]).sum(cotangents[1])))
        return (2 * cotangents[0] + 3 * cotangents[1],)

    two.defvjp(lambda x: (two(x), None), pull)
    x = there(np.ones(3, np.float32), device)
    assert_close(xdev.to_numpy(xdev.grad(lambda x: xdev.namespace(x).sum(two(x)[0]))(x)), np.full(3, 2, np.float32))
    assert seen == [0.0]


@float64
def test_arrays_of_the_host_beside_do_not_hide_the_rule(device):
    def clipping(order):
        @xdev.custom_vjp
        def f(*args):
            return args[order]

        def pull(limit, g):
            clipped = xdev.namespace(g).clip(g, -limit, limit)
            return (None, clipped) if order else (clipped, None)

        f.defvjp(lambda *args: (f(*args), float(args[1 - order])), pull)
        return f

    x, limit = there(np.asarray([1.0, 2.0]), device), np.float64(0.5)
    for order in (0, 1):
        f = clipping(order)
        args = (lambda x: (limit, x)) if order else (lambda x: (x, limit))

        def loss(x, f=f, args=args):
            y = f(*args(x))
            return xdev.namespace(y).sum(y**2)

        same(xdev.grad(loss)(x), [0.5, 0.5])
        same(f(*args(x)), [1.0, 2.0])


@float64
def test_one_array_twice_in_the_value_has_two_cotangents(device):
    @xdev.custom_vjp
    def twice(x):
        y = x * 1
        return y, y

    twice.defvjp(lambda x: (twice(x), None), lambda _, g: (g[0] + 10 * g[1],))

    def loss(x):
        first, second = twice(x)
        return xdev.namespace(x).sum(first + 2 * second)

    same(xdev.grad(loss)(there(np.ones(2), device)), [21.0, 21.0])


@float64
def test_a_number_is_the_cotangent_of_a_scalar(device):
    @xdev.custom_vjp
    def f(x):
        return x * 3

    f.defvjp(lambda x: (f(x), None), lambda _, g: (2.0,))
    same(xdev.grad(f)(there(np.asarray(1.0), device)), 2.0)


@pytest.mark.parametrize(
    ("give", "text"),
    [
        (lambda g: 2, "gave an int for array 0 of the arguments, which is float32 of shape"),
        (
            lambda g: g[:1],
            r"gave float32 of shape \(1,\) for array 0 of the arguments, which is float32 of shape \(2,\)",
        ),
        (
            lambda g: xdev.namespace(g).astype(g, xdev.namespace(g).int32),
            r"gave int32 of shape \(2,\) for array 0 of the arguments, which is float32",
        ),
    ],
)
def test_cotangents_are_like_their_arguments(give, text, device):
    @xdev.custom_vjp
    def f(x):
        return x * 1

    f.defvjp(lambda x: (f(x), None), lambda _, g: (give(g),))
    with pytest.raises(GradientError, match=text):
        xdev.grad(lambda x: xdev.namespace(x).sum(f(x)))(there(np.ones(2, np.float32), device))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (None, r"f has no gradient rule yet; give it one: f\.defvjp\(forward, backward\)"),
        ((lambda x, y: x, lambda r, g: (g, g)), r"the forward rule of f returns \(value, residuals\); got an? "),
        ((lambda x, y: (x, ()), lambda r, g: g), "for each of the 2 arguments, None where there is none; got an? "),
        ((lambda x, y: (x, ()), lambda r, g: (g,)), "None where there is none; got a tuple of 1"),
        ((lambda x, y: (x, ()), lambda r, g: ({"x": g}, g)), r"gave a cotangent of structure .* for args\[0\]"),
    ],
)
def test_bad_rules_are_told(rule, text, device):
    @xdev.custom_vjp
    def f(x, y):
        return x

    if rule:
        f.defvjp(*rule)
    x = there(np.ones(2, np.float32), device)
    with pytest.raises(GradientError, match=text):
        xdev.grad(lambda x: xdev.namespace(x).sum(f(x, x)))(x)


def test_a_rule_is_of_a_function():
    with pytest.raises(ArrayTypeError, match="custom_vjp takes a function, got an int"):
        xdev.custom_vjp(3)
    with pytest.raises(
        ArrayTypeError, match="defvjp takes two functions, forward and backward; backward is a NoneType"
    ):
        xdev.custom_vjp(abs).defvjp(abs, None)


# -- remat -------------------------------------------------------------------------------------------


def layer(w, x):
    xp = xdev.namespace(w, x)
    return xp.tanh(xp.matmul(x, w))


def net(w, x, wrap):
    for _ in range(3):
        x = wrap(layer)(w, x)
    return xdev.namespace(x).sum(x * x)


@float64
@pytest.mark.parametrize("argnums", [0, (0, 1)])
def test_gradients_are_those_without(argnums, device):
    w, x = there(W, device), there(X, device)
    kept = xdev.grad(lambda w, x: net(w, x, lambda f: f), argnums)(w, x)
    same(xdev.grad(lambda w, x: net(w, x, xdev.remat), argnums)(w, x), xdev.to_numpy(kept))


@float64
def test_second_derivatives_are_those_without(device):
    w, x = there(W, device), there(X, device)
    kept = xdev.hessian(lambda w: net(w, x, lambda f: f))(w)
    same(xdev.hessian(lambda w: net(w, x, xdev.remat))(w), xdev.to_numpy(kept))


def test_a_module_brings_its_arrays_along(device):
    model = xdev.nn.MLP([3, 4, 2], rng=xdev.random.Generator(0, device))
    x = there(X.astype(np.float32), device)

    def loss(wrap):
        def of(model):
            y = wrap(model)(x)
            return xdev.namespace(y).sum(y**2)

        return of

    kept, again = xdev.grad(loss(lambda f: f))(model), xdev.grad(loss(xdev.remat))(model)
    for found, expected in zip(xdev.tree.leaves(again), xdev.tree.leaves(kept), strict=True):
        assert_close(found, expected)


def test_outputs_of_any_tree_and_integers(device):
    def f(x, n):
        return {"y": x * 2, "n": n, "k": 3}

    def loss(x, n):
        out = xdev.remat(f)(x, n)
        assert out["k"] == 3
        return xdev.namespace(x).sum(out["y"])

    x, n = there((np.ones(3, np.float32), np.asarray([1, 2], np.int32)), device)
    assert_close(xdev.to_numpy(xdev.grad(loss)(x, n)), np.full(3, 2, np.float32))
    assert xdev.to_numpy(xdev.remat(f)(x, n)["n"]).tolist() == [1, 2]
    assert xdev.remat(f)(1, 2) == {"y": 2, "n": 2, "k": 3}


@float64
def test_a_rule_within_remat(device):
    @xdev.custom_vjp
    def f(x):
        return x**3

    f.defvjp(lambda x: (f(x), x), lambda x, g: (5 * x * g,))
    x = there(X[0], device)
    again = xdev.remat(lambda x: f(x))
    same(xdev.grad(lambda x: xdev.namespace(x).sum(again(x)))(x), 5 * X[0])
    same(xdev.hessian(lambda x: xdev.namespace(x).sum(again(x)))(x), np.diag(np.full(3, 5.0)))


def test_generators_come_back(device):
    def noisy(x, rng):
        return x * rng.normal((3,)), rng

    def loss(wrap):
        def of(x, rng):
            first, rng = wrap(noisy)(x, rng)
            second, rng = wrap(noisy)(x, rng)
            return xdev.namespace(x).sum(first + second)

        return of

    x = there(np.ones(3, np.float32), device)
    kept = xdev.grad(loss(lambda f: f))(x, xdev.random.Generator(0, device))
    again = xdev.grad(loss(xdev.remat))(x, xdev.random.Generator(0, device))
    assert_close(xdev.to_numpy(again), xdev.to_numpy(kept))


def test_what_is_computed_again_has_the_default_of_the_first_time(device):
    def f(x):
        xp = xdev.namespace(x)
        return x * x * xp.full((3,), 0.1)

    with xdev.precision("float64"):
        x = there(X[0], device)
        _, pull = xdev.vjp(xdev.remat(f), x)
        cotangent = there(np.ones(3), device)
        kept = xdev.to_numpy(xdev.vjp(f, x)[1](cotangent)[0])
    same(pull(cotangent)[0], kept)


@pytest.mark.xdev_backends(exclude=["torch", "jax"], reason="their own remat knows what is taken from outside")
def test_what_the_tape_would_not_know_is_told(device):
    def loss(w):
        return xdev.namespace(w).sum(xdev.remat(lambda x: xdev.namespace(w).multiply(x, w))(2 * w))

    with pytest.raises(GradientError, match="remat: the function takes an array under differentiation from outside"):
        xdev.grad(loss)(there(np.ones(3, np.float32), device))


def test_memory_of_64_layers_is_that_of_their_roots():
    """Groups of 8 keep 8 inputs, and 8 layers of one group while it runs backward."""
    rng = xdev.random.Generator(0, "numpy")
    width, depth, rows = 64, 64, 512
    model = [xdev.nn.Linear(width, width, rng=rng) for _ in range(depth)]
    x = np.ones((rows, width), np.float32)
    one = x.nbytes

    def group(layers, x):
        for each in layers:
            x = xdev.ops.relu(each(x))
        return x

    def loss(wrap):
        def of(model):
            y = x
            for start in range(0, depth, 8):
                y = wrap(group)(model[start : start + 8], y)
            return xdev.namespace(y).mean(y)

        return of

    def peak(wrap):
        xdev.grad(loss(wrap))(model)
        tracemalloc.start()
        xdev.grad(loss(wrap))(model)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found / one

    kept, again = peak(lambda f: f), peak(xdev.remat)
    weights = depth * width * width * 4 / one  # the gradients themselves
    assert kept > 100
    assert again - weights < 48


@pytest.mark.xdev_backends(
    exclude=["jax", "torch"], reason="JAX's arrays are not written to, torch's are the user's own"
)
@pytest.mark.parametrize("write", ["in place", "item"])
def test_writing_inside_leaves_what_is_outside(xp, write):
    def block(x):
        xp = xdev.namespace(x)
        if write == "in place":
            x += 1.0
        else:
            x[0] = 1.0
        return xp.tanh(x)

    def loss(remat):
        def of(x):
            hidden = xdev.namespace(x).exp(x)
            return xdev.namespace(x).sum((xdev.remat(block) if remat else block)(hidden + 0.0) + hidden)

        return of

    x = xp.asarray([0.1, 0.2])
    assert_close(xdev.grad(loss(True))(x), xdev.grad(loss(False))(x))
