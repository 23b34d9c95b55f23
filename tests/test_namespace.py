"""Namespaces bound to a device, and the namespace of arrays."""

import itertools
import pickle
import warnings

import numpy as np
import pytest

import xdev
from xdev.contract import dtype_name
from xdev.device import device_of_array, from_handle
from xdev.namespaces import CREATION

CREATE = {
    "arange": lambda xp, **k: xp.arange(3, **k),
    "asarray": lambda xp, **k: xp.asarray([1, 2, 3], **k),
    "empty": lambda xp, **k: xp.empty((2, 3), **k),
    "eye": lambda xp, **k: xp.eye(3, **k),
    "from_dlpack": lambda xp, **k: xp.from_dlpack(np.ones(3, np.float32), **k),
    "full": lambda xp, **k: xp.full((3,), 2.0, **k),
    "linspace": lambda xp, **k: xp.linspace(0.0, 1.0, 3, **k),
    "ones": lambda xp, **k: xp.ones((3,), **k),
    "zeros": lambda xp, **k: xp.zeros((3,), **k),
}
LIKE = ("empty_like", "ones_like", "zeros_like")
DEFAULT_FLOATS = {"numpy": "float64", "torch": "float32", "jax": "float32", "cupy": "float64", "strict": "float64"}


def listed(backend):
    return [from_handle(backend, info.handle) for info in backend.devices() if info.listed]


def where(x):
    return device_of_array(xdev.backend_of(x), x)


def test_every_creation_function_has_a_case():
    assert set(CREATE) == CREATION


# -- creating ----------------------------------------------------------------------------------------


@pytest.mark.xdev_backends(scoped=False)
@pytest.mark.parametrize("name", sorted(set(CREATE) - {"from_dlpack"}))
def test_creation_lands_on_every_device(backend, name):
    for device in listed(backend):
        assert where(CREATE[name](device.xp)) is device
        for other in listed(backend):  # whichever device is the framework's current one
            with other.scope():
                assert where(CREATE[name](device.xp)) is device
                assert where(CREATE[name](device.xp, device=other.native)) is other


CREATE_ANYWHERE = {**CREATE, "fftfreq": lambda xp, **k: xp.fft.fftfreq(4, **k)}


@pytest.mark.xdev_backends(scoped=False)
@pytest.mark.parametrize("name", sorted(CREATE_ANYWHERE))
def test_creation_takes_devices_of_xdev(backend, name):
    create = CREATE_ANYWHERE[name]
    called = "fft.fftfreq" if name == "fftfreq" else name
    for device in listed(backend):
        if name == "fftfreq" and not hasattr(device.xp, "fft"):
            pytest.skip("the extension is optional")
        for other in listed(backend):
            assert where(create(device.xp, device=other)) is other
            assert where(create(device.xp, device=str(other))) is other
        foreign = xdev.device("torch" if device.is_host else "numpy")
        for asked in (foreign, str(foreign), foreign.backend.name):
            with pytest.raises(xdev.DeviceError) as caught:
                create(device.xp, device=asked)
            assert str(caught.value) == (
                f"{called} of the namespace of {device} got device={str(foreign)!r}, which is a device of "
                f'{foreign.backend}; write xdev.device("{foreign}").xp.{called}'
            )


def test_creation_takes_the_name_of_a_kind(device, xp):
    assert where(xp.zeros(2, device=device.kind)).kind == device.kind


@pytest.mark.parametrize(
    ("asked", "text"),
    [("nonsense", "'{0}:nonsense' is no device of this machine"), (3.5, "3.5 is not a device of this")],
)
def test_creation_on_what_is_no_device(backend, xp, asked, text):
    with pytest.raises(xdev.DeviceError, match=text.format(backend)):
        xp.zeros(2, device=asked)


def test_creation_raises_the_frameworks_errors_whatever_the_device(device, xp):
    for asked in (None, device, str(device), device.native):
        with pytest.raises((TypeError, ValueError)) as caught:
            xp.zeros("three", device=asked)
        assert not isinstance(caught.value, xdev.XdevError)


