"""Questions to the test host, with the answers that PythonQt, CTK and Slicer themselves gave."""

import gc
import os
import sys
import weakref
from enum import Enum
from pathlib import Path
from typing import Annotated

import ctk
import numpy as np
import pytest
import qt
import slicer
import vtk
from slicer.parameterNodeWrapper import Choice, Default, WithinRange, parameterNodeWrapper

import host

pytestmark = pytest.mark.skipif(host.insideSlicer(), reason="asks the stand-in, and Slicer is the real thing")


@pytest.fixture(autouse=True)
def emptyScene():
    slicer.mrmlScene.Clear(0)


def addVolume(name="volume", shape=(8, 10, 12)):
    volume = slicer.util.addVolumeFromArray(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), name=name)
    volume.CreateDefaultDisplayNodes()
    return volume


def addSegmentation(volume, name="segmentation"):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = node.GetSegmentation().AddEmptySegment("inner", "inner", (1.0, 0.0, 0.0))
    mask = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    mask[2:6, 3:7, 3:9] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, volume)
    return node, mask


# ---------------------------------------------------------------- Qt as PythonQt shows it


def test_properties_are_attributes_and_not_callable():
    button = qt.QPushButton("Segment")
    assert button.text == "Segment"
    button.enabled = 0
    assert button.enabled is False and not button.isEnabled()
    with pytest.raises(TypeError):
        button.text()


@pytest.mark.parametrize("value", ["5", None])
def test_a_number_property_refuses_what_is_no_number(value):
    with pytest.raises((AttributeError, ValueError)):
        qt.QSpinBox().value = value


def test_a_number_property_converts_numbers():
    bar = qt.QProgressBar()
    bar.value = np.float32(40.9)
    assert bar.value == 40


def test_cpp_objects_take_no_unknown_attributes_but_python_subclasses_do():
    class Own(qt.QWidget):
        pass

    with pytest.raises(AttributeError):
        qt.QPushButton().myState = 3
    with pytest.raises(AttributeError):
        slicer.qMRMLNodeComboBox().myState = 3
    own = Own()
    own.myState = 3
    assert own.myState == 3


def test_isinstance_is_blind_to_cpp_base_classes():
    button = qt.QPushButton()
    assert not isinstance(button, qt.QWidget) and type(button) is qt.QPushButton
    assert button.isWidgetType() and button.inherits("QAbstractButton") and button.className() == "QPushButton"


def test_slots_get_as_many_arguments_as_they_take():
    button, got = qt.QPushButton(), []
    button.connect("clicked(bool)", lambda: got.append("none"))
    button.connect("clicked(bool)", lambda checked, quiet="default": got.append((checked, quiet)))
    button.clicked.connect(lambda *args: got.append(args))
    button.click()
    assert got == ["none", (False, "default"), (False,)]


def test_an_unknown_signal_is_refused_and_kept_as_complaint():
    assert qt.QPushButton().connect("clicked(checked)", print) is False
    assert "clicked(checked)" in host.complaints.pop()


def test_an_overload_is_chosen_by_the_signature():
    combo, texts = qt.QComboBox(), []
    combo.connect("currentTextChanged(QString)", texts.append)
    assert combo.connect("currentIndexChanged(QString)", texts.append) is False  # gone in Qt 6
    combo.addItem("a")
    assert texts == ["a"]
    host.complaints.clear()


def test_disconnecting_twice_is_false():
    button, got = qt.QPushButton(), []
    button.connect("clicked(bool)", got.append)
    assert button.disconnect("clicked(bool)", got.append) is True
    assert button.disconnect("clicked(bool)", got.append) is False
    button.click()
    assert got == []


def test_an_exception_in_a_slot_is_printed_and_kept_as_complaint(capfd):
    button = qt.QPushButton()

    def fail():
        raise ValueError("in the slot")

    button.connect("clicked(bool)", fail)
    button.click()
    assert "ValueError: in the slot" in host.complaints.pop() and not host.complaints


