"""slicer.parameterNodeWrapper: typed attributes kept in a vtkMRMLScriptedModuleNode and tied to widgets.

Knows numbers, str, bool, Enum, paths, MRML nodes, lists, tuples, dicts and Optional of these, with their annotations;
parameter packs, ranges and own serializers are left out.
"""

import enum
import json
import pathlib
import types
import typing
import weakref
from dataclasses import dataclass

import ctk
import qt
import slicer
import vtk

SlicerParameterNamePropertyName = "SlicerParameterName"
RESERVED = {"default", "isCached", "dataType", "allParameters", "parameterNode"}

# ---------------------------------------------------------------- annotations


class Default:
    def __init__(self, value=None, *, generator=None):
        self._value, self._generator = value, generator

    @property
    def value(self):
        return self._generator() if self._generator else self._value


class Validator:
    """Base of the annotations that refuse values; holds() says whether a value is fine."""

    def holds(self, value):
        raise NotImplementedError

    def validate(self, value):
        if not self.holds(value):
            raise ValueError(f"{value!r} does not fit {self}")


@dataclass
class WithinRange(Validator):
    minimum: float
    maximum: float

    def holds(self, value):
        return self.minimum <= value <= self.maximum


@dataclass
class Minimum(Validator):
    minimum: float

    def holds(self, value):
        return value >= self.minimum


@dataclass
class Maximum(Validator):
    maximum: float

    def holds(self, value):
        return value <= self.maximum


@dataclass
class Choice(Validator):
    choices: list

    def holds(self, value):
        return value in self.choices


@dataclass
class Decimals:
    value: int


@dataclass
class SingleStep:
    value: float


def splitAnnotations(annotated):
    """The bare type and the list of its annotations."""
    bare, *notes = typing.get_args(typing.Annotated[annotated, None])
    return bare, notes[:-1]


# ---------------------------------------------------------------- values as JSON


class Codec:
    """One (annotated) type: its default, what it accepts, and its values as JSON and back."""

    def __init__(self, annotated):
        self.type, self.notes = splitAnnotations(annotated)
        self.validators = [note for note in self.notes if isinstance(note, Validator)]
        self.optional, self.isContainer = isNodeType(self.type), False
        self.encode, self.decode = (lambda value: value), (lambda value: value)
        self.initial, self.accepts = self.type, self.type
        kind, arguments = typing.get_origin(self.type) or self.type, typing.get_args(self.type)
        if kind is float:
            self.accepts = (int, float)
        elif isNodeType(kind):
            self.initial = lambda: None
            self.encode = lambda node: node.GetID() if node is not None else ""
            self.decode = lambda nodeId: slicer.mrmlScene.GetNodeByID(nodeId) if nodeId else None
        elif isinstance(kind, type) and issubclass(kind, enum.Enum):
            self.initial = lambda: next(iter(kind))
            self.encode, self.decode = (lambda value: value.name), (lambda name: kind[name])
        elif isinstance(kind, type) and issubclass(kind, pathlib.PurePath):
            self.encode, self.decode = str, kind
        elif kind in (list, tuple, dict):
            self._useContainer(kind, [Codec(argument) for argument in arguments])
        elif kind in (typing.Union, types.UnionType):
            self._useOptional(arguments)
        elif kind not in (int, str, bool):
            raise TypeError(f"there is no way to keep a parameter of type {self.type}")

    def _useContainer(self, kind, parts):
        self.isContainer = True
        self.initial, self.accepts = kind, (list, tuple) if kind is not dict else dict
        if kind is list:
            self.encode = lambda values: [parts[0].encode(value) for value in values]
            self.decode = lambda values: [parts[0].decode(value) for value in values]
        elif kind is tuple:
            self.initial = lambda: tuple(part.default() for part in parts)
            self.encode = lambda values: [part.encode(value) for part, value in zip(parts, values, strict=True)]
            self.decode = lambda values: tuple(part.decode(value) for part, value in zip(parts, values, strict=True))
        else:
            keys, values = parts
            self.encode = lambda pairs: [[keys.encode(k), values.encode(v)] for k, v in pairs.items()]
            self.decode = lambda pairs: {keys.decode(k): values.decode(v) for k, v in pairs}

    def _useOptional(self, arguments):
        inner = [argument for argument in arguments if argument is not type(None)]
        if len(inner) != 1 or len(arguments) != 2:
            raise TypeError(f"the test host keeps no union but Optional, not {self.type}")
        inner = Codec(inner[0])
        self.optional, self.initial, self.accepts = True, (lambda: None), inner.accepts
        self.validators = self.validators + inner.validators
        self.encode = lambda value: None if value is None else inner.encode(value)
        self.decode = lambda value: None if value is None else inner.decode(value)

    def note(self, kind):
        return next((note for note in self.notes if isinstance(note, kind)), None)

    def default(self):
        given = self.note(Default)
        return given.value if given is not None else self.initial()

    def validate(self, value):
        if value is None:
            if not self.optional:
                raise ValueError("the value must not be None")
            return
        if not isinstance(value, self.accepts):
            raise TypeError(f"{value!r} is not of type {self.type}")
        for validator in self.validators:
            validator.validate(value)