@pytest.mark.xdev_backends(exclude="jax", reason="while it traces, the namespace is its own and takes its own devices")
def test_creation_while_differentiating_takes_devices_of_xdev(device, xp):
    def f(x):
        return xdev.namespace(x).sum(x * xdev.namespace(x).ones(2, device=device, dtype=x.dtype))

    assert xdev.to_numpy(xdev.grad(f)(xp.ones(2))).tolist() == [1, 1]


@pytest.mark.xdev_backends(scoped=False)
def test_from_dlpack_lands_on_the_device(backend):
    for device in listed(backend):
        made = CREATE["from_dlpack"](device.xp)
        assert where(made) is device
        assert xdev.to_numpy(made).tolist() == [1, 1, 1]
        for other in listed(backend):
            if backend.name == "jax" and other is not device:
                continue  # JAX's own cannot move between devices of one host
            assert where(device.xp.from_dlpack(other.xp.ones(3))) is device
        assert where(device.xp.from_dlpack(np.ones(3, np.float32), copy=True)) is device


@pytest.mark.xdev_backends(scoped=False)
def test_like_functions_follow_their_argument(backend):
    for device in listed(backend):
        for other in listed(backend):
            x = other.xp.ones((2, 3))
            for name in LIKE:
                assert where(getattr(device.xp, name)(x)) is other
            assert where(device.xp.full_like(x, 2.0)) is other


@pytest.mark.xdev_backends(scoped=False)
def test_functions_work_off_the_current_device(backend):
    *_, device = listed(backend)
    xp = device.xp
    x = xp.reshape(xp.arange(4.0), (2, 2))
    for y in (xp.add(x, x), xp.matmul(x, x), xp.sum(x), xp.exp(x), xp.concat([x, x]), xp.where(xp.isnan(x), x, x)):
        assert where(y) is device
    assert where(xp.linalg.matrix_transpose(x)) is device
    assert xdev.to_numpy(xp.matmul(x, x)).tolist() == [[2, 3], [6, 11]]


def test_extensions_create_on_the_device(device, xp):
    if not hasattr(xp, "fft"):
        pytest.skip("the extension is optional")
    assert where(xp.fft.fftfreq(4)) is device
    assert where(xp.fft.rfftfreq(4)) is device


def test_other_functions_are_the_frameworks_own(backend, xp):
    if backend.name == "cupy":
        assert xp.sum.__wrapped__ is backend.xp.sum  # its work follows the current device, which must be entered
        return
    for name in ("sum", "matmul", "where", "permute_dims", "isdtype", "astype", "tril"):
        assert getattr(xp, name) is getattr(backend.xp, name)
    assert xp.linalg.qr is backend.xp.linalg.qr


def test_constants_and_dtypes_are_the_frameworks_own(backend, xp):
    assert xp.pi == backend.xp.pi
    assert xp.newaxis is None
    assert xp.float32 is backend.xp.float32
    assert xp.float32 is xp.float32


def test_a_namespace_says_what_it_is(device, xp):
    assert repr(xp) == f"<namespace {device.backend.xp.__name__!r} on {device}>"
    assert str(device) in repr(xp.linalg)
    assert "zeros" in dir(xp)
    assert pickle.loads(pickle.dumps(xp)) is xp
    with pytest.raises(AttributeError, match=f"the namespace of {device} has no 'no_such_function'"):
        _ = xp.no_such_function


# -- default dtypes ----------------------------------------------------------------------------------

