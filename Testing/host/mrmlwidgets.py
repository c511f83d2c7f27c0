"""The MRML widgets that the modules use (qMRML*), real PySide6 widgets on the real scene."""

import weakref

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal

from . import uiloader
from .ctkwidgets import ctkDoubleSpinBox, ctkMenuButton, ctkSliderWidget, rowOf, stored, wrapped
from .pythonqt import connectWeakly

# the application has no Designer plugin for these, so that a plain QWidget would come out of a .ui; see
# Libs/MRML/Widgets/DesignerPlugins/qMRMLWidgetsPlugin.h
WITHOUT_PLUGIN = ("qMRMLPlotView",)


def install():
    """Put the widgets into slicer, and make them known in .ui files."""
    for name, value in globals().items():
        if name.startswith(("qMRML", "qSlicer")):
            setattr(slicer, name, value)
            if name not in WITHOUT_PLUGIN:
                uiloader.customWidgets[name] = value


class SceneWidget:
    """Mix-in: the scene, and observers that do not keep the widget alive and end with it."""

    def mrmlScene(self):
        return vars(self).get("_pq_scene")

    def setMRMLScene(self, scene):
        if scene is self.mrmlScene():
            return
        self._pq_unobserve("scene")
        self._pq_scene = scene
        events = ("NodeAddedEvent", "NodeRemovedEvent", "EndCloseEvent", "EndImportEvent", "EndBatchProcessEvent")
        self._pq_observe("scene", scene, [getattr(slicer.vtkMRMLScene, e) for e in events], "_pq_sceneChanged")
        self._pq_refresh()
        if hasattr(self, "mrmlSceneChanged"):
            self.mrmlSceneChanged.emit(scene)

    def _pq_observe(self, key, subject, events, method):
        """Call a method at events of a subject, in place of what was observed under the same key."""
        self._pq_unobserve(key)
        if subject is None:
            return
        alive = weakref.ref(self)

        def call(_caller, _event):
            widget = alive()
            if widget:  # false too where the C++ widget has gone
                getattr(widget, method)()

        observed = vars(self).setdefault("_pq_observed", {})
        observed[key] = (subject, [subject.AddObserver(event, call) for event in events])

    def _pq_unobserve(self, key):
        subject, tags = vars(self).setdefault("_pq_observed", {}).pop(key, (None, []))
        for tag in tags:
            subject.RemoveObserver(tag)

    def _pq_sceneChanged(self):
        if not self.mrmlScene().IsBatchProcessing():
            self._pq_refresh()

    def _pq_refresh(self):
        pass


@wrapped
class qMRMLWidget(SceneWidget, QtWidgets.QWidget):
    mrmlSceneChanged = Signal(object)


@wrapped
class qMRMLSortFilterProxyModel(QtCore.QObject):
    """What a node combo box leaves out besides what its own properties say."""

    def _pq_changed(self):
        self.parent()._pq_refresh()

    hiddenNodeIDs = stored("QStringList", "hiddenNodeIDs", (), _pq_changed)


