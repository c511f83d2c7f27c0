"""Which device computes, and in which precision."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import torch
from torch import nn

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
    if kind == "mps" and (wrong := _what_fails(name)):
        raise DeviceError(f"PyTorch {torch.__version__} can't compute on {name!r} here ({wrong}); choose auto or cpu.")
    return name


@functools.cache
def _what_fails(device: str) -> str | None:
    """What of the network a device can't do or does wrong, held against the CPU; None when all is right.

    PyTorch learned 3-D layers on Apple's GPUs step by step, and gave wrong numbers on some systems.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv3d(2, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ConvTranspose3d(16, 2, 2, 2))
        image = torch.randn(2, 2, 8, 8, 8)
    found = {}
    for place in ("cpu", device):
        try:
            copied = copy.deepcopy(layers).to(place)
            answer = copied(image.to(place))
            answer.square().mean().backward()
            found[place] = [answer.detach().cpu(), copied[0].weight.grad.cpu()]
        except (RuntimeError, NotImplementedError) as error:
            return str(error).partition("\n")[0]
    pairs = zip(found["cpu"], found[device], strict=True)
    right = all(torch.allclose(a, b, rtol=1e-2, atol=1e-3) for a, b in pairs)
    return None if right else "it gives other numbers than the CPU"


def memory_layout(device: str) -> torch.memory_format:
    """How volumes lie in memory: channels last, which is faster, but where PyTorch has had it wrong."""
    return torch.contiguous_format if device.startswith("mps") else torch.channels_last_3d


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
