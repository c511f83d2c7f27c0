"""The CTK widgets that the modules use, as real PySide6 widgets; module `ctk`."""

import sys
import types

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal

from . import uiloader
from .pythonqt import connectWeakly


def install():
    """Make the module ctk importable, and its widgets known in .ui files."""
    ctk = sys.modules["ctk"] = types.ModuleType("ctk", __doc__)
    for name, value in globals().items():
        if name.startswith("ctk"):
            setattr(ctk, name, value)
            uiloader.customWidgets[name] = value


def stored(kind, name, default, changed=None):
    """A Qt property that is only kept; changed(self) is called after a change."""
    key = "_pq_" + name

    def get(self):
        return vars(self).get(key, default)

    def put(self, value):
        value = value if isinstance(kind, str) else kind(value)
        if value != get(self):
            vars(self)[key] = value
            if changed is not None:
                changed(self)

    return Property(kind, get, put)


def wrapped(cls):
    """Mark a class as standing for a C++ class, and add the setter (setX) of each property declared in it."""
    cls._pq_wrapped = True
    for name, declared in list(vars(cls).items()):
        setter = "set" + name[0].upper() + name[1:]
        if isinstance(declared, Property) and declared.fset and not hasattr(cls, setter):
            setattr(cls, setter, lambda self, value, put=declared.fset: put(self, value))
    return cls


def rowOf(parent, *widgets):
    """Lay widgets side by side; the first one takes the room."""
    row = QtWidgets.QHBoxLayout(parent)
    row.setContentsMargins(0, 0, 0, 0)
    for i, each in enumerate(widgets):
        row.addWidget(each, int(i == 0))


def showValue(widget, value):
    """Set a widget's value without its telling."""
    widget.blockSignals(True)
    widget.setValue(value)
    widget.blockSignals(False)


def _parentOf(args):
    return next((each for each in args if not isinstance(each, (str, int, list, tuple))), None)


