"""`value_and_grad`, `grad`, `vjp`, `jit`, `stop_gradient`: the same answers on every backend."""

import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest

import xdev
from xdev.errors import DeviceMismatchError, GradientError, NoGradientRule, TracedValueError
from xdev.testing import assert_close


def energy(params, x):
    xp = xdev.namespace(x)
    return xp.sum(xp.tanh(x @ params["w"] + params["b"]) ** 2)


W = np.linspace(-1, 1, 6).reshape(3, 2)
B = np.asarray([0.1, -0.2])
X = np.linspace(-1, 1, 12).reshape(4, 3)


def _energy_gradients():
    t = np.tanh(X @ W + B)
    g = 2 * t * (1 - t**2)
    return (t**2).sum(), X.T @ g, g.sum(0)


def _params(xp):
    return {"w": xp.asarray(W.astype("float32")), "b": xp.asarray(B.astype("float32"))}


def _x(xp):
    return xp.asarray(X.astype("float32"))


def test_value_and_grad_of_a_tree(xp, device):
    value, grads = xdev.value_and_grad(energy)(_params(xp), _x(xp))
    expected, dw, db = _energy_gradients()
    assert_close(value, np.float32(expected), rtol=1e-5)
    assert_close(grads["w"], dw.astype("float32"), rtol=1e-5)
    assert_close(grads["b"], db.astype("float32"), rtol=1e-5)
    assert xdev.device_of(grads) == device
    assert xdev.device_of(xdev.value_and_grad(energy)(_params(xp), _x(xp))[0]) == device


def test_argnums_give_a_tuple(xp):
    grads = xdev.grad(energy, argnums=(0, 1))(_params(xp), _x(xp))
    t = np.tanh(X @ W + B)
    assert_close(grads[1], (2 * t * (1 - t**2) @ W.T).astype("float32"), rtol=1e-5)
    assert set(grads[0]) == {"w", "b"}


def test_the_same_array_as_two_arguments_gets_two_gradients(xp):
    x = xp.asarray(np.float32([2.0, 3.0]))
    a, b = xdev.grad(lambda a, b: xdev.namespace(a).sum(a * a * b), argnums=(0, 1))(x, x)
    assert_close(a, np.float32([8.0, 18.0]))
    assert_close(b, np.float32([4.0, 9.0]))


def test_auxiliary_output_passes_through(xp):
    def f(x):
        xp_ = xdev.namespace(x)
        return xp_.sum(x * x), {"double": x + x, "word": "kept", "number": 3}

    x = xp.asarray(np.float32([1.0, 2.0]))
    (value, aux), grad = xdev.value_and_grad(f, has_aux=True)(x)
    assert_close(value, np.float32(5.0))
    assert_close(aux["double"], np.float32([2.0, 4.0]))
    assert aux["word"] == "kept"
    assert aux["number"] == 3
    assert xdev.namespace(aux["double"]) is xdev.namespace(x)
    assert_close(grad, np.float32([2.0, 4.0]))


def test_third_derivative(xp):
    x = xp.asarray(np.float32(2.0))
    third = xdev.grad(xdev.grad(xdev.grad(lambda x: x**4)))
    assert_close(third(x), np.float32(48.0), rtol=1e-5)


def test_gradient_inside_a_gradient_stays_connected(xp):
    """With a detached leaf, torch would answer 6 for 12."""

    def outer(x):
        inner = xdev.grad(lambda y: y * y * x)(x)
        return inner * x

    assert_close(xdev.grad(outer)(xp.asarray(np.float32(2.0))), np.float32(24.0), rtol=1e-5)


def test_integer_leaves_get_zeros(xp):
    tree = {"x": xp.asarray(np.float32([1.0, 2.0])), "n": xp.asarray(np.int32([3, 4])), "k": 2}

    def f(tree):
        xp_ = xdev.namespace(tree["x"])
        return xp_.sum(tree["x"] ** tree["k"])

    grads = xdev.grad(f)(tree)
    assert_close(grads["x"], np.float32([2.0, 4.0]))
    assert_close(grads["n"], np.int32([0, 0]))


