"""qt.QUiLoader that knows the CTK and MRML widgets, and refuses in a .ui what the application would lose silently."""

import xml.etree.ElementTree as ElementTree

import qt
from PySide6 import QtCore, QtUiTools, QtWidgets

from .complaints import complain
from .pythonqt import allChildren

customWidgets = {}  # class name -> class


def install():
    qt.QUiLoader = UiLoader


class UiLoader(QtUiTools.QUiLoader):
    def __init__(self, parent=None):
        super().__init__(parent)
        for cls in customWidgets.values():
            self.registerCustomWidget(cls)

    def load(self, source, parent=None):
        """The widgets of an open QFile; what QUiLoader can't do with Python classes is done after loading."""
        tree = ElementTree.fromstring(bytes(source.readAll()))
        _checkClasses(tree)
        values, links = _takeEnumValues(tree), _takeSceneLinks(tree)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        buffer.open(QtCore.QIODevice.ReadOnly)
        root = super().load(buffer, parent)
        named = {each.objectName: each for each in (root, *allChildren(root))}
        for name, attribute, value in values:
            setattr(named[name], attribute, value)
        for sender, signal, receiver, slot in links:
            if not (sender in named and receiver in named and named[sender].connect(signal, named[receiver], slot)):
                complain(f"the .ui connection {sender}.{signal} -> {receiver}.{slot} can not be made")
        return root


def _checkClasses(tree):
    declared = {each.findtext("class") for each in tree.iter("customwidget")}
    for name in {each.get("class") for each in tree.iter("widget")}:
        if hasattr(QtWidgets, name):
            continue
        if name not in declared:
            raise RuntimeError(f"the .ui uses {name} but does not declare it under <customwidgets>")
        if name not in customWidgets:
            raise RuntimeError(f"no {name} comes out of a .ui: add it to Testing/host if the application has a plugin")


def _takeEnumValues(tree):
    """Enum and flag properties of custom classes, which mean nothing to QUiLoader: [(widget, property, value)]."""
    values = []
    for element in tree.iter("widget"):
        cls = customWidgets.get(element.get("class"))
        for prop in element.findall("property") if cls else ():
            text = prop.findtext("set") or prop.findtext("enum") or ""
            if text.startswith(cls.__name__ + "::"):
                flags = {int(getattr(cls, flag.split("::")[-1])) for flag in text.split("|")}
                values.append((element.get("name"), prop.get("name"), sum(flags)))
                element.remove(prop)
    return values


def _takeSceneLinks(tree):
    """Connections of VTK types, which PySide6 can't look up: [(sender, signal, receiver, slot)]."""
    links = []
    for connections in tree.findall("connections"):
        for link in list(connections):
            parts = [link.findtext(part) for part in ("sender", "signal", "receiver", "slot")]
            if "vtk" in parts[1] or "vtk" in parts[3]:
                links.append(parts)
                connections.remove(link)
    return links
