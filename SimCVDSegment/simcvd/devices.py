"""Which device computes, and in which precision."""

from __future__ import annotations

from pathlib import Path

import torch

from .errors import SimCVDError

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")

CPU_LIMIT_MB = 1024  # larger passes are no faster on a CPU
SMALLEST_LIMIT_MB = 64


class DeviceError(SimCVDError):
    """A device that this computer doesn't have, or an unknown precision."""

    kind = "device"


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


def peak_memory_mb(device: str) -> int | None:
    """The most that this process has held: allocated by PyTorch on a GPU, else resident; None where nothing tells."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) // 2**20
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    high = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(high.split()[1]) // 1024


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


def memory_limit(device: str) -> float:
    """Megabytes one pass may take: most of the GPU's free memory; on a CPU at most 1 GB and half of what is free."""
    if device.startswith("cuda"):
        index = torch.device(device).index  # PyTorch before 2.5 takes no "cuda" without a number
        try:
            unused = torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)  # of what PyTorch keeps
            return 0.8 * (torch.cuda.mem_get_info(index)[0] + unused) / 2**20
        except RuntimeError:  # a GPU that fails: the pass that comes meets that, and goes to the CPU
            return CPU_LIMIT_MB
    try:
        with open("/proc/meminfo") as f:
            kilobytes = next(int(line.split()[1]) for line in f if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return CPU_LIMIT_MB
    return max(SMALLEST_LIMIT_MB, min(CPU_LIMIT_MB, kilobytes / 2048))
