"""A GPU for computers without one: tensors that say "cuda" and compute on the CPU, but refuse what a real GPU refuses.

It finds code that lets tensors of both devices meet, draws with the other one's generator, or hands a tensor of the GPU
to NumPy. What only a real one shows (its kernels, memory, streams and speed) it can't tell.
"""

import contextlib
import subprocess
from pathlib import Path
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
aten = torch.ops.aten
COPIES = (aten._to_copy, aten.copy_)  # what a real GPU lets tensors of both devices meet for,
PLACES = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)  # or may be given places of the CPU for

# autograd asks for the accelerator there is, and for the streams of its device
DRIVER = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace {
struct CUDAHooks : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  int getNumGPUs() const override { return 1; }
};
struct Guard : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  c10::Device getDevice() const override { return {c10::DeviceType::CUDA, 0}; }
  c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
  c10::Stream getStream(c10::Device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, getDevice());
  }
  c10::Stream getDefaultStream(c10::Device) const override { return getStream(getDevice()); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return getStream(getDevice()); }
  bool queryEvent(void*) const override { return true; }
};
}
namespace at {
using ::CUDAHooks;
REGISTER_CUDA_HOOKS(CUDAHooks);
}
C10_REGISTER_GUARD_IMPL(CUDA, Guard);
"""


class _Tensor(torch.Tensor):
    """Looks like `inner`, which is on the CPU, from the GPU."""

    @staticmethod
    def __new__(cls, inner):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=GPU,
        )
        tensor.inner = inner
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, _types, args=(), kwargs=None):
        return _compute(operation, args, kwargs or {})


class _Generator(torch._C.Generator):
    """Of the device that it was made for, whichever computes."""

    def __new__(cls, device="cpu"):
        generator = super().__new__(cls)
        generator.meant = torch.device(device)
        return generator

    def __init__(self, device="cpu"):
        pass

    @property
    def device(self):
        return self.meant


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, operation, _types, args=(), kwargs=None):
        return _compute(operation, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What PyTorch does before it asks for operations: fill tensors with Python's numbers, and know its generators."""

    def __torch_function__(self, function, _types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        if function is torch.Tensor.tolist:
            return function(args[0].cpu())
        result = function(*args, **kwargs)
        generator = kwargs.get("generator")
        if generator is not None and isinstance(result, torch.Tensor) and generator.device.type != result.device.type:
            raise RuntimeError(f"{function.__name__}: a generator of {generator.device} for {result.device}")
        return result


def _compute(operation, args, kwargs):
    if operation._can_decompose():  # made of others: in inference mode PyTorch asks for the whole
        with _Operations():
            return operation.decompose(*args, **kwargs)
    _check(operation.overloadpacket, args, kwargs)
    of_gpu = [tensor for tensor in _tensors(args, kwargs) if isinstance(tensor, _Tensor)]
    on_gpu = bool(of_gpu)
    if kwargs.get("device") is not None:
        on_gpu = torch.device(kwargs["device"]).type == "cuda"
        kwargs = {**kwargs, "device": torch.device("cpu")}
    found = operation(*_changed(args, _inner), **_changed(kwargs, _inner))
    if not on_gpu:
        return found
    known = {id(tensor.inner): tensor for tensor in of_gpu}  # what works in place gives its own argument back
    return _changed(found, lambda tensor: known[id(tensor)] if id(tensor) in known else _Tensor(tensor))


def _check(operation, args, kwargs):
    """Refuse tensors of both devices; one number of the CPU goes with all."""
    if operation in COPIES:
        return
    free = operation in PLACES and isinstance(args[0], _Tensor)
    tensors = _tensors(args[0], args[2:]) if free else _tensors(args, kwargs)
    if len({isinstance(tensor, _Tensor) for tensor in tensors if tensor.dim() > 0}) > 1:
        raise RuntimeError(f"{operation}: tensors of the GPU and of the CPU meet")


def _changed(value, change):
    """The same with all tensors in it changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _changed(item, change) for key, item in value.items()}
    return type(value)(_changed(item, change) for item in value) if type(value) in (list, tuple) else value


def _tensors(*values):
    """All tensors in these."""
    found = []
    _changed(list(values), found.append)
    return found


def _inner(tensor):
    return tensor.inner if isinstance(tensor, _Tensor) else tensor


def build_driver(folder: Path) -> Path:
    """A library that tells PyTorch's C++ of the GPU, if it is loaded before PyTorch is."""
    source, library = folder / "driver.cpp", folder / "driver.so"
    source.write_text(DRIVER)
    torch_folder = Path(torch.__file__).parent
    libraries = torch_folder / "lib"
    subprocess.run(
        ["g++", "-std=c++20", "-shared", "-fPIC", f"-I{torch_folder / 'include'}", source, "-o", library]
        + [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-lc10", "-ltorch_cpu"],
        check=True,
    )
    return library


@contextlib.contextmanager
def pretended_gpu():
    """PyTorch has one GPU within, in a process that has loaded the driver before PyTorch."""
    answers = {
        "_lazy_init": None,
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "is_bf16_supported": True,
        "get_device_capability": (9, 0),
        "mem_get_info": (8 * 2**30, 16 * 2**30),
        "memory_reserved": 0,
        "memory_allocated": 0,
        "max_memory_allocated": 2**20,
    }
    save, conversion = torch.save, torch.__future__.get_swap_module_params_on_conversion()

    def save_from_cpu(saved, *rest):
        save(_changed(saved, torch.Tensor.cpu), *rest)

    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *_, answer=answer, **__: answer))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        stack.enter_context(mock.patch.object(torch, "save", save_from_cpu))
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, conversion)
        torch.__future__.set_swap_module_params_on_conversion(True)  # else parameters lose what they are made of
        stack.enter_context(_Operations())
        stack.enter_context(_Functions())
        yield