@wrapped
class qMRMLNodeComboBox(SceneWidget, QtWidgets.QWidget):
    """A combo box of the scene's nodes of given classes, with the entries for none, new and delete.

    When it chooses by itself was measured on the real widget: the first node (i) when it gets a scene and there is no
    entry for none, (ii) when nodeTypes is set after the scene, (iii) when the first node comes and there are neither
    none nor actions; and the neighbour of a node that leaves the scene, even with an entry for none.
    """

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeActivated = Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._pq_combo = QtWidgets.QComboBox(self)
        rowOf(self, self._pq_combo)
        self._pq_attributes, self._pq_current, self._pq_wanted, self._pq_empty = [], None, None, True
        self._pq_proxy = qMRMLSortFilterProxyModel(self)
        connectWeakly(self._pq_combo.activated, self._pq_activated)
        self.setEnabled(False)  # until it has a scene

    def _pq_typesChanged(self):
        if self.mrmlScene() is not None:
            self._pq_refresh("types")

    def _pq_changed(self):
        self._pq_refresh()

    nodeTypes = stored("QStringList", "nodeTypes", (), _pq_typesChanged)
    noneEnabled = stored(bool, "noneEnabled", False, _pq_changed)
    addEnabled = stored(bool, "addEnabled", True, _pq_changed)
    removeEnabled = stored(bool, "removeEnabled", True, _pq_changed)
    editEnabled = stored(bool, "editEnabled", False)
    renameEnabled = stored(bool, "renameEnabled", False)
    showHidden = stored(bool, "showHidden", False, _pq_changed)
    showChildNodeTypes = stored(bool, "showChildNodeTypes", True, _pq_changed)
    selectNodeUponCreation = stored(bool, "selectNodeUponCreation", True)
    baseName = stored(str, "baseName", "")
    noneDisplay = stored(str, "noneDisplay", "None", _pq_changed)

    def addAttribute(self, nodeType, name, value=None):
        self._pq_attributes.append((nodeType, name, value))
        self._pq_refresh()

    def sortFilterProxyModel(self):
        return self._pq_proxy

    def nodes(self):
        scene = self.mrmlScene()
        every = [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())] if scene is not None else []
        return [node for node in every if self._pq_fits(node)]

    def _pq_fits(self, node):
        if node.GetID() in self._pq_proxy.hiddenNodeIDs or (node.GetHideFromEditors() and not self.showHidden):
            return False
        kinds = list(self.nodeTypes)
        if node.GetClassName() not in kinds and not (self.showChildNodeTypes and any(map(node.IsA, kinds))):
            return False
        wanted = [(name, value) for kind, name, value in self._pq_attributes if node.IsA(kind)]
        return all(
            node.GetAttribute(name) is not None if value is None else node.GetAttribute(name) == str(value)
            for name, value in wanted
        )

    def nodeCount(self):
        return len(self.nodes())

    def nodeFromIndex(self, index):
        return dict(enumerate(self.nodes())).get(index)

    def _pq_refresh(self, cause=None):
        """Make the list anew; cause is "scene" or "types" when these were set."""
        ids = [node.GetID() for node in self.nodes()]
        place = self._pq_combo.currentIndex - int(self.noneEnabled)
        current = self._pq_current
        if current and self.currentNode() is None:
            current = ids[min(max(place, 0), len(ids) - 1)] if ids else None
        elif current is None and ids and self._pq_choosesFirst(cause):
            current = ids[0]
        self._pq_empty = not ids
        self._pq_fill()
        if current == self._pq_current:
            self._pq_show(current)
        self._pq_select(current)

    def _pq_choosesFirst(self, cause):
        if cause == "types":
            return True
        actions = self.addEnabled or self.removeEnabled or self.editEnabled or self.renameEnabled
        return not self.noneEnabled and (cause == "scene" or (self._pq_empty and not actions))

    def _pq_fill(self):
        combo, scene = self._pq_combo, self.mrmlScene()
        combo.blockSignals(True)
        combo.clear()
        if self.noneEnabled:
            combo.addItem(self.noneDisplay, None)
        for node in self.nodes():
            combo.addItem(node.GetName() or "", node.GetID())
        for kind in self.nodeTypes if self.addEnabled and scene is not None else ():
            combo.addItem(f"Create new {scene.GetTagByClassName(kind) or kind}", "+" + kind)
        if self.removeEnabled and self.currentNode() is not None:
            combo.addItem("Delete current node", "-")
        combo.blockSignals(False)

    def _pq_show(self, nodeId):
        combo = self._pq_combo
        combo.blockSignals(True)
        combo.setCurrentIndex(combo.findData(nodeId) if nodeId else int(self.noneEnabled) - 1)
        combo.blockSignals(False)

    def _pq_select(self, nodeId):
        nodeId = nodeId or None
        if nodeId == self._pq_current:
            return
        self._pq_current = nodeId
        self._pq_show(nodeId)
        self.currentNodeChanged.emit(self.currentNode())
        self.currentNodeIDChanged.emit(nodeId or "")

    def _pq_activated(self, index):
        data = self._pq_combo.itemData(index)
        if isinstance(data, str) and data.startswith("+"):
            self.addNode(data[1:])
        elif data == "-":
            self.mrmlScene().RemoveNode(self.currentNode())
        else:
            self._pq_select(data)
            self.nodeActivated.emit(self.currentNode())

    def setMRMLScene(self, scene):
        if scene is None:  # silent; the choice comes back with the scene
            self._pq_wanted, self._pq_current, self._pq_empty = self._pq_current, None, True
            self._pq_unobserve("scene")
            self._pq_scene = None
            self.setEnabled(False)
        elif scene is not self.mrmlScene():
            wanted, self._pq_wanted = self._pq_wanted, None
            SceneWidget.setMRMLScene(self, scene)
            self.setEnabled(True)
            self._pq_refresh("scene")
            if wanted:
                self.setCurrentNodeID(wanted)

    def currentNode(self):
        scene = self.mrmlScene()
        return scene.GetNodeByID(self._pq_current) if scene is not None and self._pq_current else None

    def setCurrentNode(self, node):
        self.setCurrentNodeID(node if isinstance(node, str) else node.GetID() if node is not None else "")

    def setCurrentNodeID(self, nodeId):
        if self.mrmlScene() is None:
            self._pq_wanted = nodeId
            return
        before = self._pq_current
        self._pq_select(nodeId if any(node.GetID() == nodeId for node in self.nodes()) else None)
        if self._pq_current not in (None, before):  # the real one has Qt activate the entry, as a click does
            self.nodeActivated.emit(self.currentNode())

    currentNodeID = Property(str, lambda self: self._pq_current or "", setCurrentNodeID)

    def setCurrentNodeIndex(self, index):
        self.setCurrentNode(self.nodeFromIndex(index))

    def addNode(self, nodeType=None):
        scene, nodeType = self.mrmlScene(), nodeType or self.nodeTypes[0]
        node = scene.CreateNodeByClass(nodeType)
        node.UnRegister(None)
        node.SetName(scene.GetUniqueNameByString(self.baseName or scene.GetTagByClassName(nodeType) or nodeType))
        for kind, name, value in self._pq_attributes:
            if node.IsA(kind):
                node.SetAttribute(name, str(value))
        scene.AddNode(node)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node


