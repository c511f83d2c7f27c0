"""The panel of SimCVD Train: real buttons, a real training in a process of its own, a small real model, real nodes.

Over the test host only: it looks into the plot view, which Slicer's own does not allow.
"""

import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path
from unittest import mock

import qt
import slicer
from test_segment_module import PanelTest, addScan, ball, loadModule, wait
from train_scenes import held

from simcvd.images import read_labels, write_volume

ROOT = Path(__file__).resolve().parents[2]
PLACES = ((0, 0, 0), (4, 2, 0), (-4, 0, 4), (0, -4, -4), (3, 3, 3), (-3, 3, 0))  # of the ball in each scan, in mm
HEAD = "pool_size=16 head_hidden=16 head_width=8"  # of SimCVD, too small to learn much
QUICK = "iterations=12 patch=[16,16,16] threads=1 validate_percent=25 checkpoint_seconds=0"
LONG = QUICK.replace("=12", "=3000").replace("25", "1")
SECONDS = 120


def trainWidget():
    """The module's widget representation; SimCVD Segment, which it needs, is loaded first as the application does."""
    loadModule("SimCVDSegment")
    return loadModule("SimCVDTrain")


def addOutlined(name, center, structures=("Left atrium",)):
    """A scan and its outline, a segmentation beside it: a ball, and inside of it smaller ones."""
    from SimCVDLib import nodes

    volume = addScan(name, center)
    colors = ((0.87, 0.36, 0.33), (0.35, 0.66, 0.40))
    node = nodes.newSegmentation(volume, [], f"{name} segmentation")
    for text, color in zip(structures, colors, strict=False):
        node.GetSegmentation().AddEmptySegment("", text, color)
    inner = ball(center, 8.0)
    masks = [ball(center) & ~inner, inner] if len(structures) == 2 else [ball(center)]
    for identifier, mask in zip(node.GetSegmentation().GetSegmentIDs(), masks, strict=True):
        nodes.writeSegment(node, identifier, mask, volume)
    return volume, node


def ended(process):
    """End a process where it has not ended by itself."""
    with contextlib.suppress(OSError):
        os.kill(process, signal.SIGKILL)


class TrainPanelTest(PanelTest):
    """One panel for all tests; each begins with an empty scene and no run."""

    def setUp(self):
        self.answers(slicer.util, "confirmOkCancelDisplay", True)
        slicer.mrmlScene.Clear(0)
        self.representation = trainWidget()
        self.widget = self.representation.self()
        self.ui = self.widget.ui
        self.runs = self.place / "runs" / self.id().rpartition(".")[2]
        self.ui.runsFolderButton.directory = str(self.runs)
        self.representation.enter()
        self.ui.startComboBox.currentIndex = self.ui.startComboBox.findData("bright")
        self.ui.durationComboBox.currentIndex = 3
        self.ui.settingsLineEdit.text = QUICK
        self.ui.methodComboBox.currentIndex = 1
        self.ui.nameLineEdit.text = "trained"

    def tearDown(self):
        while self.ui.runTree.topLevelItemCount:
            self.ui.runTree.setCurrentItem(self.ui.runTree.topLevelItem(0))
            count = self.ui.runTree.topLevelItemCount
            wait(lambda: self.ui.discardButton.enabled)
            self.ui.discardButton.click()
            wait(lambda count=count: self.ui.runTree.topLevelItemCount < count)
        shutil.rmtree(self.place / "models" / "trained", ignore_errors=True)
        self.representation.exit()
        slicer.mrmlScene.Clear(0)

    # --- what the tests do again and again

    def answers(self, place, function, answer):
        """What the user will answer in a dialog."""
        patch = mock.patch.object(place, function, staticmethod(lambda *_args, **_named: answer))
        patch.start()
        self.addCleanup(patch.stop)

    def moveCasesToDisk(self):
        """The cases of the list, saved, their scene cleared, and added from disk; the list's file."""
        folder = self.place / "on disk" / self.id().rpartition(".")[2]
        self.answers(qt.QFileDialog, "getExistingDirectory", str(folder))
        self.ui.saveListButton.click()
        wait(lambda: "Saved as" in self.ui.casesLabel.text)
        slicer.mrmlScene.Clear(0)
        self.answers(qt.QFileDialog, "getOpenFileName", str(folder / "cases.json"))
        self.ui.addListButton.click()
        return folder / "cases.json"

    def addCases(self, outlined=3, plain=1, validation=1, structures=("Left atrium",)):
        """Scans of the scene become cases by a click; the last outlined ones are for validation."""
        for n in range(outlined):
            addOutlined(f"patient{n}", PLACES[n], structures)
        for n in range(outlined, outlined + plain):
            addScan(f"patient{n}", PLACES[n])
        self.ui.addSceneButton.click()
        for n in range(outlined - validation, outlined):
            self.chooseCase(f"patient{n}")
            self.ui.roleComboBox.currentIndex = 2

    def items(self):
        """{name of a case: (role shown, item)} of the tree."""
        tree, found = self.ui.caseTree, {}
        for n in range(tree.topLevelItemCount):
            group = tree.topLevelItem(n)
            for m in range(group.childCount()):
                found[group.child(m).text(0).split("\n")[0]] = (group.text(0), group.child(m))
        return found

    def roles(self):
        return {name: role.split(" (")[0] for name, (role, _item) in self.items().items()}

    def chooseCase(self, *names):
        self.ui.caseTree.clearSelection()
        for name in names:
            self.items()[name][1].setSelected(True)

    def start(self):
        """Click Start training and wait until the run is on the list; gives its folder."""
        self.assertTrue(self.ui.startButton.enabled, self.ui.summaryLabel.text)
        self.ui.startButton.click()
        wait(lambda: self.ui.startButton.text == "Start training")
        self.assertEqual(self.ui.statusLabel.text, "")
        return Path(self.watched(3))

    def watched(self, column):
        """A text of the line of the run that is watched."""
        return self.ui.runTree.selectedItems()[0].text(column)

    def state(self):
        return self.watched(1)

    def waitState(self, *states):
        wait(lambda: self.state() in states, SECONDS)
        return self.state()

    def finish(self):
        """Wait for the end of the run, which must be a good one."""
        self.assertEqual(self.waitState("done", "failed", "interrupted"), "done", self.ui.progressLabel.text)
        wait(lambda: self.ui.useButton.enabled)

    def table(self):
        """The result: {scan: the line of figures}."""
        model = self.ui.resultTable.model()
        lines = [
            [model.data(model.index(row, column)) for column in range(model.columnCount())]
            for row in range(model.rowCount())
        ]
        return {line[0]: line[1:] for line in lines}


