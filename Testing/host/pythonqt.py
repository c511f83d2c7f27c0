"""Gives PySide6 the manners of PythonQt, in place, and offers it as the flat module `qt`.

Patched here, each as measured in PythonQt 4.1:
  * Qt properties are attributes (w.text, w.enabled = True); their getters are not callable;
  * obj.connect('clicked(bool)', f) and disconnect by signature, with the arguments cut to what f takes;
  * className(), name (objectName), delete(), dynamic properties and named children as attributes;
  * findChild and findChildren take class names; file dialogs give plain paths; exec_() everywhere;
  * a wrapped C++ object takes no unknown attributes, and isinstance(button, qt.QWidget) is False.
"""

import inspect
import re
import sys
import types

import shiboken6
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from .complaints import complain

MODULES = (QtCore, QtGui, QtWidgets, QtUiTools)
INTEGERS = ("int", "uint", "short", "ushort", "qlonglong", "qulonglong", "long", "ulong")
CONVERTERS = dict.fromkeys(INTEGERS, int) | {"double": float, "float": float}


def install():
    """Patch PySide6 and make the modules qt and PythonQt importable; to be called once."""
    _patchProperties()
    _patchObjects()
    _patchSignals()
    _patchConveniences()
    qt = types.ModuleType("qt", __doc__)
    for module in MODULES:
        vars(qt).update({name: getattr(module, name) for name in dir(module) if not name.startswith("_")})
    for name in ("qt", "PythonQt", "PythonQt.QtCore", "PythonQt.QtGui"):
        sys.modules[name] = qt


# ---------------------------------------------------------------- properties


def _patchProperties():
    methods = {("QTimer", "singleShot"), ("QTimer", "remainingTime")}  # in PythonQt too
    for cls in _objectClasses():
        meta = cls.staticMetaObject
        for i in range(meta.propertyOffset(), meta.propertyCount()):
            declared = meta.property(i)
            if (cls.__name__, declared.name()) not in methods:
                setattr(cls, declared.name(), _pythonProperty(cls, declared))


def _objectClasses():
    every = [getattr(module, name) for module in MODULES for name in dir(module)]
    found = {each for each in every if isinstance(each, type) and issubclass(each, QtCore.QObject)}
    return sorted(found, key=lambda cls: len(cls.__mro__))


def _pythonProperty(cls, declared):
    name = declared.name()
    getter = inspect.getattr_static(cls, name, None)
    if not isinstance(getter, (types.MethodDescriptorType, types.BuiltinFunctionType)):
        getter = None
    setter = None if declared.isEnumType() else getattr(cls, "set" + name[:1].upper() + name[1:], None)

    def get(self):
        return getter(self) if getter is not None else QtCore.QObject.property(self, name)

    def put(self, value):
        value = _converted(declared, value)
        if setter is not None:
            try:
                return setter(self, value)
            except (TypeError, NotImplementedError):
                pass  # an overload of another type: the property takes it
        if not QtCore.QObject.setProperty(self, name, value):
            raise AttributeError(f"{name} refuses {value!r}")

    return property(get, put if declared.isWritable() else None)


def _converted(declared, value):
    """The value as PythonQt converts it for a property; AttributeError where it does not fit, as there."""
    kind = declared.typeName()
    if kind == "bool":
        return bool(value)
    if kind == "QString":
        return value if isinstance(value, str) else str(value)
    if kind not in CONVERTERS or declared.isEnumType():
        return value
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return CONVERTERS[kind](value)
    except (TypeError, ValueError):
        raise AttributeError(f"{declared.name()} is a {kind}: {value!r} does not fit") from None


# ---------------------------------------------------------------- objects: attributes, children, classes


def _patchObjects():
    cls = QtCore.QObject
    cls.className = lambda self: self.metaObject().className()
    cls.delete = lambda self: shiboken6.delete(self)
    cls.__bool__ = lambda self: shiboken6.isValid(self)
    cls.name = vars(cls)["objectName"]
    cls.findChildren, cls.findChild = _findChildren, _findChild
    cls.__getattr__ = _dynamicAttribute
    for each in _objectClasses():
        each.__setattr__ = _guardedSetattr
    type(cls).__instancecheck__ = _instancecheck


