"""The model, the data and the hand-written NumPy code that the benchmarks share.

Requirements: all cases start from these numbers, in float32; weights have shape (in, out).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

SIZES = (64, 256, 256, 10)
BATCH = 128
RATE, DECAY, B1, B2, EPS = 1e-3, 1e-2, 0.9, 0.999, 1e-8
Layers = list[tuple[Any, Any]]


def initial_layers(sizes: tuple[int, ...], seed: int = 0) -> Layers:
    """Return (weight, bias) of each layer, as He et al. (2015) initialise them."""
    rng = np.random.default_rng(seed)
    return [
        (
            (rng.standard_normal((n, m)) * math.sqrt(2 / n)).astype(np.float32),
            (rng.standard_normal(m) * 0.01).astype(np.float32),
        )
        for n, m in itertools.pairwise(sizes)
    ]


def examples(count: int, sizes: tuple[int, ...], seed: int = 1) -> tuple[Any, Any]:
    """Return inputs of shape (count, sizes[0]) and int64 labels of shape (count,)."""
    rng = np.random.default_rng(seed)
    return rng.random((count, sizes[0]), dtype=np.float32), rng.integers(0, sizes[-1], count)


def like(flat: Any, layers: Layers) -> Layers:
    """Return views of a flat array in the shapes of the layers."""
    views, start = [], 0
    for pair in layers:
        cut = []
        for x in pair:
            cut.append(flat[start : start + x.size].reshape(x.shape))
            start += x.size
        views.append((cut[0], cut[1]))
    return views


class AdamW:
    """AdamW (Loshchilov and Hutter, 2019) in place on one flat array, with as few passes as the formula allows.

    The moments are kept without their factors 1 - b1 and 1 - b2, which go into the scalars of the last passes.
    """

    def __init__(self, params: Any) -> None:
        self._params = params
        self._mu, self._nu = np.zeros_like(params), np.zeros_like(params)
        self._scratch = np.empty_like(params)
        self._count = 0

    def restart(self) -> None:
        self._count = 0
        self._mu[:] = 0
        self._nu[:] = 0

    def update(self, grads: Any) -> None:
        """Take a step; overwrites the gradients."""
        self._count += 1
        p, m, v, t = self._params, self._mu, self._nu, self._scratch
        scale = math.sqrt((1 - B2) / (1 - B2**self._count))
        m *= B1
        m += grads
        np.multiply(grads, grads, out=grads)
        v *= B2
        v += grads
        np.sqrt(v, out=t)
        t += EPS / scale
        np.divide(m, t, out=t)
        t *= RATE * (1 - B1) / (1 - B1**self._count) / scale
        p *= 1 - RATE * DECAY
        p -= t


class HandDerived:
    """The MLP with ReLU and mean cross entropy, and its gradient by hand, in buffers that are made once."""

    def __init__(self, layers: Layers, count: int) -> None:
        size = sum(w.size + b.size for w, b in layers)
        self._start = np.concatenate([x.reshape(-1) for pair in layers for x in pair])
        self.params = self._start.copy()
        self.grads = np.zeros(size, np.float32)
        self.layers, self.layer_grads = like(self.params, layers), like(self.grads, layers)
        widths = [w.shape[1] for w, _ in layers]
        self._outputs = [np.empty((count, n), np.float32) for n in widths]
        self._masks = [np.empty((count, n), bool) for n in widths[:-1]]
        self._cotangents = [np.empty((count, n), np.float32) for n in widths]
        # NumPy's maximum of an array and a scalar runs without SIMD, at a third of the speed.
        self._zeros = [np.zeros((count, n), np.float32) for n in widths[:-1]]
        self._ones = np.ones(count, np.float32)
        self._rows = np.arange(count)
        self._column = np.empty((count, 1), np.float32)

    def restart(self) -> None:
        self.params[:] = self._start

    def gradient(self, x: Any, labels: Any) -> Any:
        """Return the loss; the gradient is in `grads`."""
        inputs = [x]
        for place, (weight, bias) in enumerate(self.layers):
            y = self._outputs[place]
            np.matmul(inputs[-1], weight, out=y)
            y += bias
            if place < len(self._masks):
                np.maximum(y, self._zeros[place], out=y)
            inputs.append(y)
        logits, g, column = inputs.pop(), self._cotangents[-1], self._column
        np.max(logits, axis=1, keepdims=True, out=column)
        logits -= column
        np.exp(logits, out=g)
        np.sum(g, axis=1, keepdims=True, out=column)
        loss = (np.log(column).sum() - logits[self._rows, labels].sum()) / len(x)
        column *= len(x)
        g /= column
        g[self._rows, labels] -= np.float32(1 / len(x))
        for place in range(len(self.layers) - 1, -1, -1):
            d_weight, d_bias = self.layer_grads[place]
            below = inputs[place]
            np.matmul(below.T, g, out=d_weight)
            np.matmul(self._ones, g, out=d_bias)
            if place:
                down, mask = self._cotangents[place - 1], self._masks[place - 1]
                np.matmul(g, self.layers[place][0].T, out=down)
                np.greater(below, 0, out=mask)
                np.multiply(down, mask, out=down)
                g = down
        return loss


class PlainStep:
    """The same step in plain NumPy: a new array for each result, and AdamW array by array, as it is mostly written."""

    def __init__(self, layers: Layers) -> None:
        self._start = [x for pair in layers for x in pair]
        self.restart()

    def restart(self) -> None:
        self._params = [x.copy() for x in self._start]
        self._mu = [np.zeros_like(x) for x in self._start]
        self._nu = [np.zeros_like(x) for x in self._start]
        self._count = 0

    def run(self, x: Any, labels: Any) -> Any:
        """Take a step; return the loss."""
        loss, grads = self._gradient(x, labels)
        self._count += 1
        rate = RATE / (1 - B1**self._count)
        for k, g in enumerate(grads):
            self._mu[k] = B1 * self._mu[k] + (1 - B1) * g
            self._nu[k] = B2 * self._nu[k] + (1 - B2) * g * g
            root = np.sqrt(self._nu[k] / (1 - B2**self._count)) + EPS
            self._params[k] = (1 - RATE * DECAY) * self._params[k] - rate * self._mu[k] / root
        return loss

    def _gradient(self, x: Any, labels: Any) -> tuple[Any, list[Any]]:
        weights, biases = self._params[::2], self._params[1::2]
        inputs = [x]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            inputs.append(np.maximum(inputs[-1] @ weight + bias, 0))
        logits = inputs[-1] @ weights[-1] + biases[-1]
        logits = logits - logits.max(axis=1, keepdims=True)
        exps = np.exp(logits)
        sums = exps.sum(axis=1, keepdims=True)
        rows = np.arange(len(x))
        loss = (np.log(sums).sum() - logits[rows, labels].sum()) / len(x)
        g = exps / sums
        g[rows, labels] -= 1
        g /= len(x)
        grads: list[Any] = []
        for place in range(len(weights) - 1, -1, -1):
            grads[:0] = [inputs[place].T @ g, g.sum(axis=0)]
            if place:
                g = (g @ weights[place].T) * (inputs[place] > 0)
        return loss, grads
