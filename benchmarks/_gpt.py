"""The char-GPT that the benchmarks share: parameters, data, and its loss and gradient in each framework's words.

Requirements: all start from these numbers, in float32; weights have shape (in, out); pre-norm blocks, GELU by tanh, a
head of its own without bias, mean cross entropy over all positions.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

EPS = 1e-5
GELU, CUBE = math.sqrt(2 / math.pi), 0.044715
Params = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """How large the model and its batches are."""

    layers: int = 4
    heads: int = 4
    width: int = 128
    length: int = 64
    batch: int = 12
    vocabulary: int = 65

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads

    @property
    def rows(self) -> int:
        """Positions of a batch."""
        return self.batch * self.length

    def __str__(self) -> str:
        return f"{self.layers}x{self.heads}x{self.width}, block {self.length}, batch {self.batch}"


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add the option whose numbers are those of a Shape."""
    names = tuple(field.name for field in fields(Shape))
    default = [field.default for field in fields(Shape)]
    parser.add_argument("--gpt", type=int, nargs=len(names), metavar=names, default=default, help="sizes of the GPT")


# -- parameters and data ---------------------------------------------------------------------------------------


def initial_params(shape: Shape, seed: int = 0) -> Params:
    """Return the parameters; biases and factors of norms differ from 0 and 1, so that mistakes show in gradients."""
    rng = np.random.default_rng(seed)
    width = shape.width

    def normal(*size: int, around: float = 0.0) -> Any:
        return (around + 0.02 * rng.standard_normal(size)).astype(np.float32)

    def linear(n: int, m: int) -> tuple[Any, Any]:
        return (rng.standard_normal((n, m)) / math.sqrt(n)).astype(np.float32), normal(m)

    def norm() -> tuple[Any, Any]:
        return normal(width, around=1.0), normal(width)

    def block() -> dict[str, Any]:
        return {
            "norm1": norm(), "qkv": linear(width, 3 * width), "out": linear(width, width),
            "norm2": norm(), "up": linear(width, 4 * width), "down": linear(4 * width, width),
        }  # fmt: skip

    return {
        "tokens": normal(shape.vocabulary, width),
        "places": normal(shape.length, width),
        "blocks": [block() for _ in range(shape.layers)],
        "norm": norm(),
        "head": linear(width, shape.vocabulary)[0],
    }


def examples(shape: Shape, seed: int = 1) -> tuple[Any, Any]:
    """Return tokens and labels, int64 of shape (batch, length)."""
    rng = np.random.default_rng(seed)
    tokens, labels = rng.integers(0, shape.vocabulary, (2, shape.batch, shape.length))
    return tokens, labels


def one_hot(shape: Shape, indices: Any) -> Any:
    return np.eye(shape.vocabulary, dtype=np.float32)[indices]


def leaves(tree: Any) -> list[Any]:
    """Return the arrays of a tree of dicts, lists and tuples."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [x for part in tree for x in leaves(part)] if isinstance(tree, list | tuple) else [tree]


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return the tree of what the function makes of each array."""
    if isinstance(tree, dict):
        return {name: mapped(function, part) for name, part in tree.items()}
    return type(tree)(mapped(function, part) for part in tree) if isinstance(tree, list | tuple) else function(tree)


def like(flat: Any, tree: Any) -> Any:
    """Return views of a flat array in the shapes of a tree."""
    start = 0

    def cut(x: Any) -> Any:
        nonlocal start
        start += x.size
        return flat[start - x.size : start].reshape(x.shape)

    return mapped(cut, tree)


# -- in the words of the frameworks ----------------------------------------------------------------------------


def plain_loss(xp: Any, permute: Any, params: Params, tokens: Any, labels: Any, mask: Any, shape: Shape) -> Any:
    """Return the loss by elementary functions alone; tokens and labels are one-hot, the mask is added to scores.

    Products with one-hot arrays cost less than indexing, whose gradient is a scatter.
    """

    def norm(x: Any, weight: Any, bias: Any) -> Any:
        x = x - xp.mean(x, axis=-1, keepdims=True)
        return x / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + EPS) * weight + bias

    def softmax(s: Any) -> Any:
        e = xp.exp(s - xp.max(s, axis=-1, keepdims=True))
        return e / xp.sum(e, axis=-1, keepdims=True)

    b, t, h, d = shape.batch, shape.length, shape.heads, shape.head
    x = xp.matmul(tokens, params["tokens"]) + params["places"]
    for block in params["blocks"]:
        y = xp.matmul(norm(x, *block["norm1"]), block["qkv"][0]) + block["qkv"][1]
        y = permute(xp.reshape(y, (b, t, 3, h, d)), (2, 0, 3, 1, 4))
        q, k, v = y[0, ...], y[1, ...], y[2, ...]
        s = xp.matmul(q, permute(k, (0, 1, 3, 2))) * (1 / math.sqrt(d)) + mask
        y = xp.reshape(permute(xp.matmul(softmax(s), v), (0, 2, 1, 3)), (b, t, h * d))
        x = x + xp.matmul(y, block["out"][0]) + block["out"][1]
        y = xp.matmul(norm(x, *block["norm2"]), block["up"][0]) + block["up"][1]
        y = 0.5 * y * (1 + xp.tanh(GELU * (y + CUBE * (y * y * y))))
        x = x + xp.matmul(y, block["down"][0]) + block["down"][1]
    logits = xp.matmul(norm(x, *params["norm"]), params["head"])
    logits = logits - xp.max(logits, axis=-1, keepdims=True)
    each = xp.log(xp.sum(xp.exp(logits), axis=-1)) - xp.sum(logits * labels, axis=-1)
    return xp.mean(each)


