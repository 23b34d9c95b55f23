"""JAX's pitfalls, each by name."""

import numpy as np
import pytest

import xdev
from xdev.contract import dtype_name

jax = pytest.importorskip("jax")
jnp = jax.numpy

several = pytest.mark.skipif(len(jax.devices()) < 4, reason="needs several devices")


def aligned(count, dtype=np.float32):
    """Memory aligned to 64 bytes, which JAX would alias."""
    raw = np.zeros(count * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * np.dtype(dtype).itemsize].view(dtype)


@pytest.fixture
def mesh():
    spec = jax.sharding.PartitionSpec("x")
    return jax.sharding.NamedSharding(jax.make_mesh((4,), ("x",)), spec)


# -- devices -----------------------------------------------------------------------------------------


@several
def test_native_devices_and_shardings_are_devices(mesh):
    native = jax.devices()[2]
    assert xdev.device(native) == "jax:cpu:2" or xdev.device(native).index == native.id
    assert xdev.device(jax.sharding.SingleDeviceSharding(native)) is xdev.device(native)
    assert xdev.device(mesh).kind == "mesh"


@several
def test_a_sharded_array_is_on_a_mesh_that_lists_its_members(mesh):
    x = jax.device_put(jnp.arange(8.0), mesh)
    device = xdev.device_of(x)
    assert device.kind == "mesh"
    assert [d.index for d in device.members] == sorted(d.id for d in jax.devices()[:4])
    assert all(member is xdev.device(str(member)) for member in device.members)
    assert device not in xdev.devices()
    assert xdev.device(str(device)) is device
    assert xdev.device_of(x * 2) is device
    with pytest.raises(TypeError, match="is the mesh of an array and exists in this process only"):
        device.__reduce__()


@several
def test_a_sharded_array_binds_no_device_and_mixes(mesh):
    x = jax.device_put(jnp.arange(8.0), mesh)
    xp = xdev.namespace(x)
    assert xp.zeros is jnp.zeros
    assert xp.sum is jnp.sum
    assert not xp.zeros(3).committed
    single = jax.device_put(jnp.zeros(8), jax.devices()[1])
    assert xdev.namespace(x, single) is xdev.device(jax.devices()[1]).xp


@several
def test_sharded_arrays_are_pulled_whole_and_placed_again(mesh):
    x = jax.device_put(jnp.arange(8.0), mesh)
    assert xdev.to_numpy(x).tolist() == list(range(8))
    assert xdev.to_device(x, xdev.device_of(x)) is x
    again = xdev.to_device(np.arange(8, dtype=np.float32), xdev.device_of(x))
    assert again.sharding == mesh
    assert xdev.device_of(xdev.to_device(x, jax.devices()[1])).index == jax.devices()[1].id
    xdev.synchronize(x)


@several
def test_a_mesh_of_one_device_is_that_device():
    sharding = jax.sharding.NamedSharding(
        jax.sharding.Mesh(np.array(jax.devices()[1:2]), ("x",)), jax.sharding.PartitionSpec("x")
    )
    x = jax.device_put(jnp.zeros(3), sharding)
    assert xdev.device_of(x) is xdev.device(jax.devices()[1])
    assert xdev.device_of(x) is xdev.device(jax.devices()[1])


@several
def test_two_committed_devices_are_a_mismatch():
    x, y = (jax.device_put(jnp.zeros(3), d) for d in jax.devices()[1:3])
    with pytest.raises(xdev.DeviceMismatchError, match=r"arrays\[1\] = xdev.to_device\(arrays\[1\], \"jax:cpu:1\"\)"):
        xdev.namespace(x, y)


def test_uncommitted_arrays_bind_no_device():
    x = jnp.zeros(3)
    assert not x.committed
    assert xdev.namespace(x) is jnp
    assert xdev.namespace(x, x) is jnp
    assert xdev.device_of(x) is xdev.device(jax.devices()[0])