def isNodeType(kind):
    return isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)


class Parameter:
    """One attribute of a wrapper: where its value is in the parameter node."""

    def __init__(self, name, annotated, given=None):
        self.name, self.annotated, self.codec = name, annotated, Codec(annotated)
        self.default = given or Default(generator=self.codec.default)

    def isIn(self, node):
        return bool(node.HasParameter(self.name) or node.GetNodeReferenceID(self.name))

    def write(self, node, value):
        self.codec.validate(value)
        with slicer.util.NodeModify(node):
            if isNodeType(self.codec.type):  # a reference follows its node through saving and loading
                node.SetNodeReferenceID(self.name, self.codec.encode(value) or None)
            else:
                node.SetParameter(self.name, json.dumps(self.codec.encode(value)))

    def read(self, node):
        if isNodeType(self.codec.type):
            return node.GetNodeReference(self.name)
        value = self.codec.decode(json.loads(node.GetParameter(self.name)))
        return _observed(value, lambda changed: self.write(node, changed))


def _observed(value, write):
    """Lists and dicts read from the node are copies that write themselves back when changed."""
    if type(value) not in WRITTEN_BACK:
        return value
    copy = WRITTEN_BACK[type(value)](value)
    copy.writeBack = write
    return copy


def _writingBack(base, methods):
    def following(name):
        def method(self, *args, **kwargs):
            result = getattr(base, name)(self, *args, **kwargs)
            self.writeBack(base(self))
            return result

        return method

    return type("Observed" + base.__name__, (base,), {name: following(name) for name in methods.split()})


WRITTEN_BACK = {
    list: _writingBack(list, "append extend insert remove pop clear sort reverse __setitem__ __delitem__ __iadd__"),
    dict: _writingBack(dict, "__setitem__ __delitem__ pop popitem clear update setdefault"),
}

# ---------------------------------------------------------------- the wrapper


def parameterNodeWrapper(cls):
    """Class decorator: each annotated attribute becomes a parameter."""
    parameters = {}
    for name, annotated in typing.get_type_hints(cls, include_extras=True).items():
        if name in RESERVED or name in vars(Wrapped):
            raise ValueError(f"'{name}' is a reserved name")
        parameters[name] = Parameter(name, annotated, Default(getattr(cls, name)) if hasattr(cls, name) else None)
        setattr(cls, name, _parameterProperty(name))
    for name, value in vars(Wrapped).items():
        if name not in ("__dict__", "__weakref__", "__doc__", "__module__"):
            setattr(cls, name, value)
    cls.allParameters = parameters
    return cls


def _parameterProperty(name):
    return property(lambda self: self.getValue(name), lambda self, value: self.setValue(name, value))


