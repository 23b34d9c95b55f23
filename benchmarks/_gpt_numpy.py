"""The gradient of the char-GPT by hand, in NumPy: as fast as NumPy allows, and as one writes it down.

Requirements: `HandDerived` makes its buffers once, and no array after that; no pass over memory that can be saved. The
plain version makes a new array for each result.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from _gpt import CUBE, EPS, GELU, Params, Shape, causal_mask, leaves, like

SAFE = 60.0
"""Scores within this bound need no row maximum: exp of them, and the sum of a row, are finite and normal in float32."""


# -- with buffers ----------------------------------------------------------------------------------------------


class LayerNorm:
    """A layer norm; keeps what its gradient needs."""

    def __init__(self, shape: Shape, scratch: Any) -> None:
        self._scratch = scratch
        self._normal = np.empty((shape.rows, shape.width), np.float32)
        self._inverse, self._column = (np.empty(shape.rows, np.float32) for _ in range(2))
        self._means = np.full(shape.width, 1 / shape.width, np.float32)
        self._ones = np.ones(shape.rows, np.float32)

    def forward(self, x: Any, params: Any, out: Any) -> None:
        (weight, bias), normal, inverse = params, self._normal, self._inverse
        np.matmul(x, self._means, out=inverse)
        np.subtract(x, inverse[:, None], out=normal)
        np.multiply(normal, normal, out=out)
        np.matmul(out, self._means, out=inverse)
        np.add(inverse, EPS, out=inverse)
        np.sqrt(inverse, out=inverse)
        np.reciprocal(inverse, out=inverse)
        np.multiply(normal, inverse[:, None], out=normal)
        np.multiply(normal, weight, out=out)
        np.add(out, bias, out=out)

    def backward(self, g: Any, params: Any, grads: Any) -> None:
        """Overwrite the cotangent of the result by that of the input, and what was kept."""
        weight, normal, t, column = params[0], self._normal, self._scratch, self._column
        weighted = weight * self._means
        np.multiply(g, normal, out=t)
        np.matmul(self._ones, t, out=grads[0])
        np.matmul(self._ones, g, out=grads[1])
        np.matmul(t, weighted, out=column)
        np.multiply(normal, column[:, None], out=normal)
        np.matmul(g, weighted, out=column)
        np.multiply(g, weight, out=g)
        np.subtract(g, normal, out=g)
        np.subtract(g, column[:, None], out=g)
        np.multiply(g, self._inverse[:, None], out=g)


class Attention:
    """Causal attention within the rows of one matrix of queries, keys and values.

    As in FlashAttention (Dao et al., 2022), the sums of rows divide the results, not the weights, and the backward pass
    takes its row sums from the results: both are half as large as the weights here.
    """

    def __init__(self, shape: Shape, mask: Any, d_qkv: Any, d_scores: Any) -> None:
        b, t, h, d = shape.batch, shape.length, shape.heads, shape.head
        self._mask, self._scale = mask, np.float32(1 / math.sqrt(d))
        self.qkv, self.out = np.empty((b * t, 3 * h * d), np.float32), np.empty((b * t, h * d), np.float32)
        self._weights, self._d_scores = np.empty((b, h, t, t), np.float32), d_scores
        self._scaled = self.qkv[:, : h * d]
        self._q, self._k, self._v = np.moveaxis(self.qkv.reshape(b, t, 3, h, d), (2, 3), (0, 2))
        self.d_qkv = d_qkv
        self._d_scaled = d_qkv[:, : h * d]
        self._dq, self._dk, self._dv = np.moveaxis(d_qkv.reshape(b, t, 3, h, d), (2, 3), (0, 2))
        self._y, self._heads = self._by_head(self.out, shape), shape
        self._inverse, self._inner = (np.empty((b, h, t, 1), np.float32) for _ in range(2))
        self._product = np.empty((b * t, h * d), np.float32)
        self._ones = np.ones(t, np.float32)
        self._ones_head = np.ones(d, np.float32)

    @staticmethod
    def _by_head(x: Any, shape: Shape) -> Any:
        return np.moveaxis(x.reshape(shape.batch, shape.length, shape.heads, shape.head), 2, 1)

    def forward(self) -> None:
        """Fill `out` from `qkv`; leaves the queries scaled."""
        e, inverse = self._weights, self._inverse
        np.multiply(self._scaled, self._scale, out=self._scaled)
        np.matmul(self._q, self._k.swapaxes(-1, -2), out=e)
        safe = -SAFE < e.min() <= e.max() < SAFE
        np.add(e, self._mask, out=e)
        if not safe:
            np.subtract(e, e.max(axis=-1, keepdims=True), out=e)
        np.exp(e, out=e)
        np.matmul(e, self._ones, out=inverse[..., 0])
        np.reciprocal(inverse, out=inverse)
        np.matmul(e, self._v, out=self._y)
        np.multiply(self._y, inverse, out=self._y)

    def backward(self, g: Any) -> None:
        """Fill `d_qkv` from the cotangent of `out`, which is overwritten."""
        e, ds, inner = self._weights, self._d_scores, self._inner
        gy = self._by_head(g, self._heads)
        np.multiply(gy, self._inverse, out=gy)
        np.matmul(e.swapaxes(-1, -2), gy, out=self._dv)
        np.matmul(gy, self._v.swapaxes(-1, -2), out=ds)
        np.multiply(g, self.out, out=self._product)
        np.matmul(self._by_head(self._product, self._heads), self._ones_head, out=inner[..., 0])
        np.subtract(ds, inner, out=ds)
        np.multiply(ds, e, out=ds)
        np.matmul(ds, self._k, out=self._dq)
        np.matmul(ds.swapaxes(-1, -2), self._q, out=self._dk)
        np.multiply(self._d_scaled, self._scale, out=self._d_scaled)


class Gelu:
    """x s with s = 1 / (1 + exp(-w)), which is GELU by tanh; keeps its derivative. exp costs half of tanh in NumPy."""

    def __init__(self, shape: Shape, scratch: Any) -> None:
        self.x, self.y, self._slope = (np.empty((shape.rows, 4 * shape.width), np.float32) for _ in range(3))
        self._scratch = scratch

    def forward(self) -> None:
        """Fill `y`; overwrites `x`."""
        x, s, y, square = self.x, self._slope, self.y, self._scratch
        np.multiply(x, x, out=square)
        np.multiply(square, -2 * GELU * CUBE, out=s)
        np.subtract(s, 2 * GELU, out=s)
        np.multiply(s, x, out=s)
        np.exp(s, out=s)
        np.add(s, 1, out=s)
        np.reciprocal(s, out=s)
        np.multiply(x, s, out=y)
        # The slope is s + x s (1 - s) dw/dx.
        np.multiply(square, 6 * GELU * CUBE, out=square)
        np.add(square, 2 * GELU, out=square)
        np.multiply(square, y, out=square)
        np.multiply(square, s, out=x)
        np.subtract(square, x, out=square)
        np.add(s, square, out=s)

    def backward(self, g: Any) -> None:
        """Overwrite the cotangent of the result by that of the input."""
        np.multiply(g, self._slope, out=g)


class Affine:
    """y = x w + b, in place of y."""

    def __init__(self, count: int) -> None:
        self._ones = np.ones(count, np.float32)

    @staticmethod
    def forward(x: Any, params: Any, y: Any) -> None:
        np.matmul(x, params[0], out=y)
        np.add(y, params[1], out=y)

    def backward(self, g: Any, x: Any, params: Any, grads: Any, out: Any) -> None:
        np.matmul(x.T, g, out=grads[0])
        np.matmul(self._ones, g, out=grads[1])
        np.matmul(g, params[0].T, out=out)


class Block:
    """One layer; what it does not keep for its gradient it shares with the others."""

    def __init__(self, shape: Shape, shared: dict[str, Any]) -> None:
        n, width = shape.rows, shape.width
        self._norms = [LayerNorm(shape, shared["scratch"]) for _ in range(2)]
        self._attention = Attention(shape, shared["mask"], shared["d_qkv"], shared["d_scores"])
        self._gelu = Gelu(shape, shared["wide"])
        self._affine = Affine(n)
        self._normed = [np.empty((n, width), np.float32) for _ in range(2)]
        self._added, self._g, self._wide = shared["scratch"], shared["g"], shared["wide"]

    def forward(self, h: Any, params: Params) -> None:
        """Add the layer's results to `h`."""
        (a, b), (norm1, norm2), added, attention, gelu = (
            self._normed,
            self._norms,
            self._added,
            self._attention,
            self._gelu,
        )
        norm1.forward(h, params["norm1"], a)
        self._affine.forward(a, params["qkv"], attention.qkv)
        attention.forward()
        self._affine.forward(attention.out, params["out"], added)
        np.add(h, added, out=h)
        norm2.forward(h, params["norm2"], b)
        self._affine.forward(b, params["up"], gelu.x)
        gelu.forward()
        self._affine.forward(gelu.y, params["down"], added)
        np.add(h, added, out=h)

    def backward(self, gh: Any, params: Params, grads: Params) -> None:
        """Make the cotangent of the output that of the input."""
        (a, b), (norm1, norm2), g, attention = self._normed, self._norms, self._g, self._attention
        affine, wide = self._affine, self._wide
        affine.backward(gh, self._gelu.y, params["down"], grads["down"], wide)
        self._gelu.backward(wide)
        affine.backward(wide, b, params["up"], grads["up"], g)
        norm2.backward(g, params["norm2"], grads["norm2"])
        np.add(gh, g, out=gh)
        affine.backward(gh, attention.out, params["out"], grads["out"], g)
        attention.backward(g)
        affine.backward(attention.d_qkv, a, params["qkv"], grads["qkv"], g)
        norm1.backward(g, params["norm1"], grads["norm1"])
        np.add(gh, g, out=gh)