@wrapped
class qMRMLCheckableNodeComboBox(SceneWidget, QtWidgets.QWidget):
    """A list of the scene's nodes of given classes, each with a check mark."""

    checkedNodesChanged = Signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        self._pq_list, self._pq_checked = QtWidgets.QListWidget(self), set()
        self._pq_proxy = qMRMLSortFilterProxyModel(self)
        self._pq_list.setMaximumHeight(80)
        rowOf(self, self._pq_list)
        connectWeakly(self._pq_list.itemChanged, self._pq_clicked)
        self.setEnabled(False)

    def _pq_changed(self):
        self._pq_refresh()

    nodeTypes = stored("QStringList", "nodeTypes", (), _pq_changed)
    showHidden = stored(bool, "showHidden", False, _pq_changed)
    showChildNodeTypes = stored(bool, "showChildNodeTypes", True, _pq_changed)
    noneEnabled = stored(bool, "noneEnabled", False)
    addEnabled = stored(bool, "addEnabled", True)
    removeEnabled = stored(bool, "removeEnabled", True)
    _pq_attributes = ()
    nodes, _pq_fits = qMRMLNodeComboBox.nodes, qMRMLNodeComboBox._pq_fits
    sortFilterProxyModel, nodeCount = qMRMLNodeComboBox.sortFilterProxyModel, qMRMLNodeComboBox.nodeCount

    def _pq_refresh(self):
        self.setEnabled(self.mrmlScene() is not None)
        self._pq_list.blockSignals(True)
        self._pq_list.clear()
        for node in self.nodes():
            item = QtWidgets.QListWidgetItem(node.GetName())
            item.setData(QtCore.Qt.UserRole, node.GetID())
            item.setCheckState(QtCore.Qt.Checked if node.GetID() in self._pq_checked else QtCore.Qt.Unchecked)
            self._pq_list.addItem(item)
        self._pq_list.blockSignals(False)
        self._pq_keep(self._pq_checked & {node.GetID() for node in self.nodes()})

    def _pq_clicked(self, item):
        nodeId, checked = item.data(QtCore.Qt.UserRole), item.checkState() == QtCore.Qt.Checked
        self._pq_keep(self._pq_checked | {nodeId} if checked else self._pq_checked - {nodeId})

    def _pq_keep(self, checked):
        if checked != self._pq_checked:
            self._pq_checked = checked
            self.checkedNodesChanged.emit()

    def checkedNodes(self):
        return tuple(node for node in self.nodes() if node.GetID() in self._pq_checked)

    def uncheckedNodes(self):
        return tuple(node for node in self.nodes() if node.GetID() not in self._pq_checked)

    def setCheckState(self, node, state):
        rest = self._pq_checked - {node.GetID()}
        self._pq_keep(rest | {node.GetID()} if state == QtCore.Qt.Checked else rest)
        self._pq_refresh()

    def checkState(self, node):
        return QtCore.Qt.Checked if node.GetID() in self._pq_checked else QtCore.Qt.Unchecked


