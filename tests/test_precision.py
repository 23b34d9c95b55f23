"""The default dtype that `xdev.precision` sets: what it reaches, in which threads, tasks and frameworks."""

import asyncio
import contextlib
import contextvars
import re
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import xdev
from xdev import floating
from xdev.contract import Backend, dtype_name
from xdev.floating import default_float

ROOT = __file__.rpartition("/tests/")[0]
DEFAULT = {"numpy": "float64", "cupy": "float64", "strict": "float64", "torch": "float32", "jax": "float32"}
NAMES = ("float32", "float64", "bfloat16")
CREATED = {
    "zeros": lambda xp: xp.zeros(2),
    "ones": lambda xp: xp.ones(2),
    "empty": lambda xp: xp.empty(2),
    "eye": lambda xp: xp.eye(2),
    "full": lambda xp: xp.full(2, 0.5),
    "linspace": lambda xp: xp.linspace(0, 1, 2),
    "arange": lambda xp: xp.arange(0.0, 2.0),
    "asarray": lambda xp: xp.asarray([0.5, 1.5]),
}
only_jax = pytest.mark.xdev_backends(only="jax", reason="only there float64 exists within the block alone")
gpu_or_cpu = pytest.mark.xdev_backends(exclude="strict", reason="it has no bfloat16")


def name_of(x):
    return dtype_name(x.dtype)


def held(device, name):
    with device.backend.precision(name):
        return device.backend.holds(name, device.info)


def x64():
    return sys.modules["jax"].config.jax_enable_x64


def run(code):
    """Run code in a fresh interpreter, where no framework is loaded; return the words that it prints."""
    code = f"import sys, xdev\nassert not {{'jax', 'torch'}} & set(sys.modules)\n{textwrap.dedent(code)}"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# -- whom a block reaches ----------------------------------------------------------------------------


def test_blocks_nest_and_end_with_an_error(device, xp):
    if device.backend.name not in DEFAULT:
        pytest.skip("a backend of others")
    before = DEFAULT[device.backend.name]
    with xdev.precision("float64"):
        assert name_of(xp.zeros(2)) == "float64"
        with contextlib.suppress(KeyError), xdev.precision("float32"):
            assert name_of(xp.zeros(2)) == "float32"
            raise KeyError
        assert name_of(xp.zeros(2)) == "float64"
    assert name_of(xp.zeros(2)) == before
    with xdev.precision("float32"), xdev.precision("float64"):
        assert name_of(xp.zeros(2)) == "float64"
    assert name_of(xp.zeros(2)) == before


def test_a_block_is_its_threads_own(device, xp):
    dtypes = ["float32", "float64"] * 4
    together = threading.Barrier(len(dtypes) + 1, timeout=60)
    seen = {}

    def work(number):
        with xdev.precision(dtypes[number]):
            together.wait()  # all are in their blocks
            seen[number] = [name_of(make(xp)) for make in CREATED.values()]
            seen[number].append(name_of(xdev.random.Generator(0, device).normal(2)))
            together.wait()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(dtypes))]
    for thread in threads:
        thread.start()
    together.wait()
    outside = name_of(xp.zeros(2))
    together.wait()
    for thread in threads:
        thread.join()
    assert outside == DEFAULT.get(device.backend.name, outside)
    assert seen == {number: [dtype] * (len(CREATED) + 1) for number, dtype in enumerate(dtypes)}


def test_a_block_is_its_tasks_own(device, xp):
    async def work(dtype, steps):
        with xdev.precision(dtype):
            for _ in range(steps):
                await asyncio.sleep(0)
                assert name_of(xp.zeros(2)) == dtype
                assert name_of(xdev.random.Generator(0, device).uniform(2)) == dtype

    async def outside():
        await asyncio.sleep(0)
        return name_of(xdev.random.Generator(0, device).uniform(2))

    async def main():
        # The first to begin is the first to end, so that blocks do not end in the order of their nesting.
        return await asyncio.gather(work("float64", 2), work("float64", 4), work("float32", 5), outside())

    before = name_of(xp.zeros(2))
    assert asyncio.run(main())[-1] == "float32"
    assert name_of(xp.zeros(2)) == before