def test_a_timer_and_single_shot_run():
    timer, ticks = qt.QTimer(), []
    timer.setInterval(1)
    timer.connect("timeout()", lambda: ticks.append("timer"))
    timer.start()
    qt.QTimer.singleShot(1, lambda: ticks.append("shot"))
    host.processEvents(until=lambda: {"timer", "shot"} <= set(ticks), seconds=5)
    timer.stop()


def test_waiting_in_vain_is_an_error():
    with pytest.raises(TimeoutError):
        host.processEvents(until=lambda: False, seconds=0.02)


def test_a_process_talks_and_finishes():
    process, seen = qt.QProcess(), {"out": b""}

    def read():
        seen["out"] += process.readAllStandardOutput().data()

    process.connect("readyReadStandardOutput()", read)
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: seen.update(end=(code, status)))
    process.start("/bin/sh", ["-c", "read line; echo got $line; exit 3"])
    assert process.waitForStarted(5000)
    process.write(b"this\n")
    host.processEvents(until=lambda: "end" in seen, seconds=10)
    assert seen == {"out": b"got this\n", "end": (3, qt.QProcess.NormalExit)}
    assert process.exitCode() == 3 and process.state() == qt.QProcess.NotRunning


def test_a_process_that_can_not_start_says_so_and_never_finishes():
    process, seen = qt.QProcess(), []
    process.connect("errorOccurred(QProcess::ProcessError)", lambda error: seen.append(error))
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: seen.append("finished"))
    process.start("/nowhere/python", [])
    host.processEvents(until=lambda: seen, seconds=5)
    assert seen == [qt.QProcess.FailedToStart]


def test_lists_come_back_as_tuples_and_settings_are_not_the_users():
    settings = qt.QSettings()
    settings.setValue("SimCVD/list", ["a", "b"])
    assert settings.value("SimCVD/list") == ("a", "b")
    assert settings.fileName().startswith(slicer.app.temporaryPath)


def test_table_and_tree_widgets():
    table = qt.QTableWidget()
    table.rowCount, table.columnCount = 1, 1
    table.setItem(0, 0, qt.QTableWidgetItem("la071"))
    assert table.item(0, 0).text() == "la071"
    tree = qt.QTreeWidget()
    tree.addTopLevelItem(qt.QTreeWidgetItem(["a"]))
    assert tree.topLevelItemCount == 1


@pytest.mark.filterwarnings("ignore:Function. 'QDragEnterEvent")
def test_drag_and_drop_reaches_an_event_filter():
    class Filter(qt.QObject):
        def eventFilter(self, watched, event):
            if event.type() == qt.QEvent.DragEnter:
                event.accept()
            if event.type() == qt.QEvent.Drop:
                dropped.append(event.mimeData().text())
            return event.type() == qt.QEvent.DragEnter

    dropped, target, watcher = [], qt.QWidget(), Filter()
    target.acceptDrops = True
    target.installEventFilter(watcher)
    data = qt.QMimeData()
    data.setText("rows")
    actions, button, keys = qt.Qt.MoveAction, qt.Qt.LeftButton, qt.Qt.NoModifier
    qt.QCoreApplication.sendEvent(target, qt.QDragEnterEvent(qt.QPoint(1, 1), actions, data, button, keys))
    qt.QCoreApplication.sendEvent(target, qt.QDropEvent(qt.QPointF(1, 1), actions, data, button, keys))
    assert dropped == ["rows"]


def test_a_deleted_widget_is_false():
    widget = qt.QWidget()
    widget.delete()
    assert not widget


# ---------------------------------------------------------------- CTK


def test_slider_widget_keeps_digits_beyond_its_decimals():
    slider, got = ctk.ctkSliderWidget(), []
    assert (slider.minimum, slider.maximum, slider.value) == (0, 99.99, 0)
    slider.connect("valueChanged(double)", got.append)
    slider.setRange(-10, 10)
    slider.decimals, slider.value = 1, 1.234
    slider.value = 50
    assert got == [1.234, 10] and slider.value == 10


def test_path_widgets(tmp_path):
    path, folder, got = ctk.ctkPathLineEdit(), ctk.ctkDirectoryButton(), []
    path.connect("currentPathChanged(QString)", got.append)
    folder.connect("directoryChanged(QString)", got.append)
    path.currentPath = "relative"
    path.currentPath = ""
    folder.directory = str(tmp_path / "a" / "..")
    assert got == ["relative", str(tmp_path)] and path.filters == 24663