def test_stop_gradient(xp):
    x = xp.asarray(np.float32([3.0]))
    f = lambda x: xdev.namespace(x).sum(x * xdev.stop_gradient(x))  # noqa: E731
    assert_close(xdev.grad(f)(x), np.float32([3.0]))


def test_vjp_pulls_back_more_than_once(xp):
    x = xp.asarray(np.float32([1.0, 2.0, 3.0]))
    value, pullback = xdev.vjp(lambda x: {"square": x * x}, x)
    assert_close(value["square"], np.float32([1.0, 4.0, 9.0]))
    for _ in range(2):
        (grad,) = pullback({"square": xp.asarray(np.float32([1.0, 0.0, 2.0]))})
        assert_close(grad, np.float32([2.0, 0.0, 12.0]))
    with pytest.raises(GradientError, match="the cotangent has structure"):
        pullback(x)


def test_results_are_never_overwritten_by_a_later_call(xp):
    f = xdev.value_and_grad(energy)
    value, grads = f(_params(xp), _x(xp))
    before = xdev.to_numpy((value, grads), copy=True)
    f({"w": _params(xp)["w"] * 2, "b": _params(xp)["b"]}, _x(xp) * 3)
    after = xdev.to_numpy((value, grads))
    assert_close(after, before, rtol=0, atol=0)


def test_jit_gives_the_same(xp):
    step = xdev.jit(lambda p, x, k: {"out": energy(p, x) * k, "name": "n"}, static_argnums=2)
    out = step(_params(xp), _x(xp), 2)
    assert_close(out["out"], np.float32(2 * _energy_gradients()[0]), rtol=1e-5)
    assert out["name"] == "n"
    assert_close(step(_params(xp), _x(xp), 3)["out"], np.float32(3 * _energy_gradients()[0]), rtol=1e-5)


def test_jit_takes_keywords_and_what_is_no_array_follows_the_shape(xp):
    f = xdev.jit(lambda x, *, y: {"sum": x + y, "rows": x.shape[0]})
    for rows in (2, 3, 2):
        x = xp.ones(rows, dtype=xp.float32)
        out = f(x, y=x)
        assert out["rows"] == rows
        assert_close(out["sum"], np.full(rows, 2, np.float32))


@pytest.mark.xdev_backends(scoped=False)
def test_jit_works_on_the_device_of_its_arguments(xp, device):
    x = xp.ones((2, 2), dtype=xp.float32)
    assert xdev.device_of(xdev.jit(lambda a: a @ a + a * 2)(x)) == device


def test_static_arguments_are_counted_from_either_end(xp):
    x = xp.ones(2, dtype=xp.float32)
    f = xdev.jit(lambda a, double: a + a if double else a, static_argnums=-1)
    assert_close(f(x, True), np.float32([2, 2]))
    assert_close(f(x, False), np.float32([1, 1]))
    with pytest.raises(xdev.ArrayTypeError, match=r"static_argnums=3, but .* was called with 1 positional"):
        xdev.jit(lambda a: a, static_argnums=3)(x)


@pytest.mark.xdev_backends(only=["torch"], reason="the mode is torch's own")
def test_gradients_within_torchs_inference_mode(xp):
    import torch

    with torch.inference_mode():
        x = torch.ones(2)
        assert_close(xdev.grad(lambda a: (a * a).sum())(x), np.float32([2, 2]))
        assert_close(xdev.vjp(lambda a: a * a, x)[1](x)[0], np.float32([2, 2]))


def test_jit_compiles_once_per_shape_where_it_compiles(xp, backend):
    calls = []

    def f(x):
        calls.append(None)
        return x + 1

    compiled = xdev.jit(f)
    alive = [xp.asarray(np.float32([1.0, 2.0])) for _ in range(3)]  # CuPy tells arguments apart by their place
    for x in (*alive, xp.asarray(np.float32([1.0]))):
        compiled(x)
    compiles = type(backend).jit is not xdev.Backend.jit
    replays = backend.replay is not None  # recorded, and once more to check the replay
    assert len(calls) == (2 if compiles else 3 if replays else 4)