class TrainModuleTest(TrainPanelTest):
    # --- cases

    def test_scans_of_the_scene_become_cases(self):
        self.assertIn("Add some scans", self.ui.summaryLabel.text)
        self.assertFalse(self.ui.startButton.enabled)
        self.addCases(outlined=2, plain=2, validation=0)
        self.assertEqual(
            self.roles(),
            {"patient0": "Labelled", "patient1": "Labelled"} | dict.fromkeys(("patient2", "patient3"), "Unlabelled"),
        )
        wait(lambda: not any(item.icon(0).isNull() for _role, item in self.items().values()))
        self.assertIn("40 x 48 x 20", self.items()["patient0"][1].text(0))
        self.assertIn("patient0 segmentation", self.items()["patient0"][1].text(1))
        self.assertIn("Labelled: 2, Unlabelled: 2, Validation: 0", self.ui.summaryLabel.text)
        self.assertTrue(self.ui.startButton.enabled)
        self.ui.addSceneButton.click()
        self.assertIn("not on the list already", self.ui.casesLabel.text)
        self.assertEqual(len(self.items()), 4)

    def test_a_case_is_dragged_to_another_role(self):
        self.addCases(outlined=3, plain=0, validation=0)
        tree, item = self.ui.caseTree, self.items()["patient2"][1]
        labelled, validation = tree.topLevelItem(0), tree.topLevelItem(2)
        validation.addChild(labelled.takeChild(labelled.indexOfChild(item)))  # what a drop does
        wait(lambda: self.roles()["patient2"] == "Validation" and tree.topLevelItem(2).text(0) == "Validation (1)")
        self.assertIn("Labelled: 2", self.ui.summaryLabel.text)

    def test_a_scan_without_an_outline_can_not_be_labelled(self):
        self.addCases(outlined=2, plain=1, validation=0)
        self.chooseCase("patient2")
        self.ui.roleComboBox.currentIndex = 0
        self.assertTrue(self.ui.casesLabel.text)
        self.assertEqual(self.roles()["patient2"], "Unlabelled")
        self.assertEqual(self.ui.roleComboBox.currentIndex, 1)

    def test_an_outline_is_given_to_a_scan(self):
        self.addCases(outlined=2, plain=1, validation=0)
        _volume, node = addOutlined("other", PLACES[2], ("Left atrium", "Appendage"))
        self.chooseCase("patient2")
        self.ui.outlineSelector.setCurrentNode(node)
        self.ui.outlineSelector.nodeActivated.emit(node)
        self.assertIn("other segmentation", self.items()["patient2"][1].text(1))
        combo = self.ui.outlineSegmentComboBox
        self.assertEqual([combo.itemText(n) for n in range(combo.count)], ["All segments", "Left atrium", "Appendage"])
        combo.currentIndex = 1
        self.ui.roleComboBox.currentIndex = 0
        self.assertEqual(self.roles()["patient2"], "Labelled")
        slicer.mrmlScene.RemoveNode(node)
        self.assertNotIn("patient1 segmentation", self.items()["patient2"][1].text(1))

    def test_cases_leave_the_list_and_the_list_is_saved_with_the_scene(self):
        self.addCases(outlined=2, plain=2, validation=0)
        self.chooseCase("patient1", "patient3")
        self.ui.removeCaseButton.click()
        self.assertEqual(sorted(self.roles()), ["patient0", "patient2"])
        path = str(self.place / "scene.mrb")
        self.assertTrue(slicer.util.saveScene(path, properties={}))
        slicer.mrmlScene.Clear(0)
        self.assertEqual(self.roles(), {})
        slicer.util.loadScene(path, properties={})
        self.assertEqual(self.roles(), {"patient0": "Labelled", "patient2": "Unlabelled"})
        self.chooseCase("patient0")
        self.assertEqual(self.ui.outlineSelector.currentNode().GetName(), "patient0 segmentation")

    def test_a_labelled_case_comes_from_segment(self):
        volume, node = addOutlined("scan", PLACES[0])
        self.widget.addCase(volume, node, node.GetSegmentation().GetNthSegmentID(0))
        self.assertEqual(self.roles(), {"scan": "Labelled"})
        self.assertTrue(self.items()["scan"][1].isSelected())

    def test_a_folder_and_a_list_of_scans(self):
        self.addCases(outlined=2, plain=1, validation=0)
        written = self.moveCasesToDisk().read_text()
        roles = [case["role"] for case in json.loads(written)["cases"]]
        self.assertEqual(roles, ["labelled", "labelled", "unlabelled"])
        self.assertNotIn("patient", written)
        self.assertEqual(sorted(self.roles().values()), ["Labelled", "Labelled", "Unlabelled"])
        wait(lambda: not any(item.icon(0).isNull() for _role, item in self.items().values()))
        self.assertIn("40 x 48 x 20", self.items()["case-001"][1].text(0))
        (self.place / "unreadable").mkdir()
        (self.place / "unreadable" / "text.nrrd").write_text("no image")
        self.answers(qt.QFileDialog, "getExistingDirectory", str(self.place / "unreadable"))
        self.ui.addFolderButton.click()
        wait(lambda: "cannot be read" in self.items()["text"][1].text(2))
        wait(lambda: "Cases with notes to read, by a click on each: 1" in self.ui.summaryLabel.text)
        self.chooseCase("text")
        self.assertIn("text: ", self.ui.summaryLabel.text)

    def test_the_cursor_tells_that_a_folder_is_searched(self):
        shapes = []

        def search(paths):
            shapes.append(qt.QApplication.overrideCursor().shape())
            return []

        self.answers(qt.QFileDialog, "getExistingDirectory", str(self.place))
        with mock.patch("simcvd.scans.find_scans", search):
            self.ui.addFolderButton.click()
        self.assertEqual(shapes, [qt.Qt.WaitCursor])
        self.assertIsNone(qt.QApplication.overrideCursor())

    def test_a_list_is_not_saved_among_other_files(self):
        self.addCases(outlined=1, plain=1, validation=0)
        folder = self.place / "full"
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
        self.answers(qt.QFileDialog, "getExistingDirectory", str(folder))
        self.ui.saveListButton.click()
        self.assertIn("is not empty; choose a new one.", self.ui.casesLabel.text)
        self.assertEqual(self.ui.saveListButton.text, "Save list...")
        slicer.mrmlScene.Clear(0)
        self.assertEqual([path.name for path in folder.iterdir()], ["mine.txt"])

    def test_a_case_on_disk_is_opened_to_correct_its_outline(self):
        from SimCVDLib import nodes

        self.addCases(outlined=2, plain=0, validation=0, structures=("Wall", "Core"))
        self.moveCasesToDisk()
        self.window()
        self.chooseCase("case-002")
        self.ui.editOutlineButton.click()
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        volume, node = editor.sourceVolumeNode(), editor.segmentationNode()
        self.assertEqual(volume.GetName(), "case-002")
        inner = ball(PLACES[1], 8.0)
        wall, core = (nodes.readSegment(node, each, volume) for each in node.GetSegmentation().GetSegmentIDs())
        self.assertTrue((core == inner).all() and (wall == ball(PLACES[1]) & ~inner).all())
        self.assertEqual(self.roles()["case-002"], "Labelled")
        self.assertIn(node.GetName(), self.items()["case-002"][1].text(1))

    def test_files_that_changed_meanwhile_are_looked_at_again(self):
        self.addCases(outlined=2, plain=0, validation=0)
        self.moveCasesToDisk()
        wait(lambda: not any(item.icon(0).isNull() for _role, item in self.items().values()))
        self.representation.exit()
        row = self.widget.logic.table.rows[0]
        labels = read_labels(row.label)
        write_volume(row.label, labels.array * 0, labels.geometry)
        self.representation.enter()
        wait(lambda: "The outline is empty." in self.items()[row.name][1].text(2))
        wait(lambda: not self.widget._list.isLooking)

    def test_a_scan_without_an_outline_gets_an_empty_one_to_draw(self):
        self.addCases(outlined=2, plain=1, validation=0)
        self.window()
        self.chooseCase("patient2")
        self.ui.editOutlineButton.click()
        node = slicer.modules.segmenteditor.widgetRepresentation().self().editor.segmentationNode()
        (identifier,) = node.GetSegmentation().GetSegmentIDs()
        self.assertEqual(node.GetSegmentation().GetSegment(identifier).GetName(), "Left atrium")
        wait(lambda: "empty" in self.items()["patient2"][1].text(2))

    # --- a training

    def test_from_outlines_to_a_model_in_use(self):
        self.addCases(outlined=3, plain=1, validation=1)
        self.ui.methodComboBox.currentIndex = 0
        self.ui.settingsLineEdit.text = f"{QUICK} {HEAD} iterations=40"  # after fewer it may find nothing at all
        folder = self.start()
        self.assertEqual(folder.name, "trained")
        self.assertNotIn("patient", "".join(path.name for path in folder.rglob("*")))
        self.finish()
        self.assertFalse((folder / "source").exists())
        lines = self.table()
        self.assertEqual(set(lines), {"patient2", "Mean"})
        self.assertEqual(lines["patient2"][0], "Left atrium")
        for figure in lines["patient2"][1:]:
            self.assertRegex(figure, r"^\d+\.\d → \d+\.\d$")
        self.assertRegex(self.ui.resultLabel.text, r"^On 1 validation scan: Dice \d+\.\d % before")
        (plot,) = slicer.util.findChildren(self.ui.plotFrame, className="qMRMLPlotView")
        self.assertGreater(len(plot.lines()), 0)
        self.assertTrue(any(len(points) >= 2 for _color, points in plot.lines()))
        for chart in (1, 2):
            self.ui.chartComboBox.currentIndex = chart
            self.assertTrue(any(len(points) >= 2 for _color, points in plot.lines()))
        self.ui.chartComboBox.currentIndex = 0
        self.assertFalse(self.ui.previewLabel.pixmap.isNull())
        self.assertIn("100 %", self.watched(2))

        for kind, button in (("csv", self.ui.saveCsvButton), ("html", self.ui.saveHtmlButton)):
            path = self.place / f"figures.{kind}"
            self.answers(qt.QFileDialog, "getSaveFileName", str(path))
            button.click()
            self.assertIn("patient2", path.read_text())
        (self.place / "trained.zip").write_text("to be replaced, as the dialog has asked")
        self.answers(qt.QFileDialog, "getSaveFileName", str(self.place / "trained.zip"))
        self.ui.exportButton.click()
        self.assertGreater((self.place / "trained.zip").stat().st_size, 1000)

        self.window()
        self.ui.startComboBox.currentIndex = self.ui.startComboBox.findData("")
        self.ui.useButton.click()
        parameters, combos = self.widget._parameters, (self.ui.startComboBox, self.ui.rankModelComboBox)
        self.assertEqual((parameters.startModel, parameters.rankModel), ("", "left-atrium"))
        self.assertEqual(tuple(combo.currentData for combo in combos), ("", "left-atrium"))
        segment = slicer.modules.simcvdsegment.widgetRepresentation().self()
        self.assertEqual(segment.ui.modelComboBox.currentData, "trained")
        segment.ui.inputSelector.setCurrentNode(slicer.util.getNode("patient3"))
        segment.ui.segmentButton.click()
        wait(lambda: segment.ui.segmentButton.text == "Segment")
        self.assertRegex(segment.ui.statusLabel.text, "^Done")

    def window(self):
        """The main window, by which modules are entered."""
        import host

        window = host.openMainWindow()
        self.addCleanup(window.delete)

    def test_pause_kill_and_resume(self):
        self.ui.settingsLineEdit.text = LONG
        self.addCases()
        folder = self.start()
        self.waitState("running", "failed")
        wait(lambda: "Step" in self.ui.progressLabel.text and not self.ui.progressLabel.text.startswith("Step 0"))
        self.assertIn("left", self.ui.progressLabel.text)
        self.ui.pauseButton.click()
        self.waitState("paused")
        self.assertEqual(self.ui.pauseButton.text, "Resume")
        steps = self.events(folder)[-1]["iteration"]
        self.ui.pauseButton.click()
        self.waitState("running")
        wait(lambda: self.events(folder)[-1].get("iteration", 0) > steps)

        process = int((folder / "lock").read_text())
        os.kill(process, signal.SIGKILL)
        self.waitState("interrupted")
        self.assertEqual(self.ui.pauseButton.text, "Resume")
        self.assertTrue(self.ui.progressLabel.text)
        self.assertFalse(self.ui.useButton.enabled)
        self.ui.pauseButton.click()
        self.waitState("running")
        self.assertNotEqual(int((folder / "lock").read_text()), process)
        self.ui.stopButton.click()
        self.finish()
        self.assertLess(self.events(folder)[-1]["iteration"], 3000)

    def events(self, folder):
        from simcvd.events import read_events

        return read_events(folder / "events.jsonl")[0]

    def test_the_scene_is_closed_and_the_run_goes_on(self):
        self.ui.settingsLineEdit.text = LONG
        self.addCases()
        folder = self.start()
        self.waitState("running")
        (view,) = slicer.util.getNodesByClass("vtkMRMLPlotViewNode")
        self.assertFalse(view.GetDoPropagatePlotChartSelection())
        self.representation.exit()
        slicer.mrmlScene.Clear(0)
        self.assertEqual(slicer.util.getNodesByClass("vtkMRMLPlotViewNode"), [])
        self.representation.enter()
        self.assertEqual(Path(self.watched(3)), folder)
        self.waitState("running")
        (view,) = slicer.util.getNodesByClass("vtkMRMLPlotViewNode")
        self.assertIsNotNone(view.GetParentLayoutNode())
        self.representation.exit()
        self.representation.enter()
        self.assertEqual(self.state(), "running")
        self.ui.keepRunningCheckBox.click()
        self.assertTrue(self.ui.keepRunningCheckBox.checked)
        self.ui.keepRunningCheckBox.click()
        from SimCVDTrain import stopTrainings

        stopTrainings()  # what quitting Slicer does
        self.waitState("stopped")
        self.assertTrue((folder / "checkpoint.pt").exists())
        self.assertEqual(self.ui.pauseButton.text, "Resume")

    def test_a_run_is_discarded_although_the_scene_is_closed_and_another_run_chosen(self):
        self.ui.settingsLineEdit.text = LONG
        self.addCases()
        folder = self.start()
        self.waitState("running")
        with held(int((folder / "lock").read_text())):
            self.ui.discardButton.click()
            slicer.mrmlScene.Clear(0)
            self.assertEqual(Path(self.watched(3)), folder)
            self.assertFalse(self.ui.stopButton.enabled)
            self.widget._chooseRun("")
            self.assertTrue(folder.exists())
        wait(lambda: not folder.exists())
        wait(lambda: not self.ui.runTree.topLevelItemCount)
        self.assertEqual(self.ui.statusLabel.text, "")

    def test_every_method_is_offered(self):
        from simcvd.training.methods import METHODS as KNOWN
        from SimCVDTrain import METHODS

        self.assertEqual(set(METHODS), set(KNOWN))
        self.assertEqual(self.ui.methodComboBox.count, len(METHODS))
        offered = {"action++": "ACTION++", "global_local": "Global + local", "mean_teacher": "Mean teacher"}
        for index, method in enumerate(METHODS):
            self.ui.methodComboBox.currentIndex = index
            self.assertEqual(self.widget._parameters.method, method)
            self.assertTrue(self.ui.methodComboBox.currentText.lower().startswith(offered.get(method, method).lower()))

    def test_every_variation_is_offered_and_stands_below_the_line_of_settings(self):
        from simcvd.training.sampling import AUGMENTATIONS as KNOWN
        from SimCVDTrain import AUGMENTATIONS

        self.addCases()
        self.assertEqual(set(AUGMENTATIONS), {"", *KNOWN})
        self.assertEqual(self.ui.augmentationComboBox.count, len(AUGMENTATIONS))
        self.assertNotIn("augmentation", self.widget._plan()["wishes"])
        for index, augmentation in list(enumerate(AUGMENTATIONS))[1:]:
            self.ui.augmentationComboBox.currentIndex = index
            self.assertEqual(self.widget._plan()["wishes"]["augmentation"], augmentation)
            self.assertTrue(self.ui.augmentationComboBox.currentText.lower().startswith(augmentation))
        self.ui.settingsLineEdit.text = "augmentation=strong"
        self.assertEqual(self.widget._plan()["wishes"]["augmentation"], "strong")

    def test_what_a_scene_of_another_version_holds_is_refused_in_a_sentence(self):
        self.addCases()
        p = self.widget._parameters
        p.method, p.augmentation = "newer", "newest"
        self.assertEqual([self.ui.methodComboBox.currentIndex, self.ui.augmentationComboBox.currentIndex], [-1, -1])
        self.assertEqual((p.method, p.augmentation), ("newer", "newest"))
        self.ui.estimateButton.click()
        wait(lambda: "no method 'newer'" in self.ui.estimateLabel.text)
        self.ui.methodComboBox.currentIndex = 0
        self.ui.estimateButton.click()
        wait(lambda: "newest" in self.ui.estimateLabel.text)

    def test_several_structures_from_table_to_result(self):
        self.ui.startComboBox.currentIndex = self.ui.startComboBox.findData("")
        self.ui.spacingSpinBox.value = 2.0
        self.ui.methodComboBox.currentIndex = 2
        self.ui.settingsLineEdit.text = QUICK + ' network={"n_filters":2}'
        self.addCases(structures=("Wall", "Core"))
        folder = self.start()
        self.finish()
        model = self.ui.resultTable.model()
        self.assertEqual([model.data(model.index(row, 1)) for row in range(model.rowCount())], ["Wall", "Core", ""])
        card = json.loads((folder / "model" / "card.json").read_text())
        self.assertEqual([segment["name"] for segment in card["segments"]], ["Wall", "Core"])
        self.assertEqual(card["segments"][0]["color"], [0.87, 0.36, 0.33])

    def test_labelled_scans_are_left_out_for_want_of_validation(self):
        self.addCases(outlined=2, plain=1, validation=0)
        self.assertFalse(self.ui.leaveOutCheckBox.isHidden())
        self.ui.leaveOutCheckBox.checked = True
        self.start()
        self.finish()
        self.assertEqual(set(self.table()), {"patient0", "patient1", "Mean"})
        self.assertIn("2 labelled scans, each left out of a training once", self.ui.resultLabel.text)

    def test_a_run_that_is_not_on_the_list_is_added(self):
        from SimCVDLib import runlist

        self.addCases()
        folder = self.start()
        self.finish()
        runlist.forget(folder)
        slicer.mrmlScene.Clear(0)
        wait(lambda: self.ui.runTree.topLevelItemCount == 0)
        self.assertFalse(self.ui.useButton.enabled)
        self.answers(qt.QFileDialog, "getExistingDirectory", str(self.place))
        self.ui.attachButton.click()
        self.assertIn("holds no training", self.ui.statusLabel.text)
        self.answers(qt.QFileDialog, "getExistingDirectory", str(folder))
        self.ui.attachButton.click()
        self.assertEqual(self.state(), "done")
        wait(lambda: self.ui.useButton.enabled)
        self.assertEqual(set(self.table()), {"case-003", "Mean"})

    def test_what_is_wrong_is_said_before_anything_starts(self):
        self.addCases()
        self.ui.nameLineEdit.text = "left atrium!"
        self.ui.startButton.click()
        self.assertIn("letters, digits", self.ui.statusLabel.text)
        self.ui.nameLineEdit.text = "bright"
        self.ui.startButton.click()
        self.assertIn("There is a model bright already", self.ui.statusLabel.text)
        self.ui.nameLineEdit.text = "trained"
        self.ui.settingsLineEdit.text = "lambda"
        self.ui.startButton.click()
        self.assertIn("not NAME=VALUE", self.ui.statusLabel.text)
        self.assertEqual(self.ui.runTree.topLevelItemCount, 0)

    def test_a_model_of_other_structures_is_refused_before_anything_starts(self):
        self.addCases(structures=("Wall", "Core"))
        sentence = "The number of structures is 1 in the model and 2 in the outlines"
        wait(lambda: sentence in self.ui.summaryLabel.text)
        self.ui.startButton.click()
        self.assertIn(sentence, self.ui.statusLabel.text)
        self.assertEqual(self.ui.runTree.topLevelItemCount, 0)

    def test_cases_on_disk_alone_train_from_scratch(self):
        self.addCases(structures=("Wall", "Core"))
        mine = self.moveCasesToDisk()
        wait(lambda: not any(item.icon(0).isNull() for _role, item in self.items().values()))
        self.ui.startComboBox.currentIndex = self.ui.startComboBox.findData("")
        self.ui.spacingSpinBox.value = 2.0
        self.ui.durationComboBox.currentIndex = 3
        self.ui.methodComboBox.currentIndex = 2
        self.ui.nameLineEdit.text = "trained"
        self.ui.settingsLineEdit.text = QUICK + ' network={"n_filters":2}'
        folder = self.start()
        self.finish()
        card = json.loads((folder / "model" / "card.json").read_text())
        self.assertEqual([segment["name"] for segment in card["segments"]], ["Class 1", "Class 2"])
        self.assertTrue(mine.exists())  # the user's own files stay

    def test_a_removed_folder_is_told(self):
        self.ui.settingsLineEdit.text = LONG
        self.addCases()
        folder = self.start()
        self.waitState("running")
        process = int((folder / "lock").read_text())
        self.addCleanup(ended, process)
        shutil.rmtree(folder, ignore_errors=True)
        wait(lambda: f"The folder {folder} was removed" in self.ui.statusLabel.text)
        self.assertFalse(self.ui.pauseButton.enabled or self.ui.stopButton.enabled or self.ui.discardButton.enabled)
        wait(lambda: not self.ui.runTree.topLevelItemCount)
        self.assertTrue(self.ui.startButton.enabled)

    def test_nothing_starts_without_pytorch(self):
        from SimCVDLib import pytorch

        self.answers(pytorch, "status", (False, "PyTorch is missing."))
        self.answers(pytorch, "install", (False, "PyTorch was not installed."))
        self.addCases()
        self.representation.exit()
        self.representation.enter()
        self.addCleanup(self.representation.enter)
        self.assertFalse(self.ui.installTorchButton.isHidden())
        for button, label in (("startButton", "statusLabel"), ("estimateButton", "estimateLabel")):
            getattr(self.ui, button).click()
            self.assertEqual(getattr(self.ui, label).text, "PyTorch was not installed.")
        self.assertEqual((self.ui.startButton.text, self.ui.runTree.topLevelItemCount), ("Start training", 0))

    def test_what_the_training_refuses_is_shown(self):
        self.ui.settingsLineEdit.text = QUICK + " nonsense=1"
        self.addCases()
        self.start()
        self.waitState("failed")
        self.assertIn("nonsense", self.ui.progressLabel.text)
        self.assertFalse(self.ui.useButton.enabled)

    def test_starting_can_be_cancelled(self):
        self.addCases()
        self.ui.startButton.click()
        self.assertEqual(self.ui.startButton.text, "Cancel")
        self.ui.startButton.click()
        wait(lambda: self.ui.startButton.text == "Start training")
        self.assertEqual(self.ui.runTree.topLevelItemCount, 0)
        self.assertFalse((self.runs / "trained").exists())

    def test_an_estimate_is_given(self):
        self.addCases()
        self.ui.estimateButton.click()
        self.assertEqual(self.ui.estimateButton.text, "Cancel")
        wait(lambda: self.ui.estimateButton.text == "Estimate", SECONDS)
        self.assertRegex(self.ui.estimateLabel.text, r"\d steps in 10 minutes.*This training: 12 steps in about")

    # --- which case next

    def test_the_unlabelled_scans_are_ranked_and_one_is_opened(self):
        self.addCases(outlined=2, plain=2, validation=0)
        self.ui.rankModelComboBox.currentIndex = self.ui.rankModelComboBox.findData("bright")
        self.ui.rankButton.click()
        self.assertEqual(self.ui.rankButton.text, "Cancel")
        wait(lambda: self.ui.rankButton.text == "Rank the unlabelled scans", SECONDS)
        tree = self.ui.rankTree
        self.assertEqual(
            sorted(tree.topLevelItem(n).text(0) for n in range(tree.topLevelItemCount)), ["patient2", "patient3"]
        )
        self.assertTrue(all(tree.topLevelItem(n).text(3) for n in range(2)), self.ui.rankLabel.text)
        first = tree.topLevelItem(0).text(0)
        self.window()
        self.ui.proposalButton.click()
        self.ui.proposalButton.click()
        self.assertIn("still segmenting", self.ui.rankLabel.text)
        segment = slicer.modules.simcvdsegment.widgetRepresentation().self()
        self.assertEqual(segment.ui.inputSelector.currentNode().GetName(), first)
        wait(lambda: segment.ui.segmentButton.text == "Segment")
        proposal = segment.ui.segmentSelector.currentNode()
        segment.ui.useAsCaseButton.click()
        self.assertEqual(self.roles()[first], "Labelled")
        self.assertIn(proposal.GetName(), self.items()[first][1].text(1))

    def ranked(self):
        tree = self.ui.rankTree
        return sorted(tree.topLevelItem(n).text(0) for n in range(tree.topLevelItemCount))

    def test_the_ranking_knows_nothing_of_scans_that_left(self):
        self.addCases(outlined=0, plain=3, validation=0)
        self.ui.rankModelComboBox.currentIndex = self.ui.rankModelComboBox.findData("bright")
        self.ui.rankButton.click()
        self.chooseCase("patient2")
        self.ui.removeCaseButton.click()
        self.widget.logic.table.addVolumes([addScan("other", PLACES[3])])  # it gets the number of patient2
        wait(lambda: self.ui.rankButton.text == "Rank the unlabelled scans", SECONDS)
        self.assertEqual(self.ranked(), ["patient0", "patient1"])
        self.chooseCase("patient1")
        self.ui.removeCaseButton.click()
        self.assertEqual(self.ranked(), ["patient0"])
        slicer.mrmlScene.Clear(0)
        self.assertEqual(self.ranked(), [])

    def test_scans_are_ranked_before_the_first_outline(self):
        self.addCases(outlined=0, plain=2, validation=0)
        self.ui.rankModelComboBox.currentIndex = self.ui.rankModelComboBox.findData("bright")
        self.ui.rankButton.click()
        wait(lambda: self.ui.rankButton.text == "Rank the unlabelled scans", SECONDS)
        self.assertEqual(self.ui.rankTree.topLevelItemCount, 2)
        slicer.mrmlScene.RemoveNode(slicer.util.getNode("patient1"))
        self.ui.rankButton.click()
        self.assertIn("patient1 is no longer in the scene", self.ui.rankLabel.text)
        self.chooseCase("patient1")
        self.ui.editOutlineButton.click()
        self.assertIn("patient1 is no longer in the scene", self.ui.casesLabel.text)
        self.assertEqual(self.ui.rankButton.text, "Rank the unlabelled scans")

    # --- scripts, life

    def test_what_a_recipe_sets_can_be_set_in_the_panel(self):
        from simcvd.training.recipes import recipe
        from SimCVDTrain import settingsOf

        for name, value in recipe("short", "simcvd").items():
            if name not in ("recipe", "settings", "optimiser"):
                text = json.dumps(value, separators=(",", ":"))
                self.assertEqual(settingsOf(f"{name}={text} lambda=0.25"), {name: value, "settings": {"lambda": 0.25}})

    def test_iterations_in_the_line_of_settings_stand_above_the_duration(self):
        from simcvd.training.setup import settle

        self.addCases()
        self.ui.durationComboBox.currentIndex = 1  # an hour
        self.ui.settingsLineEdit.text = "iterations=12"
        plan = self.widget._plan()
        config = settle(plan["method"], plan["spacing"], plan.get("recipe"), plan["wishes"], 2)
        self.assertEqual((config["iterations"], config["minutes"], config["recipe"]), (12, None, "short"))

    def test_a_script_trains_without_the_panel(self):
        from SimCVDLib import runs
        from SimCVDTrain import SimCVDTrainLogic, settingsOf

        self.representation.exit()
        logic = SimCVDTrainLogic()
        for n in range(2):
            volume, node = addOutlined(f"scan{n}", PLACES[n])
            logic.addLabelledCase(volume, node)
        run = logic.train(
            "scripted", self.runs, model="bright", minutes=None, method="supervised", settings=settingsOf(QUICK)
        )
        while run.state not in (runs.DONE, runs.FAILED, runs.DIED):
            run.poll()
            time.sleep(0.05)
        self.assertEqual(run.state, runs.DONE, run.sentence)
        with self.assertRaisesRegex(Exception, "There is no model 'missing'"):
            logic.plan("other", model="missing")
        self.representation.enter()
        self.assertEqual(self.roles(), {"scan0": "Labelled", "scan1": "Labelled"})

    def test_cleanup_leaves_nothing_behind(self):
        self.addCases()
        self.widget.cleanup()
        self.addCleanup(self.widget.setup)
        self.assertEqual(list(self.widget.Observations), [])

    def test_details_can_be_copied(self):
        self.ui.copyDetailsButton.click()
        self.assertIn("SimCVD", qt.QApplication.clipboard().text())
