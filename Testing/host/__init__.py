"""A test host that is almost Slicer: real MRML, logics, files and views from slicer-core, real widgets from PySide6.

    import host
    host.start()                                    # before anything imports slicer, qt or ctk
    panel = host.loadModule("SimCVDSegment")        # the folder of the module -> its widget representation
    host.processEvents(until=lambda: job.finished, seconds=30)
    picture = host.grabSlice("Red", (400, 400))     # (H, W, 3) uint8

It stands for the application where that can not be installed. What PythonQt refuses is refused here as well, as far as
PySide6 lets us; `Testing/slicer/test_module_code.py` reads the module code for the rest.
"""

import ctypes
import os
import sys
import time
import types
from pathlib import Path

from .complaints import collectExceptions, complaints

__all__ = [
    "complaints",
    "grab3D",
    "grabSlice",
    "grabWidget",
    "insideSlicer",
    "loadModule",
    "openMainWindow",
    "panel",
    "processEvents",
    "start",
    "unloadModule",
]

_core = None  # the scene and all that belongs to it: it must live as long as the process


def insideSlicer():
    """True in the application itself, where nothing may be started."""
    return _core is None and hasattr(sys.modules.get("slicer"), "app")


def start():
    """Make slicer, qt, ctk and SampleData importable and slicer.app run, once; does nothing inside Slicer.

    Raises ImportError where slicer-core or PySide6 is missing.
    """
    global _core
    if _core is not None or insideSlicer():
        return
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ.setdefault("PYSIDE6_OPTION_PYTHON_ENUM", "0xE")  # enums that are ints, with short names, as PythonQt has
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
    _keepSingletons()
    _importSlicer()
    import slicer

    from . import pythonqt

    pythonqt.install()
    from . import ctkwidgets, mrmlwidgets, scene, uiloader

    for part in (uiloader, ctkwidgets, mrmlwidgets):
        part.install()
    core = scene.Core()
    slicer.mrmlScene, slicer.modules = core.scene, types.SimpleNamespace()
    from . import application

    slicer.app = application.Application(core)
    for name, logic in core.logics.items():
        slicer.app.moduleManager()._pq_add(application.CoreModule(name, logic))
    slicer.app.moduleManager()._pq_add(application.SegmentEditorModule())
    _addPythonModules()
    collectExceptions()
    _core = core


def _keepSingletons():
    """Keep None, True and False from being freed, which aborts the process before Python 3.12 made them immortal.

    PySide6 6.12.0 gives back a reference to None that it never took, at every call that returns None.
    """
    if sys.version_info < (3, 12):
        for singleton in (None, True, False):
            ctypes.c_ssize_t.from_address(id(singleton)).value += 1 << 40


def _importSlicer():
    """Import the wheel's slicer, as the application has it.

    The wheel takes any folder of its name on the path, such as our Testing/slicer, for a part of itself, and it spreads
    the names of slicer.util over slicer, where the application does not have them.
    """
    path = sys.path[:]
    sys.path[:] = [entry for entry in path if not _isPlainFolder(Path(entry, "slicer"))]
    try:
        import slicer
    finally:
        sys.path[:] = path
    for name in vars(slicer.util):
        if not name.startswith("__") and vars(slicer).get(name, slicer) is vars(slicer.util)[name]:
            delattr(slicer, name)


def _isPlainFolder(folder):
    return folder.is_dir() and not (folder / "__init__.py").is_file()


def _addPythonModules():
    import slicer

    slicer.i18n = sys.modules["slicer.i18n"] = types.ModuleType("slicer.i18n")
    slicer.i18n.tr, slicer.i18n.translate = (lambda text: text), (lambda context, text: text)
    from . import parameternode, sampledata, scripted

    slicer.ScriptedLoadableModule = sys.modules["slicer.ScriptedLoadableModule"] = scripted
    slicer.parameterNodeWrapper = sys.modules["slicer.parameterNodeWrapper"] = parameternode
    sys.modules["SampleData"] = sampledata


def loadModule(folder):
    """Load the scripted module of a folder, which bears its name; gives its widget representation."""
    from .application import loadScriptedModule

    folder = Path(folder).resolve()
    return loadScriptedModule(folder / (folder.name + ".py")).widgetRepresentation()


def unloadModule(name):
    """What the application does with a module when it quits: the widget's cleanup() runs."""
    import slicer

    slicer.app.moduleManager().moduleAboutToBeUnloaded.emit(name)


def openMainWindow():
    """Open the main window, without which tests run; its delete() closes it."""
    from .application import qSlicerMainWindow

    return qSlicerMainWindow()


def processEvents(until=None, seconds=10.0):
    """Let Qt work until a condition holds; raises TimeoutError when it does not. Without one: once over the queue."""
    import slicer

    slicer.app.processEvents()
    end = time.monotonic() + seconds
    while until is not None and not until():
        if time.monotonic() > end:
            raise TimeoutError(f"the condition did not come true within {seconds:g} s")
        slicer.app.processEvents()
        time.sleep(0.002)


def grabSlice(name="Red", size=(400, 400)):
    """Picture of a slice view, (H, W, 3) uint8; size is (width, height) in pixels."""
    _core.slices[name].resize(size)
    return _core.slices[name].grab()


def grab3D(size=(400, 400)):
    """Picture of the 3D view, (H, W, 3) uint8."""
    _core.threeD.resize(size)
    return _core.threeD.grab()


def grabWidget(widget):
    """Picture of a widget as it is laid out now, (H, W, 3) uint8."""
    import numpy as np
    import qt

    processEvents()
    image = widget.grab().toImage().convertToFormat(qt.QImage.Format_RGB888)
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : image.width() * 3].reshape(image.height(), image.width(), 3).copy()


def panel(widget, views=("Red", "3D", "Green", "Yellow"), size=(1500, 1000), width=520):
    """Picture like the application's window: the module panel at the left, four views at the right."""
    import numpy as np

    widget.resize(width, size[1])
    widget.show()
    left = grabWidget(widget)
    _core.threeD.fit()
    half = ((size[0] - left.shape[1]) // 2, left.shape[0] // 2)
    pictures = [grab3D(half) if name == "3D" else grabSlice(name, half) for name in views]
    right = np.vstack([np.hstack(pictures[:2]), np.hstack(pictures[2:])])
    return np.hstack([left[: right.shape[0]], right])
