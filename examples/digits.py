"""One training loop for all: a network on scanned digits, on every backend named, or on all that work here.

Run `python examples/digits.py numpy torch`; `xdev train digits` does the same with tables and files.
"""

import sys

import xdev
from xdev import nn, ops, optim
from xdev.cli.digits import load

x_train, y_train, x_test, y_test = load()

for name in sys.argv[1:] or [str(backend) for backend in xdev.backends()]:
    try:
        device = xdev.device(name)
    except xdev.errors.BackendUnavailable as error:
        print(f"{name}: {error}")
        continue
    model = nn.MLP([64, 256, 10], rng=xdev.random.Generator(0, device))
    result = xdev.fit(model, lambda m, b: ops.cross_entropy(m(b[0]), b[1]), (x_train, y_train),
                      optimizer=optim.adamw(3e-3), epochs=40, batch_size=128, device=device, seed=0)  # fmt: skip
    scores = xdev.predict(result.model, x_test)  # NumPy, on the host
    print(f"{device}: {(scores.argmax(1) == y_test).mean():.1%} right; {result.timing}")
