"""What all tests share: where the real scans are, and the package on the path of a source tree."""

import locale
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "SimCVDSegment"))
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each core has its tests: more threads would wait for one another


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans beside the checkout; skips the test where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real scans are not here ({folder.name} missing beside the checkout)")
    return folder


@pytest.fixture(autouse=True)
def same_locale():
    """ITK leaves the locale C behind where it has written DICOM, and files are then read as ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)