FLOATING = {
    "ones": lambda xp: xp.ones(3),
    "empty": lambda xp: xp.empty(3),
    "eye": lambda xp: xp.eye(3),
    "zeros": lambda xp: xp.zeros(3),
    "linspace": lambda xp: xp.linspace(0.0, 1.0, 3),
    "linspace of integers": lambda xp: xp.linspace(0, 4, 3),
    "full": lambda xp: xp.full((3,), 0.5),
    "full by name": lambda xp: xp.full((), fill_value=float("inf")),
    "asarray": lambda xp: xp.asarray([[0.5, 1], [2, 3]]),
    "asarray of a number": lambda xp: xp.asarray(0.5),
    "asarray of nothing": lambda xp: xp.asarray([[], []]),
    "arange": lambda xp: xp.arange(0.0, 1.0, 0.5),
    "arange by name": lambda xp: xp.arange(3, step=0.5),
    "fft.fftfreq": lambda xp: xp.fft.fftfreq(4),
    "fft.rfftfreq": lambda xp: xp.fft.rfftfreq(4),
    "xdev.asarray": lambda xp: xdev.asarray([0.5, 1], device=xp._label),
    "random uniform": lambda xp: xdev.random.Generator(0, xp._label).uniform(3),
    "random normal": lambda xp: xdev.random.Generator(0, xp._label).normal(3),
    "random truncated_normal": lambda xp: xdev.random.Generator(0, xp._label).truncated_normal(3),
    "random exponential": lambda xp: xdev.random.Generator(0, xp._label).exponential(3),
}
NOT_FLOATING = {
    "full": lambda xp: xp.full((3,), 2),
    "full without axes": lambda xp: xp.full((), 2),
    "full of bools": lambda xp: xp.full(3, True),
    "array of float64": lambda xp: xp.asarray(xp.asarray([1.5], dtype=xp.float32)),
    "complex full": lambda xp: xp.full(2, 1j),
    "asarray": lambda xp: xp.asarray([1, 2]),
    "asarray of bools": lambda xp: xp.asarray([True]),
    "arange": lambda xp: xp.arange(3),
    "zeros": lambda xp: xp.zeros(3, dtype=xp.int32),
    "complex": lambda xp: xp.asarray([1.0, 2j]),
    "an array": lambda xp: xp.asarray(xp.asarray([1.5], dtype=xp.float32)),
}


def test_every_creation_function_that_makes_floats_has_a_case():
    assert {case.split()[0] for case in FLOATING} >= CREATION - {"from_dlpack"}


@pytest.mark.parametrize("case", FLOATING)
def test_the_default_dtype_is_the_frameworks_unless_precision_says_otherwise(backend, xp, case):
    if case.startswith("fft") and not hasattr(xp, "fft"):
        pytest.skip("the extension is optional")
    before = dtype_name(FLOATING[case](xp).dtype)
    if backend.name in DEFAULT_FLOATS:
        assert before == ("float32" if case.startswith("random") else DEFAULT_FLOATS[backend.name])
    for dtype in ("float32", "float64"):
        with xdev.precision(dtype):
            assert dtype_name(FLOATING[case](xp).dtype) == dtype
    assert dtype_name(FLOATING[case](xp).dtype) == before


@pytest.mark.parametrize("case", FLOATING)
def test_precision_bfloat16(device, xp, case):
    if case.startswith("fft") and not hasattr(xp, "fft"):
        pytest.skip("the extension is optional")
    with xdev.precision("bfloat16"):
        if device.backend.holds("bfloat16", device.info):
            assert dtype_name(FLOATING[case](xp).dtype) == "bfloat16"
            return
        if case == "xdev.asarray":
            return  # it takes in what ml_dtypes has, on the way to a device that holds it
        with pytest.raises(xdev.DTypeError, match=f"{device} does not hold bfloat16"):
            FLOATING[case](xp)


@pytest.mark.xdev_backends(only="numpy", reason="it holds no bfloat16")
def test_precision_that_the_device_does_not_hold(xp):
    with xdev.precision("bfloat16"), pytest.raises(xdev.DTypeError) as caught:
        xp.zeros(3)
    assert str(caught.value) == (
        "numpy:cpu:0 does not hold bfloat16, which xdev.precision sets; pass dtype=, or use another device"
    )


@pytest.mark.parametrize("case", NOT_FLOATING)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_precision_changes_floats_only(xp, case, dtype):
    before = dtype_name(NOT_FLOATING[case](xp).dtype)
    with xdev.precision(dtype):
        assert dtype_name(NOT_FLOATING[case](xp).dtype) == before