@wrapped
class qMRMLSegmentSelectorWidget(SceneWidget, QtWidgets.QWidget):
    """A segmentation and one of its segments.

    With noneEnabled the segments have a "None" too, and a node that is chosen first stands on it; without, its first
    segment is chosen. The ID that was chosen last is kept while there is no node.
    """

    currentNodeChanged = Signal(object)
    currentSegmentChanged = Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._pq_nodes, self._pq_segments = qMRMLNodeComboBox(self), QtWidgets.QComboBox(self)
        self._pq_current = ""
        self._pq_nodes.setNodeTypes(["vtkMRMLSegmentationNode"])
        self._pq_nodes.setAddEnabled(False)
        self._pq_nodes.setRemoveEnabled(False)
        rowOf(self, self._pq_nodes, self._pq_segments)
        connectWeakly(self._pq_nodes.currentNodeChanged, self._pq_nodeChanged)
        connectWeakly(self._pq_segments.currentIndexChanged, self._pq_segmentChanged)

    def setNoneEnabled(self, enabled):
        self._pq_nodes.setNoneEnabled(enabled)
        self._pq_list()

    noneEnabled = Property(bool, lambda self: self._pq_nodes.noneEnabled, setNoneEnabled)
    multiSelection = stored(bool, "multiSelection", False)
    segmentationNodeSelectorVisible = stored(bool, "segmentationNodeSelectorVisible", True)

    def setMRMLScene(self, scene):
        SceneWidget.setMRMLScene(self, scene)
        self._pq_nodes.setMRMLScene(scene)

    def _pq_nodeChanged(self, node):
        segmentation = node.GetSegmentation() if node is not None else None
        self._pq_observe("segments", segmentation, [vtk.vtkCommand.AnyEvent], "_pq_list")
        self._pq_list()
        self.currentNodeChanged.emit(node)

    def _pq_segmentChanged(self, _index):
        if self.currentNode() is not None:
            self._pq_current = self._pq_segments.currentData or ""
            self.currentSegmentChanged.emit(self._pq_current)

    def _pq_list(self):
        combo, node = self._pq_segments, self.currentNode()
        segmentIds = node.GetSegmentation().GetSegmentIDs() if node is not None else ()
        combo.blockSignals(True)
        combo.clear()
        if segmentIds and self.noneEnabled:
            combo.addItem("None", "")
        for segmentId in segmentIds:
            combo.addItem(node.GetSegmentation().GetSegment(segmentId).GetName(), segmentId)
        kept = self._pq_current in segmentIds or (self.noneEnabled and not self._pq_current)
        combo.setCurrentIndex(combo.findData(self._pq_current) if kept else -1)
        combo.blockSignals(False)
        if segmentIds and not kept:
            combo.setCurrentIndex(int(self.noneEnabled))

    def currentNode(self):
        return self._pq_nodes.currentNode()

    def setCurrentNode(self, node):
        self._pq_nodes.setCurrentNode(node)

    def currentNodeID(self):
        return self._pq_nodes.currentNodeID

    def setCurrentNodeID(self, nodeId):
        self._pq_nodes.setCurrentNodeID(nodeId)

    def currentSegmentID(self):
        return self._pq_current

    def setCurrentSegmentID(self, segmentId):
        place = self._pq_segments.findData(segmentId)
        if place >= 0:
            self._pq_segments.setCurrentIndex(place)

    def selectedSegmentIDs(self):
        return (self.currentSegmentID(),) if self.multiSelection and self.currentSegmentID() else ()


@wrapped
class qMRMLSliderWidget(SceneWidget, ctkSliderWidget):
    quantity = stored(str, "quantity", "")


@wrapped
class qMRMLSpinBox(SceneWidget, ctkDoubleSpinBox):
    quantity = stored(str, "quantity", "")


