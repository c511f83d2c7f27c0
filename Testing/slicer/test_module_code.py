"""Reads the module code, the .ui files and the CMake lists: what would fail only in the application fails here."""

import ast
import json
import re
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
import slicer
from module_rules import breaches, importsAtFileScope

ROOT = Path(__file__).resolve().parents[2]
MODULES = [folder for folder in (ROOT / "SimCVDSegment", ROOT / "SimCVDTrain") if folder.is_dir()]
SOURCES = sorted(
    path
    for folder in MODULES
    for path in [*folder.glob("*.py"), *(folder / "SimCVDLib").rglob("*.py")]
    if "__pycache__" not in path.parts
)
UI_FILES = sorted(path for folder in MODULES for path in folder.glob("Resources/UI/*.ui"))
NO_CONTROLS = {"QWidget", "QLabel", "QFrame", "QGroupBox", "QTabWidget", "QSplitter", "QScrollArea"}
NO_CONTROLS |= {"qMRMLWidget", "ctkCollapsibleButton", "ctkCollapsibleGroupBox"}


def named(path):
    return str(path.relative_to(ROOT))


# ---------------------------------------------------------------- code


def test_there_is_code_to_read():
    assert {path.name for path in SOURCES} >= {"SimCVDSegment.py", "nodes.py"} and UI_FILES


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_module_code_keeps_the_rules(path):
    found = breaches(path.read_text(encoding="utf-8"), slicer)
    assert not found, "\n".join([named(path), *found])


WRONG = {
    "keyword in a Qt constructor": ("import qt\nqt.QLabel(text='a')", "keyword"),
    "keyword in a static Qt call": ("import qt\nqt.QTimer.singleShot(msec=0)", "keyword"),
    "keyword on an MRML widget": ("import slicer\nslicer.qMRMLNodeComboBox(parent=None)", "keyword"),
    "keyword on a widget of the .ui": ("self.ui.button.setText(text='a')", "keyword"),
    "keyword on a Qt object kept in self": (
        "import qt\nself.process = qt.QProcess()\nself.process.start('a', arguments=[])",
        "keyword",
    ),
    "isinstance with a Qt class": ("import qt\nisinstance(w, qt.QWidget)", "isinstance"),
    "isinstance with a tuple": ("import ctk\nisinstance(w, (str, ctk.ctkSliderWidget))", "isinstance"),
    "image from bytes": ("import qt\nqt.QImage(b'', 1, 1, 4)", "QImage"),
    "finished without signature": ("self.process.finished.connect(self.onEnd)", "finished"),
    "overload by index": ("combo.currentIndexChanged[str].connect(self.onText)", "signature"),
    "export without properties": ("import slicer\nslicer.util.exportNode(n, 'a.nrrd')", "properties"),
    "load with kept properties": ("import slicer\nslicer.util.loadVolume('a', properties=KEPT)", "properties"),
    "leaked name": ("import slicer\nslicer.getNode('a')", "getNode"),
    "imported leaked name": ("from slicer import loadVolume", "loadVolume"),
    "SimpleITK at file scope": ("import SimpleITK as sitk", "SimpleITK"),
    "scipy at file scope of a class": ("class A:\n    import scipy", "scipy"),
    "scipy in a try": ("try:\n    import scipy.ndimage\nexcept ImportError:\n    pass", "scipy"),
    "torch in a function": ("def f():\n    import torch.nn", "torch"),
    "torch by from": ("def f():\n    from torch import nn", "torch"),
    "slot with a default": (
        "class A:\n    def f(self):\n        b.connect('clicked(bool)', self.onRun)\n"
        "    def onRun(self, quiet=False):\n        pass",
        "optional",
    ),
    "lambda with a default": ("b.clicked.connect(lambda node=node: f(node))", "optional"),
    "f-string": ("_(f'{a} mm')", "literal"),
    "concatenation": ("_('a' + b)", "literal"),
    "variable": ("_(text)", "literal"),
    "translate with a variable": ("translate('Context', text)", "literal"),
    "numbered placeholder": ("_('{0} of {1}').format(a, b)", "names"),
    "property with brackets": ("self.ui.box.checked()", "brackets"),
    "value in self.ui": ("self.ui.history = []", "self.ui"),
    "timer that dies": ("import qt\ndef f():\n    timer = qt.QTimer()\n    timer.start(5)", "dies"),
    "storage node by hand": ("storage = node.CreateDefaultStorageNode()", "storage"),
    "gone in Qt 6": ("self.ui.box.stateChanged.connect(self.f)", "Qt 6"),
}