@pytest.mark.xdev_backends(only="jax", reason="only there the dtype exists within the block alone")
def test_a_float64_array_of_jax_that_leaves_the_block(device, xp, tmp_path):
    with xdev.precision("float64"):
        x = xp.asarray([1 / 3, 2 / 3])
        doubled = x * 2
    assert dtype_name(x.dtype) == "float64"
    # What only reads it is exact,
    assert xdev.to_numpy(x).tolist() == [1 / 3, 2 / 3]
    assert xdev.item(x[0]) == 1 / 3
    assert xdev.to_numpy(xdev.to_device(x, "torch:cpu")).tolist() == [1 / 3, 2 / 3]
    xdev.save(tmp_path / "x", {"x": x})
    assert xdev.to_numpy(xdev.load(tmp_path / "x", device="numpy")["x"]).tolist() == [1 / 3, 2 / 3]
    # a second block computes with it as the first one did,
    with xdev.precision("float64"):
        again = x * 2
    assert dtype_name(again.dtype) == "float64"
    assert xdev.to_numpy(again).tolist() == xdev.to_numpy(doubled).tolist() == [2 / 3, 4 / 3]
    # and what computes with it outside makes float32 of it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of them warn
        for compute in (lambda x: x + 1, xp.sum, lambda x: x + xp.ones(2)):
            assert dtype_name(compute(x).dtype) == "float32"


# -- promotion ---------------------------------------------------------------------------------------

SIGNED, UNSIGNED = ("int8", "int16", "int32", "int64"), ("uint8", "uint16", "uint32", "uint64")
FLOATS = ("bfloat16", "float16", "float32", "float64")


def promoted(a, b):
    """Return what the standard says of two numeric dtypes, or, where it leaves them open, the floating one."""
    if a == b:
        return a
    if "float" in b:
        if "float" not in a:
            return b  # left open
        return "float32" if {a, b} == {"bfloat16", "float16"} else max(a, b, key=FLOATS.index)
    if (a in SIGNED) == (b in SIGNED):
        return max(a, b, key=(SIGNED + UNSIGNED).index)
    signed, unsigned = (a, b) if a in SIGNED else (b, a)
    bits = max(int(signed.removeprefix("int")), 2 * int(unsigned.removeprefix("uint")))
    return f"int{bits}" if bits <= 64 else "float64"  # left open


def pairs(first, second):
    return [(a, b) for a in first for b in second]


NUMPY_LIKE = (
    (pairs(["int16", "uint16"], ["float16"]), "float32", "a float that holds every integer of the dtype"),
    (pairs(["int32", "uint32", "int64", "uint64"], ["float16", "float32"]), "float64", "the same"),
)
NO_MIXING = "the standard leaves it open, so that strict refuses it"
DIFFERENT = {
    "numpy": NUMPY_LIKE,
    "cupy": (
        *NUMPY_LIKE,
        (pairs(["int16", "uint16", "int32", "uint32", "int64", "uint64"], ["bfloat16"]), None, "ml_dtypes has no rule"),
        ([("bfloat16", "float16")], None, "ml_dtypes has no rule"),
    ),
    "torch": (
        (pairs(SIGNED, UNSIGNED[1:]), None, "wider unsigned integers promote with floats alone"),
        (pairs(["uint8"], UNSIGNED[1:]), None, "the same"),
        ([(a, b) for a, b in pairs(UNSIGNED[1:], UNSIGNED[1:]) if a < b], None, "the same"),
    ),
    "jax": (),
    "strict": (
        (pairs(SIGNED + UNSIGNED, ["float32", "float64"]), None, NO_MIXING),
        (pairs(SIGNED, ["uint64"]), None, NO_MIXING),
    ),
}
"""Of each backend the pairs that promote otherwise than `promoted` says: to what (None: they raise), and why."""


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations_with_replacement(SIGNED + UNSIGNED + FLOATS, 2)))
def test_promotion_is_the_same_but_for_what_is_listed(device, xp, a, b):
    if device.backend.name not in DIFFERENT:
        pytest.skip("a backend of others")
    with xdev.precision("float64"):  # JAX has 64 bits there alone
        if not all(device.backend.holds(name, device.info) for name in (a, b)):
            pytest.skip(f"{device} does not hold both")
        expected = promoted(a, b)
        for listed, result, _ in DIFFERENT[device.backend.name]:
            expected = result if (a, b) in listed else expected
        x, y = (xp.asarray([1], dtype=device.backend.dtype(name)) for name in (a, b))
        for first, second in ((x, y), (y, x)):
            if expected is None:
                with pytest.raises((TypeError, RuntimeError)):
                    xp.result_type(first, second)
            else:
                assert dtype_name(xp.result_type(first, second)) == expected