def test_jit_passes_generators_in_and_out(device):
    def draw(rng):
        return rng.uniform((3,)), rng

    eager, compiled = xdev.random.Generator(5, device), xdev.random.Generator(5, device)
    jitted = xdev.jit(draw)
    for _ in range(2):
        a, eager = draw(eager)
        b, compiled = jitted(compiled)
        assert_close(b, xdev.to_numpy(a), rtol=0, atol=0)


def test_a_captured_generator_raises_under_jit(device):
    """Also where nothing is compiled: the same code is wrong elsewhere."""
    rng = xdev.random.Generator(0, device)
    with pytest.raises(xdev.XdevError, match="pass it as an argument and return it"):
        xdev.jit(lambda x: x + rng.uniform((2,)))(device.xp.zeros(2))


class Pair(NamedTuple):
    x: Any
    y: Any


def test_argnums_from_either_end(xp):
    f = lambda a, n, b: xdev.namespace(a).sum(a * a * b) * n  # noqa: E731
    a, b = xp.asarray(np.float32([1, 2])), xp.asarray(np.float32([3, 4]))
    assert_close(xdev.grad(f, argnums=-1)(a, 2, b), np.float32([2, 8]))
    value, (by_b, by_a) = xdev.value_and_grad(f, argnums=[-1, 0])(a, 2, b)
    assert_close(value, np.float32(38))
    assert_close(by_b, np.float32([2, 8]))
    assert_close(by_a, np.float32([12, 32]))


def test_nested_trees_with_none_in_arguments_and_auxiliary_outputs(xp, device):
    def f(pair, *, scale):
        x, (y, nothing) = pair.x["a"], pair.y
        assert nothing is None
        xp_ = xdev.namespace(x)
        aux = Pair({"twice": x * 2, "none": None}, [Pair(y, "text"), (scale, x > 0)])
        return xp_.sum(x * x * scale) + y, aux

    point = Pair({"a": xp.asarray(np.float32([1, -2]))}, (xp.asarray(np.float32(3)), None))
    scale = xp.asarray(np.float32([2, 10]))
    (value, aux), gradient = xdev.value_and_grad(f, has_aux=True)(point, scale=scale)
    assert_close(value, np.float32(45))
    assert_close(gradient.x["a"], np.float32([4, -40]))
    assert_close(gradient.y[0], np.float32(1))
    assert gradient.y[1] is None
    assert_close(aux.x["twice"], np.float32([2, -4]))
    assert aux.y[0].y == "text"
    assert aux.y[1][0] is scale or xdev.to_numpy(aux.y[1][0]).tolist() == [2, 10]
    assert xdev.to_numpy(aux.y[1][1]).tolist() == [True, False]
    assert xdev.device_of((gradient, aux)) == device
    assert type(aux.x["twice"]) is type(point.x["a"])
    again, same = xdev.grad(f, has_aux=True)(point, scale=scale)
    assert_close(again.x["a"], np.float32([4, -40]))
    assert same.y[0].y == "text"


def test_auxiliary_outputs_of_nested_gradients_stay_connected(xp):
    def inner(x):
        value, aux = x * x * x, {"square": x * x}
        return value, aux

    def outer(x):
        gradient, aux = xdev.grad(inner, has_aux=True)(x)
        return gradient * aux["square"]  # 3x² x²

    assert_close(xdev.grad(outer)(xp.asarray(np.float32(2))), np.float32(96))


def test_empty_and_scalar_arrays(xp):
    empty, one = xp.zeros((0, 3), dtype=xp.float32), xp.asarray(np.float32(2))
    f = lambda a, b: xdev.namespace(a).sum(a * a) + b**3  # noqa: E731
    by_empty, by_one = xdev.grad(f, argnums=(0, 1))(empty, one)
    assert tuple(by_empty.shape) == (0, 3)
    assert by_empty.dtype == empty.dtype
    assert tuple(by_one.shape) == ()
    assert_close(by_one, np.float32(12))


# -- what the loss does not depend on ------------------------------------------------------------------------

