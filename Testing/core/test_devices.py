import pytest
import torch

from simcvd import devices
from simcvd.devices import DeviceError, choose_device, choose_precision, memory_layout, memory_limit


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


def test_a_device_is_held_against_the_cpu_and_chance_is_left_alone():
    state = torch.get_rng_state()
    assert devices._what_fails("cpu") is None
    assert devices._what_fails("meta")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("wrong", [None, "ConvTranspose 3D is not supported"])
def test_an_apple_gpu_is_taken_only_where_it_computes_rightly(monkeypatch, wrong):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(devices, "_what_fails", lambda device: wrong)
    if wrong:
        with pytest.raises(DeviceError, match=r"can't compute on 'mps' here \(ConvTranspose 3D .*; choose auto or cpu"):
            choose_device("mps")
    else:
        assert choose_device("mps") == "mps"
    assert memory_layout("mps") is torch.contiguous_format and memory_layout("cuda:1") is torch.channels_last_3d