@pytest.mark.parametrize("dtype", ["float16", "int32", "single", "", None])
def test_precision_of_another_dtype(dtype):
    with (
        pytest.raises(xdev.DTypeError, match=f"precision is one of float32, float64, bfloat16; got {dtype!r}"),
        xdev.precision(dtype),
    ):
        pass


# -- the namespace of arrays -------------------------------------------------------------------------


def test_namespace_is_that_of_the_shared_device(device, xp):
    x = xp.ones((2, 3))
    assert xdev.namespace(x) is xp
    assert xdev.namespace(x, x) is xp
    assert xdev.namespace(x, 1.0, None, True, 2j) is xp
    assert xdev.namespace(1.0, x) is xp
    assert xdev.namespace(x, np.float32(2)) is xp
    assert where(xdev.namespace(x).zeros(3)) is device


@pytest.mark.xdev_backends(scoped=False)
def test_namespace_of_two_devices_names_arguments_and_the_mending_line(backend):
    devices = listed(backend)
    if len(devices) < 2:
        pytest.skip("the backend has one device")
    x, y = devices[0].xp.ones(2), devices[1].xp.ones(2)
    with pytest.raises(xdev.DeviceMismatchError) as caught:
        xdev.namespace(x, 1.0, y)
    assert str(caught.value) == (
        f"arrays are on different devices: arrays[0] is on {devices[0]}; arrays[2] is on {devices[1]}. "
        f'Move one: arrays[2] = xdev.to_device(arrays[2], "{devices[0]}")'
    )


@pytest.mark.xdev_backends(exclude="numpy", reason="the other framework is NumPy")
def test_namespace_of_two_frameworks(xp):
    x = xp.ones(2)
    for arrays in ((x, np.ones(2)), (np.ones(2), x)):
        with pytest.raises(xdev.DeviceMismatchError, match=r"arrays\[0\] is on .*; arrays\[1\] is on "):
            xdev.namespace(*arrays)


@pytest.mark.xdev_backends(exclude="torch", reason="its tensors without axes mix with its others")
def test_namespace_of_a_tensor_that_mixes_with_its_own_framework_only(device, xp):
    x, y = pytest.importorskip("torch").tensor(1.0), xp.ones(2)
    for arrays, mixed in (((x, y), 0), ((y, x), 1)):
        with pytest.raises(xdev.DeviceMismatchError) as caught:
            xdev.namespace(*arrays)
        places = ["torch:cpu:0", device] if mixed == 0 else [device, "torch:cpu:0"]
        assert str(caught.value) == (
            f"arrays are on different devices: arrays[0] is on {places[0]}; arrays[1] is on {places[1]}. "
            f'Move one: arrays[{mixed}] = xdev.to_device(arrays[{mixed}], "{device}")'
        )


@pytest.mark.parametrize("x", ["text", [1.0], object(), {"a": 1}])
def test_namespace_of_what_is_no_array(x):
    text = rf"namespace takes arrays and numbers; argument 1 is an? {type(x).__name__}\. xdev\.asarray"
    with pytest.raises(xdev.ArrayTypeError, match=text):
        xdev.namespace(np.ones(1), x)


@pytest.mark.parametrize("arrays", [(), (1.0,), (None, 2)])
def test_namespace_without_arrays(arrays):
    with pytest.raises(xdev.ArrayTypeError, match="namespace needs at least one array; it got only numbers, None"):
        xdev.namespace(*arrays)


def test_namespace_of_traced_arrays_is_the_traced_one():
    seen = []

    def f(x):
        xp = xdev.namespace(x, np.ones(3))
        seen.append(xp)
        return xp.sum(x * x)

    xdev.value_and_grad(f)(np.ones(3))
    assert all(xp is not xdev.device("numpy").xp for xp in seen)


@pytest.mark.parametrize("name", [*LIKE, "full_like"])
def test_like_functions_go_where_they_are_told(name, backend):
    devices = [device for device in xdev.devices() if device.backend is backend]
    here, there = devices[0], devices[-1]
    x = here.xp.ones(2)
    rest = (3.0,) if name == "full_like" else ()
    for told in (there, str(there), there.native):
        assert where(getattr(here.xp, name)(x, *rest, device=told)) is there
