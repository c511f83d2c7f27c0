"""The panel of SimCVD Segment: real buttons, the real background process, a small real model, real nodes."""

import os
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import numpy as np
import qt
import slicer
import vtk

ROOT = Path(__file__).resolve().parents[2]
# turned, anisotropic and shifted: what is right here is right for an axial scan too
TURNED = ((1.2, -0.9, 0.0, -20.0), (1.6, 0.675, 0.0, 15.0), (0.0, 0.0, 2.5, -30.0), (0.0, 0.0, 0.0, 1.0))
SHAPE = (20, 48, 40)  # slices, rows, columns
RADIUS = 16.0  # mm
SECONDS = 60


def moduleWidget():
    """The module's widget representation: of Slicer where this runs inside, else of the test host."""
    if not hasattr(slicer.modules, "simcvdsegment"):
        import host

        host.loadModule(ROOT / "SimCVDSegment")
    return slicer.modules.simcvdsegment.widgetRepresentation()


def wait(until, seconds=SECONDS):
    """Let the application work until something is so."""
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            raise AssertionError(f"it did not come true within {seconds} s")
        slicer.app.processEvents()
        time.sleep(0.002)


def ball(center=(0.0, 0.0, 0.0), radius=RADIUS):
    """Which voxels of the turned grid lie in a ball around a point (mm from the grid's middle), bool (K, J, I)."""
    return np.linalg.norm(positions() - middle() - center, axis=-1) < radius


def positions():
    """RAS of every voxel of the turned grid, (K, J, I, 3)."""
    matrix = np.array(TURNED)
    index = np.moveaxis(np.indices(SHAPE), 0, -1)[..., ::-1]
    return index @ matrix[:3, :3].T + matrix[:3, 3]


def middle():
    return positions().reshape(-1, 3).mean(0)


def nearest(position):
    """The voxel (k, j, i) at a position."""
    return tuple(np.unravel_index(np.linalg.norm(positions() - position, axis=-1).argmin(), SHAPE))


def addScan(name="scan", center=(0.0, 0.0, 0.0)):
    """A volume with a bright ball in noise, on the turned grid."""
    array = np.random.default_rng(0).normal(100, 4, SHAPE).astype(np.float32) + 100 * ball(center)
    return slicer.util.addVolumeFromArray(array, ijkToRAS=np.array(TURNED), name=name)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


