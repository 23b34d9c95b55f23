"""What became float64 by accident in a step, told once: NumPy's scalars and arrays of float64 do that to float32."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .. import tree
from ..contract import Array, dtype_name
from ..errors import PromotionWarning
from ..explanation import captured
from ..floating import is_wide
from .state import TrainState

__all__ = ["warn_of_promotion"]


def warn_of_promotion(
    loss: Callable[..., Any], value: Array, batch: Any, before: Iterable[str], state: TrainState
) -> None:
    """Warn if the loss of a model without float64 is float64, or if a step has changed a dtype of the model.

    Parameters
    ----------
    loss : callable
        What was differentiated.
    value : array
        What it gave.
    batch : tree
        What it was given.
    before : iterable of str
        The dtypes of the state's arrays before the step, of those that are trained first.
    state : TrainState
        The state after it.
    """
    now = [dtype_name(x.dtype) for x in (*state.params, *state.others)]
    changed = [(old, new) for old, new in zip(before, now, strict=True) if old != new]
    if not state.spec.wide and is_wide(value):
        floats = sorted({name for name in now if "float" in name} - {"float64"}) or ["float32"]
        what = f"the loss {_place(loss)}is float64, and the model is {' and '.join(floats)}"
    elif any(new == "float64" for _, new in changed):
        old = next(old for old, new in changed if new == "float64")
        what = (
            f"the step made float64 of an array of the model that was {old}, in the loss {_place(loss)}or the optimizer"
        )
    else:
        return
    wide = list(dict.fromkeys(_wide(loss, batch)))
    cause = f"{', '.join(wide)} {'is' if len(wide) == 1 else 'are'} float64" if wide else "something in it is float64"
    warnings.warn(
        f"{what}: {cause}, and float64 scalars and arrays of NumPy make float64 of what they meet. Python floats do "
        "not: write x * 0.5**0.5 or x * float(np.sqrt(0.5)), not x * np.sqrt(0.5), and cast arrays to x.dtype",
        PromotionWarning,
        stacklevel=3,
    )


def _place(loss: Callable[..., Any]) -> str:
    code = getattr(loss, "__code__", None)
    return "" if code is None else f"({code.co_filename}:{code.co_firstlineno}) "


def _wide(loss: Callable[..., Any], batch: Any) -> Iterator[str]:
    """Yield the names of float64 arrays that a loss can meet."""
    paths, leaves, _ = tree.flatten_with_paths(batch)
    yield from (tree.path_string(path, "batch") for path, x in zip(paths, leaves, strict=True) if is_wide(x))
    yield from (name for _, name, x in captured(loss) if is_wide(x))