def test_frameworks_are_left_as_the_open_blocks_say():
    class Told(Backend):
        """A framework with a dtype of its own, which is told one that others are told too."""

        name, framework = "told", "numpy"
        devices = place = device_of = to_host = owns = None

        def __init__(self):
            super().__init__()
            self.xp, self.state = np, "own"

        @contextlib.contextmanager
        def precision(self, dtype):
            before, self.state = self.state, dtype
            yield
            self.state = before

    Told.__abstractmethods__ = frozenset()
    told = Told()
    first, second, third = (floating.Block(dtype) for dtype in NAMES)
    for block in (first, second, third):
        block.open()
        floating.tell(told)
        floating.tell(told)
    assert told.state == "bfloat16"
    first.close()
    assert told.state == "bfloat16"
    third.close()
    assert told.state == "float64"
    second.close()
    assert told.state == "own"


@only_jax
def test_x64_is_off_once_the_last_block_of_a_thread_has_ended(xp):
    def block():
        with xdev.precision("float64"):
            yield

    tasks = [(contextvars.copy_context(), block()) for _ in range(2)]
    for context, each in tasks:
        context.run(next, each)
        assert x64()
    for (context, each), left in zip(tasks, (True, False), strict=True):  # the first to begin is the first to end
        context.run(next, each, None)
        assert x64() is left


@only_jax
def test_a_thread_that_inherits_the_context_is_told_to_enter_a_block(device, xp):
    rng = xdev.random.Generator(0, device)
    text = re.escape(
        f"{device} does not hold float64 in this thread: the block of xdev.precision that sets it was entered in "
        'another one, and jax is told for a thread. Write `with xdev.precision("float64"):` in the function that runs '
        "here"
    )

    def bare():
        for create in (lambda: xp.zeros(2), lambda: rng.normal(2), lambda: xdev.nn.Linear(2, 2, rng=rng)):
            with pytest.raises(xdev.DTypeError, match=text):
                create()

    def entered():
        with xdev.precision("float64"):
            return name_of(xp.zeros(2))

    async def main():
        with xdev.precision("float64"):
            await asyncio.to_thread(bare)  # it copies the context
            return await asyncio.to_thread(entered)

    assert asyncio.run(main()) == "float64"
    assert not x64()


# -- frameworks that are loaded within a block -------------------------------------------------------


@only_jax
@pytest.mark.parametrize(
    "load",
    [
        'xp = xdev.device("jax:cpu").xp',
        'xdev.backend("jax"); xp = xdev.device("jax:cpu").xp',
        'import jax; xp = xdev.device(jax.devices("cpu")[0]).xp',
        'import jax.numpy as jnp; xdev.backend_of(jnp.ones(2)); xp = xdev.device("jax:cpu").xp',
        'import numpy as np; xp = xdev.namespace(xdev.to_device(np.ones(2), "jax:cpu"))',
    ],
)
def test_jax_is_put_into_x64_when_it_is_loaded_within_the_block(xp, load):
    printed = run(
        f"""
        with xdev.precision("float64"):
            {load}
            import jax, jax.numpy as jnp
            print(jnp.zeros(2).dtype)
            x = xp.ones(3)
            print(x.dtype, (x * 2).dtype, xp.sum(x).dtype)
            with xdev.precision("float32"):
                print(xp.ones(3).dtype, (x + 1).dtype)
            print(xp.linspace(0, 1, 3).dtype)
        print(xp.zeros(3).dtype, jnp.zeros(2).dtype, jax.config.jax_enable_x64)
        with xdev.precision("float64"):
            print(xp.zeros(3).dtype)
        """
    )
    assert printed == ["float64"] * 4 + ["float32", "float64", "float64", "float32", "float32", "False", "float64"]


@only_jax
def test_jax_is_put_into_x64_when_it_is_loaded_within_an_inner_block(xp):
    printed = run(
        """
        with xdev.precision("float64"):
            with xdev.precision("float32"):
                xp = xdev.device("jax:cpu").xp
                print(xp.zeros(2).dtype)
            print(xp.zeros(2).dtype, (xp.zeros(2) + 1).dtype)
        import jax
        print(jax.config.jax_enable_x64)
        """
    )
    assert printed == ["float32", "float64", "float64", "False"]