def test_collapsible_button_hides_its_children():
    section = ctk.ctkCollapsibleButton()
    layout, child, got = qt.QVBoxLayout(section), qt.QLabel("inside"), []
    layout.addWidget(child)
    section.connect("contentsCollapsed(bool)", got.append)
    section.show()
    section.collapsed = True
    assert got == [True] and not child.isVisible()
    section.click()
    assert section.collapsed is False and child.isVisible()
    child.visible = False
    section.collapsed = True
    section.collapsed = False
    assert not child.isVisible()
    section.collapsed = True
    child.visible = True
    assert not child.isVisible()
    section.collapsed = False
    assert child.isVisible()


# ---------------------------------------------------------------- MRML widgets


def nodeComboBox(nodeTypes=("vtkMRMLScalarVolumeNode",), none=False):
    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes, combo.noneEnabled = nodeTypes, none
    return combo


def test_node_combo_box_chooses_by_itself_only_when_it_gets_its_scene():
    first, _second = addVolume("first"), addVolume("second")
    combo = nodeComboBox()
    assert not combo.enabled and combo.currentNode() is None
    combo.setMRMLScene(slicer.mrmlScene)
    assert combo.enabled and combo.currentNode() is first
    optional = nodeComboBox(none=True)
    optional.setMRMLScene(slicer.mrmlScene)
    assert optional.currentNode() is None


def test_node_combo_box_takes_the_neighbor_of_a_removed_node():
    first, second = addVolume("first"), addVolume("second")
    combo = nodeComboBox(none=True)
    combo.setMRMLScene(slicer.mrmlScene)
    combo.setCurrentNode(first)
    seen = []
    combo.connect("currentNodeChanged(vtkMRMLNode*)", seen.append)
    combo.connect("currentNodeChanged(bool)", seen.append)
    slicer.mrmlScene.RemoveNode(first)
    assert combo.currentNode() is second and seen == [second, True]


def test_node_combo_box_refuses_other_classes_and_remembers_a_node_set_before_its_scene():
    volume = addVolume()
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    combo = nodeComboBox(none=True)
    combo.setCurrentNode(volume)
    combo.setMRMLScene(slicer.mrmlScene)
    assert combo.currentNode() is volume and combo.currentNodeID == volume.GetID()
    combo.setCurrentNode(segmentation)
    assert combo.currentNode() is None


def test_node_combo_box_makes_a_region_and_forgets_all_at_scene_close():
    combo = nodeComboBox(("vtkMRMLMarkupsROINode",), none=True)
    combo.setMRMLScene(slicer.mrmlScene)
    region = combo.addNode()
    assert combo.currentNode() is region and region.IsA("vtkMRMLMarkupsROINode")
    slicer.mrmlScene.Clear(0)
    assert combo.currentNode() is None and combo.nodeCount() == 0


def test_checkable_combo_box():
    first, second = addVolume("first"), addVolume("second")
    combo, seen = slicer.qMRMLCheckableNodeComboBox(), []
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    combo.setMRMLScene(slicer.mrmlScene)
    combo.connect("checkedNodesChanged()", lambda: seen.append(len(combo.checkedNodes())))
    combo.setCheckState(second, qt.Qt.Checked)
    assert combo.checkedNodes() == (second,) and combo.uncheckedNodes() == (first,)
    slicer.mrmlScene.RemoveNode(second)
    assert seen == [1, 0]


def test_combo_boxes_leave_out_what_their_filter_says():
    one, two = addVolume("one"), addVolume("two")
    for combo in (nodeComboBox(none=True), slicer.qMRMLCheckableNodeComboBox()):
        combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        combo.setMRMLScene(slicer.mrmlScene)
        combo.sortFilterProxyModel().hiddenNodeIDs = [one.GetID()]
        assert combo.nodes() == [two]
        combo.sortFilterProxyModel().hiddenNodeIDs = []
        assert combo.nodes() == [one, two]