class HandDerived:
    """The GPT and its gradient by hand, in buffers that are made once."""

    def __init__(self, params: Params, shape: Shape) -> None:
        n, width, length, vocabulary = shape.rows, shape.width, shape.length, shape.vocabulary
        self._shape = shape
        self._start = np.concatenate([x.reshape(-1) for x in leaves(params)])
        self.params, self.grads = self._start.copy(), np.zeros_like(self._start)
        self.tree, self.tree_grads = like(self.params, params), like(self.grads, params)
        shared = {
            "mask": causal_mask(shape),
            "scratch": np.empty((n, width), np.float32),
            "g": np.empty((n, width), np.float32),
            "wide": np.empty((n, 4 * width), np.float32),
            "d_qkv": np.empty((n, 3 * width), np.float32),
            "d_scores": np.empty((shape.batch, shape.heads, length, length), np.float32),
        }
        self._blocks = [Block(shape, shared) for _ in range(shape.layers)]
        self._norm = LayerNorm(shape, shared["scratch"])
        self._h, self._gh, self._last = (np.empty((n, width), np.float32) for _ in range(3))
        self._logits, self._hot = (np.empty((n, vocabulary), np.float32) for _ in range(2))
        self._rows, self._column = np.arange(n), np.empty((n, 1), np.float32)
        self._ones, self._ones_batch = np.ones(vocabulary, np.float32), np.ones(shape.batch, np.float32)

    def restart(self) -> None:
        self.params[:] = self._start

    def gradient(self, tokens: Any, labels: Any) -> Any:
        """Return the loss; the gradient is in `grads`."""
        tree, grads, h, gh, shape = self.tree, self.tree_grads, self._h, self._gh, self._shape
        tokens, labels = tokens.reshape(-1), labels.reshape(-1)
        np.take(tree["tokens"], tokens, axis=0, out=h, mode="clip")
        together = h.reshape(shape.batch, shape.length, shape.width)
        np.add(together, tree["places"], out=together)
        for block, params in zip(self._blocks, tree["blocks"], strict=True):
            block.forward(h, params)
        self._norm.forward(h, tree["norm"], self._last)
        np.matmul(self._last, tree["head"], out=self._logits)
        loss = self._cross_entropy(labels)
        np.matmul(self._last.T, self._logits, out=grads["head"])
        np.matmul(self._logits, tree["head"].T, out=gh)
        self._norm.backward(gh, tree["norm"], grads["norm"])
        for place in range(shape.layers - 1, -1, -1):
            self._blocks[place].backward(gh, tree["blocks"][place], grads["blocks"][place])
        np.matmul(self._ones_batch, gh.reshape(shape.batch, -1), out=grads["places"].reshape(-1))
        # A product with one-hot tokens costs less than a scatter.
        self._hot.fill(0)
        self._hot[self._rows, tokens] = 1
        np.matmul(self._hot.T, gh, out=grads["tokens"])
        return loss

    def _cross_entropy(self, labels: Any) -> Any:
        """Return the loss; overwrites the logits by their cotangent."""
        logits, column, n = self._logits, self._column, self._shape.rows
        np.max(logits, axis=1, keepdims=True, out=column)
        np.subtract(logits, column, out=logits)
        chosen = logits[self._rows, labels].sum()
        np.exp(logits, out=logits)
        np.matmul(logits, self._ones, out=column[:, 0])
        loss = (np.log(column).sum() - chosen) / n
        np.multiply(column, n, out=column)
        np.divide(logits, column, out=logits)
        logits[self._rows, labels] -= np.float32(1 / n)
        return loss


