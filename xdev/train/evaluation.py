"""Running a model over data in batches, and bringing the results back to the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import transfer, tree
from ..data import Loader
from ..data.convert import float_dtype
from ..device import Device, common_device, native_of
from ..device import device as find_device
from ..errors import ArrayTypeError, DataError, a
from ..transform import jit
from .step import parts, takes_rng

__all__ = ["evaluate", "predict"]


def evaluate(
    model: Any, loss: Any, data: Any, *, batch_size: int | None = None, device: Any = None
) -> dict[str, float]:
    """Return the mean loss and metrics of a model over data.

    Parameters
    ----------
    model : tree
        What `loss` takes first.
    loss : callable
        `loss(model, batch)`, as in `fit`; a batch mean.
    data : tree of arrays or Loader
        Arrays with equal leading axes.
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
        If the data cannot be cut into batches, or the loss wants a generator.

    Examples
    --------
    >>> import numpy as np, xdev
    >>> xdev.evaluate({"w": np.ones(())}, lambda m, b: (m["w"] * b).mean(), np.arange(4.0), batch_size=3)
    {'loss': 1.5}
    """
    if takes_rng(loss):
        raise DataError("evaluate takes loss(model, batch); this one wants a generator as well: leave randomness out")
    where = _place(model, device)
    with where.scope(), where.backend.precision(float_dtype(model) or "float32"):
        model = _moved(model, where)
        totals: dict[str, float] = {}
        rows = 0
        for batch in _loader(data, batch_size, where, model):
            value, metrics, _ = parts(_call(loss, model, batch))
            count = tree.leaves(batch)[0].shape[0]
            pulled = transfer.to_numpy({"loss": value, **metrics})
            for name, number in pulled.items():
                totals[name] = totals.get(name, 0.0) + float(number) * count
            rows += count
    return {name: total / rows for name, total in totals.items()}


def predict(model: Any, x: Any, *, batch_size: int | None = None, device: Any = None) -> Any:
    """Run a model over data and bring the results back.

    Parameters
    ----------
    model : callable
        `model(batch)` returns an array or a tree of arrays with the batch's leading axis.
    x : tree of arrays or Loader
        The inputs, with equal leading axes.
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
        If the data cannot be cut into batches.

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
    where = _place(model, device)
    with where.scope(), where.backend.precision(float_dtype(model) or "float32"):
        model = _moved(model, where)
        chunks = [transfer.to_numpy(_call(_apply, model, batch)) for batch in _loader(x, batch_size, where, model)]
    return tree.map(lambda *parts_: np.concatenate(parts_), *chunks)


def _apply(model: Any, batch: Any) -> Any:
    return model(batch)


_call = jit(lambda function, model, batch: function(model, batch), static_argnums=0)


def _has_arrays(model: Any) -> bool:
    return any(native_of(leaf) is not None for leaf in tree.leaves(model))


def _moved(model: Any, device: Device) -> Any:
    """Return the model on the device; a plain function as it is."""
    return transfer.to_device(model, device) if _has_arrays(model) else model


def _place(model: Any, device: Any) -> Device:
    if device is not None:
        return find_device(device)
    if _has_arrays(model):
        return common_device([("model", model)], "evaluate and predict")
    return find_device(None)


def _loader(data: Any, batch_size: int | None, device: Device, model: Any) -> Any:
    if isinstance(data, Loader):
        return data
    whole = Loader(data, device=device, dtype=float_dtype(model))
    if batch_size is not None:  # data that is smaller than a batch is one smaller batch here
        whole = Loader(data, batch_size=min(batch_size, whole.length), device=device, dtype=float_dtype(model))
    return whole
