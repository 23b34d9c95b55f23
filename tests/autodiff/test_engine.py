"""The tape's behaviour: nesting, auxiliary outputs, memory, threads, errors, and what a traced array may do."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref

import numpy as np
import pytest

from xdev.autodiff import Primitive, TracedArray, lift, stop_gradient, value_and_grad, vjp
from xdev.device import device_of, namespace
from xdev.errors import DeviceError, GradientError, NoGradientRule
from xdev.testing import assert_close
from xdev.transfer import to_numpy

pytestmark = pytest.mark.xdev_backends(
    exclude=("torch", "jax"), scoped=False, reason="torch and JAX have gradients of their own"
)


def grad(function):
    """Return the gradient of a function of one array, as a function."""
    return lambda x: value_and_grad(lambda xs: (function(xs[0]), None), [x])[2][0]


def number(x):
    return float(to_numpy(x))


# -- values and gradients ---------------------------------------------------------------------------------------


def test_derivatives_of_any_order(xp):
    f = lambda x: x**5  # noqa: E731
    for expected in (5 * 2**4, 20 * 2**3, 60 * 2**2, 120 * 2):
        f = grad(f)
        assert number(f(xp.asarray(2.0))) == pytest.approx(expected)


def test_an_inner_differentiation_sees_outer_arrays_as_constants(xp):
    # d/dx [x · d/dy (x y)] = d/dx x² = 2x; a tape that confuses its levels gives x
    def outer(x):
        return x * grad(lambda y: x * y)(xp.asarray(1.0))

    assert number(grad(outer)(xp.asarray(3.0))) == 6.0


def test_an_inner_gradient_that_does_not_depend_on_the_outer_array(xp):
    def outer(x):
        return x * grad(lambda y: y * y)(xp.asarray(5.0))

    assert number(grad(outer)(xp.asarray(3.0))) == 10.0


def test_auxiliary_outputs_come_back_at_the_level_of_the_caller(xp, device):
    def f(xs):
        y = xs[0] * 2.0
        return namespace(y).sum(y), {"y": y, "mask": y > 1.0, "n": 3, "none": None}

    _, aux, _ = value_and_grad(f, [xp.asarray([0.0, 1.0])])
    assert_close(aux["y"], xp.asarray([0.0, 2.0]))
    assert type(aux["y"]) is type(aux["mask"]) is type(xp.zeros(1))
    assert aux["n"] == 3
    assert aux["none"] is None
    assert device_of(aux) == device


def test_a_broadcast_argument_gets_the_sum(xp):
    x, row, scalar = xp.ones((4, 3)), xp.ones((3,)), xp.asarray(2.0)

    def f(xs):
        y = xs[0] * xs[1] + xs[2]
        return namespace(y).sum(y), None

    gradients = value_and_grad(f, [x, row, scalar])[2]
    assert [g.shape for g in gradients] == [(4, 3), (3,), ()]
    assert_close(gradients[1], xp.full((3,), 4.0))
    assert number(gradients[2]) == 12.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_cotangent_keeps_its_dtype(xp, dtype):
    kind = getattr(xp, dtype)
    rng = np.random.default_rng(0)
    x = xp.asarray(rng.normal(size=(4, 3)), dtype=kind)
    w = xp.asarray(rng.normal(size=(3, 2)), dtype=kind)

    def f(xs):
        xp = namespace(xs[0])
        y = xp.tanh(xs[0] @ xs[1]) * 2.0 + 1
        y = xp.exp(-y) / (y**2 + 1.0) - xp.mean(y, axis=0) + xp.var(y, axis=1, keepdims=True)
        y = xp.where(y > 0.0, y, 0.1 * y) + xp.max(y, axis=0) + xp.logaddexp(y, y * 0.5)
        y = xp.concat([y, xp.maximum(y, 0.5)], axis=1)[:, 1:]
        y = xp.take(y, xp.asarray([0, 0, 2], dtype=xp.int64), axis=0)
        loss = xp.mean(xp.clip(y, -3.0, 3.0)) + xp.std(y) + xp.prod(y[0, ...]) + xp.cumulative_sum(y[:, 0])[-1]
        assert loss.dtype == kind
        return loss, None

    value, _, gradients = value_and_grad(f, [x, w])
    assert value.dtype == kind
    assert all(g.dtype == kind for g in gradients)
    second = grad(lambda x: namespace(x).sum(value_and_grad(f, [x, w])[2][0]))(x)
    assert second.dtype == kind


def test_mixed_dtypes_give_each_argument_its_own(xp):
    a, b = xp.asarray([1.0], dtype=xp.float32), xp.asarray([2.0], dtype=xp.float64)
    gradients = value_and_grad(lambda xs: (namespace(xs[0]).sum(xs[0] * xs[1]), None), [a, b])[2]
    assert [g.dtype for g in gradients] == [xp.float32, xp.float64]


def test_gradients_share_memory_with_nothing(xp, device):
    x, y = xp.ones((3,)), xp.ones((3,))
    value, _, (gx, gy) = value_and_grad(lambda xs: (namespace(xs[0]).sum(xs[0] + xs[1]), xs[0]), [x, y])
    with device.scope():
        gx[0] = 7.0
    assert_close(gy, xp.ones((3,)))
    assert_close(x, xp.ones((3,)))
    identity = xp.asarray(2.0)
    value, _, (g,) = value_and_grad(lambda xs: (xs[0], None), [identity])
    with device.scope():
        identity[...] = 5.0
    assert number(value) == 2.0
    assert number(g) == 1.0


def test_later_calls_overwrite_nothing(xp):
    f = lambda xs: (namespace(xs[0]).sum(xs[0] * xs[0] * xs[0]), None)  # noqa: E731
    first = value_and_grad(f, [xp.asarray([2.0])])
    value_and_grad(f, [xp.asarray([9.0])])
    assert number(first[0]) == 8.0
    assert_close(first[2][0], xp.asarray([12.0]))


def test_many_uses_of_one_array(xp):
    def f(x):
        xp = namespace(x)
        y = x
        for _ in range(6):
            y = y + x
        return xp.sum(y * x + xp.exp(x - x))

    assert_close(grad(f)(xp.asarray([1.0, 2.0])), xp.asarray([14.0, 28.0]))


# -- arguments and losses ------------------------------------------------------------------------------------------


def test_the_loss_must_be_a_scalar(xp):
    with pytest.raises(GradientError) as caught:
        value_and_grad(lambda xs: (xs[0] * 2.0, None), [xp.ones((32,))])
    assert str(caught.value) == "value_and_grad needs a scalar loss, got shape (32,); take its mean"


def test_the_loss_must_be_real_and_floating(xp):
    x = xp.ones((2,))
    with pytest.raises(GradientError, match=r"real floating dtype, got .*int.*cast it"):
        value_and_grad(lambda xs: (namespace(xs[0]).sum(namespace(xs[0]).argmax(xs[0])), None), [x])
    with pytest.raises(GradientError, match=r"complex.*take its real part or its abs"):
        value_and_grad(lambda xs: (namespace(xs[0]).sum(xs[0] * 1j), None), [xp.ones((2,), dtype=xp.complex128)])
    with pytest.raises(GradientError, match="needs a scalar array as loss, got a list"):
        value_and_grad(lambda xs: ([xs[0]], None), [x])


@pytest.mark.parametrize(
    "loss", [lambda x: stop_gradient(x)[0], lambda x: namespace(x).asarray(1.0) if x[0] > 0.0 else x[0]]
)
def test_a_loss_that_depends_on_nothing_warns_and_gives_zeros(xp, loss):
    with pytest.warns(UserWarning, match="depends on none of the 1 arrays that it is diff"):
        _, _, (g,) = value_and_grad(lambda xs: (loss(xs[0]), None), [xp.ones((2,))])
    assert_close(g, xp.zeros((2,)))


def test_an_array_that_did_not_enter_gets_zeros(xp):
    gradients = value_and_grad(lambda xs: (namespace(xs[0]).sum(xs[0]), None), [xp.ones((2,)), xp.ones((3,))])[2]
    assert_close(gradients[1], xp.zeros((3,)))


def test_stop_gradient_stops_all_orders(xp):
    f = lambda x: x * x * stop_gradient(x)  # noqa: E731
    assert number(grad(f)(xp.asarray(3.0))) == 18.0
    assert number(grad(grad(f))(xp.asarray(3.0))) == 6.0
    x = xp.asarray(3.0)
    assert stop_gradient(x) is x


def test_vjp_pulls_back_any_number_of_times(xp, device):
    outputs, pullback = vjp(
        lambda xs: [xs[0] * xs[1], xs[0], xs[1] > 0.0], [xp.asarray([2.0, 3.0]), xp.asarray([5.0, 7.0])]
    )
    assert_close(outputs[0], xp.asarray([10.0, 21.0]))
    one = xp.ones((2,))
    for _ in range(2):
        gradients = pullback([one, one, None])
        assert_close(gradients[0], xp.asarray([6.0, 8.0]))
        assert_close(gradients[1], xp.asarray([2.0, 3.0]))
    with device.scope():
        gradients[0][0] = 100.0
    assert_close(one, xp.ones((2,)))
    with pytest.raises(GradientError, match=r"cotangent 0 has shape \(3,\), its output \(2,\)"):
        pullback([xp.ones((3,)), None, None])
    with pytest.raises(GradientError, match="got 1 cotangents for 3 outputs"):
        pullback([one])


def test_a_pullback_is_differentiable_by_its_cotangent(xp):
    _, pullback = vjp(lambda xs: [xs[0] * xs[0]], [xp.asarray([3.0])])
    g = grad(lambda c: namespace(c).sum(pullback([c * c])[0]))(xp.asarray([2.0]))
    assert_close(g, xp.asarray([24.0]))


# -- what a traced array may do --------------------------------------------------------------------------------------


def test_in_place_operators_rebind(xp):
    x = xp.asarray([1.0, 2.0])

    def f(v):
        before = v
        v += 1.0
        v *= v
        assert before is not v
        return namespace(v).sum(v * before)

    assert_close(grad(f)(x), xp.asarray([1 * 8.0, 9 + 2 * 2 * 3.0]))
    assert_close(x, xp.asarray([1.0, 2.0]))


def test_item_assignment_is_functional(xp):
    x = xp.asarray([1.0, 2.0, 3.0])

    def f(v):
        xp = namespace(v)
        buffer = xp.zeros((3,), dtype=v.dtype)
        buffer[0] = v[0] * v[1]
        buffer[1:] = v[1:] ** 2
        w = v * 1.0
        alias = w
        w[xp.asarray([True, False, False])] = 10.0
        assert alias is w
        return xp.sum(buffer) + xp.sum(w)

    assert_close(grad(f)(x), xp.asarray([2.0, 1 + 4 + 1.0, 7.0]))
    assert_close(x, xp.asarray([1.0, 2.0, 3.0]))


def test_assigning_to_an_argument_leaves_the_callers_array(xp):
    x = xp.asarray([1.0, 2.0])

    def f(xs):
        xs[0][0] = 5.0
        return namespace(xs[0]).sum(xs[0] * xs[0]), None

    value, _, (g,) = value_and_grad(f, [x])
    assert number(value) == 29.0
    assert_close(g, xp.asarray([0.0, 4.0]))
    assert_close(x, xp.asarray([1.0, 2.0]))


def test_attributes_and_python_scalars(xp, device):
    x = xp.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])

    def f(v):
        xp = namespace(v)
        assert (v.shape, v.ndim, v.size, len(v)) == ((2, 3), 2, 6, 2)
        assert v.dtype == x.dtype
        assert v.device == x.device
        assert v.__array_namespace__() is xp
        assert v.T.shape == v.mT.shape == (3, 2)
        rows = list(v)
        assert len(rows) == 2
        first = stop_gradient(v)[0, 0]
        with device.scope():
            assert (float(first), int(first), bool(first > 0.0), complex(first)) == (1.0, 1, True, 1 + 0j)
            assert "traced" in repr(v)
            assert "constant" in repr(first)
        return xp.sum(rows[0] * rows[1])

    assert_close(grad(f)(x), xp.asarray([[4.0, 5.0, 6.0], [1.0, 2.0, 3.0]]))


def test_what_is_no_attribute_of_the_standard_says_what_to_write(xp):
    with pytest.raises(AttributeError, match=r"'sum' is none; write xp\.sum\(x\) with xp = xdev\.namespace\(x\)"):
        grad(lambda x: x.sum())(xp.ones((2,)))
    with pytest.raises(TypeError, match=r"call functions of xp = xdev\.namespace\(x\)"):
        grad(lambda x: np.sin(np.asarray(x)))(xp.ones((2,)))
    with pytest.raises(ValueError, match=r"x\.T needs 2 dimensions, got shape \(2,\)"):
        grad(lambda x: x.T)(xp.ones((2,)))
    with pytest.raises(TypeError, match="len"):
        grad(lambda x: len(x))(xp.asarray(1.0))
    with pytest.raises(TypeError, match="iteration"):
        grad(lambda x: list(x))(xp.asarray(1.0))


OPERATORS = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    lambda a, b: a / b,
    lambda a, b: a**b,
    lambda a, b: a % b,
    lambda a, b: a // b,
    lambda a, b: a < b,
    lambda a, b: a <= b,
    lambda a, b: a > b,
    lambda a, b: a >= b,
    lambda a, b: a == b,
    lambda a, b: a != b,
]


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_with_arrays_and_numbers_on_either_side(xp, operator):
    x, y = np.asarray([1.5, 2.5]), np.asarray([2.0, 1.25])
    traced_x, other = xp.asarray(x), lift(xp.asarray(y))

    def f(v):
        for a, b, expected in (
            (v, other, operator(x, y)),
            (other, v, operator(y, x)),
            (v, 2.0, operator(x, 2.0)),
            (2.0, v, operator(2.0, x)),
            (v, v, operator(x, x)),
        ):
            result = operator(a, b)
            assert isinstance(result, TracedArray)
            assert_close(to_numpy(stop_gradient(result).__xdev_value__), expected)
        return namespace(v).sum(v)

    grad(f)(traced_x)


@pytest.mark.parametrize(
    "operator",
    [lambda a, b: a & b, lambda a, b: a | b, lambda a, b: a ^ b, lambda a, b: a << b, lambda a, b: a >> b],
)
def test_bitwise_operators_on_constants(xp, operator):
    x, y = np.asarray([5, 6]), np.asarray([1, 2])
    a, b = lift(xp.asarray(x)), lift(xp.asarray(y))
    assert_close(to_numpy(operator(a, b).__xdev_value__), operator(x, y))
    assert_close(to_numpy(operator(a, 1).__xdev_value__), operator(x, 1))
    assert_close(to_numpy(operator(7, a).__xdev_value__), operator(7, x))
    assert_close(to_numpy((~a).__xdev_value__), ~x)
    assert_close(to_numpy(abs(-a).__xdev_value__), x)


@pytest.mark.xdev_backends(only=("numpy", "cupy"), reason="array-api-strict refuses foreign types on its right")
def test_the_frameworks_arrays_on_the_left(xp, device):
    x = xp.asarray([1.0, 2.0])
    with device.scope():
        g = grad(lambda v: namespace(v).sum(x * v + (x @ v) + x - v / x))(x)
    assert_close(g, xp.asarray([3 - 1.0, 6 - 0.5]))


def test_created_arrays_land_on_the_device_and_are_constants(xp, device):
    def f(v):
        xp = namespace(v)
        created = [
            xp.zeros(2),
            xp.arange(2),
            xp.eye(2),
            xp.full((2,), 1.5),
            xp.asarray([1.0]),
            xp.linspace(0.0, 1.0, 2),
        ]
        created += [xp.zeros_like(v), xp.full_like(v, 2.0)]
        for x in created:
            assert isinstance(x, TracedArray)
            assert device_of(x) == device
        return xp.sum(created[0] * v + v * xp.astype(created[1], v.dtype))

    assert_close(grad(f)(xp.asarray([1.0, 2.0])), xp.asarray([0.0, 1.0]))


def test_questions_about_arrays_get_plain_answers(xp):
    def f(v):
        ns = namespace(v)
        assert ns.result_type(v, v) == v.dtype
        assert ns.finfo(v.dtype).bits == 64
        assert ns.isdtype(v.dtype, "real floating")
        assert ns.can_cast(v, v.dtype)
        assert ns.float32 == xp.float32
        assert ns.pi == xp.pi
        assert xp.__name__ in ns.__name__
        return ns.sum(v)

    grad(f)(xp.asarray([1.0, 2.0], dtype=xp.float64))


def test_functions_of_the_traced_namespace_take_plain_arrays(xp):
    plain = xp.asarray([1.0, 2.0])

    def f(v):
        ns = namespace(v)
        assert type(ns.exp(plain)) is type(plain)
        assert type(ns.sum(plain)) is type(xp.sum(plain))
        return ns.sum(ns.multiply(ns.exp(plain), v))

    assert_close(grad(f)(plain), xp.exp(plain))


def test_results_without_gradient_are_constants(xp):
    def f(v):
        ns = namespace(v)
        order = ns.argsort(v)
        assert order.tape is None
        assert ns.astype(v, ns.int64).tape is None
        assert (ns.floor(v) == v).tape is None
        assert ns.unique_values(v).tape is None
        assert all(x.tape is None for x in ns.nonzero(v))
        return ns.sum(ns.take(v, order, axis=0) * ns.astype(order, v.dtype))

    assert_close(grad(f)(xp.asarray([3.0, 1.0, 2.0])), xp.asarray([0.0, 1.0, 2.0]))


def test_moving_to_another_device_and_back(xp, device):
    others = [info for info in device.backend.devices() if info.handle != device.info.handle]
    if not others:
        pytest.skip("the backend has one device")
    native = others[0].native if others[0].native is not None else others[0].handle

    def f(v):
        w = (v * 2.0).to_device(native)
        assert device.backend.device_of(w.__xdev_value__) == others[0].handle
        w = w * namespace(w).full((2,), 3.0)
        return namespace(v).sum(w.to_device(device) * v)

    g = grad(f)(xp.asarray([1.0, 2.0]))
    assert device_of(g) == device
    assert_close(g, xp.asarray([12.0, 24.0]))
    with pytest.raises(DeviceError, match="stay in their framework"):
        grad(lambda v: v.to_device("nowhere"))(xp.asarray(1.0))


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.xdev_backends(only=("numpy", "cupy"), reason="array-api-strict has no function without a rule")
def test_a_function_without_a_rule_says_where_to_add_one(xp):
    with pytest.raises(NoGradientRule) as caught:
        grad(lambda x: namespace(x).nan_to_num(x)[0])(xp.ones((2,)))
    assert "xp.nan_to_num has no gradient rule; add one to a table in xdev/autodiff/rules/" in str(caught.value)
    assert isinstance(caught.value, NotImplementedError)
    f = lambda x: _sum(namespace(x).nan_to_num(stop_gradient(x)) * x)  # noqa: E731
    assert_close(grad(f)(xp.ones((2,))), xp.ones((2,)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.xp.linalg.qr(x.mT, mode="complete")[1], "linalg.qr has no gradient rule in the mode .complete"),
        (lambda x: x.xp.linalg.svd(x)[0], r"linalg.svd has no gradient rule with full_matrices=True"),
    ],
)
def test_a_case_that_a_rule_does_not_cover_is_named(xp, function, message):
    with pytest.raises(NoGradientRule, match=message):
        grad(lambda x: _sum(function(x)))(xp.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]]))


def test_equal_eigenvalues_have_a_gradient(xp):
    assert_close(grad(lambda x: _sum(namespace(x).linalg.eigvalsh(x) ** 2))(xp.eye(2)), xp.multiply(xp.eye(2), 2.0))


def test_a_traced_array_that_got_away_raises(xp):
    kept = []
    value_and_grad(lambda xs: (kept.append(xs[0]) or namespace(xs[0]).sum(xs[0]), None), [xp.ones((2,))])
    with pytest.raises(GradientError, match="used after the differentiation that made it had returned"):
        kept[0] * 2.0


def test_exceptions_leave_nothing_behind(xp):
    x = xp.asarray([1.0, 2.0])
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            grad(lambda v: grad(lambda w: w[0] * (1 / 0))(v))(x)
        assert_close(grad(lambda v: namespace(v).sum(v * v))(x), xp.asarray([2.0, 4.0]))


# -- memory and threads ----------------------------------------------------------------------------------------------


def test_no_reference_cycles(xp):
    # strict's arrays and CuPy's take weak references, NumPy's too; 0-d results of NumPy are scalars and do not
    seen = []

    def f(xs):
        xp = namespace(xs[0])
        y = xp.exp(xs[0] @ xs[0])
        for part in (y, xp.reshape(y, (-1,))):
            seen.append(weakref.ref(part.__xdev_value__))
        a, b = xp.unstack(y)
        return xp.sum(a * b) + xp.sum(y[0, ...]), None

    gc.collect()
    gc.disable()
    try:
        value_and_grad(f, [xp.ones((2, 2))])
        assert [ref() for ref in seen] == [None, None]
        with pytest.raises(GradientError):
            value_and_grad(lambda xs: (f(xs) and xs[0], None), [xp.ones((2, 2))])
        gc.collect(0)  # the traceback of the error held the frames
        _, pullback = vjp(lambda xs: [f(xs)[0]], [xp.ones((2, 2))])
        assert seen[-2]() is not None
        del pullback
        assert seen[-2]() is None
    finally:
        gc.enable()


def test_threads_differentiate_at_once(xp):
    failures = []

    def work(k):
        x = xp.asarray([float(k), 1.0])
        for _ in range(20):
            g = grad(lambda v: namespace(v).sum(grad(lambda w: namespace(w).sum(w**3) * k)(v)))(x)
            if not np.allclose(to_numpy(g), [6.0 * k * k, 6.0 * k]):
                failures.append((k, g))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# -- primitives --------------------------------------------------------------------------------------------------------


def _squares(xp, a, b, *, labels, scale=1.0):
    y = xp.multiply(xp.multiply(a, a), b)
    return xp.multiply(y, scale), xp.multiply(a, 2.0)


def _squares_rule(xp, g, twice, a, b, *, needs, labels, scale=1.0):
    assert needs[0] or needs[1]
    g = xp.multiply(g, scale)
    return (
        xp.multiply(xp.multiply(g, twice), b) if needs[0] else None,
        xp.multiply(g, xp.multiply(a, a)) if needs[1] else None,
    )


JOINT = Primitive("squares", _squares, _squares_rule, saves=True, fresh=True)
APART = Primitive(
    "squares",
    lambda xp, a, b, *, labels, scale=1.0: _squares(xp, a, b, labels=labels, scale=scale)[0],
    (
        lambda xp, g, y, a, b, *, labels, scale=1.0: xp.multiply(xp.multiply(g, 2.0 * scale), xp.multiply(a, b)),
        lambda xp, g, y, a, b, *, labels, scale=1.0: xp.multiply(xp.multiply(g, scale), xp.multiply(a, a)),
    ),
)


@pytest.mark.parametrize("primitive", [JOINT, APART])
def test_a_primitive_with_rules_of_its_own(xp, primitive):
    a, b = xp.asarray([1.0, 2.0]), xp.asarray(3.0)
    labels = xp.asarray([0, 1])
    assert_close(primitive(a, b, labels=labels, scale=2.0), xp.asarray([6.0, 24.0]))
    f = lambda a, b: namespace(a).sum(primitive(a, b, labels=labels, scale=2.0))  # noqa: E731
    gradients = value_and_grad(lambda xs: (f(*xs), None), [a, b])[2]
    assert_close(gradients[0], xp.asarray([12.0, 24.0]))
    assert number(gradients[1]) == 10.0
    assert_close(grad(lambda a: f(a, b))(a), xp.asarray([12.0, 24.0]))
    constant = primitive(lift(a), b, labels=lift(labels))
    assert constant.tape is None
    second = grad(lambda a: namespace(a).sum(grad(lambda c: f(c, b))(a)))(a)
    assert_close(second, xp.asarray([12.0, 12.0]))
    mixed = grad(lambda b: _sum(grad(lambda c: f(c, b))(a)))(b)
    assert number(mixed) == 12.0


def _sum(x):
    return namespace(x).sum(x)


def test_a_primitive_with_several_outputs(xp):
    both = Primitive(
        "both",
        lambda xp, x: (xp.sin(x), xp.cos(x)),
        (lambda xp, g, y, x: xp.subtract(xp.multiply(g[0], y[1]), xp.multiply(g[1], y[0])),),
    )
    x = xp.asarray([0.3, 0.4])
    f = lambda x: _sum(both(x)[0] * 2.0)  # noqa: E731
    assert_close(grad(f)(x), xp.multiply(xp.cos(x), 2.0))
    assert_close(grad(lambda x: _sum(grad(f)(x)))(x), xp.multiply(xp.sin(x), -2.0))


def test_a_primitive_refuses_arguments_without_a_rule(xp):
    first_only = Primitive(
        "first_only", lambda xp, a, b: xp.multiply(a, b), (lambda xp, g, y, a, b: xp.multiply(g, b),)
    )
    with pytest.raises(NoGradientRule, match="first_only has no gradient rule for its argument 1"):
        grad(lambda x: first_only(x, x))(xp.asarray(1.0))
    with pytest.raises(NoGradientRule, match=r"for the keyword 'b' \(arrays go by position\)"):
        grad(lambda x: first_only(x, b=x))(xp.asarray(1.0))


def test_a_rule_that_gives_a_wrong_shape_is_named(xp):
    wrong = Primitive("wrong", lambda xp, x: xp.multiply(x, 2.0), (lambda xp, g, y, x: xp.ones((5,), dtype=x.dtype),))
    with pytest.raises(GradientError, match=r"the rule of wrong gave a cotangent of shape \(5,\).* shape \(2,\)"):
        grad(lambda x: _sum(wrong(x)))(xp.ones((2,)))


def test_no_warnings_of_its_own(xp):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grad(lambda x: _sum(namespace(x).sqrt(x * x)))(xp.asarray([1.0, 2.0]))


def _in_a_row(xp, x):
    y = xp.zeros((3, 4)) + 0.0 * x
    y[0, ...] = x
    return y


CORNERS = {
    "a value with an axis more": (_in_a_row, np.ones((1, 4)), np.ones((1, 4))),
    "linspace from an integer": (lambda xp, x: xp.linspace(xp.asarray([2]), x, 3), [3.0], [1.5]),
    "logaddexp at infinity": (lambda xp, x: xp.logaddexp(x, 0.0), [np.inf, -np.inf, 1000.0], [1.0, 0.0, 1.0]),
    "power of a negative number": (lambda xp, x: (-2.0) ** x, [2.0, 3.0], [np.nan, np.nan]),
    "a list that names one twice": (lambda xp, x: x[[0, 1, 1]], [1.0, 2.0], [1.0, 2.0]),
    "take beside an empty axis": (
        lambda xp, x: xp.take(x, xp.asarray([1, 1]), axis=0),
        np.zeros((3, 0)),
        np.zeros((3, 0)),
    ),
    "trace of no matrices": (lambda xp, x: xp.linalg.trace(x), np.zeros((0, 3, 3)), np.zeros((0, 3, 3))),
    "diff beyond the end": (lambda xp, x: xp.diff(x, axis=0, n=5), np.ones((3, 2)), np.zeros((3, 2))),
    "cumulative_prod of nothing": (lambda xp, x: xp.cumulative_prod(x, axis=0), np.zeros((0, 2)), np.zeros((0, 2))),
}


@pytest.mark.parametrize("name", CORNERS)
def test_corners(xp, device, name):
    function, x, expected = CORNERS[name]
    if device.backend.name == "strict" and name in ("linspace from an integer", "a list that names one twice"):
        pytest.skip("array-api-strict mixes no kinds, and takes no lists")
    (gradient,) = value_and_grad(lambda xs: (xs[0].xp.sum(function(xs[0].xp, xs[0])), None), [xp.asarray(x)])[2]
    assert_close(to_numpy(gradient), np.asarray(expected))


@pytest.mark.xdev_backends(only=("numpy", "cupy"), reason="array-api-strict takes no lists")
def test_of_values_in_one_place_the_last_gets_the_gradient(xp):
    def loss(xs):
        y = xs[0].xp.zeros((2,)) + 0.0 * xs[0]
        y[[0, 0]] = xs[0]
        return xs[0].xp.sum(y), None

    assert_close(to_numpy(value_and_grad(loss, [xp.asarray([1.0, 2.0])])[2][0]), np.asarray([0.0, 1.0]))


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
def test_the_sign_of_a_complex_zero_is_flat(xp):
    def loss(xs):
        return xs[0].xp.sum(xs[0].xp.real(xs[0].xp.sign(xs[0]))), None

    assert_close(to_numpy(value_and_grad(loss, [xp.asarray([0j, 1j])])[2][0]), np.asarray([0.0 + 0j, 1.0]))


def test_large_determinants_and_singular_neighbours(xp):
    x = np.random.default_rng(0).normal(size=(2, 60, 60)) / 8.0
    x[1, 0] = 0.0
    (found,) = value_and_grad(lambda xs: (xs[0].xp.sum(xs[0].xp.linalg.det(xs[0])), None), [xp.asarray(x)])[2]
    expected = np.linalg.det(x[0]) * np.linalg.inv(x[0]).T
    assert_close(to_numpy(found)[0] / np.abs(expected).max(), expected / np.abs(expected).max())
