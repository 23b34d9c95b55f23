"""Training steps on torch: what lies how in memory, and what a loss may do to its parameters."""

import contextlib
import threading
import weakref

import numpy as np
import pytest

import xdev
from xdev import optim

torch = pytest.importorskip("torch")

from xdev_torch import gradients, optimizers, training  # noqa: E402  after torch was found

OPTIMIZERS = {
    "adamw": (optim.adamw(0.1, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1)),
    "sgd": (optim.sgd(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (optim.sgd(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    "nesterov": (
        optim.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    ),
}


@pytest.fixture(params=OPTIMIZERS)
def optimizers_of_both(request):
    """An optimizer of xdev, and torch's own."""
    return OPTIMIZERS[request.param]


@pytest.fixture(params=["kernel", "functional"])
def way(request, monkeypatch):
    """Whether the kernel is called directly, or through the functional form in torch.optim."""
    if request.param == "functional":
        monkeypatch.setattr(training, "kernels_fit", lambda: False)
    return request.param


class Run:
    """Steps of a trainer."""

    def __init__(self, params, optimizer=OPTIMIZERS["adamw"][0]):
        self.params, self.optimizer = params, optimizer
        self.state = optimizer.init(params)
        self.trainer = training.make_trainer(optimizer.fused, params)

    def step(self, loss, **hyper):
        value, _, grads = self.trainer.value_and_grad(lambda leaves: (loss(*leaves), []), self.params)
        self.state = self.trainer.update(grads, self.state, **{**self.optimizer.hyper, **hyper})
        return value


def drawn(*shapes, dtype=torch.float32):
    """Tensors of these shapes, the same in each call."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def by_torch(params, loss, make, steps=4):
    """Parameters after steps of an optimizer of torch."""
    params = [torch.nn.Parameter(p.detach().clone(memory_format=torch.contiguous_format)) for p in params]
    optimizer = make(params)
    for _ in range(steps):
        grads = torch.autograd.grad(loss(*params), params, allow_unused=True)
        for p, g in zip(params, grads, strict=True):
            p.grad = torch.zeros_like(p) if g is None else torch.empty_like(p).copy_(g.to_dense())
        optimizer.step()
    return [p.detach() for p in params]


def assert_same(found, expected):
    """Check that lists of tensors are equal but for rounding."""
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=2e-5, atol=1e-6)


# -- gradients in all forms --------------------------------------------------------------------------------


class Given(torch.autograd.Function):
    """A loss of two parameters, with a rule that returns tensors of its own choice."""

    @staticmethod
    def forward(ctx, a, b, rule):
        ctx.save_for_backward(a, b)
        ctx.rule = rule
        return (a * b).sum()

    @staticmethod
    def backward(ctx, g):
        return *ctx.rule(*ctx.saved_tensors), None


def negated(x):
    """What equals `x`, and has the opposite in memory."""
    return torch._neg_view(-x)


def pieces(a, b):
    """A loss of which the gradients are pieces of one tensor."""
    return (torch.cat([a, b], 1) * torch.arange(24.0).reshape(3, 8)).sum()


LOSSES = {
    "plain": lambda a, b: (a * b).square().sum(),
    "of stride 0": lambda a, b: a.sum() + b.sum(),
    "transposed": lambda a, b: (a.T @ b).square().sum() + (a.T * torch.arange(12.0).reshape(4, 3)).sum(),
    "with gaps": pieces,
    "shared": lambda a, b: (a + b).square().sum(),
    "sparse": lambda a, b: torch.nn.functional.embedding(torch.tensor([1, 1, 2]), a, sparse=True).square().sum(),
    "negated": lambda a, b: Given.apply(a, b, lambda a, b: (negated(b), negated(a))),
    "the parameters themselves": lambda a, b: Given.apply(a, b, lambda a, b: (a, b)),
    "the other's memory": lambda a, b: Given.apply(a, b, lambda a, b: (b, a)),
    "none": lambda a, b: (b * b).sum(),
    "flipped": lambda a, b: (a.flip(0) * torch.arange(12.0).reshape(3, 4)).sum() + b.exp().sum(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_in_any_form(name, optimizers_of_both, way):
    optimizer, make = optimizers_of_both
    for order in ((0, 1), (1, 0)):
        params = [x.permute(order).contiguous().permute(order) for x in drawn((3, 4), (3, 4))]
        expected = by_torch(params, LOSSES[name], make)
        run = Run(params, optimizer)
        for _ in range(4):
            run.step(LOSSES[name])
        assert_same(params, expected)
        assert run.state.count.dtype is torch.int32
        assert run.state.count.item() == 4


def test_a_gradient_that_lies_within_another_parameter(optimizers_of_both, way):
    optimizer, make = optimizers_of_both

    def loss(a, b):
        class Inner(torch.autograd.Function):
            @staticmethod
            def forward(ctx, a, b):
                ctx.save_for_backward(a, b)
                return (a[1:] * b).sum()

            @staticmethod
            def backward(ctx, g):
                a, b = ctx.saved_tensors
                return torch.cat([torch.zeros(1), b]), a[1:]

        return Inner.apply(a, b)

    params = drawn(4, 3)
    expected = by_torch(params, loss, make)
    run = Run(params, optimizer)
    for _ in range(4):
        run.step(loss)
    assert_same(params, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parameters_of_any_shape(dtype, optimizers_of_both, way):
    optimizer, make = optimizers_of_both
    params = drawn((), (0, 3), (1,), (2, 1, 3), dtype=dtype)
    loss = lambda *ps: sum(p.square().sum() for p in ps)  # noqa: E731
    expected = by_torch(params, loss, make)
    run = Run(params, optimizer)
    for _ in range(4):
        run.step(loss)
    assert_same(params, expected)


def test_a_loss_of_no_parameter_has_no_gradients():
    run = Run(drawn(2))
    for loss in (lambda w: torch.ones(()), lambda w: torch.ones((), requires_grad=True) * 2):
        assert run.trainer.value_and_grad(lambda leaves, loss=loss: (loss(*leaves), []), run.params)[2] is None


# -- memory of parameters and moments ----------------------------------------------------------------------


def to_others(x):
    """Set the data of a parameter to a copy."""
    x.data = x.clone()


def to_transposed(x):
    """Set the data of a parameter to what is at the same address in another order."""
    x.data = x.data.T


def to_gapped(x):
    """Set the data of a parameter to a part of something."""
    whole = torch.full((3, 5), 7.0)
    whole[:, :3] = x
    x.data = whole[:, :3]


@pytest.mark.parametrize("change", [to_others, to_transposed, to_gapped])
def test_data_that_somebody_replaced(change, optimizers_of_both, way):
    optimizer, make = optimizers_of_both
    weights = torch.arange(15.0).reshape(3, 5)

    def loss(w):
        return (torch.cat([w, torch.ones(3, 2)], 1) * weights).square().sum()  # its gradient has gaps too

    params = drawn((3, 3))
    run = Run(params, optimizer)
    run.step(loss)
    by_hand = [torch.nn.Parameter(drawn((3, 3))[0])]
    theirs = make(by_hand)
    for step in range(4):
        if step == 1:
            change(params[0])
            if change is to_transposed:
                by_hand[0].data = by_hand[0].data.T.contiguous()
        by_hand[0].grad = torch.autograd.grad(loss(*by_hand), by_hand)[0].contiguous()
        theirs.step()
        if step:
            run.step(loss)
    assert_same(params, [by_hand[0].detach()])
    if change is to_gapped:
        assert (torch.as_strided(params[0], (3, 5), (5, 1))[:, 3:] == 7).all()


def test_an_update_by_itself_leaves_what_lies_between_alone(optimizers_of_both):
    optimizer, _ = optimizers_of_both
    whole = torch.full((3, 4), 7.0)
    params = [whole[:, :2]]
    state = optimizer.init(params)
    grads = [torch.ones(3, 4)[:, :2]]
    xdev.backend("torch").inplace_update(optimizer.fused)(params, grads, state, **optimizer.hyper)
    assert (whole[:, 2:] == 7).all()
    assert (whole[:, :2] < 7).all()


def test_moments_that_somebody_replaced(way):
    loss = lambda w: (w * torch.arange(12.0).reshape(3, 4)).square().sum()  # noqa: E731
    params = drawn((3, 4))
    expected = by_torch(params, loss, OPTIMIZERS["adamw"][1])
    run = Run(params)
    for step in range(4):
        if step == 2:
            run.state.mu[0] = run.state.mu[0].T.contiguous().T
        run.step(loss)
    assert_same(params, expected)


def test_another_rate_in_another_form():
    loss = lambda w: w.square().sum()  # noqa: E731
    found = []
    for rate in (1.0, 1, torch.tensor(1.0), np.float32(1)):
        run = Run(drawn(3), optim.sgd(1.0, momentum=0.5))
        for _ in range(3):
            run.step(loss, learning_rate=rate)
        found.append(run.params)
    for params in found:
        assert_same(params, found[0])


WRAPPED = []
torch.func.grad(lambda x: (WRAPPED.append(training.make_trainer("sgd", [x.detach()])), x.sum())[1])(torch.ones(2))


def test_what_is_not_plain_is_not_taken():
    with torch.inference_mode():
        made = torch.ones(2)
    plain = torch.ones(2)
    assert training.make_trainer("sgd", [plain]).name == "sgd"
    assert training.make_trainer("lion", [plain]) is None
    assert training.make_trainer("sgd", []) is None
    assert WRAPPED == [None]
    for odd in (
        made,
        torch.nn.Parameter(torch.ones(2)),
        torch.eye(2).to_sparse(),
        plain.double(),
        torch.ones(2, device="meta"),
    ):
        assert training.make_trainer("sgd", [plain, odd]) is None
    for dtype in (torch.bfloat16, torch.float16, torch.complex64):
        assert training.make_trainer("sgd", [torch.ones(2, dtype=dtype)]) is None


def test_kernels_that_are_not_what_is_expected(monkeypatch):
    assert optimizers.kernels_fit()
    fit = optimizers.kernels_fit.__wrapped__
    with monkeypatch.context() as patch:
        patch.delattr(torch, "_fused_adamw_")
        assert not fit()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "_fused_sgd_", lambda params, grads, *args, **kwargs: params[0].sub_(grads[0]))
        assert not fit()
    with torch.inference_mode(), torch.device("meta"):
        assert fit()


# -- what is around a step, and in it ----------------------------------------------------------------------


@contextlib.contextmanager
def both_modes():
    """Gradients on within inference mode."""
    with torch.inference_mode(), torch.enable_grad():
        yield


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, both_modes])
def test_gradients_are_on_within(around, way):
    loss = lambda a, b: (a * b).square().sum() + b.sum()  # noqa: E731
    params = drawn((3, 4), (3, 4))
    expected = by_torch(params, loss, OPTIMIZERS["adamw"][1])
    run = Run(params)
    for step in range(4):
        with around() if step % 2 else torch.enable_grad():
            value = run.step(loss)
        assert not value.requires_grad
    assert_same(params, expected)


def test_a_step_within_a_gradient(way):
    loss = lambda w: w.square().sum()  # noqa: E731
    params = drawn(3)
    expected = by_torch(params, loss, OPTIMIZERS["adamw"][1], steps=2)
    run = Run(params)

    def outer(x):
        run.step(loss)
        return (x * x).sum()

    for _ in range(2):
        assert xdev.grad(outer)(torch.ones(2)).tolist() == [2, 2]
    assert_same(params, expected)
    assert not any(x.requires_grad for x in (*params, *run.state.mu, *run.state.nu, run.state.count))


def test_parameters_that_somebody_wants_gradients_of(way):
    loss = lambda w: w.square().sum()  # noqa: E731
    params = drawn(3)
    expected = by_torch(params, loss, OPTIMIZERS["adamw"][1])
    run = Run(params)
    for _ in range(4):
        run.step(loss)
        params[0].requires_grad_()
    assert_same([params[0].detach()], expected)
    assert params[0].is_leaf
    assert not any(x.requires_grad for x in (*run.state.mu, *run.state.nu))


def test_hooks_of_a_step_end_with_it():
    def loss(w):
        w.register_hook(lambda g: g * 2)
        return w.sum()

    run = Run([torch.zeros(2)], optim.sgd(0.5))
    for _ in range(3):
        run.step(loss)
    assert run.params[0].tolist() == [-3, -3]


def test_a_loss_that_raises_leaves_nothing_behind(way):
    run = Run([torch.zeros(2)], optim.sgd(0.5))

    def failing(w):
        w.requires_grad_(False)
        raise KeyError("no batch")

    with pytest.raises(KeyError):
        run.step(failing)
    assert gradients.depth.get() == 0
    run.step(lambda w: w.sum())
    assert run.params[0].tolist() == [-0.5, -0.5]


def test_values_and_auxiliary_outputs_are_apart_from_the_graph():
    run = Run([torch.tensor(3.0), torch.ones(2)])
    value, aux, grads = run.trainer.value_and_grad(lambda ls: (ls[0], [ls[1][:1], ls[1] * 2, 5]), run.params)
    run.state = run.trainer.update(grads, run.state, **run.optimizer.hyper)
    assert value.item() == 3.0
    assert run.params[0].item() < 3.0
    assert not any(x.requires_grad for x in aux[:2])


def test_metrics_of_a_step_stay_as_they_are():
    optimizer = optim.sgd(1.0)
    state = xdev.TrainState.create({"w": torch.ones(2), "t": torch.tensor(2.0)}, optimizer)
    step = xdev.make_step(lambda m, b: (m["t"], {"part": m["w"][:1], "all": m["t"]}), optimizer)
    state, metrics = step(state, torch.ones(1))
    state, _ = step(state, torch.ones(1))
    assert (metrics["loss"].item(), metrics["all"].item(), metrics["part"].item()) == (2.0, 2.0, 1.0)
    assert not any(x.requires_grad for x in metrics.values())
    assert state.model["t"].item() == 0.0


def test_a_copy_of_a_state_goes_its_own_way():
    optimizer = optim.adamw(0.1)
    step = xdev.make_step(lambda m, b: (m["w"] * b).square().sum(), optimizer)
    state = xdev.TrainState.create({"w": torch.ones(2)}, optimizer)
    for _ in range(2):
        state, _ = step(state, torch.ones(2))
    kept = state.copy()
    before = kept.model["w"].tolist()
    state, _ = step(state, torch.ones(2))
    assert kept.model["w"].tolist() == before
    after, _ = step(kept, torch.ones(2))
    assert torch.equal(after.model["w"], state.model["w"])


def test_nothing_of_a_step_is_kept():
    made = []

    def loss(w):
        middle = w * 2
        made.append(weakref.ref(middle))
        return middle.square().sum()

    run = Run(drawn(3))
    for _ in range(2):
        run.step(loss)
    assert [ref() for ref in made] == [None, None]


def test_threads_train_at_once():
    loss = lambda w: (w * torch.arange(50.0)).square().sum()  # noqa: E731
    expected = by_torch(drawn(50), loss, OPTIMIZERS["adamw"][1], steps=50)
    runs = [Run(drawn(50)) for _ in range(4)]

    def work(run):
        for _ in range(50):
            run.step(loss)

    threads = [threading.Thread(target=work, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for run in runs:
        assert_same(run.params, expected)


# -- faster forms of functions -----------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 2, 11, 12])
@pytest.mark.parametrize("shape", [(33000,), (600, 64), (30, 20, 64), (600, 8)])
def test_linear_with_few_columns(columns, shape):
    x, weight, bias = drawn(shape, (shape[-1], columns), columns, dtype=torch.float64)
    for arguments in ((x, weight), (x, weight, bias)):
        found = xdev.value_and_grad(lambda *xs: xdev.ops.linear(*xs).square().sum(), argnums=(0, 1))(*arguments)
        plain = lambda x, w, b=0: (x @ w + b).square().sum()  # noqa: E731
        expected = xdev.value_and_grad(plain, argnums=(0, 1))(*arguments)
        for one, other in zip(xdev.tree.leaves(found), xdev.tree.leaves(expected), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_unstack_and_its_gradient(axis):
    x = drawn((3, 4, 2))[0]
    xp = xdev.namespace(x)
    parts = xp.unstack(x, axis=axis)
    assert isinstance(parts, tuple)
    assert torch.equal(xp.stack(parts, axis=axis), x)
    gradient = xdev.grad(lambda x: sum(n * p.sum() for n, p in enumerate(xp.unstack(x, axis=axis))))(x)
    shape = [1, 1, 1]
    shape[axis] = -1
    assert torch.equal(gradient, torch.arange(float(x.shape[axis])).reshape(shape).expand_as(x))


def test_unstack_needs_an_axis():
    with pytest.raises(ValueError, match="must be at least 1-d"):
        xdev.device("torch:cpu").xp.unstack(torch.ones(()))