@wrapped
class qMRMLTableView(SceneWidget, QtWidgets.QTableView):
    """Shows a vtkMRMLTableNode, read-only."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self.setModel(QtGui.QStandardItemModel(self))
        self.setEditTriggers(QtWidgets.QAbstractItemView.NoEditTriggers)

    def mrmlTableNode(self):
        return vars(self).get("_pq_node")

    def setMRMLTableNode(self, node):
        self._pq_node = node
        self._pq_observe("table", node, [vtk.vtkCommand.ModifiedEvent], "_pq_fill")
        self._pq_fill()

    def _pq_fill(self):
        model, node = self.model(), self.mrmlTableNode()
        model.clear()
        if node is None:
            return
        table = node.GetTable()
        columns = range(table.GetNumberOfColumns())
        model.setHorizontalHeaderLabels([table.GetColumnName(c) or "" for c in columns])
        for row in range(table.GetNumberOfRows()):
            model.appendRow([QtGui.QStandardItem(table.GetValue(row, c).ToString()) for c in columns])


@wrapped
class qMRMLPlotView(SceneWidget, QtWidgets.QWidget):
    """Draws the lines of the chart that its plot view node shows, without axes; Python can't ask for that node."""

    def setMRMLPlotViewNode(self, node):
        if node is vars(self).get("_pq_node"):
            return
        self._pq_node = node
        self._pq_observe("view", node, [vtk.vtkCommand.ModifiedEvent], "update")
        self.update()

    def sizeHint(self):
        return QtCore.QSize(300, 200)

    def fitToContent(self):
        self.update()

    def lines(self):
        """[(color, points)] of the chart's series."""
        node = vars(self).get("_pq_node")
        chart = node.GetPlotChartNode() if node is not None else None
        series = [chart.GetNthPlotSeriesNode(i) for i in range(chart.GetNumberOfPlotSeriesNodes())] if chart else []
        return [(one.GetColor(), self._pq_points(one)) for one in series if one.GetTableNode() is not None]

    @staticmethod
    def _pq_points(series):
        table = series.GetTableNode().GetTable()
        x, y = (table.GetColumnByName(name) for name in (series.GetXColumnName(), series.GetYColumnName()))
        if y is None:
            return []
        return [(x.GetTuple1(i) if x is not None else float(i), y.GetTuple1(i)) for i in range(y.GetNumberOfTuples())]

    def paintEvent(self, event):
        painter = QtGui.QPainter(self)
        painter.fillRect(self.rect, QtCore.Qt.white)
        lines = self.lines()
        every = [point for _, points in lines for point in points]
        if every:
            (left, right), (low, high) = ((min(values), max(values)) for values in zip(*every, strict=True))
            scale = (self.width - 20) / ((right - left) or 1), (self.height - 20) / ((high - low) or 1)
            for color, points in lines:
                painter.setPen(QtGui.QPen(QtGui.QColor.fromRgbF(*color), 2))
                place = [QtCore.QPointF(10 + (x - left) * scale[0], 10 + (high - y) * scale[1]) for x, y in points]
                painter.drawPolyline(place)
        painter.end()


@wrapped
class qMRMLSegmentationShow3DButton(ctkMenuButton):
    """Makes and shows the closed surface of a segmentation, or takes it away."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self.setText("Show 3D")
        self.setCheckable(True)
        self.setEnabled(False)
        self._pq_node = None
        connectWeakly(self.clicked, self._pq_show)

    def segmentationNode(self):
        return self._pq_node

    def setSegmentationNode(self, node):
        self._pq_node = node
        self.setEnabled(node is not None)
        self.setChecked(node is not None and bool(node.GetSegmentation().ContainsRepresentation("Closed surface")))

    def _pq_show(self, on):
        if on:
            self._pq_node.CreateClosedSurfaceRepresentation()
            self._pq_node.CreateDefaultDisplayNodes()
            self._pq_node.GetDisplayNode().SetVisibility3D(True)
        else:
            self._pq_node.RemoveClosedSurfaceRepresentation()


@wrapped
class qMRMLSegmentEditorWidget(SceneWidget, QtWidgets.QWidget):
    """Knows what it edits, by its vtkMRMLSegmentEditorNode; it has no effects."""

    segmentationNodeChanged = Signal(object)
    sourceVolumeNodeChanged = Signal(object)

    def mrmlSegmentEditorNode(self):
        node, scene = vars(self).get("_pq_node"), self.mrmlScene()
        return node if node is not None and scene is not None and scene.IsNodePresent(node) else None

    def setMRMLSegmentEditorNode(self, node):
        self._pq_node = node

    def segmentationNode(self):
        return self._pq_node.GetSegmentationNode()

    def setSegmentationNode(self, node):
        self._pq_node.SetAndObserveSegmentationNode(node)
        self.segmentationNodeChanged.emit(node)

    def sourceVolumeNode(self):
        return self._pq_node.GetSourceVolumeNode()

    def setSourceVolumeNode(self, node):
        self._pq_node.SetAndObserveSourceVolumeNode(node)
        self.sourceVolumeNodeChanged.emit(node)

    def currentSegmentID(self):
        return self._pq_node.GetSelectedSegmentID() or ""

    def setCurrentSegmentID(self, segmentId):
        self._pq_node.SetSelectedSegmentID(segmentId)

    def setActiveEffectByName(self, name):
        self._pq_node.SetActiveEffectName(name or "")
