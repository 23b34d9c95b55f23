"""Running a model over data in batches, and bringing the results back to the host."""

from __future__ import annotations

import contextlib
import math
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import registry, transfer, tree
from ..compilation import compile_function
from ..data import Loader
from ..data.convert import float_dtype
from ..device import Device, common_device, native_of
from ..device import device as find_device
from ..errors import ArrayTypeError, DataError, a
from ..floating import holding
from ..nn import Module
from ..ops._dispatch import Op
from .arguments import check_batch_size, check_evaluated, check_metrics, check_names
from .step import parts

__all__ = ["check_on_host", "compiled", "evaluate", "in_batches", "means", "predict"]


def evaluate(
    model: Any, loss: Any, data: Any, *, batch_size: int | None = None, device: Any = None
) -> dict[str, float]:
    """Return the mean loss and metrics of a model over data.

    Where the backend compiles, each call does, since what the loss takes from outside may have changed; `fit` compiles
    its validation once.

    Parameters
    ----------
    model : tree
        What `loss` takes first.
    loss : callable
        `loss(model, batch)`, as in `fit`; a batch mean. One that draws random numbers in training has `rng=None` as
        its third parameter, and gets none here.
    data : tree of arrays or Loader
        Arrays with equal leading axes. A Loader's batches are of its own size.
    batch_size : int, optional
        Rows of a batch; None is all of them.
    device : str or Device, optional
        Where to compute; None is where the model is.

    Returns
    -------
    dict of str to float
        "loss" and the loss function's metrics, each weighted by the rows of its batches.

    Raises
    ------
    DataError
        If the data cannot be cut into batches, a batch size is given with a Loader, or the loss wants a generator.
    GradientError
        If the loss cannot be called with a model and a batch, or returns what is no single number, or metrics of
        other names for each batch.
    ArrayTypeError
        If the loss cannot be called.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> xdev.evaluate({"w": np.ones(())}, lambda m, b: (m["w"] * b).mean(), np.arange(4.0), batch_size=3)
    {'loss': 1.5}
    """
    check_evaluated("evaluate", loss)
    check_batch_size(data, batch_size, "evaluate")
    where = _place(model, device)
    with where.scope(), _precision(where, model, data):
        model = _moved(model, where)
        batches = in_batches(data, batch_size, where, model)
        found = means(compiled(loss), model, batches)
        if not math.isfinite(found["loss"]):
            check_on_host(loss, model, batches)
        return found


