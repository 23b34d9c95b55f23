"""Data: batches in the same order on every backend."""

from .loader import Loader

__all__ = ["Loader"]
