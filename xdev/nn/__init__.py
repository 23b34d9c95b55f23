"""Models as trees: `Module`, the marks on it, and layers.

Requirements: a model is a dataclass that holds arrays and computes when called, so that moving it, differentiating
it and saving it need nothing special. Layers create their arrays with a generator, on its device.
"""

from __future__ import annotations

from ..tree_marks import trainable_mask
from ._batch_norm import BatchNorm
from ._layers import MLP, Dropout, Embedding, LayerNorm, Linear, RMSNorm, Sequential
from ._module import Module, buffer, field, freeze, parameter_count, unfreeze

__all__ = [
    "MLP",
    "BatchNorm",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "Linear",
    "Module",
    "RMSNorm",
    "Sequential",
    "buffer",
    "field",
    "freeze",
    "parameter_count",
    "trainable_mask",
    "unfreeze",
]