def _isWrapped(cls):
    """Whether a class stands for a C++ class: PySide6's own, and our CTK and MRML widgets."""
    return cls.__module__.startswith("PySide6.") or "_pq_wrapped" in vars(cls)


def _instancecheck(cls, instance):
    if not _isWrapped(cls) or cls.__name__ == "QObject":
        return type.__instancecheck__(cls, instance)
    return next((c for c in type(instance).__mro__ if _isWrapped(c)), None) is cls


def _dynamicAttribute(self, name):
    if not name.startswith("__"):
        value = QtCore.QObject.property(self, name)
        if value is not None:
            return value
        for child in self.children():
            if child.objectName == name:
                return child
    raise AttributeError(f"no attribute '{name}' on {self.metaObject().className()}")


_setattr = shiboken6.Object.__setattr__


def _guardedSetattr(self, name, value):
    known = inspect.getattr_static(type(self), name, None)
    if isinstance(known, QtCore.Property):
        known.fset(self, value)
    elif isinstance(value, QtCore.SignalInstance) or name.startswith(("_pq", "__")):  # PySide6's caches and ours
        _setattr(self, name, value)
    elif known is None and _isWrapped(type(self)):
        _setDynamic(self, name, value)
    elif known is not None and not hasattr(type(known), "__set__") and type(self).__module__.startswith("PySide6."):
        raise AttributeError(f"'{name}' of {type(self).__name__} can not be replaced")
    else:
        _setattr(self, name, value)


def _setDynamic(self, name, value):
    if getattr(value, "objectName", None) == name:
        return  # QUiLoader hangs the named children on the root; _dynamicAttribute finds them anyway
    if name.encode() not in [bytes(known) for known in self.dynamicPropertyNames()]:
        raise AttributeError(f"'{name}' is unknown to {type(self).__name__}, and C++ objects take no new attributes")
    QtCore.QObject.setProperty(self, name, value)


def allChildren(parent):
    """All descendants of an object, parents first."""
    return [each for child in parent.children() for each in (child, *allChildren(child))]


def _findChildren(self, cls=None, name=None):
    found = allChildren(self)
    if isinstance(cls, str):
        found = [child for child in found if child.inherits(cls)]
    elif cls is not None:
        found = [child for child in found if issubclass(type(child), cls)]
    return tuple(child for child in found if name is None or child.objectName == name)


def _findChild(self, cls=None, name=None):
    return next(iter(_findChildren(self, cls, name)), None)


# ---------------------------------------------------------------- signals


def _patchSignals():
    cls = QtCore.QObject
    cls.connect, cls.disconnect = _connect, _disconnect
    for each in _objectClasses():
        if "__getattribute__" in vars(each):
            each.__getattribute__ = _getattribute(each.__getattribute__)


def _getattribute(plain):
    own = {"connect": _connect, "disconnect": _disconnect}  # generated code answers these before it asks the class

    def getattribute(self, name):
        if name in own:
            return types.MethodType(own[name], self)
        value = plain(self, name)
        return BoundSignal(self, value) if type(value) is QtCore.SignalInstance else value

    return getattribute


class BoundSignal:
    """sender.signal as in PythonQt: connect() gives True and keeps the receiver alive, clicked brings its bool."""

    def __init__(self, sender, plain):
        self.sender, self.plain, self.emit = sender, plain, plain.emit

    def __getitem__(self, arguments):
        return BoundSignal(self.sender, self.plain[arguments])

    def connect(self, receiver):
        if type(receiver) is BoundSignal:
            return bool(self.plain.connect(receiver.plain))
        signature = re.search(r"SignalInstance (\w+\([^)]*\))", repr(self.plain)).group(1).replace(" ", "")
        plain = self.plain
        if signature in ("clicked()", "triggered()") and _takes(receiver) != 0:
            signature, plain = signature.replace("()", "(bool)"), plain["bool"]
        return _make(self.sender, signature, receiver, plain, _relay(receiver, _argumentCount(signature)))

    def disconnect(self, receiver=None):
        name = re.search(r"SignalInstance (\w+)\(", repr(self.plain)).group(1)
        return _unmake(self.sender, lambda made: made.partition("(")[0] == name, receiver)


def connectWeakly(signal, method):
    """Connect inside our own widgets, such that the connection does not keep them alive."""
    signal.plain.connect(method)


