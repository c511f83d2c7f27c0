"""Tests over Slicer's own classes: inside Slicer as they are, elsewhere with the test host in its place."""

import pytest

import host

_missing = None
try:
    host.start()
except ImportError as error:
    _missing = (
        f"These tests need Slicer's libraries, and {error.name or error} can not be imported: install the test "
        "requirements with `pip install -e .[test]`, in Python 3.11 or 3.12."
    )


class _NotRunnable(pytest.Module):
    """A test file that can't be run here: an error with one sentence, never a silent skip."""

    def collect(self):
        raise self.CollectError(_missing)


def pytest_pycollect_makemodule(module_path, parent):
    return _NotRunnable.from_parent(parent, path=module_path) if _missing else None


@pytest.fixture(autouse=True, scope="module")
def emptyScene():
    """Every test file begins with an empty scene."""
    import slicer

    slicer.mrmlScene.Clear(0)


@pytest.fixture(autouse=True)
def nothingOverlooked():
    """Fail a test during which a slot or observer raised, or a connection failed: Qt and VTK only print these."""
    host.complaints.clear()
    yield
    assert not host.complaints, "\n".join(host.complaints)
