"""Which device computes, and in which precision."""

from __future__ import annotations

import torch

from .errors import SimCVDError

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")


class DeviceError(SimCVDError):
    """A device that this computer doesn't have, or an unknown precision."""


def choose_device(name: str = "auto") -> str:
    """The name torch knows a wanted device by: "cpu", "cuda", "cuda:1", "mps"; "auto" takes CUDA where there is one.

    Raises DeviceError when this computer lacks it.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    there = {
        "cpu": lambda: not number,
        "cuda": lambda: int(number or 0) < torch.cuda.device_count(),
        "mps": lambda: not number and torch.backends.mps.is_available(),
    }
    if kind not in there or not (number.isdecimal() or ":" not in name) or not there[kind]():
        raise DeviceError(f"There is no device {name!r} for PyTorch here; choose auto or cpu.")
    return name


def choose_precision(name: str, device: str) -> torch.dtype:
    """What the convolutions compute in; "auto" takes bfloat16 where the hardware multiplies it natively.

    Raises DeviceError for an unknown name.
    """
    if name not in PRECISIONS:
        raise DeviceError(f"There is no precision {name!r}; choose one of {', '.join(PRECISIONS)}.")
    if name == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    return getattr(torch, name)


def _multiplies_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # private, so asked for with care: without an answer float32 is right everywhere
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device == "cpu" and any(getattr(torch.cpu, probe, bool)() for probe in probes)
