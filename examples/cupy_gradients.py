"""Gradients of CuPy code, which has none of its own, on the device where the arrays are."""

import cupy as cp

import xdev


def energy(params, x):
    xp = xdev.namespace(x)
    return xp.sum(xp.tanh(x @ params["w"] + params["b"]) ** 2)


with cp.cuda.Device(cp.cuda.runtime.getDeviceCount() - 1):  # any device, whichever is current later
    params = {"w": cp.full((3, 2), 0.1), "b": cp.zeros(2)}
    x = cp.arange(12.0).reshape(4, 3) / 12

value, grads = xdev.value_and_grad(energy)(params, x)
print(f"{xdev.device_of(grads)}: energy {xdev.item(value):.4f}")
print(xdev.to_numpy(grads["w"]).round(4))
