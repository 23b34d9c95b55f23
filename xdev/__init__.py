"""Array and training code that runs unchanged on NumPy, torch, JAX and CuPy.

The names below are loaded on first use, so that `import xdev` costs little and loads no framework.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from . import errors

if TYPE_CHECKING:  # what type checkers see; a test holds it against the table below
    from . import autodiff, data, nn, ops, optim, random, testing, tree
    from .compilation import jit
    from .contract import Backend, Capabilities, DeviceInfo
    from .custom_gradients import custom_vjp, remat
    from .derivatives import hessian, hvp, jacobian, jvp
    from .device import Device, device, device_of, devices, namespace, precision, same_hardware, synchronize, use
    from .errors import (
        ArrayTypeError,
        BackendError,
        BackendUnavailable,
        ConfigurationError,
        CopyRequiredError,
        DataError,
        DeviceError,
        DeviceMismatchError,
        DTypeError,
        FileError,
        GradientError,
        NoGradientRule,
        NonFiniteLossError,
        PluginError,
        PromotionWarning,
        RandomError,
        ReplayWarning,
        StaleStateError,
        TracedValueError,
        TrainingError,
        TransferBudgetExceeded,
        TransferError,
        UnknownBackendError,
        XdevError,
    )
    from .files import load, save
    from .functional import at
    from .ledger import budget, track_transfers
    from .registry import backend, backend_of, backends, register
    from .train import FitResult, TrainState, evaluate, fit, make_step, predict
    from .transfer import asarray, item, to_device, to_numpy
    from .transform import grad, stop_gradient, value_and_grad, vjp

_HOMES = {
    "backend": "registry",
    "backend_of": "registry",
    "backends": "registry",
    "register": "registry",
    "Backend": "contract",
    "Capabilities": "contract",
    "DeviceInfo": "contract",
    "Device": "device",
    "device": "device",
    "device_of": "device",
    "devices": "device",
    "namespace": "device",
    "precision": "device",
    "same_hardware": "device",
    "synchronize": "device",
    "use": "device",
    "budget": "ledger",
    "track_transfers": "ledger",
    "asarray": "transfer",
    "item": "transfer",
    "to_device": "transfer",
    "to_numpy": "transfer",
    "grad": "transform",
    "jit": "compilation",
    "stop_gradient": "transform",
    "value_and_grad": "transform",
    "vjp": "transform",
    "hessian": "derivatives",
    "hvp": "derivatives",
    "at": "functional",
    "jacobian": "derivatives",
    "jvp": "derivatives",
    "custom_vjp": "custom_gradients",
    "remat": "custom_gradients",
    "load": "files",
    "save": "files",
    "FitResult": "train",
    "TrainState": "train",
    "evaluate": "train",
    "fit": "train",
    "make_step": "train",
    "predict": "train",
}
"""The module of each public function and class."""
_HOMES |= dict.fromkeys(errors.__all__, "errors")
_MODULES = frozenset({"autodiff", "data", "errors", "nn", "ops", "optim", "random", "testing", "tree"})
"""The public submodules."""

__version__ = "0.1.0"
__all__ = sorted({*_HOMES, *_MODULES})


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None and name not in _MODULES:
        raise AttributeError(f"module 'xdev' has no attribute {name!r}")
    module = importlib.import_module(f".{home or name}", __name__)
    value = getattr(module, name) if home else module
    globals()[name] = value
    return value


class _Package(types.ModuleType):
    """Keeps `xdev.device` the function although a submodule has that name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