RIGHT = """
import qt, slicer
from pathlib import Path
import numpy as np
from simcvd.errors import SimCVDError
from slicer.i18n import tr as _, translate

class Panel:
    def setup(self):
        self.timer = qt.QTimer(self.parent)
        watch = qt.QTimer()
        self.watch = watch
        self.ui = slicer.util.childWidgetVariables(widget)
        self.ui.button.connect("clicked(bool)", self.onRun)
        self.ui.button.clicked.connect(lambda *args, node=node: self.onNode(node))
        self.ui.slider.value = float(3)
        self.process.connect("finished(int,QProcess::ExitStatus)", self.onEnd)
        slicer.util.exportNode(node, "a.nrrd", properties={"useCompression": 0})
        isinstance(text, str) or text.format(a=1)
        qt.QImage(4, 4, 3)
        self.job(image="a", quiet=True)

    def onRun(self, _checked=False, *, quiet=False):
        from scipy import ndimage
        self.ui.label.text = _("{n} of {of}, {{as is}}").format(n=1, of=2)
        translate("qSlicerAbstractCoreModule", "Segmentation")
"""


@pytest.mark.parametrize(("source", "word"), WRONG.values(), ids=WRONG)
def test_wrong_code_is_found(source, word):
    found = breaches(source, slicer)
    assert len(found) == 1 and word in found[0] and found[0].startswith(f"line {found[0].split()[1]}")


def test_right_code_passes():
    assert breaches(RIGHT, slicer) == []