class Wrapped:
    """What every wrapper class gets.

    Plain values and nodes are kept as they were when the parameter node was last modified, as in the application: a
    node that has just left the scene may still be one.
    """

    def __init__(self, parameterNode):
        self.parameterNode = parameterNode
        self._links, self._nextTag, self._updating = {}, 0, False
        for parameter in self.allParameters.values():
            if not parameter.isIn(parameterNode):
                parameter.write(parameterNode, parameter.default.value)
        self._values = {}
        self._remember()
        alive = weakref.ref(self)
        self._observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: alive() and alive()._remember())

    def __del__(self):
        self.parameterNode.RemoveObserver(self._observer)

    def _remember(self):
        for name, parameter in self.allParameters.items():
            if not parameter.codec.isContainer:
                self._values[name] = parameter.read(self.parameterNode)

    def getValue(self, name):
        return self._values[name] if name in self._values else self.allParameters[name].read(self.parameterNode)

    def setValue(self, name, value):
        with slicer.util.NodeModify(self.parameterNode):  # whoever is told of it finds it
            self.allParameters[name].write(self.parameterNode, value)
            if name in self._values:
                self._values[name] = self.allParameters[name].read(self.parameterNode)

    def default(self, name):
        return self.allParameters[name].default

    @classmethod
    def dataType(cls, name):
        return cls.allParameters[name].annotated

    def AddObserver(self, event, callback, priority=0.0):
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag):
        self.parameterNode.RemoveObserver(tag)

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, wasModifying):
        self.parameterNode.EndModify(wasModifying)

    def Modified(self):
        self.parameterNode.Modified()

    def connectGui(self, gui):
        """Tie the widgets with a SlicerParameterName to their parameters; gives the tag for disconnectGui."""
        widgets = gui.findChildren(qt.QWidget) if hasattr(gui, "isWidgetType") else vars(gui).values()
        named = {widget.property(SlicerParameterNamePropertyName): widget for widget in widgets}
        return self.connectParametersToGui({name: widget for name, widget in named.items() if name})

    def connectParametersToGui(self, widgets):
        links = {name: Link(widget, self.allParameters[name].codec) for name, widget in widgets.items()}
        tag, self._nextTag = self._nextTag, self._nextTag + 1
        for name, link in links.items():
            link.write(self.getValue(name))
            link.connect(lambda name=name, link=link: None if self._updating else self.setValue(name, link.read()))
        alive = weakref.ref(self)
        observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: alive() and alive()._updateGui())
        self._links[tag] = (links, observer)
        return tag

    def disconnectGui(self, tag):
        links, observer = self._links.pop(tag, ({}, None))
        for link in links.values():
            link.disconnect()
        if observer is not None:
            self.RemoveObserver(observer)

    def _updateGui(self):
        if self._updating:
            return
        self._updating = True
        try:
            for links, _observer in self._links.values():
                for name, link in links.items():
                    link.write(self.getValue(name))
        finally:
            self._updating = False


# ---------------------------------------------------------------- widgets


