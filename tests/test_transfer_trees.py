"""Trees of arrays, lists of numbers, `dtype=`, devices without a backend, foreign arrays, `item`, `asarray`."""

import numpy as np
import pytest

import xdev
from xdev import registry, tree
from xdev.contract import dtype_name
from xdev.values import kind_of

from .arrays import DTYPES, host_values, on, read, same_bits

# -- trees -------------------------------------------------------------------------------------------


def test_structure_numbers_and_none_stay(device):
    x = host_values("float32")
    moved = xdev.to_device({"b": (x, None, 2.5), "a": [{"c": x}, True, 1j]}, device)
    assert on(moved["b"][0]) is device
    assert moved["b"][1:] == (None, 2.5)
    assert moved["a"][1:] == [True, 1j]
    assert type(moved["b"]) is tuple


def test_one_array_that_stands_twice_moves_once(device):
    x = host_values("float32")
    for copy in (None, True):
        moved = xdev.to_device([x, {"again": x}, x.copy()], device, copy=copy)
        assert moved[0] is moved[1]["again"]
        assert moved[2] is not moved[0]


def test_what_is_there_already_comes_back_as_the_same_objects(device, xp):
    x = xp.ones(2)
    moved = xdev.to_device({"a": x, "b": [x]}, device)
    assert moved["a"] is x
    assert moved["b"][0] is x
    assert xdev.to_device(x, str(device)) is x
    assert xdev.to_device(x, device.native if not isinstance(device.native, str) else device) is x


@pytest.mark.parametrize("empty", [{}, [], (), None, {"a": []}, [[], []]])
def test_empty_trees(device, empty):
    assert xdev.to_device(empty, device) == empty


@pytest.mark.parametrize("number", [1, 2.5, True, 3j])
def test_a_number_alone_stays(device, number):
    assert xdev.to_device(number, device) is number


# -- lists of numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ([1, 2, 3], "integral"),
        ([[1, 2], [3, 4]], "integral"),
        ([1.5, 2], "real floating"),
        ([[1.5], [2.5]], "real floating"),
        ([1j, 2], "complex floating"),
        ([True, False], None),
        ([np.float32(1.5), 2], "real floating"),
    ],
)
def test_lists_of_numbers_become_arrays_of_the_targets_default_dtype(device, xp, numbers, word):
    moved = xdev.to_device({"x": numbers}, device)["x"]
    wanted = "bool" if word is None else dtype_name(xp.__array_namespace_info__().default_dtypes()[word])
    assert on(moved) is device
    assert dtype_name(moved.dtype) == wanted
    assert (read(moved) == np.asarray(numbers)).all()


def test_lists_of_numbers_follow_precision(device):
    with xdev.precision("float32"):
        assert dtype_name(xdev.to_device([1.5], device).dtype) == "float32"
        assert dtype_name(xdev.to_device([1.5j], device).dtype) == "complex64"
        assert dtype_name(xdev.asarray(1.5, device=device).dtype) == "float32"


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ([[1, 2], [3]], xdev.TransferError, "tree['x'] is ragged: its rows differ in length; pad them to one length"),
        (["a", "b"], xdev.TransferError, "tree['x'] is a list of strings, and only numbers can be moved"),
        ([["a"], ["b"]], xdev.TransferError, "tree['x'] is a list of strings, and only numbers can be moved"),
        ("a", xdev.TransferError, "tree['x'] is a str; arrays, numbers and lists of numbers can be moved. Take it out"),
        (print, xdev.TransferError, "tree['x'] is a builtin_function_or_method"),
        ([1, "a"], xdev.TransferError, "tree['x'][1] is a str"),
        ([2**64], xdev.DTypeError, "tree['x'] has an integer beyond 64 bits"),
        ([2**63, -1], xdev.DTypeError, "tree['x'] has integers on both sides of what 64 bits hold"),
    ],
)
def test_what_is_no_list_of_numbers(device, value, error, text):
    with pytest.raises(error) as caught:
        xdev.to_device({"x": value}, device)
    assert str(caught.value).startswith(text)