def _make(sender, signature, receiver, plain, relay):
    plain.connect(relay)
    vars(sender).setdefault("_pq_connections", []).append((signature, receiver, plain, relay))
    return True


def _unmake(sender, isMeant, receiver):
    every = vars(sender).get("_pq_connections", [])
    found = [made for made in every if isMeant(made[0]) and (receiver is None or made[1] == receiver)]
    for made in found:
        made[2].disconnect(made[3])
        every.remove(made)
    return bool(found)


def _connect(self, signature, receiver, slot=None):
    if not isinstance(signature, str):  # PySide6's static form connect(sender, signal, f), used by QTimer.singleShot
        self, signature, receiver, slot = signature, receiver, slot, None
    receiver, signature = _slot(receiver, slot), _normalized(signature)
    plain = _signalOf(self, signature)
    if plain is None:
        complain(f"{self.metaObject().className()} has no signal '{signature}'")
        return False
    relay = _relay(receiver, _argumentCount(signature))
    if signature.endswith("(bool)") and self.metaObject().indexOfSignal(signature) < 0:
        # such as currentNodeChanged(bool), which stands beside (vtkMRMLNode*)
        relay = _relay(lambda node, inner=relay: inner(node is not None) if _takes(inner) else inner(), 1)
    return _make(self, signature, receiver, plain, relay)


def _disconnect(self, signature, receiver=None, slot=None):
    signature = _normalized(signature)
    return _unmake(self, lambda made: made == signature, _slot(receiver, slot))


def _slot(receiver, name):
    if name is None or callable(name):
        return name or receiver
    return getattr(receiver, name.lstrip("1").split("(")[0])


def _normalized(signature):
    return bytes(QtCore.QMetaObject.normalizedSignature(signature.lstrip("2"))).decode()


def _argumentCount(signature):
    return 0 if signature.endswith("()") else signature.count(",") + 1


def _signalOf(sender, signature):
    """PySide6's signal of a normalized signature, or None."""
    name, meta = signature.partition("(")[0], sender.metaObject()
    signal = getattr(sender, name, None)
    if type(signal) is not BoundSignal:
        return None
    signal = signal.plain
    if meta.indexOfSignal(signature) >= 0:
        arguments = signature.partition("(")[2].rstrip(")")
        return signal[arguments] if _argumentCount(signature) == 1 else signal
    return signal if _isPythonSignal(meta, name, _argumentCount(signature)) else None


def _isPythonSignal(meta, name, count):
    """Whether a signal is declared in Python with `object` where the C++ class has, say, vtkMRMLNode*."""
    methods = (meta.method(i) for i in range(meta.methodCount()))
    for method in (
        m for m in methods if m.methodType() == QtCore.QMetaMethod.Signal and bytes(m.name()).decode() == name
    ):
        objects = any(b"PyObject" in bytes(kind) for kind in method.parameterTypes())
        if method.parameterCount() >= count and (objects or count == 0):
            return True
    return False


def _takes(receiver):
    """Number of positional arguments that a callable takes, defaults included, or None for any number."""
    try:
        parameters = inspect.signature(receiver).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _relay(receiver, count):
    """A plain function of exactly as many arguments as arrive at the receiver: by these Qt picks the overload."""
    takes = _takes(receiver)
    names = ", ".join(f"a{i}" for i in range(count if takes is None else min(count, takes)))
    return eval(f"lambda {names}: receiver({names})", {"receiver": receiver})


# ---------------------------------------------------------------- the rest


def _patchConveniences():
    for cls in (QtWidgets.QDialog, QtWidgets.QMenu, QtWidgets.QApplication, QtCore.QEventLoop):
        cls.exec_ = cls.exec
    value = QtCore.QSettings.value
    QtCore.QSettings.value = lambda self, *args: _tuple(value(self, *args))
    for name in ("getOpenFileName", "getSaveFileName", "getOpenFileNames"):
        setattr(QtWidgets.QFileDialog, name, staticmethod(_plainPaths(getattr(QtWidgets.QFileDialog, name))))


def _plainPaths(ask):
    return lambda *args: _tuple(ask(*args)[0])


def _tuple(value):
    return tuple(value) if isinstance(value, list) else value