def test_segment_selector_follows_the_segments():
    node, _mask = addSegmentation(addVolume())
    selector, seen = slicer.qMRMLSegmentSelectorWidget(), []
    selector.connect("currentSegmentChanged(QString)", seen.append)
    selector.setMRMLScene(slicer.mrmlScene)
    selector.setCurrentNode(node)
    assert selector.currentNodeID() == node.GetID() and selector.currentSegmentID() == "inner"
    node.GetSegmentation().AddEmptySegment("outer", "outer")
    selector.setCurrentSegmentID("outer")
    node.GetSegmentation().RemoveSegment("outer")
    assert seen == ["inner", "outer", "inner"] and selector.selectedSegmentIDs() == ()


def test_segment_selector_stands_on_none_where_it_has_one():
    node, _mask = addSegmentation(addVolume())
    selector, seen = slicer.qMRMLSegmentSelectorWidget(), []
    selector.setNoneEnabled(True)
    selector.setMRMLScene(slicer.mrmlScene)
    selector.connect("currentSegmentChanged(QString)", seen.append)
    selector.setCurrentNode(node)
    assert selector.currentSegmentID() == "" and seen == []
    selector.setCurrentSegmentID("inner")
    selector.setCurrentNode(None)
    assert selector.currentSegmentID() == "inner" and seen == ["inner"]
    other, _mask = addSegmentation(addVolume())
    other.GetSegmentation().RemoveSegment("inner")
    other.GetSegmentation().AddEmptySegment("outer", "outer")
    selector.setCurrentNode(other)
    assert seen == ["inner", "outer"]


def test_table_view_shows_its_node():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode")
    view = slicer.qMRMLTableView()
    view.setMRMLScene(slicer.mrmlScene)
    view.setMRMLTableNode(node)
    slicer.util.updateTableFromArray(node, (np.array([0.9, 0.8]),), ["Dice"])
    assert (view.model().rowCount(), view.model().columnCount()) == (2, 1)


def test_plot_view_draws_the_series_of_its_chart():
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode")
    slicer.util.updateTableFromArray(table, (np.arange(5.0), np.arange(5.0) ** 2), ["step", "loss"])
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("step")
    series.SetYColumnName("loss")
    series.SetColor(1, 0, 0)
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode")
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    viewNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotViewNode")
    viewNode.SetPlotChartNodeID(chart.GetID())
    view = slicer.qMRMLPlotView()
    view.setMRMLPlotViewNode(viewNode)
    assert not hasattr(view, "mrmlPlotViewNode")  # the application's view does not show it to Python
    picture = host.grabWidget(view).astype(int)
    assert ((picture[..., 0] - picture[..., 1]) > 200).sum() > 50  # a red line


def test_show_3d_button_makes_and_removes_the_surface():
    node, _mask = addSegmentation(addVolume())
    button = slicer.qMRMLSegmentationShow3DButton()
    button.setSegmentationNode(node)
    button.click()
    assert node.GetSegmentation().ContainsRepresentation("Closed surface")
    button.click()
    assert not node.GetSegmentation().ContainsRepresentation("Closed surface")


def test_widgets_that_are_gone_leave_no_observers():
    combo = nodeComboBox()
    combo.setMRMLScene(slicer.mrmlScene)
    alive = weakref.ref(combo)
    del combo
    gc.collect()
    assert alive() is None
    addVolume()


# ---------------------------------------------------------------- parameters


class Overlay(Enum):
    NONE = 1
    DISTANCE = 2


@parameterNodeWrapper
class Parameters:
    volume: slicer.vtkMRMLScalarVolumeNode
    overlay: Overlay = Overlay.DISTANCE
    offset: Annotated[float, WithinRange(-10, 10)] = 0.0
    device: Annotated[str, Choice(["auto", "cpu"])] = "auto"
    smooth: bool = True
    count: Annotated[int, Default(3)]
    folder: Path = Path("there")
    points: list[list[float]]
    names: dict[str, int]
    maybe: float | None


def parameters():
    return Parameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))