def causal_mask(shape: Shape) -> Any:
    """Return what is added to scores: -inf where a query may not look."""
    return np.triu(np.full((shape.length, shape.length), -np.inf, np.float32), 1)


def xdev_loss(params: Params, tokens: Any, labels: Any, *, heads: int) -> Any:
    """Return the loss by `xdev.ops`."""
    import xdev
    from xdev import ops

    x = ops.embedding(params["tokens"], tokens) + params["places"]
    xp = xdev.namespace(x)
    b, t, width = x.shape
    for block in params["blocks"]:
        y = ops.linear(ops.layer_norm(x, *block["norm1"], eps=EPS), *block["qkv"])
        parts = xp.unstack(xp.reshape(y, (b, t, 3, heads, width // heads)), axis=2)
        y = ops.attention(*(xp.permute_dims(part, (0, 2, 1, 3)) for part in parts), causal=True)
        x = x + ops.linear(xp.reshape(xp.permute_dims(y, (0, 2, 1, 3)), (b, t, width)), *block["out"])
        y = ops.linear(ops.layer_norm(x, *block["norm2"], eps=EPS), *block["up"])
        x = x + ops.linear(ops.gelu(y, approximate=True), *block["down"])
    return ops.cross_entropy(ops.linear(ops.layer_norm(x, *params["norm"], eps=EPS), params["head"]), labels)


def torch_loss(params: Params, tokens: Any, labels: Any, *, heads: int) -> Any:
    """Return the loss in torch; weights have shape (out, in), as `torch_params` makes them."""
    from torch.nn import functional as f

    x = f.embedding(tokens, params["tokens"]) + params["places"]
    b, t, width = x.shape
    for block in params["blocks"]:
        y = f.linear(f.layer_norm(x, (width,), *block["norm1"], eps=EPS), *block["qkv"])
        q, k, v = (part.view(b, t, heads, width // heads).transpose(1, 2) for part in y.split(width, dim=-1))
        y = f.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + f.linear(y.transpose(1, 2).reshape(b, t, width), *block["out"])
        y = f.linear(f.layer_norm(x, (width,), *block["norm2"], eps=EPS), *block["up"])
        x = x + f.linear(f.gelu(y, approximate="tanh"), *block["down"])
    logits = f.linear(f.layer_norm(x, (width,), *params["norm"], eps=EPS), params["head"])
    return f.cross_entropy(logits.view(b * t, -1), labels.view(b * t))


def torch_params(params: Params) -> Params:
    """Return the parameters as torch's leaves, linear maps in its layout."""
    import torch

    def leaf(x: Any) -> Any:
        return torch.from_numpy(x.copy()).requires_grad_()

    def turned(pair: Any) -> Any:
        return leaf(pair[0].T), leaf(pair[1])

    made = mapped(leaf, params)
    for new, old in zip(made["blocks"], params["blocks"], strict=True):
        for name in ("qkv", "out", "up", "down"):
            new[name] = turned(old[name])
    made["head"] = leaf(params["head"].T)
    return made


def jax_loss(params: Params, tokens: Any, labels: Any, *, heads: int) -> Any:
    """Return the loss in JAX."""
    import jax
    from jax import numpy as jnp

    def norm(x: Any, weight: Any, bias: Any) -> Any:
        x = x - x.mean(axis=-1, keepdims=True)
        return x * jax.lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + EPS) * weight + bias

    x = params["tokens"][tokens] + params["places"]
    b, t, width = x.shape
    for block in params["blocks"]:
        y = norm(x, *block["norm1"]) @ block["qkv"][0] + block["qkv"][1]
        q, k, v = (part.reshape(b, t, heads, width // heads) for part in jnp.split(y, 3, axis=-1))
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + y.reshape(b, t, width) @ block["out"][0] + block["out"][1]
        y = norm(x, *block["norm2"]) @ block["up"][0] + block["up"][1]
        x = x + jax.nn.gelu(y, approximate=True) @ block["down"][0] + block["down"][1]
    logs = jax.nn.log_softmax(norm(x, *params["norm"]) @ params["head"])
    return -jnp.take_along_axis(logs, labels[..., None], axis=-1).mean()
