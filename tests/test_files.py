"""Saving and loading trees: the same bits, structure and sharing on every backend; damage is noticed."""

import collections
import os
import pickle
import stat

import numpy as np
import pytest
from safetensors import safe_open

import xdev
from xdev import files, tree
from xdev.contract import dtype_name

from .arrays import DTYPES, host_dtype, on, put, read, same_bits

SHAPES = ((), (0,), (0, 3), (1,), (5,), (2, 3, 4))
Point = collections.namedtuple("Point", ["x", "y"])


class Box:
    def __init__(self, weight, label):
        self.weight, self.label = weight, label


tree.register(Box, lambda box: ((box.weight,), box.label, ("weight",)), lambda label, children: Box(*children, label))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tree.safetensors"


def random_bits(dtype, shape, seed=0):
    """An array of any bits that the dtype has, NaNs with payloads among them."""
    wanted = host_dtype(dtype)
    count = int(np.prod(shape))
    if dtype == "bool":
        return np.random.default_rng(seed).integers(0, 2, shape).astype(bool)
    raw = np.random.default_rng(seed).bytes(count * wanted.itemsize)
    return np.frombuffer(raw, wanted).reshape(shape).copy()


# -- bits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_come_back(device, path, dtype):
    values = {f"{shape}": random_bits(dtype, shape) for shape in SHAPES}
    saved = {name: put(x, device) for name, x in values.items()}
    xdev.save(path, saved)
    for loaded in (xdev.load(path, device=device), xdev.load(path, like=saved)):
        for name, x in values.items():
            assert on(loaded[name]) is device
            same_bits(read(loaded[name]), x)
            assert loaded[name] is not saved[name]


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "bfloat16"])
def test_what_one_backend_writes_every_other_reads(device, path, dtype):
    values = random_bits(dtype, (3, 4))
    xdev.save(path, [put(values, device)])
    for target in xdev.devices():
        if target.backend.holds(dtype, target.info):
            (loaded,) = xdev.load(path, device=target)
            assert on(loaded) is target
            same_bits(read(loaded), values)
        else:
            with pytest.raises(xdev.DTypeError, match=rf"tree\[0\] is {dtype}, which {target} cannot hold"):
                xdev.load(path, device=target)


def test_files_say_nothing_of_the_backend(device, path, tmp_path):
    values = random_bits("float32", (3, 4))
    xdev.save(path, {"w": put(values, device), "n": 1})
    xdev.save(tmp_path / "numpy", {"w": values, "n": 1})
    headers = []
    for name in (path, tmp_path / "numpy"):
        with safe_open(name, framework="np") as file:  # it writes the metadata in any order
            headers.append(file.metadata())
    assert headers[0] == headers[1]
    assert path.stat().st_size == (tmp_path / "numpy").stat().st_size


@pytest.mark.parametrize(
    "x",
    [
        np.arange(12.0).reshape(3, 4).T,
        np.arange(12.0)[::-2],
        np.arange(3).astype(">i4"),
        np.broadcast_to(np.float32(2), (2, 3)),
        np.float32(1.5),
        (np.arange(6.0) + 1j).reshape(2, 3).T,
    ],
    ids=["transposed", "reversed", "big-endian", "broadcast", "scalar", "complex transposed"],
)
def test_any_layout_is_written_in_order(path, x):
    xdev.save(path, x)
    loaded = xdev.load(path)
    assert loaded.tolist() == x.tolist()
    assert dtype_name(loaded.dtype) == dtype_name(x.dtype)


def test_loaded_arrays_are_new_and_writable(path):
    x = np.ones(3)
    xdev.save(path, {"x": x})
    loaded = xdev.load(path, like={"x": x})
    loaded["x"][...] = 5
    assert x.tolist() == [1, 1, 1]
    assert xdev.load(path)["x"].tolist() == [1, 1, 1]


def test_bfloat16_into_numpy_needs_a_word(path):
    xdev.save(path, {"w": random_bits("bfloat16", (2,))})
    with pytest.raises(xdev.DTypeError) as caught:
        xdev.load(path)
    assert str(caught.value) == (
        "tree['w'] is bfloat16, which numpy:cpu:0 cannot hold; load it to a device that can, with device= or like=, or "
        'convert it with dtype="float32"'
    )
    assert xdev.load(path, dtype="float32")["w"].dtype == np.float32


def test_dtype_converts_arrays_of_its_kind(path):
    xdev.save(path, {"f": np.ones(2), "i": np.arange(2)})
    loaded = xdev.load(path, dtype="float16")
    assert {k: str(v.dtype) for k, v in loaded.items()} == {"f": "float16", "i": "int64"}
    loaded = xdev.load(path, {"f": np.ones(2, np.float16), "i": np.arange(2)}, dtype="float16")
    assert loaded["f"].dtype == np.float16


# -- structure ---------------------------------------------------------------------------------------