def test_parameters_have_defaults_types_and_validators():
    own = parameters()
    assert own.volume is None and own.overlay is Overlay.DISTANCE and own.count == 3 and own.maybe is None
    assert own.folder == Path("there") and own.points == []
    for name, value in (("offset", 11), ("device", "tpu"), ("smooth", None)):
        with pytest.raises(ValueError, match=r"fit|None"):
            setattr(own, name, value)
    with pytest.raises(TypeError):
        own.count = "three"


def test_parameters_are_as_they_were_when_the_node_was_last_modified():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    parameters = Parameters(node)
    with slicer.util.NodeModify(node):
        node.SetParameter("offset", "0.125")
        assert parameters.offset == 0.0
        parameters.overlay = Overlay.NONE
        assert parameters.overlay is Overlay.NONE
    assert parameters.offset == 0.125
    observers = [node.HasObserver("ModifiedEvent")]
    del parameters
    gc.collect()
    observers.append(node.HasObserver("ModifiedEvent"))
    assert observers == [1, 0]


def test_parameters_come_back_from_a_saved_scene(tmp_path):
    own = parameters()
    own.volume, own.overlay, own.offset, own.maybe = addVolume("kept"), Overlay.NONE, -2.5, 1.5
    own.points = [[1.0, 2.0, 3.0]]
    own.points.append([4.0, 5.0, 6.0])
    own.names = {"a": 1}
    name = own.parameterNode.GetName()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    back = Parameters(slicer.util.getNode(name))
    assert back.volume.GetName() == "kept" and back.overlay is Overlay.NONE and back.offset == -2.5
    assert back.points == [[1, 2, 3], [4, 5, 6]] and back.names == {"a": 1} and back.maybe == 1.5


def test_parameters_and_widgets_follow_each_other():
    own, holder = parameters(), type("", (), {})()
    holder.slider, holder.check, holder.combo = ctk.ctkSliderWidget(), qt.QCheckBox(), qt.QComboBox()
    for widget, name in ((holder.slider, "offset"), (holder.check, "smooth"), (holder.combo, "overlay")):
        widget.setProperty("SlicerParameterName", name)
    tag = own.connectGui(holder)
    assert (holder.slider.minimum, holder.slider.maximum) == (-10, 10) and holder.combo.currentText == "DISTANCE"
    holder.slider.value = 4
    holder.combo.currentIndex = 0
    own.smooth = False
    assert own.offset == 4 and own.overlay is Overlay.NONE and holder.check.checked is False
    own.disconnectGui(tag)
    holder.slider.value = 5
    assert own.offset == 4


def test_a_slider_needs_bounds():
    @parameterNodeWrapper
    class Unbounded:
        value: float

    own = Unbounded(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    with pytest.raises(RuntimeError, match="bounds"):
        own.connectParametersToGui({"value": ctk.ctkSliderWidget()})


# ---------------------------------------------------------------- scene, files, views


@pytest.mark.parametrize("suffix", ["nrrd", "nii.gz", "mha"])
def test_volumes_are_written_and_read(tmp_path, suffix):
    volume, path = addVolume(), str(tmp_path / f"a.{suffix}")
    volume.SetSpacing(0.5, 1.5, 2.5)
    assert slicer.util.exportNode(volume, path, properties={"useCompression": 0})
    back = slicer.util.loadVolume(path, properties={"show": False})
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(back), slicer.util.arrayFromVolume(volume))
    np.testing.assert_allclose(back.GetSpacing(), volume.GetSpacing(), atol=1e-6)


def test_segmentations_are_written_and_read(tmp_path):
    volume = addVolume()
    node, mask = addSegmentation(volume)
    assert slicer.util.exportNode(node, str(tmp_path / "a.seg.nrrd"), properties={})
    back = slicer.util.loadSegmentation(str(tmp_path / "a.seg.nrrd"))
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(back, "inner", volume), mask)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="does not exist"):
        slicer.util.loadVolume(str(tmp_path / "none.nrrd"))


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match="known"):
        slicer.util.exportNode(addVolume(), str(tmp_path / "a.xyz"), properties={})


def test_data_nodes_have_their_place_in_the_subject_hierarchy_while_they_live():
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    volume = addVolume()
    assert hierarchy.GetItemByDataNode(volume) != 0 and hierarchy.GetNumberOfItems() == 1
    slicer.mrmlScene.RemoveNode(volume)
    assert hierarchy.GetNumberOfItems() == 0


