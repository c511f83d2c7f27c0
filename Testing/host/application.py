"""slicer.app with its module and layout managers, and scripted modules as it loads them."""

import importlib.util
import os
import sys
import tempfile
import types

import qt
import slicer
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal

from .ctkwidgets import wrapped
from .mrmlwidgets import SceneWidget


class Application(QtWidgets.QApplication):
    startupCompleted = Signal()

    applicationName = "Slicer"
    applicationVersion = "5.12.4"
    majorVersion, minorVersion = 5, 12

    def __init__(self, core):
        super().__init__(["Slicer"])
        self._pq_core, self._pq_folder = core, tempfile.TemporaryDirectory(prefix="slicer-app")
        qt.QSettings.setDefaultFormat(qt.QSettings.IniFormat)
        for scope in (qt.QSettings.UserScope, qt.QSettings.SystemScope):  # never the user's own settings
            qt.QSettings.setPath(qt.QSettings.IniFormat, scope, self._pq_folder.name)
        QtCore.QCoreApplication.setOrganizationName("NA-MIC")
        QtCore.QCoreApplication.setApplicationName("Slicer")
        self._pq_modules, self._pq_layout = ModuleManager(), LayoutManager(core)

    temporaryPath = property(lambda self: self._pq_folder.name)

    def coreIOManager(self):
        return self._pq_core.files

    ioManager = coreIOManager

    def applicationLogic(self):
        return self._pq_core.appLogic

    def mrmlScene(self):
        return self._pq_core.scene

    def moduleManager(self):
        return self._pq_modules

    def layoutManager(self):
        return self._pq_layout

    def testingEnabled(self):
        return True

    def settings(self):
        return qt.QSettings()

    userSettings = settings

    def startupEnvironment(self):
        return qt.QProcessEnvironment.systemEnvironment()

    def extensionsManagerModel(self):
        return None

    def pauseRender(self):
        pass

    def resumeRender(self):
        pass


class ModuleManager(QtCore.QObject):
    moduleAboutToBeUnloaded = Signal(str)
    moduleLoaded = Signal(str)

    def __init__(self):
        super().__init__()
        self._pq_loaded = {}

    def module(self, name):
        return self._pq_loaded.get(name)

    def modulesNames(self):
        return tuple(self._pq_loaded)

    def factoryManager(self):
        return types.SimpleNamespace(loadedModuleNames=self.modulesNames, isLoaded=self._pq_loaded.__contains__)

    def _pq_add(self, module):
        self._pq_loaded[module.name] = module
        setattr(slicer.modules, module.name.lower(), module)
        self.moduleLoaded.emit(module.name)


class LayoutManager(QtCore.QObject):
    """The four-up layout; setting another one is only remembered."""

    layoutChanged = Signal(int)

    def __init__(self, core):
        super().__init__()
        self._pq_core, self._pq_layout = core, slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView

    def sliceViewNames(self):
        return tuple(self._pq_core.slices)

    def sliceWidget(self, name):
        view = self._pq_core.slices.get(name)
        return ViewWidget(view) if view is not None else None

    def threeDWidget(self, index):
        return ViewWidget(self._pq_core.threeD) if index == 0 else None

    def mrmlSliceLogics(self):
        return self._pq_core.appLogic.GetSliceLogics()

    def setLayout(self, layout):
        self._pq_layout = int(layout)
        self.layoutChanged.emit(self._pq_layout)

    def resetSliceViews(self):
        for view in self._pq_core.slices.values():
            view.reset()

    def resetThreeDViews(self):
        self._pq_core.threeD.reset()

    threeDViewCount = Property(int, lambda self: 1)
    layout = Property(int, lambda self: self._pq_layout, setLayout)


