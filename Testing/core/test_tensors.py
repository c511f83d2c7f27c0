import numpy as np
import pytest
import torch
from training_runs import small_run

from simcvd import tensors
from simcvd.events import read_events
from simcvd.images import read_volume
from simcvd.segmentation import Segmenter
from simcvd.tensors import array_of, tensor_of
from simcvd.training.loop import Trainer


@pytest.fixture
def strangers(monkeypatch):
    """As with a PyTorch that was built for another NumPy."""

    def refuse(*_):
        raise RuntimeError("Numpy is not available")

    monkeypatch.setattr(torch, "from_numpy", refuse)
    monkeypatch.setattr(torch.Tensor, "numpy", refuse)
    tensors._know_each_other.cache_clear()
    yield
    tensors._know_each_other.cache_clear()


def arrays():
    whole = np.arange(24).reshape(2, 3, 4)
    frozen = whole.astype(np.float32)
    frozen.flags.writeable = False
    yield from (whole.astype(name) for name in tensors._TYPES)
    yield from (frozen, whole[:, ::-1], whole.T, whole[:0], np.array(3.5), whole.astype(np.float32)[..., 1])


@pytest.mark.parametrize("array", list(arrays()), ids=lambda array: f"{array.dtype}-{array.shape}-{array.strides}")
def test_there_and_back_over_plain_memory(strangers, array):
    tensor = tensor_of(array)
    assert tuple(tensor.shape) == array.shape and str(tensor.dtype) == f"torch.{array.dtype.name}"
    assert tensor.tolist() == array.tolist()
    back = array_of(tensor)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(array_of(tensor.requires_grad_() if tensor.is_floating_point() else tensor), array)


def test_another_byte_order_is_refused_either_way(request):
    for _ in range(2):
        with pytest.raises((TypeError, ValueError), match="byte order"):
            tensor_of(np.arange(3, dtype=">f4"))
        request.getfixturevalue("strangers")


def test_memory_is_shared_either_way(request):
    for _ in range(2):
        array = np.zeros(3, np.float32)
        tensor_of(array)[1] = 5
        assert array.tolist() == [0, 5, 0]
        request.getfixturevalue("strangers")


@pytest.mark.parametrize("method", ["simcvd", "action++"])
def test_training_and_segmentation_do_without_numpy_in_pytorch(tmp_path, strangers, method):
    settings = {"pseudo": 1.0, "pseudo_largest": True} if method == "simcvd" else {}
    run = small_run(tmp_path / "run", method, settings=settings, augmentation="strong", patch=[16, 32, 32])
    Trainer(run).run()
    assert read_events(run.path / "events.jsonl")[0][-1]["event"] == "done"
    scan = read_volume(tmp_path / "cases" / "4-image.nrrd")
    assert Segmenter(run.model).segment(scan).labels.shape == scan.array.shape