CONSTANT = {
    "stopped": lambda t: xdev.namespace(t["w"]).sum(xdev.stop_gradient(t["w"])),
    "created": lambda t: xdev.namespace(t["w"]).zeros(()),
    "of the host": lambda t: np.asarray(1.0, np.float32),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_a_loss_that_depends_on_nothing_names_what_it_should_depend_on(xp, device, name):
    point = {"w": xp.ones(2, dtype=xp.float32), "b": [xp.ones(3, dtype=xp.float32)], "n": 3}
    with pytest.warns(UserWarning, match="depends on none of the arrays") as caught:
        _, gradient = xdev.value_and_grad(CONSTANT[name])(point)
    (told,) = caught
    assert str(told.message) == (
        "the loss depends on none of the arrays that it is differentiated by: args[0]['b'][0], args[0]['w']. Their "
        "gradients are zero; float(), xdev.item, xdev.stop_gradient and functions such as argmax and round let none "
        "through"
    )
    assert told.filename == __file__
    assert_close(gradient["w"], np.float32([0, 0]))
    assert_close(gradient["b"][0], np.float32([0, 0, 0]))
    assert gradient["n"] == 0
    assert xdev.device_of(gradient) == device


def test_many_arrays_that_the_loss_does_not_depend_on_are_counted(xp):
    arrays = [xp.ones(1, dtype=xp.float32) for _ in range(7)]
    with pytest.warns(UserWarning, match=r": args\[1\]\[0\], .*, args\[1\]\[4\] and 2 more\. Their"):
        xdev.grad(lambda x, ys: xdev.namespace(x).sum(x), argnums=1)(arrays[0], arrays)


def test_an_array_beside_others_that_the_loss_does_not_depend_on_gets_zeros(xp):
    point = {"used": xp.ones(2, dtype=xp.float32), "unused": xp.ones(3, dtype=xp.float32)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient = xdev.grad(lambda t: xdev.namespace(t["used"]).sum(t["used"] * 2))(point)
    assert_close(gradient["used"], np.float32([2, 2]))
    assert_close(gradient["unused"], np.float32([0, 0, 0]))


@pytest.mark.filterwarnings("ignore:the loss depends on none")
def test_a_gradient_that_is_constant_in_an_outer_one(xp):
    x = xp.asarray(np.float32(3))
    assert_close(xdev.grad(lambda x: x * xdev.grad(lambda y: x * 2)(x))(x), np.float32(0))
    assert_close(xdev.grad(xdev.grad(lambda x: 2 * x))(x), np.float32(0))


def test_a_compiled_gradient_warns_once(xp, backend):
    f = xdev.jit(xdev.grad(lambda x: xdev.namespace(x).zeros(())))
    x = xp.ones(2, dtype=xp.float32)
    with pytest.warns(UserWarning, match=r"differentiated by: args\[0\]\. "):
        f(x)
    if type(backend).jit is not xdev.Backend.jit:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_close(f(x), np.float32([0, 0]))


# -- values of traced arrays ---------------------------------------------------------------------------------


def test_python_reads_values_under_differentiation(xp, device):
    """What has no value on JAX under differentiation has one as a constant, everywhere."""
    x = xp.asarray(np.float32([2, 3]))

    def f(x):
        xp = xdev.namespace(x)
        with device.scope():
            first, whole = xdev.stop_gradient(x[0]), int(x[1])
            if x[0] > 0 and not bool(x[1] < 0):
                return xp.sum(x * float(first) * whole * complex(first).real) + xdev.item(first)
        return xp.sum(x)

    assert_close(xdev.grad(f)(x), np.float32([12, 12]))
    assert_close(xdev.hessian(lambda x: f(x * x))(x), np.diag(np.float32([2 * 4 * 9 * 4] * 2)))
    value, tangent = xdev.jvp(f, (x,), (x,))
    assert_close(value, np.float32(62))
    assert_close(tangent, np.float32(60))


READS = {
    "if": (
        lambda x: x if x[0] > 0 else -x,
        "if, while, and, or, not or bool()",
        r"write xp\.where\(condition, a, b\); ",
    ),
    "float": (lambda x: x * float(x[0]), "float()", "keep it an array and read it outside; "),
    "int": (lambda x: x * int(x[0]), "int()", "keep it an array and read it outside; "),
    "tolist": (lambda x: x * x.tolist()[0], "tolist()", "keep it an array and read it outside; "),
    "a format": (lambda x: x * float(f"{x[0]:.2f}"), "a format", "keep it an array and read it outside; "),
    "range": (
        lambda x: sum(x for _ in range(xdev.namespace(x).argmax(x))),
        "range(), an index or a shape",
        "take sizes from shapes; ",
    ),
    "a shape": (
        lambda x: xdev.namespace(x).zeros(xdev.namespace(x).argmax(x)),
        "range(), an index or a shape",
        "take sizes from shapes; ",
    ),
    "numpy": (lambda x: np.sin(x), "a function of NumPy", r"call functions of xp = xdev\.namespace\(x\); "),
    "mask": (lambda x: x[x > 0], "x[mask]", r"write xp\.where\(mask, x, 0\), "),
}
compiled = pytest.mark.xdev_backends(only=["jax"], reason="the others compile nothing")


@compiled
@pytest.mark.parametrize("name", READS)
def test_values_under_jit_say_what_to_do(xp, name):
    f, what, remedy = READS[name]
    x = xp.asarray(np.float32([1, 2]))
    with pytest.raises(TypeError, match=remedy) as caught:
        xdev.jit(f)(x)
    assert isinstance(caught.value, TracedValueError)
    assert isinstance(caught.value.__cause__, TypeError | IndexError)
    assert str(caught.value).startswith(f"{what} needs the value of an array ({__file__}:")
    assert "while JAX compiles the function, as xdev.jit, make_step, fit and evaluate do: " in str(caught.value)
    if name != "mask":
        assert "pass what is fixed through static_argnums of xdev.jit; or leave out xdev.jit" in str(caught.value)


@compiled
@pytest.mark.parametrize("how", ["jit of grad", "grad of jit", "make_step", "fit", "evaluate", "remat"])
def test_values_in_all_that_is_compiled(xp, how):
    x = xp.asarray(np.float32([1, 2]))

    def loss(model, batch=None):
        return xdev.namespace(model).sum(model) * float(model[0])

    optimizer = xdev.optim.sgd(0.1)
    rows = np.ones((4, 2), np.float32)
    calls = {
        "jit of grad": lambda: xdev.jit(xdev.grad(loss))(x),
        "grad of jit": lambda: xdev.grad(xdev.jit(loss))(x),
        "make_step": lambda: xdev.make_step(loss, optimizer)(xdev.TrainState.create(x, optimizer), x),
        "fit": lambda: xdev.fit(x, loss, rows, optimizer=optimizer),
        "evaluate": lambda: xdev.evaluate(x, loss, rows),
        "remat": lambda: xdev.grad(xdev.remat(loss))(x),
    }
    it = "traces the function for xdev.remat" if how == "remat" else "compiles the function, as xdev.jit"
    with pytest.raises(TracedValueError, match=rf"float\(\) needs .* while JAX {it}.*xdev\.stop_gradient\(x\)"):
        calls[how]()


@compiled
@pytest.mark.parametrize("name", ["float", "tolist", "a format", "numpy"])
def test_values_that_jax_gives_of_constants_only(xp, name):
    f, what, _ = READS[name]
    with pytest.raises(TracedValueError) as caught:
        xdev.grad(lambda x: xdev.namespace(x).sum(f(x)))(xp.asarray(np.float32([1, 2])))
    text = str(caught.value)
    assert text.startswith(f"{what} needs the value of an array ({__file__}:")
    assert text.endswith(
        ", and JAX gives none under differentiation: read xdev.stop_gradient(x), as in float(xdev.stop_gradient(x))"
    )


@compiled
def test_a_traced_array_that_got_away(xp):
    kept = []
    x = xp.ones(2, dtype=xp.float32)
    xdev.jit(lambda x: kept.append(x) or x)(x)
    with pytest.raises(TracedValueError, match=r"used after the differentiation or compilation .*has_aux=True"):
        xdev.grad(lambda x: xdev.namespace(x).sum(x * kept[0]))(x)


# -- errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("value_and_grad", lambda: xdev.value_and_grad(np.ones(2))),
        ("grad", lambda: xdev.grad(np.ones(2))),
        ("jit", lambda: xdev.jit(np.ones(2))),
        ("vjp", lambda: xdev.vjp(np.ones(2), np.ones(2))),
        ("jvp", lambda: xdev.jvp(np.ones(2), (np.ones(2),), (np.ones(2),))),
        ("hvp", lambda: xdev.hvp(np.ones(2), (np.ones(2),), (np.ones(2),))),
        ("jacobian", lambda: xdev.jacobian(np.ones(2))),
        ("hessian", lambda: xdev.hessian(np.ones(2))),
    ],
)
def test_what_is_no_function_is_refused(name, call):
    with pytest.raises(xdev.ArrayTypeError, match=f"^{name} takes a function, got a ndarray$"):
        call()