@wrapped
class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A header line with an arrow and a text above the children, which it hides when collapsed.

    A child that somebody shows meanwhile waits until the section is opened; one that was hidden while it was open stays
    so. Hiding what is hidden already goes unnoticed, as Qt sends no event: then the child is shown with the others.
    """

    contentsCollapsed = Signal(bool)

    def __init__(self, *args):
        super().__init__(_parentOf(args))
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QtWidgets.QSizePolicy.Minimum, QtWidgets.QSizePolicy.Preferred)
        self.setContentsMargins(0, self._pq_header() + 2, 0, 0)
        if args and isinstance(args[0], str):
            self.setText(args[0])
        self._pq_collapsed, self._pq_forcing = False, False
        connectWeakly(self.toggled, self._pq_toggled)

    def _pq_header(self):
        return self.fontMetrics().height() + 6

    def _pq_toggled(self, on):
        self._pq_collapse(not on)

    def _pq_collapse(self, value):
        if self._pq_collapsed == bool(value):
            return
        self._pq_collapsed = bool(value)
        self.setChecked(not value)
        self._pq_showChildren()
        self.updateGeometry()
        self.contentsCollapsed.emit(self._pq_collapsed)

    def _pq_showChildren(self):
        self._pq_forcing = True
        for child in self.children():
            if child.isWidgetType():
                child.setVisible(not self._pq_collapsed and child.property("visibilityToParent") is not False)
        self._pq_forcing = False

    def eventFilter(self, child, event):
        if not self._pq_forcing and event.type() in (QtCore.QEvent.ShowToParent, QtCore.QEvent.HideToParent):
            child.setProperty("visibilityToParent", event.type() == QtCore.QEvent.ShowToParent)
            if self._pq_collapsed:
                self._pq_showChildren()
        return False

    collapsed = Property(bool, lambda self: self._pq_collapsed, lambda self, value: self._pq_collapse(value))
    flat = stored(bool, "flat", False)
    contentsFrameShape = stored(int, "contentsFrameShape", 0)
    contentsLineWidth = stored(int, "contentsLineWidth", 1)
    collapsedHeight = stored(int, "collapsedHeight", 14)

    def childEvent(self, event):
        super().childEvent(event)
        if event.added() and event.child().isWidgetType():
            event.child().installEventFilter(self)
            if self._pq_collapsed:
                self._pq_showChildren()

    def showEvent(self, event):
        super().showEvent(event)
        if self._pq_collapsed:
            self._pq_showChildren()

    def _pq_size(self, method):
        width, height = self.fontMetrics().horizontalAdvance(self.text) + 30, self._pq_header() + 4
        if self.layout() is not None and not self._pq_collapsed:
            size = getattr(self.layout(), method)()
            width, height = max(width, size.width()), max(height, size.height())
        return QtCore.QSize(width, height)

    def sizeHint(self):
        return self._pq_size("totalSizeHint")

    def minimumSizeHint(self):
        return self._pq_size("totalMinimumSize")

    def paintEvent(self, event):
        painter, height = QtGui.QPainter(self), self._pq_header()
        header = QtCore.QRect(0, 0, self.width, height)
        painter.fillRect(header, self.palette.button())
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(4, (height - 10) // 2, 10, 10)
        style = QtWidgets.QStyle
        shape = style.PE_IndicatorArrowRight if self._pq_collapsed else style.PE_IndicatorArrowDown
        self.style().drawPrimitive(shape, arrow, painter, self)
        painter.setPen(self.palette.buttonText().color())
        painter.drawText(header.adjusted(20, 0, 0, 0), int(QtCore.Qt.AlignVCenter), self.text)
        painter.end()

    def hitButton(self, position):
        return position.y() <= self._pq_header()


@wrapped
class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):
    def __init__(self, *args):
        super().__init__(*args)
        self.setCheckable(True)
        self.setChecked(True)
        connectWeakly(self.toggled, self._pq_show)

    def _pq_show(self, on):
        for child in self.children():
            if child.isWidgetType():
                child.setVisible(on)

    collapsed = Property(bool, lambda self: not self.isChecked(), lambda self, value: self.setChecked(not value))


@wrapped
class ctkSliderWidget(QtWidgets.QWidget):
    """Slider and spin box side by side; the value keeps digits beyond `decimals`, which is for display."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._pq_slider, self._pq_spin = QtWidgets.QSlider(QtCore.Qt.Horizontal, self), QtWidgets.QDoubleSpinBox(self)
        rowOf(self, self._pq_slider, self._pq_spin)
        self._pq_slider.setRange(0, 1000)
        self._pq_value, self._pq_low, self._pq_high, self._pq_step = 0.0, 0.0, 99.99, 1.0
        self.setRange(self._pq_low, self._pq_high)
        connectWeakly(self._pq_spin.valueChanged, self._pq_set)
        connectWeakly(self._pq_slider.sliderMoved, self._pq_moved)

    def _pq_moved(self, position):
        value = self._pq_low + position / 1000 * (self._pq_high - self._pq_low)
        steps = round((value - self._pq_low) / self._pq_step) if self._pq_step else 0
        self._pq_set(self._pq_low + steps * self._pq_step if self._pq_step else value)

    def _pq_set(self, value):
        value, before = min(max(float(value), self._pq_low), self._pq_high), self._pq_value
        self._pq_value = value
        span = self._pq_high - self._pq_low
        showValue(self._pq_spin, value)
        showValue(self._pq_slider, round((value - self._pq_low) / span * 1000) if 0 < span < 1e300 else 500)
        if value != before:
            self.valueChanged.emit(value)

    def _pq_setStep(self, value):
        self._pq_step = float(value)
        self._pq_spin.setSingleStep(self._pq_step)

    def setRange(self, low, high):
        self._pq_low, self._pq_high = float(low), float(high)
        self._pq_spin.blockSignals(True)
        self._pq_spin.setRange(self._pq_low, self._pq_high)
        self._pq_spin.blockSignals(False)
        self._pq_set(self._pq_value)

    def reset(self):
        self._pq_set(self._pq_low)

    value = Property(float, lambda self: self._pq_value, lambda self, v: self._pq_set(v))
    minimum = Property(float, lambda self: self._pq_low, lambda self, v: self.setRange(v, max(v, self._pq_high)))
    maximum = Property(float, lambda self: self._pq_high, lambda self, v: self.setRange(min(v, self._pq_low), v))
    singleStep = Property(float, lambda self: self._pq_step, lambda self, v: self._pq_setStep(v))
    decimals = Property(int, lambda self: self._pq_spin.decimals, lambda self, v: self._pq_spin.setDecimals(int(v)))
    prefix = Property(str, lambda self: self._pq_spin.prefix, lambda self, v: self._pq_spin.setPrefix(v))
    suffix = Property(str, lambda self: self._pq_spin.suffix, lambda self, v: self._pq_spin.setSuffix(v))
    tracking = stored(bool, "tracking", True)
    pageStep = stored(float, "pageStep", 10.0)
    tickInterval = stored(float, "tickInterval", 0.0)