def check_on_host(loss: Callable[..., Any], model: Any, batches: Any, rng: Any = None) -> None:
    """Compute losses on the host: what the device could not check without waiting is checked there, and raises."""
    if not isinstance(batches, Loader):
        return
    on_host = None
    for batch in batches:
        try:
            on_host = transfer.to_numpy(model) if on_host is None else on_host
            loss(on_host, transfer.to_numpy(batch), *(() if rng is None else (rng,)))
        except DataError:
            raise
        except Exception:  # noqa: BLE001  a loss in a framework's own terms does not run on the host
            return


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function(model, batch)`, compiled where that is done, for one run over data.

    Not for longer: what it takes from outside is fixed in the compiled form, and may be something else in the next run.
    """
    return compile_function(lambda model, batch: function(model, batch))


def means(loss: Callable[..., Any], model: Any, batches: Loader) -> dict[str, float]:
    """Return the means of a loss and its metrics, weighted by the rows of the batches."""
    totals: dict[str, float] = {}
    rows = 0
    for number, batch in enumerate(batches):
        value, metrics, _ = parts(loss(model, batch))
        metrics = {"loss": value, **metrics}
        if number == 0:
            check_metrics(metrics)
            totals = dict.fromkeys(metrics, 0.0)
        check_names(totals.keys(), metrics, f"batch {number + 1}")
        count = tree.leaves(batch)[0].shape[0]
        for name, x in _numbers(metrics).items():
            totals[name] += x * count
        rows += count
    return {name: total / rows for name, total in totals.items()}


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    try:
        return {name: float(x) for name, x in transfer.to_numpy(metrics).items()}
    except Exception:
        check_metrics(metrics)
        raise


def predict(model: Any, x: Any, *, batch_size: int | None = None, device: Any = None) -> Any:
    """Run a model over data and bring the results back.

    Parameters
    ----------
    model : callable
        `model(batch)` returns an array or a tree of arrays with the batch's leading axis.
    x : tree of arrays or Loader
        The inputs, with equal leading axes. A Loader's batches are of its own size.
    batch_size : int, optional
        Rows of a batch; None is all of them.
    device : str or Device, optional
        Where to compute; None is where the model is.

    Returns
    -------
    numpy.ndarray or tree
        The results, on the host.

    Raises
    ------
    ArrayTypeError
        If the model cannot be called.
    DataError
        If the data cannot be cut into batches, a batch size is given with a Loader, or the results have not the
        batch's leading axis.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> xdev.predict(lambda x: 2 * x, np.arange(3), batch_size=2, device="numpy")
    array([0, 2, 4])
    """
    if not callable(model):
        raise ArrayTypeError(
            f"predict calls model(batch), and {a(type(model).__name__)} cannot be called; pass a module, or a function "
            "such as lambda x: forward(params, x)"
        )
    check_batch_size(x, batch_size, "predict")
    where = _place(model, device)
    chunks = []
    with where.scope(), _precision(where, model, x):
        model = _moved(model, where)
        call = _applied if takes_nothing_from_outside(model) else compiled(_apply)
        for batch in in_batches(x, batch_size, where, model):
            chunks.append(transfer.to_numpy(call(model, batch)))
            _check_rows(chunks[-1], tree.leaves(batch)[0].shape[0])
    return tree.map(lambda *parts_: np.concatenate(parts_), *chunks)


def _apply(model: Any, batch: Any) -> Any:
    return model(batch)


_applied = compile_function(_apply)
"""For models that are the same function whenever they look the same: they are compiled once, not once a call."""


def takes_nothing_from_outside(model: Any) -> bool:
    """Return whether a model is made of xdev's own layers and functions, which hold all that they compute with."""
    if isinstance(model, Module):
        return _is_mine(type(model).__module__) and all(map(takes_nothing_from_outside, vars(model).values()))
    if isinstance(model, list | tuple):
        return all(map(takes_nothing_from_outside, model))
    if isinstance(model, types.FunctionType):
        return model.__closure__ is None and _is_mine(model.__globals__["__name__"])
    return isinstance(model, Op) or not (callable(model) or isinstance(model, dict))


def _is_mine(module: str) -> bool:
    return module.partition(".")[0] == __name__.partition(".")[0]


def _check_rows(results: Any, rows: int) -> None:
    """Refuse results that cannot be joined to those of other batches."""
    for leaf in tree.leaves(results):
        shape = np.shape(leaf)
        if shape[:1] != (rows,):
            raise DataError(
                f"the model returned an array of shape {shape} for a batch of {rows} rows; predict joins results along "
                "the leading axis, which must be the batch's: return a result for each row"
            )


def _has_arrays(model: Any) -> bool:
    return any(native_of(leaf) is not None for leaf in tree.leaves(model))


def _moved(model: Any, device: Device) -> Any:
    """Return the model on the device; a plain function as it is."""
    return transfer.to_device(model, device) if _has_arrays(model) else model


def _precision(where: Device, model: Any, data: Any) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which the framework holds the model's dtype; a plain function's is that of data there."""
    dtype = float_dtype(model)
    if dtype is None:
        return holding(where.backend, [x for x in tree.leaves(data) if registry.find_backend(x) is where.backend])
    return where.backend.precision(dtype)


def _place(model: Any, device: Any) -> Device:
    if device is not None:
        return find_device(device)
    if _has_arrays(model):
        return common_device([("model", model)], "evaluate and predict")
    return find_device(None)


def in_batches(data: Any, batch_size: int | None, device: Device, model: Any) -> Loader:
    """Return a loader of data in the model's dtype; one that comes as it is."""
    if isinstance(data, Loader):
        return data
    whole = Loader(data, device=device, dtype=float_dtype(model))
    if batch_size is None:
        return whole
    if isinstance(batch_size, int):  # data that is smaller than a batch is one smaller batch here
        batch_size = min(batch_size, whole.length)
    return Loader(data, batch_size=batch_size, device=device, dtype=float_dtype(model))