@pytest.mark.parametrize("argnums", [(0, 0), (1, -1)])
def test_argnums_name_an_argument_once(xp, argnums):
    x = xp.ones(2, dtype=xp.float32)
    for make in (xdev.grad, xdev.jacobian, xdev.hessian):
        with pytest.raises(GradientError, match="names an argument more than once, and 2 were given; name each once"):
            make(lambda a, b: a[0] * b[0], argnums=argnums)(x, x)


@pytest.mark.xdev_backends(only=["torch", "jax"], reason="the others are told by the tape")
@pytest.mark.parametrize("transform", ["grad", "jit", "vjp"])
def test_a_function_without_a_gradient(xp, backend, transform):
    x = xp.ones(2, dtype=xp.float32)
    if backend == "torch":
        import torch

        f, said = torch.special.zeta, "the derivative for 'zeta' is not implemented"
    else:
        import jax

        f, said = jax.lax.nextafter, "Differentiation rule for 'nextafter' not implemented"
    gradient = xdev.grad(lambda x: xdev.namespace(x).sum(f(x, x)))
    calls = {"grad": gradient, "jit": xdev.jit(gradient), "vjp": lambda x: xdev.vjp(lambda x: f(x, x), x)[1](x)}
    with pytest.raises(NoGradientRule) as caught:
        calls[transform](x)
    assert str(caught.value) == (
        f"{backend} has no gradient rule ({said}); give the function one with xdev.custom_vjp, write it with functions "
        "that have one, or stop the gradient with xdev.stop_gradient"
    )
    assert isinstance(caught.value, NotImplementedError)
    assert isinstance(caught.value.__cause__, NotImplementedError | NoGradientRule)


