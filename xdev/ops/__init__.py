"""What models need and the standard lacks: activations, normalisations, attention, losses.

Requirements: every function takes native arrays of any backend and arrays under differentiation. Where a framework
has a kernel of its own, that runs; elsewhere the functions of the standard do, with a fused gradient.
"""

from __future__ import annotations

from ._activations import gelu, relu, sigmoid, silu
from ._attention import attention
from ._dropout import dropout
from ._linear import embedding, linear, one_hot
from ._losses import binary_cross_entropy_with_logits, cross_entropy, mse
from ._norms import layer_norm, rms_norm
from ._softmax import log_softmax, logsumexp, softmax
from ._spatial import avg_pool2d, conv2d, max_pool2d

__all__ = [
    "attention",
    "avg_pool2d",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "layer_norm",
    "linear",
    "log_softmax",
    "logsumexp",
    "max_pool2d",
    "mse",
    "one_hot",
    "relu",
    "rms_norm",
    "sigmoid",
    "silu",
    "softmax",
]
