"""JAX's pitfalls, each by name."""

import contextlib
import warnings

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


def test_tracers_are_not_asked_whether_they_are_committed(monkeypatch):
    """JAX looks through the whole program to say that a tracer does not know: minutes for many leaves."""

    def refused(tracer):
        raise AssertionError("a tracer was asked whether it is committed")

    monkeypatch.setattr(jax.core.Tracer, "committed", property(refused))
    x = xdev.to_device(np.ones(3, np.float32), "jax:cpu")
    assert jax.make_jaxpr(lambda x: xdev.namespace(x, x + 1).sin(x))(x).eqns


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
    assert xp.zeros.__wrapped__ is jnp.zeros
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
    with pytest.raises(xdev.TransferError, match=r"cannot be brought to the host: .*(deleted|donated)"):
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


# -- what JAX does by default ------------------------------------------------------------------------------


def test_there_are_several_devices_to_test_on():
    """The settings of the suite ask for them before JAX is first used; else the tests above would be left out."""
    if jax.devices()[0].platform != "cpu":
        pytest.skip("an accelerator")
    assert len(jax.devices()) >= 4


def test_the_devices_of_its_namespace_info_have_none_among_them():
    assert None in jnp.__array_namespace_info__().devices()
    infos = xdev.backend("jax").devices()
    assert all(info.native is not None for info in infos)
    assert all(device.native in jax.devices() for device in xdev.devices() if device.backend == "jax")


def test_a_platform_that_is_not_there():
    with pytest.raises(RuntimeError, match="Unknown backend"):
        jax.devices("nonsense")
    with pytest.raises(
        xdev.DeviceError, match=r"'jax:tpu' is no device of this machine; did you mean 'jax:.*jax has jax:"
    ):
        xdev.device("jax:tpu")


@several
def test_the_default_device_of_a_thread_changes_nothing_here():
    with pytest.raises(ValueError, match="default_device must be passed"), jax.default_device("cpu:1"):
        pass
    other, device = (xdev.device(native) for native in jax.devices()[1:3])
    x = other.xp.ones(3)
    for default in (jax.devices()[2], "cpu"):
        with jax.default_device(default):
            made = (
                other.xp.zeros(3),
                xdev.to_device(np.ones(3, np.float32), other),
                xdev.asarray([1, 2], device=other),
                xdev.asarray(x, copy=True),
                xdev.random.Generator(0, other).normal(3),
                xdev.grad(lambda x: (x * x).sum())(x),
                xdev.nn.Linear(2, 2, rng=xdev.random.Generator(0, other)).weight,
            )
            assert {xdev.device_of(y) for y in made} == {other}
    with jax.default_device(jax.devices()[2]):
        uncommitted = jnp.zeros(3)
    assert not uncommitted.committed
    assert xdev.device_of(uncommitted) is device
    assert xdev.namespace(uncommitted) is jnp
    assert xdev.to_device(uncommitted, other).committed


@several
@pytest.mark.parametrize("wrap", [lambda f: f, xdev.jit], ids=["eager", "jit"])
def test_gradients_that_are_constant_are_where_the_arguments_are(wrap):
    x = xdev.device(jax.devices()[1]).xp.ones(3)
    gradient = wrap(xdev.grad(lambda x: x.sum()))(x)
    assert gradient.devices() == x.devices()
    assert gradient.committed


@several
def test_what_jax_says_of_two_devices_is_said_better():
    x, y = (xdev.device(native).xp.ones(3) for native in jax.devices()[1:3])
    with pytest.raises(ValueError, match="incompatible devices") as caught:
        x + y
    assert xdev.backend("jax").is_device_mismatch(caught.value)
    with pytest.raises(xdev.DeviceMismatchError, match=r'args\[1\] = xdev\.to_device\(args\[1\], "jax:\w+:1"\)'):
        xdev.value_and_grad(lambda a, b: (a * b).sum())(x, y)


# -- numbers -----------------------------------------------------------------------------------------------


def test_a_wide_scalar_does_not_become_0_either():
    with pytest.raises(xdev.DTypeError, match=r"is int64, which jax:.* cannot hold"):
        xdev.asarray(np.int64(2**40), device=jax.devices()[0])
    with pytest.raises(xdev.DTypeError, match=r"is float64, which jax:.* cannot hold"):
        xdev.asarray(np.float64(1e300), device=jax.devices()[0])
    with xdev.precision("float64"):
        assert xdev.item(xdev.asarray(np.int64(2**40), device=jax.devices()[0])) == 2**40


def test_what_jax_makes_of_indices_and_zeros_is_refused_where_xdev_can():
    """JAX clamps an index and divides by 0 without an error; what is checked is what `ops` and `fit` are given."""
    x = jnp.arange(3)
    assert x[7] == 2
    jnp.asarray(1) // 0  # some number, and no error
    weight = jnp.ones((3, 2))
    with pytest.raises(xdev.DataError, match=r"indices must be in \[0, 3\), got 7"):
        xdev.ops.embedding(weight, jnp.asarray([7]))
    with pytest.raises(xdev.DataError, match=r"labels must be in \[0, 3\), got 7"):
        xdev.ops.cross_entropy(jnp.ones((1, 3)), jnp.asarray([7]))


def test_the_sum_of_narrow_integers_stays_narrow():
    assert jnp.sum(jnp.ones(3, jnp.int32)).dtype == "int32"
    with xdev.precision("float64"):
        assert xdev.device("jax").xp.sum(jnp.ones(3, jnp.int32), dtype=jnp.int64).dtype == "int64"