@only_jax
def test_jax_is_put_into_x64_in_each_thread_of_a_block_whoever_loads_it(xp):
    printed = run(
        """
        import threading
        found, loaded = {}, threading.Event()
        entered, done = threading.Barrier(5, timeout=60), threading.Barrier(5, timeout=60)

        def work(name, dtype):
            with xdev.precision(dtype):
                entered.wait()
                if name == "loads":
                    device = xdev.device("jax:cpu")
                    found["device"] = device
                    loaded.set()
                loaded.wait(60)
                import jax.numpy as jnp
                device = found["device"]
                if name == "by name":
                    xdev.device("jax:cpu")
                elif name == "by backend":
                    xdev.backend("jax")
                x = jnp.ones(2) if name.startswith("by") else device.xp.ones(2)
                found[name] = f"{x.dtype} {(x * 2).dtype} {xdev.random.Generator(0, device).normal(2).dtype}"
                done.wait()
            found[name] += f" {device.xp.ones(2).dtype}"

        blocks = dict.fromkeys(["loads", "by name", "by backend", "creates"], "float64") | {"float32": "float32"}
        threads = [threading.Thread(target=work, args=block) for block in blocks.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        import jax
        print(*(found[name] for name in blocks), jax.config.jax_enable_x64)
        """
    )
    wide, narrow = ["float64"] * 3 + ["float32"], ["float32"] * 4
    assert printed == [*wide * 4, *narrow, "False"]


# -- namespaces without a device ---------------------------------------------------------------------


@gpu_or_cpu
@pytest.mark.parametrize("case", CREATED)
@pytest.mark.parametrize("dtype", NAMES)
def test_functions_create_in_it_under_differentiation_and_compilation(device, xp, case, dtype):
    if not held(device, dtype):
        pytest.skip(f"{device} does not hold {dtype}")
    seen = []

    def loss(x):
        own = xdev.namespace(x)
        seen.append(name_of(CREATED[case](own)))
        return own.sum(x)

    x = xp.ones(2, dtype=xp.float32)
    with xdev.precision(dtype):
        xdev.value_and_grad(loss)(x)
        xdev.jit(loss)(x)
        xdev.jit(xdev.grad(loss))(x)
    assert seen == [dtype] * 3


@gpu_or_cpu
def test_what_was_compiled_in_one_block_is_not_used_in_another(device, xp):
    create = xdev.jit(lambda x: xdev.namespace(x).zeros(2))
    x = xp.ones(1, dtype=xp.float32)
    without = name_of(create(x))
    for dtype in ("bfloat16", "float32", "bfloat16"):
        if held(device, dtype):
            with xdev.precision(dtype):
                assert name_of(create(x)) == dtype
    assert name_of(create(x)) == without


@gpu_or_cpu
def test_a_step_that_was_compiled_in_one_block_is_not_used_in_another(device, xp):
    seen = []

    def loss(model, batch):
        own = xdev.namespace(model["w"])
        seen.append(name_of(own.zeros(2)))
        return own.sum(model["w"] * batch)

    optimizer = xdev.optim.sgd(0.1)
    x = xp.ones(2, dtype=xp.float32)
    state, step = xdev.TrainState.create({"w": x}, optimizer), xdev.make_step(loss, optimizer)
    dtypes = [dtype for dtype in ("bfloat16", "float32") if held(device, dtype)]
    for dtype in dtypes:
        with xdev.precision(dtype):
            state, _ = step(state, x)
    assert seen == dtypes


@only_jax
@pytest.mark.parametrize("case", CREATED)
def test_arrays_that_are_on_no_device_or_on_many(xp, case):
    import jax
    import jax.numpy as jnp

    uncommitted = jnp.ones(4)
    arrays = [uncommitted]
    if len(jax.devices()) > 1:
        mesh = jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])
        arrays.append(jax.device_put(uncommitted, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))))
    for x in arrays:
        for own in (lambda x=x: xdev.namespace(x), lambda x=x: xdev.namespace(x, 1.0)):
            assert name_of(CREATED[case](own())) == "float32"
            for dtype in NAMES:
                with xdev.precision(dtype):
                    assert name_of(CREATED[case](own())) == dtype
                    assert own().zeros(2, dtype=own().int8).dtype == jnp.int8
                    assert name_of(own().fft.fftfreq(4)) == dtype
    assert xdev.namespace(uncommitted) is jnp


def test_one_hot_and_layers(device, xp):
    if not held(device, "float64"):
        pytest.skip("no float64 there")
    with xdev.precision("float64"):
        layer = xdev.nn.Linear(2, 2, rng=xdev.random.Generator(0, device))
        assert {name_of(x) for x in xdev.tree.leaves(layer)} == {"float64"}
        assert name_of(xdev.ops.one_hot(xp.asarray([0, 1]), 2)) == "float64"


def test_blocks_of_generators_may_end_in_any_order():
    def block():
        with xdev.precision("float64"):
            yield

    first, second = block(), block()
    next(first)
    next(second)
    first.close()
    assert default_float.get() == "float64"
    second.close()
    assert default_float.get() is None
