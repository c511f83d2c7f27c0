"""NumPy arrays as tensors and back, also where PyTorch and NumPy don't know each other.

PyTorch before 2.3 was built for NumPy 1 and refuses arrays of NumPy 2. On macOS that is all there is for an Intel
build of 3D Slicer, whose Python has NumPy 2: there the two meet over plain memory.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

_TYPES = {
    name: getattr(torch, name)
    for name in ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


@functools.cache
def _know_each_other() -> bool:
    try:
        torch.zeros(1).numpy()
    except RuntimeError:
        return False
    return True


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """A tensor of an array's shape and type on the CPU, of the same memory where that is contiguous and writable."""
    if _know_each_other():
        return torch.from_numpy(array)
    if not array.dtype.isnative:
        raise TypeError("an array in another computer's byte order")
    dtype = _TYPES[array.dtype.name]
    if not array.size:
        return torch.empty(array.shape, dtype=dtype)
    return torch.frombuffer(np.require(array, requirements="CW"), dtype=dtype).reshape(array.shape)


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """An array of a tensor's shape and type, whichever device it is on."""
    tensor = tensor.detach().cpu()
    if _know_each_other():
        return tensor.numpy()
    array = np.empty(tuple(tensor.shape), _NAMES[tensor.dtype])
    tensor_of(array).copy_(tensor)
    return array