class ViewWidget:
    """qMRMLSliceWidget and qMRMLThreeDWidget: what scripts ask of them and of the view inside."""

    def __init__(self, view):
        self._view = view

    def sliceLogic(self):
        return self._view.logic

    def mrmlSliceNode(self):
        return self._view.node

    mrmlViewNode = mrmlSliceNode

    def mrmlSliceCompositeNode(self):
        return self._view.composite

    def sliceView(self):
        return self

    threeDView = sliceController = threeDController = sliceView

    def renderWindow(self):
        return self._view.window

    def interactor(self):
        return self._view.interactor

    def forceRender(self):
        self._view.render()

    scheduleRender = forceRender

    def fitSliceToBackground(self):
        self._view.reset()

    resetFocalPoint = fitSliceToBackground

    def resetCamera(self, *_options):
        self._view.fit()


class CoreModule:
    """One of the application's own modules, such as slicer.modules.segmentations."""

    def __init__(self, name, logic):
        self.name = self.title = name
        self._logic = logic

    def logic(self):
        return self._logic


class SegmentEditorModule(CoreModule):
    """slicer.modules.segmenteditor with the editor widget inside its representation, made when first asked for."""

    def __init__(self):
        super().__init__("SegmentEditor", None)
        self._editor = None

    def widgetRepresentation(self):
        if self._editor is None:
            self._editor = slicer.qMRMLSegmentEditorWidget()
            self._editor.setMRMLScene(slicer.mrmlScene)
        if self._editor.mrmlSegmentEditorNode() is None:
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
            self._editor.setMRMLSegmentEditorNode(node)
        return self

    def self(self):
        return types.SimpleNamespace(editor=self._editor)


@wrapped
class qSlicerMainWindow(QtWidgets.QMainWindow):
    """The window as scripts use it: the selector by which modules are entered and left."""

    def __init__(self):
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self._pq_selected = ""

    def moduleSelector(self):
        return self

    selectedModule = Property(str, lambda self: self._pq_selected)

    def selectModule(self, name):
        left, entered = (slicer.app.moduleManager().module(each) for each in (self._pq_selected, name))
        if entered is None:
            raise RuntimeError(f"there is no module {name}")
        self._pq_selected = name
        for module, step in ((left, "exit"), (entered, "enter")):
            if type(module) is ScriptedModule:
                getattr(module.widgetRepresentation(), step)()


class ScriptedModule:
    """What a scripted module's class receives as `parent`."""

    def __init__(self, path):
        self.path, self.name, self.title = str(path), path.stem, path.stem
        self.categories, self.dependencies, self.contributors = [], [], []
        self.helpText = self.acknowledgementText = ""
        self.hidden, self.icon = False, None
        self._instance = self._representation = None

    def logic(self):
        return None

    def self(self):
        return self._instance

    def widgetRepresentation(self):
        if self._representation is None:
            self._representation = qSlicerScriptedLoadableModuleWidget(self.name)
            self._representation.reload()
        return self._representation


@wrapped
class qSlicerScriptedLoadableModuleWidget(SceneWidget, QtWidgets.QWidget):
    """The parent of a module's widget class: it has the scene and a vertical layout, and tells enter and exit."""

    mrmlSceneChanged = Signal(object)

    def __init__(self, name):
        super().__init__()
        self._pq_name, self._pq_entered = name, False
        QtWidgets.QVBoxLayout(self)
        self.setMRMLScene(slicer.mrmlScene)

    isEntered = Property(bool, lambda self: self._pq_entered)

    def self(self):
        return self._pq_self

    def reload(self):
        self._pq_self = getattr(sys.modules[self._pq_name], self._pq_name + "Widget")(self)
        setattr(slicer.modules, self._pq_name + "Widget", self._pq_self)
        self._pq_self.setup()

    def enter(self):
        self._pq_entered = True
        getattr(self._pq_self, "enter", lambda: None)()

    def exit(self):
        self._pq_entered = False
        getattr(self._pq_self, "exit", lambda: None)()


def loadScriptedModule(path):
    """Load a scripted module from its file as the application does at start-up; gives slicer.modules.<name>."""
    folder = os.path.dirname(path)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    source = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(source)
    module = ScriptedModule(path)
    module._instance = getattr(source, path.stem)(module)
    slicer.app.moduleManager()._pq_add(module)
    slicer.app.startupCompleted.emit()
    return module