@several
def test_uncommitted_arrays_follow_committed_ones():
    x = jax.device_put(jnp.zeros(3), jax.devices()[1])
    assert xdev.namespace(jnp.zeros(3), x) is xdev.device(jax.devices()[1]).xp
    assert xdev.namespace(x, jnp.zeros(3)) is xdev.device(jax.devices()[1]).xp


def test_what_a_device_creates_is_committed(xp, backend):
    if backend.name != "jax":
        pytest.skip("only JAX commits")
    assert xp.zeros(3).committed
    assert xdev.to_device(np.zeros(3, np.float32), xp.zeros(1).device).committed


# -- tracing -----------------------------------------------------------------------------------------


def test_under_jit_arrays_have_no_device_but_a_namespace():
    seen = {}

    @jax.jit
    def f(x):
        seen["namespace"] = xdev.namespace(x) is jnp and xdev.namespace(x, 1.0, np.float32(1)) is jnp
        with pytest.raises(xdev.DeviceError, match="the array is being traced by its framework, as under jit"):
            xdev.device_of(x)
        with pytest.raises(xdev.DeviceError, match="as under jit, and has no device there"):
            xdev.device_of({"x": x})
        with pytest.raises(xdev.TransferError, match="while its framework traces the function, as under jit"):
            xdev.item(xdev.namespace(x).sum(x))
        with pytest.raises(xdev.TransferError, match="being traced by jax, as under jit, and has no values"):
            xdev.to_numpy(x)
        assert xdev.asarray(x) is x
        xdev.synchronize(x)
        return xdev.asarray(x, dtype="int32") + xdev.to_device(x, jax.devices()[0]).astype("int32")

    assert f(jnp.ones(3)).tolist() == [2, 2, 2]
    assert seen["namespace"]


def test_under_grad_and_vmap():
    def f(x):
        return xdev.namespace(x).sum(xdev.to_device(x, jax.devices()[0]) ** 2)

    assert jax.grad(f)(jnp.asarray([1.0, 2.0])).tolist() == [2, 4]
    assert jax.vmap(f)(jnp.ones((2, 3))).tolist() == [3, 3]


def test_traced_arrays_cannot_be_saved(tmp_path):
    with pytest.raises(xdev.FileError, match="is being traced and has no value yet"):
        jax.jit(lambda x: xdev.save(tmp_path / "x", x))(jnp.ones(3))


# -- dtypes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "complex128", "int64", "uint64"])
def test_wide_dtypes_are_not_truncated(dtype):
    x = np.ones(3, dtype)
    smaller = {"float64": "float32", "complex128": "complex64", "int64": "int32", "uint64": "uint32"}[dtype]
    with pytest.raises(xdev.DTypeError) as caught:
        xdev.to_device({"x": x}, jax.devices()[0])
    device = xdev.device(jax.devices()[0])
    assert str(caught.value) == (
        f"tree['x'] is {dtype}, which {device} cannot hold; say dtype=\"{smaller}\" to convert it: "
        f'xdev.to_device(x, "{device}", dtype="{smaller}"), or work within `with xdev.precision("float64"):`'
    )
    assert dtype_name(xdev.to_device(x, device, dtype=smaller).dtype) == smaller
    with xdev.precision("float64"):
        assert dtype_name(xdev.to_device(x, device).dtype) == dtype


def test_a_wide_integer_does_not_become_0():
    with pytest.raises(xdev.DTypeError, match="has integers from 1099511627776 to 1099511627776, which int32"):
        xdev.to_device([2**40], jax.devices()[0])


# -- memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copy", [None, True])
def test_writable_memory_is_never_aliased(copy):
    for _ in range(20):
        x = aligned(65536)
        moved = xdev.to_device(x, jax.devices()[0], copy=copy)
        x[...] = 1.0  # at once: JAX copies asynchronously
        assert float(moved.sum()) == 0.0


def test_copy_false_aliases_what_can_be():
    x = aligned(1024)
    shared = xdev.to_device(x, jax.devices()[0], copy=False)
    assert shared.unsafe_buffer_pointer() == x.ctypes.data