def test_numbers_that_the_default_dtype_cannot_hold_are_not_truncated(device, xp):
    defaults = xp.__array_namespace_info__().default_dtypes()
    if dtype_name(defaults["integral"]) == "int32":
        with pytest.raises(
            xdev.DTypeError, match=r"has integers from 1 to 1099511627776, which int32, the default of "
        ):
            xdev.to_device([1, 2**40], device)
    if dtype_name(defaults["real floating"]) == "float32":
        with pytest.raises(xdev.DTypeError, match=r"has 1e\+300, which float32, the default of .* cannot hold"):
            xdev.to_device([1.0, 1e300], device)
    with pytest.raises(
        xdev.DTypeError, match="has integers from 1 to 300, which uint8 cannot hold; say another dtype="
    ):
        xdev.to_device([1, 300], device, dtype="uint8")
    assert read(xdev.to_device([float("inf")], device))[0] == np.inf


# -- dtype= ------------------------------------------------------------------------------------------


def test_dtype_casts_an_array_alone(device):
    for wanted in ("float32", "int16", "complex64"):
        moved = xdev.to_device(host_values("int32"), device, dtype=wanted)
        same_bits(read(moved), host_values("int32").astype(wanted))


def test_dtype_casts_what_is_there_already(device, xp):
    x = xp.ones((3,), dtype=xp.float32)
    assert xdev.to_device(x, device, dtype="float32") is x
    cast = xdev.to_device(x, device, dtype="int16")
    assert on(cast) is device
    assert dtype_name(cast.dtype) == "int16"


def test_dtype_casts_arrays_of_its_kind_in_a_tree(device):
    tree_ = {"f": host_values("float64"), "i": host_values("int32"), "b": host_values("bool"), "list": [1.0, 2.0]}
    moved = xdev.to_device(tree_, device, dtype="float32")
    assert {k: dtype_name(v.dtype) for k, v in moved.items()} == {
        "f": "float32", "i": "int32", "b": "bool", "list": "float32",
    }  # fmt: skip


def test_dtype_may_be_a_frameworks_dtype_object(device, xp):
    assert dtype_name(xdev.to_device([1.0], device, dtype=xp.int16).dtype) == "int16"
    assert dtype_name(xdev.to_device([1.0], device, dtype=np.int16).dtype) == "int16"


@pytest.mark.parametrize("dtype", ["flaot32", "str", "object", "O", "datetime64[ns]"])
def test_dtype_that_is_none(device, dtype):
    with pytest.raises(xdev.DTypeError, match="is no dtype of numbers; "):
        xdev.to_device([1.0], device, dtype=dtype)
    with pytest.raises(xdev.DTypeError, match=r"did you mean 'float32'\?"):
        xdev.to_device(np.ones(2), device, dtype="flaot32")


def test_dtype_that_the_target_cannot_hold(device, xp):
    if device.backend.holds("bfloat16", device.info):
        pytest.skip("it can")
    with pytest.raises(xdev.DTypeError, match=r"dtype='bfloat16' was asked for the array, which .* cannot hold; say"):
        xdev.to_device(xp.ones(2), device, dtype="bfloat16")


def test_a_cast_is_no_view():
    with pytest.raises(xdev.CopyRequiredError, match="the array cannot be shared: float64 becomes float32"):
        xdev.to_device(np.ones(3), "numpy", copy=False, dtype="float32")


@pytest.mark.xdev_backends(only=("torch", "jax"), reason="those that compute in bfloat16")
def test_bfloat16_is_refused_by_numpy_with_the_remedy(device, xp):
    x = xp.ones((2,), dtype=xp.bfloat16)
    with pytest.raises(xdev.DTypeError) as caught:
        xdev.to_numpy({"w": x})
    assert str(caught.value) == (
        "tree['w'] is bfloat16, which numpy:cpu:0 cannot hold; say dtype=\"float32\" to convert it: "
        'xdev.to_device(x, "numpy:cpu:0", dtype="float32")'
    )
    assert xdev.to_device(x, "numpy", dtype="float32").dtype == np.float32
    assert dtype_name(xdev.to_device(np.ones(2), device, dtype="bfloat16").dtype) == "bfloat16"


# -- specifications without a backend ----------------------------------------------------------------


def test_cpu_keeps_each_arrays_framework(device, xp):
    moved = xdev.to_device({"x": xp.ones(2), "n": np.ones(2)}, "cpu")
    has_cpu = any(info.kind == "cpu" for info in device.backend.devices())
    if has_cpu:
        assert registry.backend_of(moved["x"]) is device.backend
        assert on(moved["x"]).kind == "cpu"
    else:
        assert on(moved["x"]) is xdev.device("cpu")
    assert on(moved["n"]) == "numpy:cpu:0"