class Link:
    """Ties one widget to one value; which widget goes with which type is asked by exact class, as in Slicer."""

    def __init__(self, widget, codec):
        self.widget, self.codec, self._connected = widget, codec, None
        kind, cls = codec.type, type(widget)
        self._read, self._write = self._reader("value"), self._writer("value")
        if kind is bool and cls in (qt.QCheckBox, ctk.ctkCheckBox, qt.QPushButton):
            self._useAttribute("toggled", "checked")
            widget.checkable = True
        elif codec.note(Choice) or (isinstance(kind, type) and issubclass(kind, enum.Enum)):
            self._useChoices(cls)
        elif cls in NUMBER_WIDGETS and (kind is int or (kind is float and cls not in INTEGER_WIDGETS)):
            self._useNumber(cls)
        elif kind is str and cls in TEXT_WIDGETS:
            self._useAttribute(*TEXT_WIDGETS[cls])
        elif isinstance(kind, type) and issubclass(kind, pathlib.PurePath) and cls in PATH_WIDGETS:
            self._useAttribute(*PATH_WIDGETS[cls])
        elif cls is slicer.qMRMLNodeComboBox and self._nodeType() is not None:
            self._useNodes()
        else:
            raise RuntimeError(f"{cls.__name__} can not be tied to a parameter of type {kind}")

    def _reader(self, attribute):
        return lambda: self.codec.type(getattr(self.widget, attribute))

    def _writer(self, attribute):
        def write(value):
            value = str(value) if isinstance(value, pathlib.PurePath) else value
            if getattr(self.widget, attribute) != value:
                setattr(self.widget, attribute, value)

        return write

    def _useAttribute(self, signal, attribute):
        self._signal, self._read, self._write = signal, self._reader(attribute), self._writer(attribute)

    def _useNumber(self, cls):
        self._signal, note = "valueChanged", self.codec.note
        bounds = note(WithinRange)
        low, high = bounds or note(Minimum), bounds or note(Maximum)
        if not (low and high) and cls not in (qt.QSpinBox, qt.QDoubleSpinBox, ctk.ctkDoubleSpinBox):
            raise RuntimeError(f"{cls.__name__} needs a type with bounds: annotate it with WithinRange")
        far = 2**31 - 1 if cls in INTEGER_WIDGETS else 1.7e308
        self.widget.setRange(low.minimum if low else -far, high.maximum if high else far)
        if note(Decimals) and cls not in INTEGER_WIDGETS:
            self.widget.decimals = note(Decimals).value
        if note(SingleStep):
            self.widget.singleStep = note(SingleStep).value

    def _useChoices(self, cls):
        if cls not in (qt.QComboBox, ctk.ctkComboBox):
            raise RuntimeError(f"a choice needs a combo box, not {cls.__name__}")
        choice, kind = self.codec.note(Choice), self.codec.type
        items = list(choice.choices if choice else kind)
        label = getattr(kind, "label", lambda item: item.name if isinstance(item, enum.Enum) else str(item))
        self.widget.blockSignals(True)
        self.widget.clear()
        self.widget.addItems([label(item) for item in items])
        self.widget.blockSignals(False)
        self._signal, self._read = "currentIndexChanged", lambda: items[self.widget.currentIndex]
        self._write = lambda value: setattr(self.widget, "currentIndex", items.index(value))

    def _nodeType(self):
        return next((each for each in (self.codec.type, *typing.get_args(self.codec.type)) if isNodeType(each)), None)

    def _useNodes(self):
        self.widget.nodeTypes = (self._nodeType().__name__,)
        self._signal, self._read, self._write = (
            "currentNodeChanged",
            self.widget.currentNode,
            self.widget.setCurrentNode,
        )

    def read(self):
        return self._read()

    def write(self, value):
        self._write(value)

    def connect(self, changed):
        self._connected = lambda *_: changed()
        if self._signal:
            getattr(self.widget, self._signal).connect(self._connected)

    def disconnect(self):
        if self._signal and self._connected:
            getattr(self.widget, self._signal).disconnect(self._connected)
        self._connected = None


INTEGER_WIDGETS = (qt.QSlider, qt.QSpinBox)
NUMBER_WIDGETS = (
    *INTEGER_WIDGETS,
    qt.QDoubleSpinBox,
    ctk.ctkDoubleSpinBox,
    ctk.ctkSliderWidget,
    slicer.qMRMLSliderWidget,
    slicer.qMRMLSpinBox,
)
TEXT_WIDGETS = {
    qt.QLineEdit: ("textChanged", "text"),
    qt.QTextEdit: ("textChanged", "plainText"),
    qt.QLabel: (None, "text"),
}
PATH_WIDGETS = {
    ctk.ctkPathLineEdit: ("currentPathChanged", "currentPath"),
    ctk.ctkDirectoryButton: ("directoryChanged", "directory"),
}