def test_copy_false_of_unaligned_memory():
    raw = np.zeros(1024 * 4 + 128, np.uint8)
    start = -raw.ctypes.data % 64 + 4
    x = raw[start : start + 4096].view(np.float32)
    with pytest.raises(xdev.CopyRequiredError, match="JAX shares contiguous memory aligned to 64 bytes only"):
        xdev.to_device(x, jax.devices()[0], copy=False)
    with pytest.raises(xdev.CopyRequiredError, match="JAX shares contiguous memory"):
        xdev.to_device(aligned(1024)[::2], jax.devices()[0], copy=False)


def test_torch_cannot_write_into_jax_memory():
    pytest.importorskip("torch")
    x = jnp.zeros(1024)
    moved = xdev.to_device(x, "torch")
    moved[...] = 1.0
    assert float(x.sum()) == 0.0
    with pytest.raises(xdev.CopyRequiredError, match="the array cannot be shared: "):
        xdev.to_device(x, "torch", copy=False)


def test_numpy_gets_writable_copies_or_a_read_only_view():
    x = jnp.zeros(1024)
    xdev.to_numpy(x)[0] = 1.0
    assert float(x[0]) == 0.0
    view = xdev.to_numpy(x, copy=False)
    assert not view.flags.writeable


@several
def test_a_copy_to_another_device_shares_nothing():
    x = jax.device_put(jnp.zeros(1024), jax.devices()[0])
    for target in jax.devices()[:2]:
        moved = xdev.to_device(x, target, copy=True)
        assert moved.unsafe_buffer_pointer() != x.unsafe_buffer_pointer()
        assert moved.devices() == {target}


def test_dispatch_is_waited_for():
    x = xdev.to_device(np.ones((300, 300), np.float32), jax.devices()[0])
    with xdev.track_transfers() as transfers:
        xdev.to_numpy(x @ x)
    assert transfers.records[0].seconds > 0


def test_donated_arrays_raise():
    x = jnp.zeros(3)
    jax.jit(lambda x: x + 1, donate_argnums=0)(x)
    with pytest.raises(RuntimeError, match=r"deleted|donated"):
        xdev.to_numpy(x)


# -- implicit crossings ------------------------------------------------------------------------------

READS = {
    "item": lambda x: x[0].item(),
    "tolist": lambda x: x[:1].tolist(),
    "__float__": lambda x: float(x[0]),
    "__int__": lambda x: int(x[0]),
    "__bool__": lambda x: bool(x[0]),
    "__index__": lambda x: [0, 1, 2][x.astype(jnp.int32)[0]],
    "__complex__": lambda x: complex(x[0]),
    "__repr__": lambda x: repr(x[0]),
    "__str__": lambda x: str(x[0]),
    "__format__": lambda x: f"{x[0]:.2f}",
    "__array__": lambda x: jax.device_get(x[0]),
}


def test_every_read_has_a_case():
    from xdev_jax.backend import _READS

    assert set(READS) == set(_READS)


@pytest.mark.parametrize("name", READS)
def test_what_jax_reads_by_itself_is_seen_once_and_before_it_happens(name):
    x = jnp.ones(3)
    with xdev.track_transfers() as transfers:
        READS[name](x)
    assert [(r.path, r.nbytes, r.direction) for r in transfers.records] == [(f"jax.Array.{name}", 4, "to_host")]
    assert transfers.records[0].where.startswith(__file__)
    with xdev.budget(to_host=0), pytest.raises(xdev.TransferBudgetExceeded, match=rf"jax\.Array\.{name} would take"):
        READS[name](x)


def test_what_is_said_not_to_be_seen_is_not():
    assert "not np.asarray and DLPack" in xdev.backend("jax").capabilities.visible_transfers
    x = jnp.ones(3)
    with xdev.track_transfers() as transfers:
        np.from_dlpack(x)
        jax.jit(lambda y: y + 1)(x)
    assert transfers.records == []


@several
def test_the_memory_of_a_mesh_on_cpus_is_the_hosts(mesh):
    assert xdev.device(mesh).memory().total == xdev.device("numpy").memory().total