# -- with a new array for each result --------------------------------------------------------------------------


def _norm(x: Any, weight: Any, bias: Any) -> Any:
    centred = x - x.mean(axis=-1, keepdims=True)
    inverse = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(EPS))
    normal = centred * inverse
    return normal * weight + bias, (normal, inverse, weight)


def _norm_back(g: Any, kept: Any) -> Any:
    normal, inverse, weight = kept
    grads = (g * normal).sum(axis=0), g.sum(axis=0)
    g = g * weight
    along = normal * (g * normal).mean(axis=-1, keepdims=True)
    return (g - g.mean(axis=-1, keepdims=True) - along) * inverse, grads


def _affine_back(g: Any, x: Any, weight: Any) -> Any:
    return g @ weight.T, (x.T @ g, g.sum(axis=0))


def _gelu(x: Any) -> Any:
    square = x * x
    tanh = np.tanh(GELU * x * (1 + CUBE * square))
    slope = 0.5 * (1 + tanh) + (0.5 * GELU) * x * (1 - tanh * tanh) * (1 + 3 * CUBE * square)
    return 0.5 * x * (1 + tanh), slope


def _attention(qkv: Any, mask: Any, shape: Shape) -> Any:
    b, t, h, d = shape.batch, shape.length, shape.heads, shape.head
    q, k, v = qkv.reshape(b, t, 3, h, d).transpose(2, 0, 3, 1, 4)
    s = q @ k.swapaxes(-1, -2) * np.float32(1 / math.sqrt(d)) + mask
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return (p @ v).swapaxes(1, 2).reshape(b * t, h * d), (p, q, k, v)