class SegmentModuleTest(unittest.TestCase):
    """One panel and one background process for all tests; each begins with an empty scene."""

    @classmethod
    def setUpClass(cls):
        from SimCVDLib import jobs, pytorch

        if not pytorch.status()[0]:
            raise unittest.SkipTest("PyTorch is not installed here, so nothing can be segmented.")
        cls.folder = tempfile.TemporaryDirectory()
        cls.place = Path(cls.folder.name)
        program, environment = jobs.pythonCommand()
        script = str(Path(__file__).with_name("small_model.py"))
        subprocess.run([program, script, str(cls.place / "models" / "bright")], env=environment, check=True)
        cls.before = os.environ.get("SIMCVD_MODELS")
        os.environ["SIMCVD_MODELS"] = str(cls.place / "models")
        jobs.closeWorker()  # the next one sees these models

    @classmethod
    def tearDownClass(cls):
        from SimCVDLib import jobs

        jobs.closeWorker()
        os.environ.pop("SIMCVD_MODELS")
        if cls.before is not None:
            os.environ["SIMCVD_MODELS"] = cls.before
        cls.folder.cleanup()

    def setUp(self):
        slicer.mrmlScene.Clear(0)
        self.representation = moduleWidget()
        self.widget = self.representation.self()
        self.ui = self.widget.ui
        self.representation.enter()
        self.ui.modelComboBox.currentIndex = self.ui.modelComboBox.findData("bright")

    def tearDown(self):
        self.representation.exit()
        slicer.mrmlScene.Clear(0)

    # --- what the tests do again and again

    def choose(self, volume):
        self.ui.inputSelector.setCurrentNode(volume)

    def finish(self):
        """Wait for the running segmentation; gives the status line."""
        wait(lambda: self.ui.segmentButton.text == "Segment")
        return self.ui.statusLabel.text

    def segment(self, volume):
        """Click Segment and wait; gives the new segmentation."""
        self.choose(volume)
        before = set(self.segmentations())
        self.ui.segmentButton.click()
        status = self.finish()
        self.assertRegex(status, r"^Done in \d+\.\d s on")
        (new,) = set(self.segmentations()) - before or {self.ui.outputSelector.currentNodeID}
        return slicer.mrmlScene.GetNodeByID(new)

    def segmentations(self):
        return [node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]

    def mask(self, node, volume, segmentId="Segment_1"):
        from SimCVDLib import nodes

        return nodes.readSegment(node, segmentId, volume)

    def settle(self):
        """Let a live change be done."""
        for _ in range(5):
            slicer.app.processEvents()

    def addPoint(self, position):
        """A click in a slice view while placing."""
        active = slicer.app.applicationLogic().GetSelectionNode().GetActivePlaceNodeID()
        slicer.mrmlScene.GetNodeByID(active).AddControlPointWorld(vtk.vtkVector3d(*position))

    # --- segment

    def test_click_gives_a_segmentation_where_the_structure_is(self):
        volume = addScan()
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume), study)
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        sheared = np.array(((1, 0.3, 0, 5), (0, 1, 0, -7), (0, 0.2, 1, 9), (0, 0, 0, 1)), float)
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(sheared))
        volume.SetAndObserveTransformNodeID(transform.GetID())

        node = self.segment(volume)

        self.assertGreater(dice(self.mask(node, volume), ball()), 0.9)
        segment = node.GetSegmentation().GetSegment("Segment_1")
        self.assertEqual(segment.GetName(), "Left atrium")
        np.testing.assert_allclose(segment.GetColor(), (0.87, 0.36, 0.33))
        code = vtk.reference("")
        self.assertTrue(segment.GetTag(segment.GetTerminologyEntryTagName(), code))
        self.assertIn("SCT^82471001^Left atrium", str(code))
        self.assertIs(node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()), volume)
        self.assertEqual(node.GetTransformNodeID(), transform.GetID())
        self.assertEqual(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)), study)
        # in the world: the middle of the surface is where the transform puts the ball
        node.CreateClosedSurfaceRepresentation()
        surface = vtk.vtkPolyData()
        node.GetClosedSurfaceRepresentation("Segment_1", surface)
        center = np.array(surface.GetCenter())
        world = sheared[:3, :3] @ middle() + sheared[:3, 3]
        own = np.array(surface.GetBounds()).reshape(3, 2).mean(1)
        placed = sheared[:3, :3] @ own + sheared[:3, 3]
        self.assertTrue(min(np.abs(center - world).max(), np.abs(placed - world).max()) < 2.5)

    def test_a_click_makes_a_new_node_unless_one_is_chosen(self):
        volume = addScan()
        first = self.segment(volume)
        second = self.segment(volume)
        self.assertIsNot(first, second)
        self.ui.offsetSlider.value = 3.0
        self.ui.outsideButton.click()
        corner = middle() + (RADIUS - 4, 0, 0)
        self.addPoint(corner)
        self.settle()
        moved = self.mask(second, volume).sum()
        self.ui.outputSelector.setCurrentNode(second)
        self.assertIs(self.segment(volume), second)
        self.assertEqual(len(self.segmentations()), 2)
        self.assertLess(self.mask(second, volume).sum(), moved)
        self.assertEqual(self.ui.offsetSlider.value, 0.0)
        self.ui.offsetSlider.value = 0.5  # no point of the result that was replaced is left to count
        self.settle()
        self.assertTrue(self.mask(second, volume)[nearest(corner)])

    def test_the_button_cancels_and_nothing_is_changed(self):
        self.choose(addScan())
        self.ui.segmentButton.click()
        self.assertEqual(self.ui.segmentButton.text, "Cancel")
        self.ui.segmentButton.click()
        self.assertEqual(self.finish(), "Stopped. Nothing was changed.")
        self.assertEqual(self.segmentations(), [])
        self.assertTrue(self.ui.segmentButton.enabled)

    def test_without_a_volume_the_button_waits(self):
        self.choose(None)
        self.assertFalse(self.ui.segmentButton.enabled)
        self.choose(addScan())
        self.assertTrue(self.ui.segmentButton.enabled)

    def test_region_limits_the_segmentation(self):
        volume = addScan()
        self.choose(volume)
        self.ui.fitRoiButton.click()
        region = self.ui.roiSelector.currentNode()
        self.assertIsNotNone(region)
        whole = np.array(region.GetSize())
        self.assertTrue(self.ui.showRoiButton.checked)
        self.ui.showRoiButton.click()
        self.assertFalse(region.GetDisplayVisibility())
        size = [whole[0], whole[1], whole[2] / 4]
        region.SetSize(*size)
        node = self.segment(volume)
        found = positions()[self.mask(node, volume)]
        self.assertLess(np.abs(found[:, 2] - region.GetCenter()[2]).max(), size[2] / 2 + 2.5)

    def test_a_damaged_model_gives_one_sentence(self):
        import shutil

        broken = self.place / "models" / "broken"
        shutil.copytree(self.place / "models" / "bright", broken)
        self.addCleanup(shutil.rmtree, broken)
        (broken / "weights.npz").write_bytes(b"no weights")
        card = (broken / "card.json").read_text().replace('"name": "bright"', '"name": "broken"')
        (broken / "card.json").write_text(card)
        self.representation.enter()
        self.ui.modelComboBox.currentIndex = self.ui.modelComboBox.findData("broken")
        self.choose(addScan())
        self.ui.segmentButton.click()
        self.assertIn("get the model again", self.finish())
        self.assertEqual(self.segmentations(), [])
        (broken / "card.json").write_text("{")
        self.representation.enter()
        self.assertFalse(self.ui.segmentButton.enabled)
        self.assertIn("can't be read", self.ui.modelLabel.text)

    def test_the_process_is_killed_and_the_next_click_works(self):
        from SimCVDLib import jobs

        volume = addScan()
        self.choose(volume)
        self.ui.segmentButton.click()
        jobs.worker()._process.kill()
        self.assertIn("ended unexpectedly", self.finish())
        self.segment(volume)

    def test_what_is_hidden_stays_hidden_when_a_section_is_opened(self):
        section = self.ui.correctionsCollapsibleButton
        section.collapsed = True
        self.widget.updateGui()
        section.collapsed = False
        hidden = not hasattr(slicer.modules, "simcvdtrain")
        self.assertEqual(self.ui.useAsCaseButton.isHidden(), hidden)
        self.ui.exportCollapsibleButton.collapsed = False
        self.assertTrue(self.ui.exportLabel.isHidden())

    # --- the scene meanwhile

    def test_scene_closed_mid_run(self):
        self.choose(addScan())
        self.ui.segmentButton.click()
        slicer.mrmlScene.Clear(0)
        self.finish()
        self.assertEqual(self.segmentations(), [])
        self.segment(addScan())

    def test_input_removed_mid_run(self):
        volume = addScan()
        self.choose(volume)
        self.ui.segmentButton.click()
        slicer.mrmlScene.RemoveNode(volume)
        self.assertIn("was removed", self.finish())
        self.assertEqual(self.segmentations(), [])

    def test_chosen_result_removed_mid_run(self):
        volume = addScan()
        node = self.segment(volume)
        self.ui.outputSelector.setCurrentNode(node)
        self.ui.segmentButton.click()
        slicer.mrmlScene.RemoveNode(node)
        self.finish()
        self.assertTrue(self.ui.segmentButton.enabled)

    def test_result_removed_with_overlay_and_points(self):
        node = self.segment(addScan())
        self.ui.overlayComboBox.currentIndex = 1
        self.ui.insideButton.click()
        slicer.mrmlScene.RemoveNode(node)
        self.settle()
        self.assertFalse(self.ui.offsetSlider.enabled)
        self.assertFalse(self.ui.insideButton.checked)

    # --- overlay

    def test_overlay_is_shown_and_the_layers_come_back(self):
        volume = addScan()
        other = addScan("other")
        slicer.util.setSliceViewerLayers(background=volume, foreground=other, foregroundOpacity=0.25)
        composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
        self.segment(volume)
        for index in (1, 2, 3):
            self.ui.overlayComboBox.currentIndex = index
            shown = slicer.mrmlScene.GetNodeByID(composite.GetForegroundVolumeID())
            self.assertEqual(
                shown.GetAttribute("SimCVD.Map.Kind"), ("distance", "modelDistance", "probability")[index - 1]
            )
        self.ui.opacitySlider.value = 0.7
        self.assertAlmostEqual(composite.GetForegroundOpacity(), 0.7)
        self.ui.overlayComboBox.currentIndex = 4
        self.assertIn("uncertainty", self.ui.statusLabel.text)
        self.ui.overlayComboBox.currentIndex = 0
        self.assertEqual(composite.GetForegroundVolumeID(), other.GetID())
        self.assertAlmostEqual(composite.GetForegroundOpacity(), 0.25)
        self.assertEqual(composite.GetBackgroundVolumeID(), volume.GetID())

    def test_uncertainty_when_asked_for(self):
        self.ui.uncertaintyCheckBox.checked = True
        self.segment(addScan())
        self.ui.overlayComboBox.currentIndex = 4
        composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
        shown = slicer.util.arrayFromVolume(slicer.mrmlScene.GetNodeByID(composite.GetForegroundVolumeID()))
        self.assertTrue(shown.min() >= 0 and shown.max() <= 1)

    # --- boundary and corrections

    def test_offset_moves_the_boundary_and_back(self):
        volume = addScan()
        node = self.segment(volume)
        before = self.mask(node, volume)
        self.ui.offsetSlider.value = 4.0
        self.settle()
        wide = self.mask(node, volume)
        self.assertTrue((wide | before == wide).all() and wide.sum() > before.sum())
        self.assertGreater(dice(wide, ball(radius=RADIUS + 4)), 0.9)
        self.ui.offsetSlider.value = 0.0
        self.settle()
        np.testing.assert_array_equal(self.mask(node, volume), before)
        self.ui.undoButton.click()
        self.settle()

    def test_points_move_the_boundary_and_removing_them_moves_it_back(self):
        volume = addScan()
        node = self.segment(volume)
        before = self.mask(node, volume)
        place = middle() + (RADIUS + 4, 0, 0)
        index = nearest(place)
        self.assertFalse(before[index])
        self.ui.insideButton.click()
        self.assertTrue(self.ui.insideButton.checked)
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        self.assertEqual(interaction.GetCurrentInteractionMode(), interaction.Place)
        self.addPoint(positions()[index])
        self.settle()
        self.assertTrue(self.mask(node, volume)[index])
        self.ui.insideButton.click()
        self.assertFalse(self.ui.insideButton.checked)
        self.assertNotEqual(interaction.GetCurrentInteractionMode(), interaction.Place)
        self.ui.removePointButton.click()
        self.settle()
        np.testing.assert_array_equal(self.mask(node, volume), before)
        self.ui.undoButton.click()
        self.settle()
        self.assertTrue(self.mask(node, volume)[index])

    def test_each_segment_keeps_its_own_settings(self):
        one = self.segment(addScan("one"))
        self.ui.offsetSlider.value = 2.0
        self.ui.largestCheckBox.checked = True
        self.settle()
        two = self.segment(addScan("two", (4.0, 0.0, 0.0)))
        self.assertEqual(self.ui.offsetSlider.value, 0.0)
        self.assertFalse(self.ui.largestCheckBox.checked)
        self.ui.segmentSelector.setCurrentNode(one)
        self.assertEqual(self.ui.offsetSlider.value, 2.0)
        self.assertTrue(self.ui.largestCheckBox.checked)
        self.ui.segmentSelector.setCurrentNode(two)
        self.assertEqual(self.ui.offsetSlider.value, 0.0)

    def test_saved_and_reopened(self):
        volume = addScan()
        node = self.segment(volume)
        before = self.mask(node, volume)
        self.ui.offsetSlider.value = 3.0
        self.ui.insideButton.click()
        self.addPoint(middle() + (RADIUS + 6, 0, 0))
        self.settle()
        self.ui.insideButton.click()
        edited = self.mask(node, volume)
        path = str(self.place / "scene.mrb")
        self.assertTrue(slicer.util.saveScene(path, properties={}))
        slicer.mrmlScene.Clear(0)
        slicer.util.loadScene(path, properties={})
        self.settle()
        self.assertEqual(self.ui.inputSelector.currentNode().GetName(), "scan")
        self.assertEqual(self.ui.offsetSlider.value, 3.0)
        node, volume = self.ui.segmentSelector.currentNode(), self.ui.inputSelector.currentNode()
        np.testing.assert_array_equal(self.mask(node, volume), edited)
        self.ui.removePointButton.click()
        self.ui.offsetSlider.value = 0.0
        self.settle()
        np.testing.assert_array_equal(self.mask(node, volume), before)

    # --- several volumes

    def batchLines(self):
        return [self.ui.batchList.item(n).text() for n in range(self.ui.batchList.count)]

    def checkVolumes(self, *volumes):
        for volume in volumes:
            self.ui.batchVolumesSelector.setCheckState(volume, qt.Qt.Checked)

    def test_several_volumes_and_a_folder(self):
        scans, results = self.place / "scans", self.place / "results"
        for folder in (scans, results):
            folder.mkdir()
        volume = addScan("one")
        slicer.util.exportNode(volume, str(scans / "two.nrrd"), properties={})
        (scans / "bad.nrrd").write_bytes(b"not an image")
        self.checkVolumes(volume)
        self.ui.batchFolderLineEdit.currentPath = str(scans)
        self.ui.batchOutputButton.directory = str(results)
        self.ui.batchRunButton.click()
        self.assertEqual(self.ui.batchRunButton.text, "Cancel")
        wait(lambda: self.ui.batchRunButton.text == "Segment all")
        lines = self.batchLines()
        self.assertRegex(lines[0], r"^one: done in")
        self.assertRegex(lines[1], r"^bad: .*bad\.nrrd")
        self.assertRegex(lines[2], r"^two: done in")
        self.assertEqual(self.ui.batchLabel.text, "2 of 3 done, 1 failed.")
        self.assertEqual([p.name for p in results.iterdir()], ["two.seg.nrrd"])
        self.assertEqual(len(self.segmentations()), 1)
        written = slicer.util.loadSegmentation(str(results / "two.seg.nrrd"), properties={})
        self.assertGreater(dice(self.mask(written, volume), ball()), 0.9)
        self.ui.batchRunButton.click()  # what is there is not replaced
        wait(lambda: self.ui.batchRunButton.text == "Segment all")
        self.assertIn("is there already", self.batchLines()[2])

    def test_cancel_keeps_what_is_finished(self):
        volumes = [addScan(f"scan{n}") for n in range(4)]
        self.ui.batchFolderLineEdit.currentPath = ""
        self.checkVolumes(*volumes)
        self.ui.batchRunButton.click()
        wait(lambda: len(self.segmentations()) == 1)
        self.ui.batchRunButton.click()
        wait(lambda: self.ui.batchRunButton.text == "Segment all")
        self.assertIn(len(self.segmentations()), (1, 2))
        self.assertIn("stopped", self.batchLines()[-1])

    # --- report and export

    def test_compare_and_save(self):
        volume = addScan()
        node = self.segment(volume)
        truth = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "truth")
        truth.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        identifier = truth.GetSegmentation().AddEmptySegment("", "by hand")
        slicer.util.updateSegmentBinaryLabelmapFromArray(ball().astype(np.uint8), truth, identifier, volume)
        self.ui.segmentSelector.setCurrentNode(node)
        self.ui.referenceSelector.setCurrentNode(truth)
        self.ui.compareButton.click()
        wait(lambda: self.ui.compareButton.text == "Compare")
        table = self.ui.reportTable.mrmlTableNode()
        self.assertIsNotNone(table, self.ui.reportLabel.text)
        text = " ".join(
            table.GetCellText(row, column)
            for row in range(table.GetNumberOfRows())
            for column in range(table.GetNumberOfColumns())
        )
        expected = dice(self.mask(node, volume), ball())
        self.assertIn(f"{100 * expected:.2f}", text)
        self.assertTrue(self.ui.saveCsvButton.enabled)
        for kind in ("csv", "html"):
            path = self.widget._report.save(str(self.place / f"report.{kind}"))
            self.assertGreater(Path(path).stat().st_size, 100)

    def test_export(self):
        volume = addScan()
        self.segment(volume)
        folder = self.place / "export"
        folder.mkdir()
        self.ui.exportFolderButton.directory = str(folder)
        for index in range(3):
            self.ui.exportKindComboBox.currentIndex = index
            self.ui.exportSegmentationButton.click()
            self.assertIn(str(folder), self.ui.exportLabel.text)
        self.ui.exportDistanceButton.click()
        suffixes = sorted("".join(p.suffixes) for p in folder.iterdir())
        self.assertEqual(len(suffixes), 4, suffixes)
        distance = slicer.util.loadVolume(self.ui.exportLabel.text.split(": ", 1)[1], properties={})
        np.testing.assert_array_equal(
            slicer.util.arrayFromVolume(distance) <= 0,
            self.mask(slicer.mrmlScene.GetNodeByID(self.segmentations()[0]), volume),
        )

    # --- scripts, life

    def test_a_script_segments_without_the_panel(self):
        from SimCVDSegment import SimCVDSegmentLogic

        volume, told = addScan(), []
        node = SimCVDSegmentLogic().segment(volume, model="bright", progress=lambda *a: told.append(a))
        self.assertGreater(dice(self.mask(node, volume), ball()), 0.9)
        self.assertEqual([fraction for fraction, _ in told], sorted(fraction for fraction, _ in told))
        with self.assertRaisesRegex(Exception, "There is no model 'missing'"):
            SimCVDSegmentLogic().segment(volume, model="missing")

    def test_leaving_and_coming_back_while_it_runs(self):
        self.choose(addScan())
        self.ui.segmentButton.click()
        self.representation.exit()
        wait(lambda: self.widget._job is None)
        self.assertEqual(len(self.segmentations()), 1)
        self.representation.enter()
        self.assertTrue(self.ui.offsetSlider.enabled)

    def test_details_can_be_copied(self):
        self.segment(addScan())
        self.ui.copyDetailsButton.click()
        text = qt.QApplication.clipboard().text()
        self.assertIn("Model: bright 1", text)
        self.assertIn('"event": "done"', text)

    def test_cleanup_leaves_nothing_behind(self):
        from SimCVDLib import jobs

        self.segment(addScan())
        self.ui.overlayComboBox.currentIndex = 1
        self.ui.insideButton.click()
        process = int(jobs.worker()._process.processId())
        self.widget.cleanup()
        self.addCleanup(self.widget.setup)
        with self.assertRaises(OSError):
            os.kill(process, 0)
        composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
        self.assertIsNone(composite.GetForegroundVolumeID())
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        self.assertNotEqual(interaction.GetCurrentInteractionMode(), interaction.Place)
        self.assertEqual(list(self.widget.Observations), [])

    def test_reload_and_go_on(self):
        packages = ("simcvd", "SimCVDLib")
        before = {name: module for name, module in sys.modules.items() if name.split(".")[0] in packages}
        self.segment(addScan())
        try:
            self.widget.onReload()
            self.setUp()
            self.assertIsNot(sys.modules["SimCVDLib.jobs"], before["SimCVDLib.jobs"])
            self.segment(addScan())
        finally:  # other tests hold on to the modules of before
            self.widget.cleanup()
            sys.modules.update(before)
            slicer.util.reloadScriptedModule("SimCVDSegment")

    def test_without_torch_one_sentence_says_what_to_do(self):
        from SimCVDLib import jobs

        broken = self.place / "no torch" / "torch"
        broken.mkdir(parents=True)
        (broken / "__init__.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')")
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = str(broken.parent)
        jobs.closeWorker()
        try:
            self.choose(addScan())
            self.ui.segmentButton.click()
            self.assertIn("PyTorch extension", self.finish())
        finally:
            jobs.closeWorker()
            os.environ.pop("PYTHONPATH")
            if before is not None:
                os.environ["PYTHONPATH"] = before

    def test_nothing_to_undo_or_remove_is_said(self):
        self.segment(addScan())
        self.ui.undoButton.click()
        self.assertEqual(self.ui.statusLabel.text, "There is nothing to undo.")
        self.ui.removePointButton.click()
        self.assertEqual(self.ui.statusLabel.text, "There is no point to remove.")

    def test_the_scan_is_shown_below_its_result(self):
        composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
        one, two = addScan("one"), addScan("two")
        slicer.util.setSliceViewerLayers(background=one)
        self.segment(two)
        self.assertEqual(composite.GetBackgroundVolumeID(), two.GetID())