VALUES = [
    None, True, False, 0, -5, 2**100, 1.5, -0.0, float("inf"), float("nan"), 0.1, 1 + 2j, complex(-0.0, float("nan")),
    "", "text ü\n\"'\x00", b"", b"\x00\xff", [], (), {}, [[]], ({},), [1, [2, (3, None)]], (1,),
    {"a": {"b": (1, [2])}, "": 0}, {1: "int", False: "bool"}, {None: 1}, {1.5: 1}, {(1, "a"): 2}, {"z": 1, "a": 2},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_numbers_strings_and_containers_come_back(path, value):
    xdev.save(path, value)
    loaded = xdev.load(path)
    assert repr(loaded) == repr(value)
    assert pickle.dumps(loaded) == pickle.dumps(value)


def test_structure_without_like_and_with_it(path):
    saved = {"p": Point(np.ones(1), 2), "b": Box(np.zeros(2), "label"), "l": [np.ones(3), (None, 1.5)]}
    xdev.save(path, saved)
    plain = xdev.load(path)
    assert list(plain) == ["p", "b", "l"]
    assert plain["p"]["x"].tolist() == [1]
    assert plain["p"]["y"] == 2
    assert list(plain["b"]) == ["weight"]
    assert plain["l"][1] == (None, 1.5)
    like = {"p": Point(np.zeros(1), 0), "b": Box(np.ones(2), "other"), "l": [np.zeros(3), (None, 0.0)]}
    loaded = xdev.load(path, like)
    assert type(loaded["p"]) is Point
    assert loaded["p"].y == 2
    assert type(loaded["b"]) is Box
    assert loaded["b"].label == "other"  # static: it belongs to the code
    assert loaded["b"].weight.tolist() == [0, 0]
    assert like["b"].weight.tolist() == [1, 1]


def test_a_dict_by_field_name_fits_what_has_the_fields(path):
    xdev.save(path, {"x": np.ones(1), "y": 3})
    assert xdev.load(path, Point(np.zeros(1), 0)) == Point(np.ones(1), 3)


def test_modules_come_back(device, path):
    rng = xdev.random.Generator(0, device)
    model = xdev.nn.Sequential([xdev.nn.Linear(3, 4, rng=rng), xdev.ops.relu, xdev.nn.Linear(4, 2, rng=rng)])
    xdev.save(path, model)
    fresh = xdev.nn.Sequential([xdev.nn.Linear(3, 4, rng=rng), xdev.ops.relu, xdev.nn.Linear(4, 2, rng=rng)])
    loaded = xdev.load(path, like=fresh)
    assert type(loaded) is type(model)
    for a, b in zip(tree.leaves(loaded), tree.leaves(model), strict=True):
        assert on(a) is device
        same_bits(read(a), read(b))


def test_generators_go_where_the_arrays_go(device, path):
    rng = xdev.random.Generator(7, device)
    rng.bits(3)
    xdev.save(path, {"rng": rng, "x": put(np.ones(2, "float32"), device)})
    expected = rng.bits(5)
    for like in (xdev.random.Generator(0, "numpy"), xdev.random.Generator(0, device)):
        for target in (device, host_device := xdev.device("numpy"), None):
            loaded = xdev.load(path, like={"rng": like, "x": np.zeros(2, "float32")}, device=target)
            assert loaded["rng"].device is (target or like.device)
            assert on(loaded["x"]) is (target or host_device)
            assert on(drawn := loaded["rng"].bits(5)) is loaded["rng"].device
            assert (read(drawn) == read(expected)).all()
    assert like.state["draws"] == 0


def test_generators_of_compiled_functions_go_where_the_arrays_go(device, path):
    def draw(rng):
        return rng.bits(3), rng

    _, rng = xdev.jit(draw)(xdev.random.Generator(7, device))
    xdev.save(path, rng)
    loaded = xdev.load(path, like=rng, device="numpy")
    assert loaded.device == "numpy:cpu:0"
    assert (loaded.bits(5) == read(rng.bits(5))).all()


def test_shared_arrays_are_stored_once_and_shared_again(device, path):
    x = put(random_bits("float32", (1000,)), device)
    xdev.save(path, {"a": x, "b": [x]})
    assert path.stat().st_size < 6000
    for loaded in (xdev.load(path), xdev.load(path, device=device), xdev.load(path, like={"a": x, "b": [x]})):
        assert loaded["a"] is loaded["b"][0]


def test_like_says_where_each_array_goes(device, xp, path):
    xdev.save(path, {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)})
    loaded = xdev.load(path, like={"a": xp.zeros(2, dtype=xp.float32), "b": np.zeros(2, np.float32)})
    assert on(loaded["a"]) is device
    assert on(loaded["b"]) == "numpy:cpu:0"
    assert on(xdev.load(path, like=loaded, device=device)["b"]) is device


