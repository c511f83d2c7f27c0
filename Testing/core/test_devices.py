import pytest
import torch

from simcvd.devices import DeviceError, choose_device, choose_precision, memory_limit


def test_the_cpu_is_always_there_in_a_precision_it_has():
    assert choose_device("cpu") == "cpu"
    assert choose_precision("auto", "cpu") in (torch.float32, torch.bfloat16)
    assert choose_precision("float32", "cpu") is torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="this computer has a GPU")
def test_gpu_that_is_not_there():
    assert choose_device("auto") == "cpu"
    with pytest.raises(DeviceError, match="choose auto or cpu"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["tpu", "cpu:1", "cuda:x", "cuda:", ""])
def test_devices_nobody_has(name):
    with pytest.raises(DeviceError, match="no device"):
        choose_device(name)


def test_unknown_precision():
    with pytest.raises(DeviceError, match="auto, float32, bfloat16"):
        choose_precision("float8", "cpu")


def test_memory_limit_of_the_cpu_is_bounded():
    assert 64 <= memory_limit("cpu") <= 1024