def test_scene_events_and_color_nodes():
    events = []
    tag = slicer.mrmlScene.AddObserver(slicer.mrmlScene.EndCloseEvent, lambda *_: events.append("closed"))
    slicer.mrmlScene.Clear(0)
    slicer.mrmlScene.RemoveObserver(tag)
    assert events == ["closed"] and slicer.mrmlScene.GetNodeByID("vtkMRMLColorTableNodeGrey") is not None


def test_slice_views_show_image_and_outline():
    volume = addVolume(shape=(8, 40, 50))
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    plain = host.grabSlice("Red", (200, 160))
    node, _mask = addSegmentation(volume)
    node.GetDisplayNode().SetOpacity2DFill(0)
    slicer.app.layoutManager().sliceWidget("Red").sliceLogic().SetSliceOffset(4)
    outlined = host.grabSlice("Red", (200, 160)).astype(int)
    assert plain.shape == (160, 200, 3) and plain.dtype == np.uint8 and plain.std() > 5
    assert ((outlined[..., 0] - outlined[..., 1]) > 100).sum() > 10  # the segment is red


def test_3d_view_shows_a_surface():
    node, _mask = addSegmentation(addVolume())
    node.CreateClosedSurfaceRepresentation()
    view = slicer.app.layoutManager().threeDWidget(0).threeDView()
    view.resetFocalPoint()
    view.resetCamera()
    picture = host.grab3D((120, 100)).astype(int)
    assert picture.shape == (100, 120, 3)
    assert ((picture[..., 0] - picture[..., 2]) > 50).sum() > 50


def test_panel_shows_the_widget_beside_four_views():
    widget = qt.QWidget()
    layout = qt.QVBoxLayout(widget)
    layout.addWidget(qt.QPushButton("Segment"))
    picture = host.panel(widget, size=(800, 400), width=300)
    assert picture.shape == (400, 800, 3) and picture[:, :300].std() > 1


# ---------------------------------------------------------------- the application


def test_the_application_as_modules_ask_it():
    assert slicer.app.testingEnabled() and slicer.util.mainWindow() is None
    assert os.path.isdir(slicer.app.temporaryPath)
    assert slicer.util.startupEnvironment()["PATH"] == os.environ["PATH"]
    assert slicer.modules.segmentations.logic().IsA("vtkSlicerSegmentationsModuleLogic")
    assert slicer.app.connect("aboutToQuit()", print) and slicer.app.disconnect("aboutToQuit()", print)


def test_questions_are_not_shown_while_testing():
    # what slicer.util of 5.12 gives here, although its documentation promises True
    assert slicer.util.confirmOkCancelDisplay("Go on?") is False


def test_names_of_slicer_util_do_not_lie_in_slicer():
    assert not hasattr(slicer, "getNode") and not hasattr(slicer, "loadVolume") and hasattr(slicer, "vtkMRMLScene")


UI = """<ui version="4.0"><class>Tiny</class>
<widget class="qMRMLWidget" name="Tiny"><layout class="QVBoxLayout">
 <item><widget class="qMRMLNodeComboBox" name="selector">
  <property name="nodeTypes"><stringlist notr="true"><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
 </widget></item>
 <item><widget class="ctkPathLineEdit" name="path">
  <property name="filters"><set>ctkPathLineEdit::Dirs|ctkPathLineEdit::Readable</set></property></widget></item>
</layout></widget>
<customwidgets>
 <customwidget><class>qMRMLWidget</class><extends>QWidget</extends><container>1</container></customwidget>
 <customwidget><class>qMRMLNodeComboBox</class><extends>QWidget</extends></customwidget>
 <customwidget><class>ctkPathLineEdit</class><extends>QWidget</extends></customwidget>
</customwidgets>
<connections><connection><sender>Tiny</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
 <receiver>selector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""

MODULE = """
import qt, slicer
from slicer.ScriptedLoadableModule import *