def test_what_does_not_fit_is_listed(path):
    xdev.save(path, {"a": np.ones(2), "b": np.ones((2, 3)), "c": np.ones(2, np.float32), "d": 1, "e": "x", "g": [1]})
    like = {"a": np.ones(2), "b": np.ones((3, 2)), "c": np.ones(2), "d": np.ones(1), "e": 5, "f": [0], "h": np.ones(1)}
    like["a"], like["e2"] = 1, 1
    with pytest.raises(xdev.FileError) as caught:
        xdev.load(path, like)
    assert str(caught.value).splitlines() == [
        f"{path} does not fit `like`:",
        "  missing in the file: like['e2']",
        "  missing in the file: like['f'][0]",
        "  missing in the file: like['h']",
        "  not in like: tree['g'][0]",
        "  like['a'] is 1, the file has an array of shape (2,)",
        "  shape of like['b']: (3, 2), in the file (2, 3)",
        "  dtype of like['c']: float64, in the file float32",
        "  like['d'] is an array, the file has 1",
        "  like['e'] is 5, the file has 'x'",
    ]


def test_a_long_list_of_differences_is_cut(path):
    xdev.save(path, {})
    with pytest.raises(xdev.FileError, match=r"missing in the file: like\[11\]\n  and 8 more$"):
        xdev.load(path, [0] * 20)


def test_ints_and_floats_stand_for_each_other(path):
    xdev.save(path, {"step": 3})
    assert xdev.load(path, {"step": 0.0}) == {"step": 3}


# -- what cannot be saved ----------------------------------------------------------------------------


class Key:
    pass


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"f": [print]}, r"tree\['f'\]\[0\] is a builtin_function_or_method; files hold arrays, numbers, strings"),
        ({"s": {1, 2}}, r"tree\['s'\] is a set"),
        ({"a": {Key(): 1}}, r"tree\['a'\] has the key .* of type Key; files take keys that are strings, numbers"),
        ({"x": np.array(["a"])}, r"tree\['x'\] has dtype <U1, which files do not hold; convert it to numbers"),
        ({"x": np.ones(1, np.longdouble)}, r"tree\['x'\] has dtype .*, which files do not hold; convert it to float64"),
        (Box(np.array([None]), ""), r"tree.weight has dtype object"),
    ],
)
def test_what_cannot_be_saved(path, value, text):
    path.write_bytes(b"before")
    with pytest.raises(xdev.FileError, match=text):
        xdev.save(path, value)
    assert path.read_bytes() == b"before"
    assert list(path.parent.iterdir()) == [path]


def test_traced_arrays_cannot_be_saved(path):
    def f(x):
        xdev.save(path, {"x": x})
        return x.sum()

    with pytest.raises(xdev.FileError, match=r"tree\['x'\] is being traced and has no value yet; save outside jit"):
        xdev.value_and_grad(f)(np.ones(2))


# -- writing: whole or not at all --------------------------------------------------------------------


def test_a_failure_keeps_the_old_file_and_leaves_nothing(path, monkeypatch):
    xdev.save(path, {"a": 1})

    def fail(*_):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(xdev.FileError, match=r"could not be written, and is as it was: .*No space left"):
                xdev.save(path, {"a": 2})
        assert xdev.load(path) == {"a": 1}
        assert list(path.parent.iterdir()) == [path]


def test_an_interrupt_leaves_nothing(path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        xdev.save(path, {"a": 2})
    assert list(path.parent.iterdir()) == []


def test_data_are_on_the_disk_before_the_name(path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _real=real, _name=name: (calls.append(_name), _real(*a))[1])
    xdev.save(path, {"a": np.ones(2)})
    assert calls == ["fsync", "replace", "fsync"]


def test_an_unwritable_place_is_found_before_anything_is_pulled(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "read", lambda *_: pytest.fail("an array was pulled"))
    x = {"x": np.ones(2)}
    with pytest.raises(xdev.FileError, match=r"cannot be written: the folder .*missing does not exist; make it first"):
        xdev.save(tmp_path / "missing" / "file", x)
    with pytest.raises(xdev.FileError, match="names a folder; give the name of a file in it"):
        xdev.save(tmp_path, x)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(xdev.FileError, match="cannot be written"):
        xdev.save(tmp_path / "file" / "below", x)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(xdev.FileError, match=r"Permission denied\); write to another folder"):
            xdev.save(tmp_path / "file", {})
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(os.name != "posix", reason="modes and links are POSIX's")
def test_permissions_and_links_stay(tmp_path):
    before = os.umask(0o027)
    try:
        xdev.save(tmp_path / "new", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o604)
    (tmp_path / "link").symlink_to("new")
    xdev.save(tmp_path / "link", {"a": 1})
    assert (tmp_path / "link").is_symlink()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604
    assert xdev.load(tmp_path / "new") == {"a": 1}


def test_names_may_be_strings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    xdev.save("plain", {"a": 1})
    assert xdev.load("plain") == {"a": 1}


def test_saving_counts_as_crossing(device, path):
    if device.is_host:
        pytest.skip("nothing crosses")
    x = put(random_bits("float32", (10,)), device)
    with xdev.track_transfers() as t:
        xdev.save(path, {"x": x})
        xdev.load(path, like={"x": x})
    assert (t.to_host_bytes, t.to_device_bytes) == (40, 40)