def test_a_kind_that_a_framework_has_not_goes_to_the_best_that_has_one():
    pytest.importorskip("cupy")
    if "cupy:cuda:1" not in xdev.devices():
        pytest.skip("needs two CUDA devices")
    best = xdev.device("cuda:1")
    assert on(xdev.to_device(np.ones(2, np.float32), "cuda:1")) is best
    assert on(xdev.to_device([1, 2], "gpu:1")) is best


@pytest.mark.xdev_backends(scoped=False)
def test_index_of_a_kind_keeps_the_framework(backend):
    by_kind = [info for info in backend.devices() if info.listed and info.index == 1]
    if not by_kind:
        pytest.skip("the backend has one device of each kind")
    info = by_kind[0]
    x = xdev.device(backend.name).xp.ones(2)
    assert on(xdev.to_device(x, f"{info.kind}:1")).info is info


# -- foreign arrays ----------------------------------------------------------------------------------


class Foreign:
    """An array of a framework that xdev has never heard of, which knows DLPack."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()

    @property
    def dtype(self):
        return self.values.dtype


def test_foreign_arrays_are_taken_in(device):
    values = host_values("float32")
    for copy in (None, True):
        moved = xdev.to_device({"x": Foreign(values.copy())}, device, copy=copy)["x"]
        assert on(moved) is device
        same_bits(read(moved), values)
    assert dtype_name(xdev.to_device(Foreign(values), device, dtype="int16").dtype) == "int16"
    assert on(xdev.asarray(Foreign(values), device=device)) is device
    x = Foreign(values.copy())
    moved = xdev.to_device(x, device, copy=True)
    x.values[...] = 77
    same_bits(read(moved), values)


def test_a_foreign_array_is_shared_only_where_that_is_asked_for(device):
    x = Foreign(host_values("float32"))
    moved = xdev.to_device(x, device)
    try:
        shared = xdev.to_device(x, device, copy=False)
    except xdev.CopyRequiredError:
        shared = None
    x.values[...] = 77
    same_bits(read(moved), host_values("float32"))
    if device.is_host:
        assert (shared == 77).all()


@pytest.mark.xdev_backends(only=("cupy",), reason="one that takes in what is on its device")
def test_a_foreign_array_on_a_device_is_recorded(device, xp):
    class OnDevice:
        def __init__(self, x):
            self.x, self.dtype, self.shape = x, x.dtype, x.shape
            self.__cuda_array_interface__ = x.__cuda_array_interface__

        __cuda_array_interface__ = None

    x = xp.ones((3,), dtype=xp.float32)
    for copy, kind in ((None, "copy"), (True, "copy"), (False, "view")):
        with xdev.track_transfers() as transfers:
            moved = xdev.to_device({"x": OnDevice(x)}, device, copy=copy)["x"]
        (found,) = transfers.records
        assert (found.nbytes, found.kind, found.path, found.target) == (12, kind, "tree['x']", str(device))
        assert (device.backend.pointer(moved) == device.backend.pointer(x)) == (kind == "view")
    with pytest.raises(xdev.TransferBudgetExceeded, match="would take 12 bytes between devices"):  # noqa: SIM117
        with xdev.budget(between_devices=0):
            xdev.to_device(OnDevice(x), device)


def test_a_foreign_array_that_cannot_be_read_says_why(device):
    class Broken(Foreign):
        def __dlpack__(self, **options):
            raise RuntimeError("no export today")

    with pytest.raises(
        xdev.TransferError, match=r"tree\[0\] is a .*Broken that can be taken in neither by .*no export"
    ):
        xdev.to_device([Broken(np.ones(2))], device)


# -- to_numpy, item, asarray -------------------------------------------------------------------------


def test_to_numpy_gives_arrays_whose_values_are_there(xp):
    pulled = xdev.to_numpy({"x": xp.arange(3), "n": 1})
    assert type(pulled["x"]) is np.ndarray
    assert pulled["x"].tolist() == [0, 1, 2]
    assert pulled["n"] == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_item_of_every_dtype(device, dtype):
    if not device.backend.holds(dtype, device.info):
        pytest.skip(f"{device} holds no {dtype}")
    x = device.backend.place(host_values(dtype), device.info, True)[1, 2]
    value = xdev.item(x)
    assert value == host_values(dtype)[1, 2]
    expected = {"bool": bool, "integer": int, "floating": float, "complex": complex}[kind_of(dtype)]
    assert type(value) is expected


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_item_takes_any_array_of_one_element(xp, shape):
    assert xdev.item(xp.ones(shape)) == 1.0


@pytest.mark.parametrize("number", [1, 2.5, True, 3j, np.float64(2.5), np.int32(3)])
def test_item_of_a_number(number):
    assert xdev.item(number) == number
    assert type(xdev.item(number)) in (int, float, bool, complex)


@pytest.mark.parametrize("shape", [(2,), (0,), (1, 2)])
def test_item_of_several_elements(xp, shape):
    with pytest.raises(xdev.TransferError) as caught:
        xdev.item(xp.ones(shape))
    assert str(caught.value) == f"item takes an array of one element, got shape {shape}"


@pytest.mark.parametrize("x", ["a", None, [1]])
def test_item_of_what_is_no_array(x):
    with pytest.raises(
        xdev.ArrayTypeError, match=f"item takes an array of one element or a number, got a {type(x).__name__}"
    ):
        xdev.item(x)


def test_asarray(device, xp):
    x = xp.ones((2,), dtype=xp.float32)
    assert xdev.asarray(x) is x
    assert xdev.asarray(x, copy=True) is not x
    assert dtype_name(xdev.asarray(x, dtype="int32").dtype) == "int32"
    assert on(xdev.asarray(x, dtype="int32")) is device
    for numbers in (2, 2.5, [1, 2], (1.5, 2), [[1], [2]], True, 1j):
        made = xdev.asarray(numbers, device=device)
        assert on(made) is device
        assert (read(made) == np.asarray(numbers)).all()
    with xdev.use(device):
        assert on(xdev.asarray([1, 2])) is device
    assert dtype_name(xdev.asarray([1, 2], dtype="int16", device=device).dtype) == "int16"
    assert xdev.asarray(3, device=device).shape == ()


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        ("a", "the argument is a str; arrays, numbers"),
        (None, "the argument is a NoneType"),
        ([[1], [2, 3]], "the argument is ragged"),
        (["a"], "the argument is a list of strings"),
        ({"a": 1}, "the argument is a dict"),
    ],
)
def test_asarray_of_what_is_no_number(obj, text):
    with pytest.raises(xdev.TransferError, match=text):
        xdev.asarray(obj)


# -- lists of arrays ---------------------------------------------------------------------------------


def test_a_list_of_arrays_is_stacked_on_their_device(device, xp):
    x, y = xp.asarray([1, 2], dtype=xp.float32), xp.asarray([3, 4], dtype=xp.float32)
    for obj, expected in (
        ([x, y], [[1, 2], [3, 4]]),
        ((y, x), [[3, 4], [1, 2]]),
        ([x[0, ...], y[1, ...]], [1, 4]),
        ([[x[0, ...], 7.0], [8, y[1, ...]]], [[1, 7], [8, 4]]),
        ([x[0, ...], np.float64(0.5)], [1, 0.5]),
    ):
        made = xdev.asarray(obj)
        assert on(made) is device
        assert dtype_name(made.dtype) == "float32"
        assert read(made).tolist() == expected
    assert dtype_name(xdev.asarray([x, y], dtype="int32").dtype) == "int32"
    assert read(xdev.asarray([xp.asarray(3), 1.5], dtype="float32")).tolist() == [3, 1.5]
    assert xdev.asarray([x, y], device="numpy").tolist() == [[1, 2], [3, 4]]


def test_a_list_of_arrays_of_two_dtypes(device, xp):
    narrow, wide = xp.ones(2, dtype=xp.int16), xp.ones(2, dtype=xp.int32)
    assert dtype_name(xdev.asarray([narrow, wide]).dtype) == "int32"
    with pytest.raises(
        xdev.DTypeError, match=r"obj\[1\] is 1.5 beside arrays of int16, which cannot hold it; say dtype="
    ):
        xdev.asarray([xp.asarray(1, dtype=xp.int16), 1.5])
    with pytest.raises(xdev.DTypeError, match=r"obj\[0\] has integers from 99999 .* cannot hold"):
        xdev.asarray([99999, xp.asarray(1, dtype=xp.int16)])


@pytest.mark.xdev_backends(only=("strict",), reason="the others find a dtype for any two")
def test_a_list_of_arrays_without_a_common_dtype(xp):
    text = "the argument has arrays of float32 and int32, which have no common dtype; say dtype="
    with pytest.raises(xdev.DTypeError, match=text):
        xdev.asarray([xp.ones(2, dtype=xp.float32), xp.ones(2, dtype=xp.int32)])


def test_a_list_of_arrays_on_two_devices(device, xp):
    other = "torch" if device.is_host else "numpy"
    here, there = xp.ones(2, dtype=xp.float32), xdev.device(other).xp.ones(2)
    with pytest.raises(xdev.DeviceMismatchError) as caught:
        xdev.asarray([here, [there]], device=device)
    moved, to = ("obj[0]", xdev.device(other)) if device.is_host else ("obj[1][0]", device)
    assert str(caught.value) == (
        f"arrays are on different devices: obj[0] is on {device}; obj[1][0] is on {xdev.device(other)}. "
        f'Move one: {moved} = xdev.to_device({moved}, "{to}")'
    )


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        (lambda x: [x, x[:1]], r"obj is ragged: it has \(2,\) and \(1,\); bring its arrays to one shape before"),
        (lambda x: [x, 1.0], r"obj is ragged: it has \(2,\) and \(\)"),
        (lambda x: [x, [x, []]], r"obj\[1\]\[1\] is ragged: it has no rows"),
        (lambda x: [x, None], r"obj\[1\] is a NoneType; arrays, numbers"),
        (lambda x: ["a", x], r"obj\[0\] is a str; arrays, numbers"),
        (lambda x: [x, {"a": x}], r"obj\[1\] is a dict; arrays, numbers"),
        (lambda x: [x, np.ma.masked_array([1.0])], r"obj\[1\] is a masked array: fill it first"),
    ],
)
def test_a_list_of_arrays_that_makes_none(xp, obj, text):
    with pytest.raises(xdev.TransferError, match=text):
        xdev.asarray(obj(xp.ones(2, dtype=xp.float32)))


def test_arrays_that_mix_with_any_device_follow_the_others(device, xp):
    torch = pytest.importorskip("torch")
    made = xdev.asarray([torch.tensor(2.0), xp.asarray(1.0, dtype=xp.float32)])
    assert on(made) is device
    assert read(made).tolist() == [2, 1]


def test_a_list_of_foreign_arrays(device):
    made = xdev.asarray([Foreign(np.ones(2, np.float32)), Foreign(np.zeros(2, np.float32))], device=device)
    assert on(made) is device
    assert read(made).tolist() == [[1, 1], [0, 0]]


def test_a_list_of_traced_arrays(xp):
    def f(x):
        y = xdev.asarray([x[0, ...], 2.0, x[1, ...]])
        return xdev.namespace(y).sum(y * y)

    x = xp.asarray([1.0, 3.0], dtype=xp.float32)
    for function in (xdev.value_and_grad(f), xdev.jit(xdev.value_and_grad(f))):
        value, gradient = function(x)
        assert xdev.item(value) == 14
        assert read(gradient).tolist() == [2, 6]


def test_a_list_shares_memory_with_nothing(device):
    with pytest.raises(xdev.CopyRequiredError, match="a list shares memory with no array; leave out copy=False"):
        xdev.asarray([1, 2], device=device, copy=False)
    with pytest.raises(xdev.CopyRequiredError, match=r"tree\['x'\] is a list, which shares memory with no array"):
        xdev.to_device({"x": [1, 2]}, device, copy=False)


# -- under differentiation ---------------------------------------------------------------------------


def test_what_is_differentiated_stays_connected(device, xp):
    def f(x):
        y = xdev.asarray(xdev.to_device(x, device))
        return xdev.namespace(y).sum(y * y)

    _, gradient = xdev.value_and_grad(f)(xp.asarray([1.0, 2.0]))
    assert read(gradient).tolist() == [2.0, 4.0]


@pytest.mark.xdev_backends(only=("numpy", "strict", "cupy"), reason="those that xdev itself differentiates")
def test_a_gradient_does_not_cross_frameworks(device, xp):
    other = "torch" if device.is_host else "numpy"
    text = f"an array under differentiation is on {device.backend} and cannot go to {other}.*gradients do not cross"
    with pytest.raises(xdev.TransferError, match=text):
        xdev.value_and_grad(lambda x: xdev.to_device(x, other).sum())(xp.ones(2))


# -- one path for each error -------------------------------------------------------------------------


def test_paths_name_fields_and_keys(device):
    class Bad:
        pass

    tree_ = {"layers": [{"w": np.ones(1, np.float32)}, {"w": Bad()}]}
    with pytest.raises(xdev.TransferError, match=r"tree\['layers'\]\[1\]\['w'\] is a Bad"):
        xdev.to_device(tree_, device)
    assert tree.leaves(tree_)
