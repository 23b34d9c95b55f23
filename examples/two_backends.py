"""The same lines on two backends: a small network learns whether two numbers have the same sign."""

import numpy as np

import xdev
from xdev import nn, ops, optim

x = np.random.default_rng(0).normal(size=(1024, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)

for name in ("numpy", "torch"):
    model = nn.MLP([2, 64, 2], rng=xdev.random.Generator(0, name))
    result = xdev.fit(model, lambda m, b: ops.cross_entropy(m(b[0]), b[1]), (x, y),
                      optimizer=optim.adamw(1e-2), epochs=20, batch_size=128, device=name)  # fmt: skip
    right = xdev.predict(result.model, x).argmax(axis=1) == y
    print(f"{xdev.device_of(result.model)}: loss {result.losses[-1]:.3f}, {right.mean():.1%} right")