def test_an_error_of_the_users_own_about_values_stays(xp):
    def f(x):
        raise NotImplementedError("mine: later")

    with pytest.raises(NotImplementedError, match=r"^mine: later") as caught:
        xdev.grad(f)(xp.ones(2, dtype=xp.float32))
    assert not isinstance(caught.value, xdev.XdevError)


@pytest.mark.parametrize("make", [xdev.grad, xdev.value_and_grad])
@pytest.mark.parametrize("argnums", ["a", 1.0, ["x"], None])
def test_argnums_are_integers(make, argnums):
    with pytest.raises(xdev.ArrayTypeError, match="argnums takes an int or a sequence of ints, the places of arg"):
        make(lambda x: x, argnums=argnums)


def test_static_arguments_must_hash(xp):
    f = xdev.jit(lambda x, sizes: x * len(sizes), static_argnums=1)
    x = xp.ones(2, dtype=xp.float32)
    with pytest.raises(xdev.ArrayTypeError, match=r"static_argnums=1, but args\[1\] is a list, which does not hash: "):
        f(x, [1, 2])
    assert_close(f(x, (1, 2)), np.float32([2, 2]))
    with pytest.raises(xdev.ArrayTypeError, match="static_argnums takes an int or a sequence of ints"):
        xdev.jit(lambda x: x, static_argnums="1")


