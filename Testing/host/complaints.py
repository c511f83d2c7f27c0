"""What PythonQt and VTK only print, kept for the tests: conftest fails the test during which any of it came up."""

import sys
import traceback

complaints = []


def complain(sentence):
    complaints.append(sentence)


def collectExceptions():
    """Keep the exceptions of slots and observers: Qt and VTK call Python from C++ and print what it raises."""
    shown = sys.excepthook

    def hook(kind, error, trace):
        complain("".join(traceback.format_exception(kind, error, trace)))
        shown(kind, error, trace)

    sys.excepthook = hook
