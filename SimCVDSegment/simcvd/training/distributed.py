"""One training in several processes: sums, gathers and batch norm over all of them, with gradients.

In a single process every function here does nothing, so the losses are written once, for the global batch.
"""

from __future__ import annotations

import inspect
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from ..devices import DeviceError

# the others wait for the first process through pauses and validations
PATIENCE = timedelta(days=7)


def start(device: torch.device) -> torch.device:
    """Join the processes that torchrun started; gives this process's own GPU. Without torchrun, the device as it is."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= (there := torch.cuda.device_count()):
            raise DeviceError(f"There are {there} GPUs here and more processes; lower torchrun's --nproc-per-node.")
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return device


def stop() -> None:
    """Leave the group of processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Number of processes of this training."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, 0 for the one that writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


class _Sum(torch.autograd.Function):
    """Sum over all processes; the gradient of what each makes of the sum is summed as well."""

    @staticmethod
    def forward(_ctx, x: torch.Tensor) -> torch.Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(_ctx, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient


def total(x: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over all processes; gradients flow back to each."""
    return _Sum.apply(x) if world_size() > 1 else x


def gathered(x: torch.Tensor) -> torch.Tensor:
    """Tensors of all processes, alike in shape, joined along the first axis; gradients flow back to each."""
    if world_size() == 1:
        return x
    n, before = len(x), rank() * len(x)
    after = n * (world_size() - 1) - before
    return total(torch.cat([x.new_zeros(before, *x.shape[1:]), x, x.new_zeros(after, *x.shape[1:])]))


@torch.no_grad()
def neighbours(crops: torch.Tensor) -> torch.Tensor:
    """To each crop of this process (along the first axis) the one before it in the global batch, round about."""
    first = rank() * len(crops)
    return gathered(crops).roll(1, 0)[first : first + len(crops)]


def mean(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mean of each scalar over all processes."""
    if world_size() == 1:
        return values
    together = total(torch.stack([v.float() for v in values.values()])) / world_size()
    return dict(zip(values, together, strict=True))


def agreed(flag: int) -> int:
    """The largest value over all processes, so that all of them take the same decision."""
    if world_size() == 1:
        return int(flag)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    value = torch.tensor(int(flag), device=device)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value)


def shared_gradients(module: nn.Module) -> nn.Module:
    """A module whose gradients are the means over all processes; itself where there is one.

    Buffers are already alike, as batch norm shares its statistics; a phase or a weight of 0 leaves parts unused.
    """
    if world_size() == 1:
        return module
    wrap = nn.parallel.DistributedDataParallel
    # renamed in PyTorch 2.13
    keyword = next(k for k in ("forward_sync_buffers", "broadcast_buffers") if k in inspect.signature(wrap).parameters)
    return wrap(module, find_unused_parameters=True, **{keyword: False})


def share_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Make batch norm use the statistics of the global batch, as one process would."""
    if world_size() == 1:
        return module
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for child in module.modules():
        if type(child) is nn.BatchNorm3d:
            child.__class__ = _SharedBatchNorm
    return module


class _SharedBatchNorm(nn.BatchNorm3d):
    """Batch norm over all processes for devices that torch's SyncBatchNorm leaves out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        axes = (0, 2, 3, 4)
        wide = x.float()
        count = wide.numel() // wide.shape[1] * world_size()
        mean = total(wide.sum(axes)) / count
        centred = wide - mean[:, None, None, None]
        variance = total(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None, None] + self.bias[:, None, None, None]).to(x.dtype)