def test_cotangents_must_fit(xp):
    x = xp.asarray(np.float32([1.0, 2.0]))
    _, pull = xdev.vjp(lambda x: {"y": x * x, "n": 3}, x)
    for cotangent, words in [
        (xp.ones(3, dtype=xp.float32), r"cotangent\['y'\] has shape \(3,\), its output \(2,\); make them equal"),
        (xp.ones(2, dtype=xp.int32), r"cotangent\['y'\] has dtype int32, its output float32; cast it with xp.astype"),
        (1.0, r"cotangent\['y'\] is a float; expected an array of shape \(2,\), its output's"),
    ]:
        with pytest.raises(GradientError, match=words):
            pull({"y": cotangent, "n": 0})
    with pytest.raises(GradientError, match="the cotangent has structure"):
        pull([xp.ones(2, dtype=xp.float32)])
    assert_close(pull({"y": xp.ones(2, dtype=xp.float32), "n": 0})[0], np.float32([2, 4]))


def test_the_cotangent_of_a_scalar_may_be_a_number(xp):
    x = xp.asarray(np.float32([1.0, 2.0]))
    value, pull = xdev.vjp(lambda x: xdev.namespace(x).sum(x * x), x)
    assert float(value) == 5.0
    assert_close(pull(2.0)[0], np.float32([4, 8]))


def test_loss_that_is_not_scalar(xp):
    x = xp.asarray(np.ones(32, np.float32))
    with pytest.raises(GradientError) as caught:
        xdev.grad(lambda x: x * x)(x)
    assert str(caught.value) == "value_and_grad needs a scalar loss, got shape (32,); take its mean"


def test_loss_that_is_a_number(xp):
    with pytest.raises(GradientError, match=r"needs a scalar array as loss, got a float; float\(\), .item\(\)"):
        xdev.grad(lambda x: 1.0)(xp.asarray(np.float32([1.0])))


def test_loss_of_integers(xp):
    with pytest.raises(GradientError, match=r"needs a loss of a real floating dtype, got int\d+; cast it"):
        xdev.grad(lambda x: xdev.namespace(x).asarray(3))(xp.asarray(np.float32([1.0])))


@pytest.mark.parametrize("dtype", ["complex64", "bool"])
def test_loss_that_is_not_real(xp, dtype):
    hint = "take its real part or its abs" if dtype == "complex64" else "cast it"
    with pytest.raises(GradientError) as caught:
        xdev.grad(lambda x: xdev.namespace(x).astype(x[0], getattr(xdev.namespace(x), dtype)))(xp.ones(2))
    assert str(caught.value) == f"value_and_grad needs a loss of a real floating dtype, got {dtype}; {hint}"


def test_loss_that_is_no_array(xp):
    x = xp.ones(2, dtype=xp.float32)
    for out, what in [({"loss": 1.0}, "a dict"), (None, "a NoneType")]:
        with pytest.raises(GradientError) as caught:
            xdev.grad(lambda x, out=out: out)(x)
        assert str(caught.value) == (
            f"value_and_grad needs a scalar array as loss, got {what}; what comes beside it needs has_aux=True"
        )


def test_loss_with_aux_that_was_not_asked_for(xp):
    with pytest.raises(GradientError, match="got a tuple of 2; has_aux=True takes"):
        xdev.grad(lambda x: (x, x))(xp.asarray(np.float32(1.0)))


def test_nothing_to_differentiate(xp):
    n = xp.asarray(np.int32([1]))
    for call, name in [
        (lambda: xdev.grad(lambda n: n)(n), "value_and_grad"),
        (lambda: xdev.vjp(lambda n: n, n), "vjp"),
        (lambda: xdev.jvp(lambda n: n, (n,), (n,)), "jvp"),
        (lambda: xdev.hvp(lambda n: n, (n,), (n,)), "hvp"),
        (lambda: xdev.jacobian(lambda n: n)(n), "jacobian"),
    ]:
        with pytest.raises(GradientError) as caught:
            call()
        assert str(caught.value) == (
            f"{name} found no array of a floating or complex dtype in the arguments to differentiate (int32); cast "
            "integers first, and pass lists of numbers through xdev.asarray"
        )
    with pytest.raises(GradientError, match="there are no leaves"):
        xdev.grad(lambda n: n)({})


def test_argnums_beyond_the_arguments(xp):
    with pytest.raises(GradientError, match="argnums=2, but energy was called with 1 positional"):
        xdev.grad(energy, argnums=2)(xp.asarray(np.float32([1.0])))