@wrapped
class ctkDoubleSpinBox(QtWidgets.QDoubleSpinBox):
    pass


@wrapped
class ctkPathLineEdit(QtWidgets.QWidget):
    """Line edit with a history and a browse button; silent when set to the empty path, as the real one."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    Dirs, Files, Drives, NoSymLinks, Readable, Writable, Executable, Hidden, System = (
        2**i for i in (*range(6), 6, 8, 9)
    )
    NoDot, NoDotDot, NoDotAndDotDot = 0x2000, 0x4000, 0x6000

    def __init__(self, *args):
        super().__init__(_parentOf(args))
        self._pq_edit, browse = QtWidgets.QComboBox(self), QtWidgets.QToolButton(self)
        self._pq_edit.setEditable(True)
        self._pq_edit.setSizePolicy(QtWidgets.QSizePolicy.Expanding, QtWidgets.QSizePolicy.Fixed)
        browse.setText("...")
        rowOf(self, self._pq_edit, browse)
        self._pq_path = ""
        connectWeakly(self._pq_edit.editTextChanged, self._pq_set)
        connectWeakly(browse.clicked, self.browse)

    def _pq_set(self, path):
        if path == self._pq_path:
            return
        self._pq_path = path
        self._pq_edit.setEditText(path)
        if path:
            self.currentPathChanged.emit(path)

    currentPath = Property(str, lambda self: self._pq_path, lambda self, value: self._pq_set(str(value)))
    filters = stored(int, "filters", 24663)
    nameFilters = stored("QStringList", "nameFilters", ())
    label = stored(str, "label", "")
    settingKey = stored(str, "settingKey", "")
    showBrowseButton = stored(bool, "showBrowseButton", True)
    showHistoryButton = stored(bool, "showHistoryButton", True)

    def addCurrentPathToHistory(self):
        if self._pq_path and self._pq_edit.findText(self._pq_path) < 0:
            self._pq_edit.addItem(self._pq_path)

    def browse(self):
        dialog, files = QtWidgets.QFileDialog, self.filters & self.Files
        path = dialog.getOpenFileName(self) if files else dialog.getExistingDirectory(self)
        if path:
            self._pq_set(path)


@wrapped
class ctkDirectoryButton(QtWidgets.QPushButton):
    """Button with the path of a folder, which is always absolute."""

    directoryChanged = Signal(str)
    directorySelected = Signal(str)

    def __init__(self, *args):
        super().__init__(_parentOf(args))
        self._pq_path = QtCore.QDir.currentPath()
        self.setText(self._pq_path)
        connectWeakly(self.clicked, self.browse)

    def _pq_set(self, path):
        path = QtCore.QDir(str(path)).absolutePath()
        if path != self._pq_path:
            self._pq_path = path
            self.setText(path)
            self.directoryChanged.emit(path)

    def browse(self):
        path = QtWidgets.QFileDialog.getExistingDirectory(self)
        if path:
            self._pq_set(path)
            self.directorySelected.emit(self._pq_path)

    directory = Property(str, lambda self: self._pq_path, lambda self, value: self._pq_set(value))
    caption = stored(str, "caption", "")
    acceptMode = stored(int, "acceptMode", 0)


@wrapped
class ctkCheckBox(QtWidgets.QCheckBox):
    pass


@wrapped
class ctkComboBox(QtWidgets.QComboBox):
    defaultText = stored(str, "defaultText", "")


@wrapped
class ctkMenuButton(QtWidgets.QPushButton):
    pass


@wrapped
class ctkMessageBox(QtWidgets.QMessageBox):
    dontShowAgain = stored(bool, "dontShowAgain", False)
    dontShowAgainSettingsKey = stored(str, "dontShowAgainSettingsKey", "")
