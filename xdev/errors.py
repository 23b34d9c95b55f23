"""The exceptions of xdev; every one derives from `XdevError` and from the built-in it is a case of.

::

    XdevError
    ├── BackendError (RuntimeError)
    │   ├── UnknownBackendError (also ValueError)   no plug-in of that name
    │   ├── BackendUnavailable                      not installed, or installed and unusable
    │   └── PluginError                             a plug-in breaks the contract
    ├── DeviceError (ValueError)                    no such device
    │   └── DeviceMismatchError                     arrays that must share a device do not
    ├── ArrayTypeError (TypeError)                  not an array of any backend, or of another wrong type
    ├── DTypeError (TypeError)                      the target cannot hold that dtype
    ├── TracedValueError (TypeError)                a value is asked for that is not known while a function is traced
    ├── TransferError (ValueError)                  what came cannot be moved
    │   ├── CopyRequiredError                       copy=False, and a copy is needed
    │   └── TransferBudgetExceeded                  a crossing that a budget forbids
    ├── GradientError (ValueError)                  a loss or argument that cannot be differentiated
    │   └── NoGradientRule (also NotImplementedError)
    ├── ConfigurationError (ValueError)             an option with a value that nothing can be done with
    ├── RandomError (ValueError)                    a seed, shape or parameter that nothing can be drawn with
    ├── DataError (ValueError)                      batches, labels, leading axes
    ├── TrainingError (RuntimeError)
    │   ├── StaleStateError                         a training state used twice
    │   └── NonFiniteLossError                      the loss became NaN or infinite
    └── FileError (ValueError)                      a file that is truncated, foreign or unwritable

    PromotionWarning (UserWarning)                  float64 by accident; an error in tests
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ArrayTypeError",
    "BackendError",
    "BackendUnavailable",
    "ConfigurationError",
    "CopyRequiredError",
    "DTypeError",
    "DataError",
    "DeviceError",
    "DeviceMismatchError",
    "FileError",
    "GradientError",
    "NoGradientRule",
    "NonFiniteLossError",
    "PluginError",
    "PromotionWarning",
    "RandomError",
    "ReplayWarning",
    "StaleStateError",
    "TracedValueError",
    "TrainingError",
    "TransferBudgetExceeded",
    "TransferError",
    "UnknownBackendError",
    "XdevError",
]


class XdevError(Exception):
    """Base class of every error that xdev raises."""


class BackendError(XdevError, RuntimeError):
    """A backend is unknown, missing, unusable or broken."""


class UnknownBackendError(BackendError, ValueError):
    """No backend of that name is registered."""


class BackendUnavailable(BackendError):  # noqa: N818  the public name of the design
    """A backend is not installed, or installed but unusable on this machine."""


class PluginError(BackendError):
    """A backend plug-in does not keep the contract."""


class DeviceError(XdevError, ValueError):
    """A device specification that names no device of this machine."""


class DeviceMismatchError(DeviceError):
    """Arrays that must share one device are on several."""


class ArrayTypeError(XdevError, TypeError):
    """An object that is not an array of any known backend, or not the function, module or optimizer that is taken."""


class DTypeError(XdevError, TypeError):
    """A dtype that the target cannot hold, or that does not cross frameworks."""


class TracedValueError(XdevError, TypeError):
    """A value of an array that is not known while a function is traced, as under `xdev.jit` on JAX."""


class TransferError(XdevError, ValueError):
    """An object that cannot be moved to a device."""


class CopyRequiredError(TransferError):
    """`copy=False` was asked for where only a copy can do it."""


class TransferBudgetExceeded(TransferError):  # noqa: N818  the public name of the design
    """A crossing that the surrounding `xdev.budget` forbids; it has not happened."""


class GradientError(XdevError, ValueError):
    """A loss or an argument that cannot be differentiated."""


class NoGradientRule(GradientError, NotImplementedError):  # noqa: N818  the public name of the design
    """A function that the tape has no rule for."""


class ConfigurationError(XdevError, ValueError):
    """An option with a value that nothing can be done with, such as a learning rate below 0."""


class RandomError(XdevError, ValueError):
    """Nothing can be drawn with that seed, shape or parameter, or a generator would repeat itself."""


class DataError(XdevError, ValueError):
    """Training data whose shapes, labels or batch size do not fit.

    Attributes
    ----------
    result : FitResult or None
        What `xdev.fit` had reached, if it had begun.
    """

    result: Any = None


class TrainingError(XdevError, RuntimeError):
    """Training cannot go on."""


class StaleStateError(TrainingError):
    """A training state that a step has consumed was used again."""


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite.

    Attributes
    ----------
    result : FitResult
        What `xdev.fit` had reached; its model is that of the last finite interval.
    """

    result: Any = None


class FileError(XdevError, ValueError):
    """A file that is truncated, foreign, of the wrong structure, or cannot be written."""


def a(word: str) -> str:
    """Return a word with its article: "a dict", "an int"."""
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"


def no_rule(framework: str, error: Exception) -> NoGradientRule:
    """Return the error for a function that a framework cannot differentiate, given what it raised."""
    said = str(error).strip().partition("\n")[0].rstrip(".")
    return NoGradientRule(
        f"{framework} has no gradient rule ({said}); give the function one with xdev.custom_vjp, write it with "
        "functions that have one, or stop the gradient with xdev.stop_gradient"
    )


class ReplayWarning(UserWarning):
    """A function or a training step that runs eagerly, since it cannot be recorded and replayed."""


class PromotionWarning(UserWarning):
    """A training step that computes in float64 although its model does not; `xdev.testing`'s plug-in raises it."""
