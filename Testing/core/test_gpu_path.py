"""That a GPU is given what it needs, as far as can be seen without one; see pretend_gpu.py."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pretend_gpu import build_driver

HERE = Path(__file__).parent
RUNS = ("simcvd:float32", "simcvd:bfloat16", "action++:float32", "global_local:float32")  # what the others do, they do

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only tried on Linux"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="pretending needs a C++ compiler"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="this build of PyTorch has CUDA's own driver"),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    return build_driver(tmp_path_factory.mktemp("driver"))


def python(*arguments) -> subprocess.CompletedProcess:
    environment = {"PYTHONPATH": f"{HERE}:{HERE.parents[1] / 'SimCVDSegment'}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )


def test_training_and_use_on_a_gpu_come_to_what_the_cpu_comes_to(driver, tmp_path):
    process = python(HERE / "gpu_run.py", driver, tmp_path, *RUNS)
    assert process.returncode == 0, process.stderr
    for run, found in json.loads(process.stdout).items():
        cpu, gpu = found["cpu"], found["gpu"]
        assert (cpu["device"], gpu["device"]) == ("cpu", "cuda:0"), run
        assert (set(cpu["used"]), set(gpu["used"])) == ({"cpu"}, {"cuda"}), run
        close = 1e-5 if run.endswith("float32") else 1e-2
        assert gpu["losses"] == pytest.approx(cpu["losses"], rel=close, abs=close), run
        assert gpu["voxels"] == pytest.approx(cpu["voxels"], rel=0.02, abs=20), run
        assert gpu["unsure"] == pytest.approx(cpu["unsure"], rel=0.02), run


def test_the_pretended_gpu_refuses_what_a_real_one_refuses(driver):
    refused = {
        "here + there": "aten.add: tensors of the GPU and of the CPU meet",
        "there[here.long()] = here": "aten.index_put_: tensors of the GPU and of the CPU meet",
        "here[there.long()]": "aten.index: tensors of the GPU and of the CPU meet",
        "there.numpy()": ".numpy() is not supported",
        "torch.rand(3, generator=torch.Generator(), device='cuda')": "rand: a generator of cpu for cuda:0",
        "torch.rand(3, generator=torch.Generator('cuda'))": "rand: a generator of cuda for cpu",
        "there[here.long()] + torch.tensor(1.0) + here.to('cuda')": "nothing",
    }
    program = f"""
import ctypes
ctypes.CDLL({str(driver)!r})
import torch
from pretend_gpu import pretended_gpu
with pretended_gpu():
    here = torch.ones(3)
    there = here.to("cuda")
    for code in {list(refused)!r}:
        try:
            exec(code)
            print("nothing")
        except RuntimeError as error:
            print(error)
"""
    process = python("-c", program)
    assert process.returncode == 0, process.stderr
    for found, (code, expected) in zip(process.stdout.splitlines(), refused.items(), strict=True):
        assert found.startswith(expected), code
