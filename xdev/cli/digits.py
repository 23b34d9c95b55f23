"""The data of the example: scikit-learn's 1,797 scanned digits of 8 × 8 pixels.

Requirements: the split into training and test rows is fixed, and the same whatever the seed of a run.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..random import Generator

__all__ = ["Digits", "load"]

SPLIT_SEED = 0
TEST_SHARE = 0.2


class Digits(NamedTuple):
    """Pixels on [0, 1], float32 of shape (rows, 64), and labels from 0 to 9, int64 of shape (rows,)."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load() -> Digits:
    """Return the digits, four fifths of them for training.

    Returns
    -------
    Digits
        Arrays on the host.

    Raises
    ------
    DataError
        If scikit-learn, which carries the data, is not installed.

    References
    ----------
    E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998).
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "the digits come with scikit-learn, which is not installed "
            f"({error}). Install it with: pip install 'xdev-array[examples]'"
        ) from error
    images, labels = load_digits(return_X_y=True)
    x, y = (images / 16.0).astype(np.float32), labels.astype(np.int64)
    order = Generator(SPLIT_SEED, "numpy").permutation(len(x))
    test = math.ceil(TEST_SHARE * len(x))
    return Digits(x[order[test:]], y[order[test:]], x[order[:test]], y[order[:test]])