class Tiny(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "Tiny"
        slicer.app.connect("startupCompleted()", self.register)

    def register(self):
        import SampleData
        SampleData.SampleDataLogic.registerCustomSampleDataSource(category="Tiny", sampleName="TinySample", uris="none",
            fileNames="a.nrrd", nodeNames="a", customDownloader=lambda source: source.sampleName)

class TinyWidget(ScriptedLoadableModuleWidget):
    calls = []

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/Tiny.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)

    def enter(self): self.calls.append("enter")
    def exit(self): self.calls.append("exit")
    def cleanup(self): self.calls.append("cleanup")
"""


@pytest.fixture
def tinyModule(tmp_path):
    folder = tmp_path / "Tiny"
    (folder / "Resources" / "UI").mkdir(parents=True)
    (folder / "Tiny.py").write_text(MODULE)
    (folder / "Resources" / "UI" / "Tiny.ui").write_text(UI)
    return folder


def test_a_module_is_loaded_entered_reloaded_and_unloaded(tinyModule):
    volume = addVolume()
    representation = host.loadModule(tinyModule)
    widget = representation.self()
    assert widget.ui.selector.currentNode() is volume  # the scene went through the .ui's connection
    assert widget.ui.path.filters == ctk.ctkPathLineEdit.Dirs | ctk.ctkPathLineEdit.Readable
    representation.enter()
    representation.exit()
    slicer.util.reloadScriptedModule("Tiny")
    assert slicer.modules.TinyWidget is representation.self() is not widget
    host.unloadModule("Tiny")
    assert widget.calls == ["enter", "exit", "cleanup"] and representation.self().calls == ["cleanup"]


def test_modules_are_selected_in_the_main_window(tinyModule):
    representation = host.loadModule(tinyModule)
    window = host.openMainWindow()
    try:
        slicer.util.selectModule("Tiny")
        assert representation.isEntered and window.selectedModule == "Tiny"
        slicer.util.selectModule("SegmentEditor")
        assert not representation.isEntered
        with pytest.raises(RuntimeError, match="no module"):
            slicer.util.selectModule("Unheard")
    finally:
        window.delete()
    assert slicer.util.mainWindow() is None


def test_the_segment_editor_knows_what_it_edits():
    volume = addVolume()
    node, _mask = addSegmentation(volume)
    editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
    editor.setSegmentationNode(node)
    editor.setSourceVolumeNode(volume)
    editor.setCurrentSegmentID("inner")
    assert editor.segmentationNode() is node and editor.sourceVolumeNode() is volume
    slicer.mrmlScene.Clear(0)
    assert editor.mrmlSegmentEditorNode() is None
    assert slicer.modules.segmenteditor.widgetRepresentation().self().editor.mrmlSegmentEditorNode() is not None


def test_a_registered_sample_is_made_by_its_button_only(tinyModule):
    import SampleData

    host.loadModule(tinyModule)
    assert SampleData.press("TinySample") == "TinySample"
    with pytest.raises(RuntimeError, match="download"):
        SampleData.SampleDataLogic().downloadSample("TinySample")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<class>ctkPathLineEdit</class>", "<class>Other</class>", "does not declare"),
        ("ctkPathLineEdit", "ctkUnheardOf", "no ctkUnheardOf"),
        ("ctkPathLineEdit", "qMRMLPlotView", "no qMRMLPlotView"),  # there is one, but only for code
    ],
)
def test_a_ui_file_with_unknown_classes_is_refused(tinyModule, old, new, message):
    path = tinyModule / "Resources" / "UI" / "Tiny.ui"
    path.write_text(UI.replace(old, new))
    with pytest.raises(RuntimeError, match=message):
        slicer.util.loadUI(str(path))


def test_none_survives_many_calls_of_qt():
    assert sys.version_info >= (3, 12) or sys.getrefcount(None) > 1 << 30


def test_starting_again_changes_nothing():
    application, scene = slicer.app, slicer.mrmlScene
    host.start()
    assert slicer.app is application and slicer.mrmlScene is scene


def test_vtk_objects_are_the_wheels():
    assert vtk.vtkVersion.GetVTKVersion() and slicer.mrmlScene.IsA("vtkMRMLScene")
