"""Optimizers as pairs of pure functions, with the numbers of torch.optim and optax."""

from .base import Optimizer, apply_updates, chain
from .optimizers import AdamState, SgdState, adam, adamw, sgd
from .transforms import clip_by_global_norm, cosine_decay, global_norm, linear_warmup, scale

__all__ = [
    "AdamState",
    "Optimizer",
    "SgdState",
    "adam",
    "adamw",
    "apply_updates",
    "chain",
    "clip_by_global_norm",
    "cosine_decay",
    "global_norm",
    "linear_warmup",
    "scale",
    "sgd",
]