def test_float64_that_decays_is_told_by_its_dtype():
    with xdev.precision("float64"):
        x = xdev.to_device(np.asarray([1 / 3]), jax.devices()[0])
    assert xdev.to_numpy(x).tolist() == [1 / 3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions warn
        assert xdev.to_numpy(jax.jit(lambda x: x * 1)(x)).dtype == np.float32


def test_boolean_masks_work_outside_of_jit_only():
    assert xdev.backend("jax").capabilities.boolean_indexing_in_jit is False

    def positive(x):
        return x[x > 0]

    x = jnp.asarray([1.0, -1.0, 2.0])
    assert positive(x).tolist() == [1, 2]
    with pytest.raises(xdev.TracedValueError, match=r"x\[mask\] needs the value.*write xp.where") as caught:
        xdev.jit(positive)(x)
    assert isinstance(caught.value.__cause__, IndexError)


# -- memory, and other frameworks --------------------------------------------------------------------------


def test_from_dlpack_of_other_frameworks_does_not_write_into_jax_memory():
    x = jnp.zeros(1024)
    for name in ("torch", "numpy", "strict", "cupy"):
        try:
            taken = xdev.device(name).xp.from_dlpack(x)
        except xdev.BackendError:
            continue
        with contextlib.suppress(ValueError), xdev.device(name).scope():  # read-only
            taken[...] = 1.0
        assert float(x.sum()) == 0.0, name


def test_from_dlpack_copies_when_told():
    x = aligned(1024)
    copied = xdev.device("jax:cpu:0").xp.from_dlpack(x, copy=True)
    x[...] = 1.0
    assert float(copied.sum()) == 0.0


def test_asarray_copies_when_told():
    xp = xdev.device(jax.devices()[0]).xp
    for copy in (True, None):
        x = aligned(1024)
        copied = xp.asarray(x, copy=copy).block_until_ready()
        x[...] = 1.0
        assert float(copied.sum()) == 0.0


def test_strides_that_jax_cannot_import_are_copied():
    x = np.arange(64, dtype=np.float32).reshape(8, 8)[::2, ::3]
    with pytest.raises(Exception, match="stride"):
        jnp.from_dlpack(x)
    assert np.asarray(xdev.to_device(x, jax.devices()[0])).tolist() == x.tolist()


def test_arithmetic_with_numbers_is_no_transfer():
    """JAX's transfer guard would forbid it, and lets through what xdev's budget forbids."""
    x = jax.device_put(jnp.ones(3), jax.devices()[0])
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        x + 1
    with xdev.budget(to_host=0, to_device=0):
        y = x + 1
        with pytest.raises(xdev.TransferBudgetExceeded):
            float(y[0])
    assert y.tolist() == [2, 2, 2]


def test_results_are_waited_for_when_it_says_so():
    x = xdev.device(jax.devices()[0]).xp.ones((200, 200))
    y = x @ x
    xdev.synchronize({"y": y})
    assert y.is_ready()
    z = y @ x
    xdev.synchronize(xdev.device(jax.devices()[0]))
    assert z.is_ready()


def test_functions_and_integers_may_stand_among_the_leaves():
    model = {"w": jnp.ones((2, 2)), "activation": xdev.ops.relu, "steps": jnp.asarray(3)}
    x = jnp.asarray([[1.0, -4.0]])

    def loss(model, x):
        return xdev.namespace(x).sum(model["activation"](x @ model["w"] + model["steps"]))

    with pytest.raises(TypeError, match=r"problematic value is of type .* at path model\['activation'\]"):
        jax.jit(loss)(model, x)
    with pytest.raises(TypeError, match="requires real- or complex-valued inputs"):
        jax.grad(loss)({name: leaf for name, leaf in model.items() if name != "activation"}, x)
    assert float(xdev.jit(loss)(model, x)) == 0
    gradient = xdev.jit(xdev.grad(loss))({**model, "steps": jnp.asarray(4)}, x)
    assert gradient["w"].tolist() == [[1, 1], [-4, -4]]
    assert gradient["steps"].tolist() == 0
    assert gradient["activation"] is xdev.ops.relu


def test_from_dlpack_does_not_truncate():
    with pytest.raises(xdev.DTypeError, match="from_dlpack got an array of float64, which JAX cannot hold"):
        xdev.device("jax").xp.from_dlpack(np.zeros(3))


@several
@pytest.mark.parametrize(
    "how", [{"device": 1}, {"device": 0, "dtype": "float16", "copy": True}], ids=["device", "dtype"]
)
def test_a_copy_of_memory_of_numpys_is_done_when_the_call_returns(how):
    where = jax.devices()[how["device"]]
    for _ in range(100):
        x = aligned(1 << 16)
        shared = xdev.to_device(x, jax.devices()[0], copy=False)
        moved = xdev.to_device(shared, where, **{k: v for k, v in how.items() if k != "device"})
        x[...] = 7.0
        assert float(abs(moved).max()) == 0.0


def test_optimizers_of_optax_that_want_the_loss():
    optax = pytest.importorskip("optax")
    optimizer = optax.polyak_sgd(1.0)
    result = xdev.fit(
        {"w": jnp.ones(3)}, lambda m, b: ((m["w"] - b) ** 2).sum(), jnp.zeros((20, 3)),
        optimizer=optimizer, batch_size=1, epochs=1,
    )  # fmt: skip
    assert result.losses[-1] < 1e-6 < result.losses[0]


def test_an_optimizer_that_wants_the_loss_alone():
    class Optimizer:
        def init(self, params):
            return ()

        def update(self, grads, state, params, *, value):
            return [-value * g for g in grads], state

    result = xdev.fit({"w": jnp.ones(())}, lambda m, b: m["w"] ** 2, jnp.zeros(1), optimizer=Optimizer())
    assert float(result.model["w"]) == -1.0