def coreImports(name, seen):
    """Modules outside the standard library that come along when simcvd.<name> is imported."""
    path = ROOT / "SimCVDSegment" / Path(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if name in seen or not path.is_file():
        return set()
    seen.add(name)
    imports = importsAtFileScope(ast.parse(path.read_text(encoding="utf-8")))
    every = ["simcvd", *(module for _line, module in imports if not module.startswith("."))]
    own = [module for module in every if module.split(".")[0] == "simcvd"]
    found = {module.split(".")[0] for module in every} - {"simcvd"} - set(sys.stdlib_module_names)
    return found.union(*(coreImports(module, seen) for module in own))


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_what_comes_from_the_core_brings_numpy_at_most(path):
    modules = [module for _line, module in importsAtFileScope(ast.parse(path.read_text(encoding="utf-8")))]
    for module in (each for each in modules if each.split(".")[0] == "simcvd"):
        assert coreImports(module, set()) <= {"numpy"}, f"{named(path)} imports {module}"


def test_heavy_imports_of_the_core_are_found():
    assert "torch" in coreImports("simcvd.network", set())


# ---------------------------------------------------------------- .ui files


def uiBreaches(text, name):
    """Sentences on what is wrong in a .ui file of a module."""
    tree = ElementTree.fromstring(text)
    widgets = [(each.get("class"), each.get("name"), each) for each in tree.iter("widget")]
    found, top = [], widgets[0]
    if top[:2] != ("qMRMLWidget", name):
        found.append(f"the top widget must be a qMRMLWidget named {name}")
    names = Counter(each.get("name") for each in [*tree.iter("widget"), *tree.iter("layout"), *tree.iter("action")])
    found += [f"the name {one} is there twice" for one, count in names.items() if one and count > 1]
    found += [f"{one} is no name for Python" for _cls, one, _ in widgets if not str(one).isidentifier()]
    declared = {each.findtext("class"): each for each in tree.iter("customwidget")}
    for cls, one, element in widgets:
        custom = re.match("ctk|qMRML|qSlicer", cls) is not None
        if custom and (cls not in declared or not declared[cls].findtext("header")):
            found.append(f"{cls} must be declared with its header under customwidgets")
        if cls in ("qMRMLWidget", "ctkCollapsibleButton") and custom and cls in declared:
            found += [] if declared[cls].findtext("container") == "1" else [f"{cls} must be declared as a container"]
        if cls not in NO_CONTROLS and not propertyText(element, "toolTip"):
            found.append(f"{one} needs a tool tip")
        if any(prop.get("name") == "styleSheet" for prop in element.findall("property")):
            found.append(f"{one} must have no style sheet")
        if custom and element is not top[2] and hasattr(getattr(slicer, cls, None), "setMRMLScene"):
            found += [] if isConnected(tree, name, one) else [f"{one} must be connected to the scene"]
    for one in tree.iter("stringlist"):
        if one.get("notr") != "true" and any("vtkMRML" in (each.text or "") for each in one):
            found.append("node types must not be translated")
    return found


def propertyText(element, name):
    prop = next((each for each in element.findall("property") if each.get("name") == name), None)
    return "" if prop is None else (prop.findtext("string") or "").strip()


def isConnected(tree, top, receiver):
    wanted = (top, "mrmlSceneChanged(vtkMRMLScene*)", receiver, "setMRMLScene(vtkMRMLScene*)")
    parts = ("sender", "signal", "receiver", "slot")
    return any(tuple(map(link.findtext, parts)) == wanted for link in tree.iter("connection"))


@pytest.mark.parametrize("path", UI_FILES, ids=named)
def test_ui_files_keep_the_rules(path):
    assert uiBreaches(path.read_text(encoding="utf-8"), path.stem) == []


UI = """<ui version="4.0"><class>Tiny</class><widget class="qMRMLWidget" name="Tiny">
 <widget class="qMRMLNodeComboBox" name="selector"><property name="toolTip"><string>Choose.</string></property>
  <property name="nodeTypes"><stringlist notr="true"><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
 </widget><widget class="QPushButton" name="button"><property name="toolTip"><string>Go.</string></property></widget>
</widget><customwidgets>
 <customwidget><class>qMRMLWidget</class><header>qMRMLWidget.h</header><container>1</container></customwidget>
 <customwidget><class>qMRMLNodeComboBox</class><header>qMRMLNodeComboBox.h</header></customwidget>
</customwidgets><connections><connection><sender>Tiny</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
 <receiver>selector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("Go.", "", "tool tip"),
        ("<receiver>selector", "<receiver>other", "connected"),
        ('name="button"', 'name="selector"', "twice"),
        ('name="button"', 'name="my button"', "no name"),
        ("<class>qMRMLNodeComboBox</class>", "<class>Other</class>", "declared"),
        ("<container>1</container>", "", "container"),
        (' notr="true"', "", "translated"),
        ('class="qMRMLWidget" name="Tiny"', 'class="QWidget" name="Tiny"', "top widget"),
        (
            '<property name="toolTip"><string>Go',
            '<property name="styleSheet"/><property name="toolTip"><string>G',
            "style",
        ),
    ],
)
def test_wrong_ui_files_are_found(old, new, word):
    assert uiBreaches(UI, "Tiny") == []
    found = uiBreaches(UI.replace(old, new), "Tiny")
    assert len(found) == 1 and word in found[0]


# ---------------------------------------------------------------- CMake


def cmakeLists(text):
    """{variable: [entries]} of the set(...) calls in a CMakeLists.txt, with ${MODULE_NAME} filled in."""
    text = re.sub(r"#.*", "", text)
    lists = {name: body.split() for name, body in re.findall(r"set\((\w+)\s+([^)]*)\)", text)}
    module = (lists.get("MODULE_NAME") or [""])[0]
    return {name: [entry.replace("${MODULE_NAME}", module) for entry in body] for name, body in lists.items()}


def tree(folder, keep):
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in files if keep(path)}


@pytest.mark.parametrize("folder", MODULES, ids=lambda folder: folder.name)
def test_cmake_lists_what_is_in_the_tree(folder):
    lists = cmakeLists((folder / "CMakeLists.txt").read_text(encoding="utf-8"))
    scripts, resources = lists["MODULE_PYTHON_SCRIPTS"], lists["MODULE_PYTHON_RESOURCES"]
    assert lists["MODULE_NAME"] == [folder.name]
    assert set(scripts) == tree(folder, lambda path: path.suffix == ".py") and len(set(scripts)) == len(scripts)
    inResources = {"Resources/" + name for name in tree(folder / "Resources", lambda path: True)}
    outside = tree(folder, lambda path: path.suffix not in (".py", ".txt")) - inResources
    assert set(resources) == inResources | outside and len(set(resources)) == len(resources)


def test_the_extension_builds_every_module():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.findall(r"^add_subdirectory\((\w+)\)", text, re.MULTILINE) == [folder.name for folder in MODULES]


def test_the_extensions_index_is_told_what_it_asks_for():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    told = dict(re.findall(r'^set\(EXTENSION_(\w+) "([^"]*)"\)$', text, re.MULTILINE))
    entry = json.loads((ROOT / "SimCVD.json").read_text(encoding="utf-8"))
    assert f"project({next(ROOT.glob('*.json')).stem})" in text
    assert entry["category"] == "Segmentation" and entry["build_dependencies"] == told["DEPENDS"].split() == ["PyTorch"]
    assert entry["scm_url"].startswith("https://") and entry["build_subdirectory"] == "."
    first = told["DESCRIPTION"].split(". ")[0]
    assert "Outlines structures in 3D medical images" in first and "http" not in told["DESCRIPTION"]
    assert told["HOMEPAGE"] and told["CONTRIBUTORS"]
    assert not [name for name, value in told.items() if ";" in value]  # CMake ends a value there
    raw = "https://raw.githubusercontent.com/SimCVD/SlicerSimCVD/main/"
    for url in [told["ICONURL"], *told["SCREENSHOTURLS"].split()]:
        assert url.startswith(raw) and (ROOT / url.removeprefix(raw)).is_file(), url
    assert (ROOT / "LICENSE").is_file()
    for folder in MODULES:
        assert (folder / "Resources" / "Icons" / f"{folder.name}.png").is_file()


def test_cmake_lists_are_read():
    text = "set(MODULE_NAME A) # a\nset(MODULE_PYTHON_SCRIPTS\n  ${MODULE_NAME}.py # main\n  Lib/b.py\n)"
    assert cmakeLists(text)["MODULE_PYTHON_SCRIPTS"] == ["A.py", "Lib/b.py"]