def test_arguments_on_different_devices(xp, device):
    other = xdev.device("numpy" if device.backend != "numpy" else "strict")
    x = xdev.to_device(X.astype("float32"), other)
    with pytest.raises(DeviceMismatchError) as caught:
        xdev.value_and_grad(energy)({"w": _params(xp)["w"], "b": _params(xp)["b"]}, x)
    text = str(caught.value)
    assert str(device) in text
    assert str(other) in text
    assert "xdev.to_device(" in text
    assert "args[1]" in text


@pytest.mark.xdev_backends(exclude=["torch", "jax"], reason="their own functions know their own gradients")
def test_functions_that_do_not_know_traced_arrays_are_told(xp):
    x = xp.asarray(np.float32([1.0, 2.0]))
    with pytest.raises((GradientError, TypeError, AttributeError), match=r"xp = xdev\.namespace\(x\)"):
        xdev.grad(lambda w: xp.sum(xp.tanh(w)))(x)
    with pytest.raises((GradientError, TypeError), match=r"xp = xdev\.namespace\(x\)"):
        xdev.grad(lambda w: np.sum(w))(x)
    with pytest.raises((GradientError, TypeError), match=r"xp = xdev\.namespace\(x\)"):
        xdev.grad(lambda w: np.tanh(w))(x)


def test_an_error_of_the_users_passes_as_it_is(xp):
    def f(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        xdev.grad(f)(xp.asarray(np.float32([1.0])))
    # and leaves nothing behind
    assert_close(xdev.grad(lambda x: x * x)(xp.asarray(np.float32(3.0))), np.float32(6.0))


# -- leaves that are not trained, ties ----------------------------------------------------------------------


class Marked(xdev.nn.Module):
    w: object
    mean: object = xdev.nn.buffer()
    count: object = None


@pytest.mark.parametrize("transform", ["grad", "vjp"])
def test_leaves_without_gradient_know_the_same_namespace(xp, transform):
    def f(m):
        y = xdev.namespace(m.mean).sum(m.mean * m.w)
        return y + xdev.namespace(m.count).sum(m.w * m.w)

    model = Marked(xp.asarray(np.float32([1, 2])), xp.asarray(np.float32([3, 5])), xp.asarray(np.int32([7])))
    if transform == "grad":
        grads = xdev.grad(f)(model)
    else:
        (grads,) = xdev.vjp(f, model)[1](1.0)
    assert_close(grads.w, np.float32([5, 9]))
    assert_close(grads.mean, np.float32([0, 0]))


def test_ties_stay_tied_under_jit(xp):
    w = xp.asarray(np.float32([1, 1]))
    model = Marked(w, xp.asarray(np.float32([0, 0])), w)
    f = lambda m: xdev.namespace(m.w).sum(m.w * 2 + m.count * m.count)  # noqa: E731
    for grads in (xdev.grad(f)(model), xdev.jit(xdev.grad(f))(model)):
        assert_close(grads.w, np.float32([4, 4]))
        assert_close(grads.count, np.float32([4, 4]))
    same = xdev.jit(lambda m: m)(model)
    assert same.w is same.count
    given = xdev.to_device(model, xdev.device_of(model), copy=True)
    assert_close(xdev.jit(lambda m: m, donate=True)(given).count, np.float32([1, 1]))


@pytest.mark.xdev_backends(only=["jax"], reason="the others compile nothing")
def test_equal_numbers_do_not_compile_anew(xp):
    traced = []

    def affine(x, a, b):
        traced.append(1)
        return x * a + b

    compiled = xdev.jit(affine)
    for a, b in ((2, 3), (2, 2), (3, 4)):
        assert_close(compiled(xp.ones(2), a, b), xp.ones(2) * a + b)
    assert len(traced) == 1


@pytest.mark.xdev_backends(only=["jax"], reason="the others compile nothing")
def test_jit_tells_what_does_not_hash(xp):
    with pytest.raises(xdev.ArrayTypeError, match="a leaf of the arguments is a set, which does not hash"):
        xdev.jit(lambda x, options: x)(xp.ones(2), {"names": {1, 2}})
