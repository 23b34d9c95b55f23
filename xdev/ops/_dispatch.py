"""Op: one function for native and traced arrays of every backend.

Requirements: an op is declared once, with its generic implementation over the standard's functions and its gradient
rule. A backend's `kernels` may replace, by the op's name:

=================== =========================================================================================
name                on native arrays
=================== =========================================================================================
"softmax"           the op itself; where the framework has gradients of its own, it differentiates through it
"softmax.forward"   for the tape: returns (y, saved), of an op that saves
"softmax.backward"  for the tape: (g, saved, *args, needs, **kwargs) -> cotangents; of arguments that are `unused`,
                    there are only `shape` and `dtype`
"scatter_add"       (values, places, size) -> sums of rows by place, which gradients of indexing need
"in_range"          (indices, n) -> whether all are in [0, n); False also if that would wait for a device
=================== =========================================================================================

The owner of an array is one dictionary look-up by its type.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from ..autodiff import Primitive, TracedArray, TracedNamespace
from ..autodiff.array import recording
from ..device import namespace
from ..errors import DeviceMismatchError
from ..registry import backend_of, owners

__all__ = ["OPS", "Op"]

OPS: dict[str, Op] = {}
"""All ops, by name."""


class Shaped(NamedTuple):
    """What a gradient knows of an array whose values it does not need."""

    shape: tuple[int, ...]
    dtype: Any


class Op(Primitive):
    """A function with a generic implementation, a fused gradient and kernels.

    Parameters
    ----------
    name : str
        Its name in the kernels of backends and in errors.
    generic : callable
        `generic(xp, *args, **kwargs) -> y`, or `-> (y, saved)` if it saves, with functions of `xp` alone: operators
        would fail on a device that is not the framework's current one.
    rule : callable
        `rule(xp, g, saved, *args, needs, **kwargs)` returns a new array per positional argument, or None where
        `needs` is false or there is no gradient; `saved` is `y` if the op does not save.
    saves : bool
        Whether `generic` returns what the rule wants besides.
    unused : collection of int
        The arguments of which rules and their kernels want no values; -1 is `saved`. The tape lets go of them.
    """

    in_parts = True

    def __init__(
        self,
        name: str,
        generic: Callable[..., Any],
        rule: Callable[..., Sequence[Any]],
        *,
        saves: bool = False,
        unused: Collection[int] = (),
    ) -> None:
        super().__init__(name, generic, rule, saves=saves, fresh=True)
        self._unused = unused
        self._forward_kernel = f"{name}.forward" if saves else name
        self._backward_kernel = f"{name}.backward"
        OPS[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the op."""
        for a in args:
            if type(a) is TracedArray:
                return self._record(args, kwargs)
        if (recorded := recording.get()) is not None:
            y = self._run(recorded.below, args, kwargs)
            return y[0] if self._saves else y
        backend = owners.get(type(args[0])) or backend_of(args[0])
        kernel = backend.kernels.get(self.name)
        try:
            if kernel is not None:
                return kernel(*args, **kwargs)
            y = self._forward(namespace(*args), *args, **kwargs)
        except DeviceMismatchError:
            raise
        except Exception:
            namespace(*args)  # raises if they are on different devices, and then says so
            raise
        return y[0] if self._saves else y

    def _run(self, xp: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Compute the op one level below: with a kernel, unless that is traced too."""
        if type(xp) is not TracedNamespace:
            kernels = xp.kernels or (owners.get(type(args[0])) or backend_of(args[0])).kernels
            kernel = kernels.get(self._forward_kernel)
            if kernel is not None:
                return kernel(*args, **kwargs)
        return self._forward(xp, *args, **kwargs)

    def _pull(self, xp: Any, g: Any, y: Any, args: Any, kwargs: dict[str, Any], indices: Any) -> Any:
        if type(xp) is not TracedNamespace:
            kernels = xp.kernels or (owners.get(type(g)) or backend_of(g)).kernels
            kernel = kernels.get(self._backward_kernel)
            if kernel is not None:
                return kernel(g, y, *args, needs=[k != -1 for k in indices], **kwargs)
        return super()._pull(xp, g, y, args, kwargs, indices)

    def _note(self, xp: Any, indices: Any, args: Any, kwargs: dict[str, Any], saved: Any) -> tuple[Any, ...]:
        for place in self._unused:
            if place < 0:
                saved = None
            elif type(args[place]) is not TracedArray:
                args[place] = Shaped(args[place].shape, args[place].dtype)
        return super()._note(xp, indices, args, kwargs, saved)

    def __repr__(self) -> str:
        return f"<op {self.name}>"