def _attention_back(g: Any, kept: Any, shape: Shape) -> Any:
    b, t, h, d = shape.batch, shape.length, shape.heads, shape.head
    p, q, k, v = kept
    g = g.reshape(b, t, h, d).swapaxes(1, 2)
    for_p = g @ v.swapaxes(-1, -2)
    for_s = (for_p - (for_p * p).sum(axis=-1, keepdims=True)) * p * np.float32(1 / math.sqrt(d))
    parts = np.stack([for_s @ k, for_s.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ g])
    return parts.transpose(1, 3, 0, 2, 4).reshape(b * t, 3 * h * d)


def fresh_gradient(params: Params, tokens: Any, labels: Any, shape: Shape) -> tuple[Any, Params]:
    """Return the loss and its gradient."""
    n, rows, mask = shape.rows, np.arange(shape.rows), causal_mask(shape)
    tokens, labels = tokens.reshape(-1), labels.reshape(-1)
    x = params["tokens"][tokens] + np.tile(params["places"], (shape.batch, 1))
    kept = []
    for block in params["blocks"]:
        a, norm1 = _norm(x, *block["norm1"])
        y, attention = _attention(a @ block["qkv"][0] + block["qkv"][1], mask, shape)
        x = x + y @ block["out"][0] + block["out"][1]
        b, norm2 = _norm(x, *block["norm2"])
        z, slope = _gelu(b @ block["up"][0] + block["up"][1])
        x = x + z @ block["down"][0] + block["down"][1]
        kept.append((a, norm1, y, attention, b, norm2, z, slope))
    last, norm = _norm(x, *params["norm"])
    logits = last @ params["head"]
    logits -= logits.max(axis=1, keepdims=True)
    p = np.exp(logits)
    total = p.sum(axis=1, keepdims=True)
    loss = (np.log(total).sum() - logits[rows, labels].sum()) / n
    p /= total * np.float32(n)
    p[rows, labels] -= np.float32(1 / n)
    gx, for_norm = _norm_back(p @ params["head"].T, norm)
    blocks: list[Params] = []
    for block, (a, norm1, y, attention, b, norm2, z, slope) in zip(params["blocks"][::-1], kept[::-1], strict=True):
        grads: Params = {}
        g, grads["down"] = _affine_back(gx, z, block["down"][0])
        g, grads["up"] = _affine_back(g * slope, b, block["up"][0])
        g, grads["norm2"] = _norm_back(g, norm2)
        gx = gx + g
        g, grads["out"] = _affine_back(gx, y, block["out"][0])
        g, grads["qkv"] = _affine_back(_attention_back(g, attention, shape), a, block["qkv"][0])
        g, grads["norm1"] = _norm_back(g, norm1)
        gx = gx + g
        blocks.insert(0, {name: grads[name] for name in block})
    for_tokens = np.zeros_like(params["tokens"])
    np.add.at(for_tokens, tokens, gx)
    return loss, {
        "tokens": for_tokens,
        "places": gx.reshape(shape.batch, shape.length, -1).sum(axis=0),
        "blocks": blocks,
        "norm": for_norm,
        "head": last.T @ p,
    }
