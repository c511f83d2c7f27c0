"""The panel of SimCVD Segment: real buttons, the real background process, a small real model, real nodes."""

import gc
import os
import re
import subprocess
import sys
import tempfile
import time
import types
import unittest
import weakref
from pathlib import Path
from unittest import mock

import numpy as np
import qt
import slicer
import vtk
from vtk.util import numpy_support

ROOT = Path(__file__).resolve().parents[2]
# turned, anisotropic and shifted: what is right here is right for an axial scan too
TURNED = ((1.2, -0.9, 0.0, -20.0), (1.6, 0.675, 0.0, 15.0), (0.0, 0.0, 2.5, -30.0), (0.0, 0.0, 0.0, 1.0))
SHAPE = (20, 48, 40)  # slices, rows, columns
RADIUS = 16.0  # mm
SECONDS = 60


def loadModule(name):
    """The module's widget representation: of Slicer where this runs inside, else of the test host."""
    if not hasattr(slicer.modules, name.lower()):
        import host

        host.loadModule(ROOT / name)
    return getattr(slicer.modules, name.lower()).widgetRepresentation()


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


def moved(volume, kind):
    """Put a volume under a transform; gives what it does to a position."""
    if kind == "none":
        return lambda position: position
    if kind == "linear":  # turned, sheared and shifted
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        matrix = np.array(((0.9, -0.3, 0.2, 30.0), (0.3, 1.0, 0.0, -12.0), (0.0, 0.0, 1.1, 7.0), (0.0, 0.0, 0.0, 1.0)))
        node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    else:  # bent by several mm
        bounds = np.zeros(6)
        volume.GetRASBounds(bounds)
        corners = np.stack(np.meshgrid(*bounds.reshape(3, 2)), -1).reshape(-1, 3)
        source, target = vtk.vtkPoints(), vtk.vtkPoints()
        for corner, shift in zip(corners, np.random.default_rng(2).normal(0, 5, corners.shape), strict=True):
            source.InsertNextPoint(corner)
            target.InsertNextPoint(corner + shift + (15, 0, 0))
        spline = vtk.vtkThinPlateSplineTransform()
        spline.SetBasisToR()
        spline.SetSourceLandmarks(source)
        spline.SetTargetLandmarks(target)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
        node.SetAndObserveTransformToParent(spline)
    volume.SetAndObserveTransformNodeID(node.GetID())
    toWorld = vtk.vtkGeneralTransform()
    node.GetTransformToWorld(toWorld)
    return toWorld.TransformPoint


def grab(name):
    """Picture of a slice view, (H, W, 3) uint8."""
    view = slicer.app.layoutManager().sliceWidget(name).sliceView()
    view.forceRender()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(view.renderWindow())
    grabber.ReadFrontBufferOff()
    grabber.Update()
    width, height, _depth = grabber.GetOutput().GetDimensions()
    scalars = numpy_support.vtk_to_numpy(grabber.GetOutput().GetPointData().GetScalars())
    return np.flipud(scalars.reshape(height, width, -1)[..., :3]).astype(int)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


class PanelTest(unittest.TestCase):
    """What the tests of a panel need: a small model of the name bright, and nothing else in the list of models."""

    @classmethod
    def setUpClass(cls):
        from SimCVDLib import jobs, pytorch

        if not pytorch.status()[0]:
            raise unittest.SkipTest("PyTorch is not installed here, so nothing can be tested.")
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


class SegmentPanelTest(PanelTest):
    """One panel and one background process for all tests; each begins with an empty scene."""

    def setUp(self):
        slicer.mrmlScene.Clear(0)
        self.representation = loadModule("SimCVDSegment")
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


class SegmentModuleTest(SegmentPanelTest):
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
        self.ui.show3DButton.click()
        self.assertTrue(node.GetDisplayNode().GetVisibility3D())
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

    def test_a_proposal_replaces_nothing_and_stops_nothing(self):
        one, two = addScan("one"), addScan("two")
        node = self.segment(one)
        self.ui.outputSelector.setCurrentNode(node)
        self.ui.fitRoiButton.click()
        before = self.mask(node, one)
        self.widget.propose(two)
        self.assertEqual(self.ui.segmentButton.text, "Cancel")
        with self.assertRaisesRegex(Exception, "still segmenting"):
            self.widget.propose(one)
        self.assertRegex(self.finish(), "^Done in")
        self.assertIsNone(self.ui.roiSelector.currentNode())
        self.assertIs(self.ui.inputSelector.currentNode(), two)
        self.assertIsNot(self.ui.segmentSelector.currentNode(), node)
        np.testing.assert_array_equal(self.mask(node, one), before)

    def test_region_limits_the_segmentation(self):
        volume = addScan()
        self.choose(volume)
        self.ui.fitRoiButton.click()
        region = self.ui.roiSelector.currentNode()
        self.assertIsNotNone(region)
        whole = np.array(region.GetSize())
        self.assertFalse(region.GetDisplayNode().GetFillVisibility())
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

    # --- what can go wrong

    def openWindow(self):
        """The application has a main window; the test host opens one."""
        if slicer.util.mainWindow() is None:
            import host

            self.addCleanup(host.openMainWindow().delete)

    def worker(self):
        """The background process, warm; its number."""
        from SimCVDLib import jobs

        if not jobs.worker().isRunning:
            self.segment(addScan("warm"))
        return int(jobs.worker()._process.processId())

    def refuse(self, volume, words):
        """Click Segment and expect a sentence with these words, the button back, and no result."""
        before = self.segmentations()
        self.choose(volume)
        self.ui.segmentButton.click()
        sentence = self.finish()
        self.assertRegex(sentence, words)
        self.assertRegex(sentence, r"^\S.*\.$")
        self.assertNotIn("\n", sentence)
        self.assertTrue(self.ui.segmentButton.enabled)
        self.assertEqual(self.segmentations(), before)

    @unittest.skipUnless(Path("/dev/full").exists(), "only Linux has a device that is always full")
    def test_a_full_disk_on_this_side(self):
        from SimCVDLib import jobs

        scratch = jobs.scratchFolder()
        (scratch / "image.nrrd").symlink_to("/dev/full")
        volume = addScan()
        with mock.patch.object(jobs, "scratchFolder", lambda: scratch):
            self.refuse(volume, "image.nrrd can't be written .*No space left.*make room")
        self.assertFalse(scratch.exists())
        self.segment(volume)

    @unittest.skipUnless(sys.platform.startswith("linux"), "only Linux limits what a running process writes")
    def test_a_full_disk_on_the_other_side(self):
        import resource

        process, volume = self.worker(), addScan()
        resource.prlimit(process, resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        self.refuse(volume, "can't be written .*free space")
        resource.prlimit(process, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        self.segment(volume)

    @unittest.skipUnless(sys.platform.startswith("linux"), "only Linux limits the memory of a running process")
    def test_too_little_memory_and_the_next_click_works(self):
        import resource

        process = self.worker()
        status = Path(f"/proc/{process}/status").read_text()
        taken = 1024 * int(re.search(r"VmSize:\s+(\d+)", status).group(1))
        resource.prlimit(process, resource.RLIMIT_AS, (taken + 20 * 2**20, resource.RLIM_INFINITY))
        array = np.random.default_rng(0).normal(100, 4, (144, 144, 144)).astype(np.float32)
        large = slicer.util.addVolumeFromArray(array, ijkToRAS=np.diag([2.0, 2.0, 2.0, 1.0]), name="large")
        self.refuse(large, "not enough memory.*set a region|memory")
        self.segment(addScan())
        self.assertNotEqual(self.worker(), process)

    def test_what_the_process_did_to_get_along_is_said(self):
        """A graphics processor that runs out of memory can't be had everywhere: the process is a play-back here."""
        from SimCVDLib import jobs

        note = "Memory ran out on cuda:0, so the scan was cut into smaller tiles."
        script = (
            "import json, sys, numpy as np\n"
            "request = json.loads(sys.stdin.readline())\n"
            f"labels, path = np.zeros({SHAPE}, np.uint8), request['output'] + '/labels.npy'\n"
            "labels[5:9, 9:19, 9:19] = 1\n"
            "np.save(path, labels)\n"
            f"print(json.dumps(dict(event='done', id=request['id'], files=dict(labels=path), notes=[{note!r}],"
            " device='cuda:0', seconds=dict(starting=0, total=2))), flush=True)\n"
            "sys.stdin.read()"
        )
        python, _environment = jobs.pythonCommand()
        player = jobs.Worker([python, "-c", script])
        self.addCleanup(player.close)
        with mock.patch.object(jobs, "worker", lambda: player):
            self.choose(addScan())
            self.ui.segmentButton.click()
            self.assertEqual(self.finish(), f"Done in 2.0 s on cuda:0. {note}")

    def test_nothing_found_and_nothing_to_see(self):
        even = np.full(SHAPE, 100.0, np.float32)
        even[0, 0, :5] = 0
        self.choose(slicer.util.addVolumeFromArray(even, ijkToRAS=np.array(TURNED), name="even"))
        self.ui.segmentButton.click()
        self.assertIn("Nothing was found of Left atrium in this scan.", self.finish())
        flat = slicer.util.addVolumeFromArray(np.full(SHAPE, 7.0, np.float32), ijkToRAS=np.array(TURNED), name="Flat")
        self.refuse(flat, "^Flat is constant")

    def test_a_model_that_went_missing(self):
        import shutil

        gone = self.place / "models" / "gone"
        shutil.copytree(self.place / "models" / "bright", gone)
        (gone / "card.json").write_text((gone / "card.json").read_text().replace('"bright"', '"gone"'))
        self.representation.enter()
        self.ui.modelComboBox.currentIndex = self.ui.modelComboBox.findData("gone")
        shutil.rmtree(gone)
        self.refuse(addScan(), "gone")
        self.representation.enter()  # as in a scene from another computer
        self.assertEqual(self.ui.modelLabel.text, "There is no model gone here; choose another.")
        self.assertFalse(self.ui.segmentButton.enabled)

    def test_pytorch_is_asked_for_when_needed_and_may_be_declined(self):
        from SimCVDLib import pytorch

        asked = []
        extension = types.ModuleType("PyTorchUtils")
        extension.PyTorchUtilsLogic = lambda: types.SimpleNamespace(installTorch=lambda **how: asked.append(how))
        missing = (False, "PyTorch is not installed yet; click Install PyTorch.")
        self.addCleanup(self.representation.enter)
        with mock.patch.object(pytorch, "status", lambda: missing):
            self.representation.enter()
            self.assertEqual(asked, [])
            self.assertEqual(self.ui.torchLabel.text, missing[1])
            self.assertFalse(self.ui.installTorchButton.isHidden())
            self.refuse(addScan(), "Extensions Manager")
            with mock.patch.dict(sys.modules, PyTorchUtils=extension):
                self.refuse(addScan(), "PyTorch was not installed")
        self.assertTrue(asked[0]["askConfirmation"])

    def test_a_scene_closed_while_pytorch_is_installed(self):
        from SimCVDLib import pytorch

        extension = types.ModuleType("PyTorchUtils")
        close = lambda **_how: slicer.mrmlScene.Clear(0)  # noqa: E731
        extension.PyTorchUtilsLogic = lambda: types.SimpleNamespace(installTorch=close)
        self.addCleanup(self.representation.enter)
        self.choose(addScan())
        with (
            mock.patch.object(pytorch, "status", lambda: (False, "not yet")),
            mock.patch.dict(sys.modules, PyTorchUtils=extension),
        ):
            self.representation.enter()
            self.choose(addScan())
            self.ui.segmentButton.click()
        self.assertIsNone(self.widget._job)

    def test_a_visit_leaves_nothing_behind_that_observes(self):
        before = weakref.ref(self.widget._parameters)
        for _visit in range(2):
            self.representation.exit()
            self.representation.enter()
        gc.collect()
        self.assertIsNone(before())

    # --- the scene meanwhile

    def test_scene_closed_mid_run(self):
        self.choose(addScan())
        self.ui.segmentButton.click()
        slicer.mrmlScene.Clear(0)
        self.finish()
        self.assertEqual(self.segmentations(), [])
        self.segment(addScan())

    def test_another_scene_loaded_mid_run(self):
        self.segment(addScan("saved"))
        path = str(self.place / "other.mrb")
        self.assertTrue(slicer.util.saveScene(path, properties={}))
        slicer.mrmlScene.Clear(0)
        volume = addScan()
        self.choose(volume)
        self.ui.segmentButton.click()
        slicer.util.loadScene(path, properties={"clear": False})  # added to what is there
        self.finish()
        self.assertEqual(len(self.segmentations()), 2)
        role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
        scans = [slicer.mrmlScene.GetNodeByID(n).GetNodeReference(role).GetName() for n in self.segmentations()]
        self.assertEqual(sorted(scans), ["saved", "scan"])

    def test_scene_closed_while_comparing_and_while_segmenting_several(self):
        volume = addScan()
        one, two = self.segment(volume), self.segment(volume)
        self.ui.segmentSelector.setCurrentNode(one)
        self.ui.referenceSelector.setCurrentNode(two)
        self.ui.compareButton.click()
        self.checkVolumes(volume)
        self.ui.batchRunButton.click()
        slicer.mrmlScene.Clear(0)
        wait(lambda: self.ui.compareButton.text == "Compare" and self.ui.batchRunButton.text == "Segment all")
        self.assertEqual(self.segmentations(), [])
        self.assertEqual(slicer.util.getNodesByClass("vtkMRMLTableNode"), [])

    def test_the_application_quits_mid_run(self):
        from SimCVDLib import jobs

        process = self.worker()
        self.choose(addScan())
        self.ui.segmentButton.click()
        self.widget.cleanup()  # what the application calls when it unloads its modules
        self.addCleanup(self.widget.setup)
        self.assertIsNone(jobs._worker)
        with self.assertRaises(OSError):
            os.kill(process, 0)

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

    def test_nothing_takes_the_place_of_what_was_chosen_and_is_removed(self):
        one, two = addScan("one"), addScan("two")
        first, second = self.segment(one), self.segment(two)
        self.ui.outputSelector.setCurrentNode(first)
        self.ui.segmentSelector.setCurrentNode(first)
        self.ui.referenceSelector.setCurrentNode(first)
        regions = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode") for _ in range(2)]
        self.ui.roiSelector.setCurrentNode(regions[0])
        before = self.mask(second, two)
        for node in (first, regions[0]):
            slicer.mrmlScene.RemoveNode(node)
        for name in ("output", "region", "reference", "result"):
            self.assertIsNone(getattr(self.widget.logic.getParameterNode(), name), name)
        self.assertIsNone(self.ui.outputSelector.currentNode())
        self.assertIsNone(self.ui.roiSelector.currentNode())
        self.segment(one)  # into a node of its own
        self.assertTrue(np.array_equal(self.mask(second, two), before))

    def test_a_scan_removed_after_its_segmentation_while_another_module_is_shown(self):
        volume = addScan()
        node = self.segment(volume)
        self.representation.exit()
        slicer.mrmlScene.RemoveNode(node)
        slicer.mrmlScene.RemoveNode(volume)
        self.representation.enter()
        self.assertFalse(self.ui.offsetSlider.enabled)

    def test_a_result_that_became_a_surface_while_it_was_computed_is_left_alone(self):
        volume = addScan()
        node = self.segment(volume)
        self.ui.outputSelector.setCurrentNode(node)
        self.ui.segmentButton.click()
        node.CreateClosedSurfaceRepresentation()
        node.GetSegmentation().SetSourceRepresentationName("Closed surface")
        self.assertIn("made of surfaces, not of voxels", self.finish())
        self.assertTrue(node.GetSegmentation().ContainsRepresentation("Closed surface"))

    def test_strokes_in_the_segment_editor_are_taken_in_when_the_panel_is_shown_again(self):
        volume = addScan()
        node = self.segment(volume)
        self.ui.offsetSlider.value = 2.0
        self.settle()
        self.representation.exit()
        from SimCVDLib import nodes

        painted = ball(radius=9.0)
        nodes.writeSegment(node, "Segment_1", painted, volume)
        time.sleep(0.3)
        self.settle()
        self.assertEqual(self.ui.offsetSlider.value, 2.0)  # nothing is computed while somebody paints
        self.representation.enter()
        wait(lambda: self.ui.offsetSlider.value == 0)
        self.assertTrue(np.array_equal(self.mask(node, volume), painted))

    def test_no_other_scan_stands_in_for_one_that_was_removed(self):
        volume, _other = addScan("one"), addScan("two")
        node = self.segment(volume)
        self.ui.insideButton.click()
        slicer.mrmlScene.RemoveNode(volume)
        self.settle()
        self.assertIn("The scan of one segmentation is not in the scene", self.ui.statusLabel.text)
        self.assertFalse(self.ui.insideButton.checked)
        for button in ("inside", "undo", "editor", "useAsCase", "exportDistance"):
            self.assertFalse(getattr(self.ui, button + "Button").enabled, button)
        self.assertTrue(self.ui.exportSegmentationButton.enabled)
        self.ui.segmentSelector.setCurrentNode(None)
        self.ui.segmentSelector.setCurrentNode(node)
        self.assertFalse(self.ui.useAsCaseButton.enabled)

    def test_a_segmentation_without_a_scan_of_its_own_lies_on_the_input(self):
        volume = addScan()
        node = self.segment(volume)
        node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), None)
        self.ui.segmentSelector.setCurrentNode(None)
        self.ui.segmentSelector.setCurrentNode(node)
        self.assertTrue(self.ui.offsetSlider.enabled)
        addScan("neighbor")
        slicer.mrmlScene.RemoveNode(volume)
        self.settle()
        self.assertFalse(self.ui.offsetSlider.enabled)

    def test_what_can_not_be_corrected_is_said(self):
        from simcvd.errors import SimCVDError

        self.segment(addScan())
        for button in ("inside", "removePoint", "undo"):
            self.ui.statusLabel.text = ""
            failing = mock.Mock(side_effect=SimCVDError("It can't be done."), canUndo=True)
            failing.undo = failing.place = failing.removePoint = failing
            with mock.patch.object(self.widget, "_corrections", failing):
                getattr(self.ui, button + "Button").click()
            self.assertEqual(self.ui.statusLabel.text, "It can't be done.", button)
            self.assertFalse(self.ui.insideButton.checked)

    def test_what_was_put_under_one_transform_can_be_corrected(self):
        volume = addScan()
        node = self.segment(volume)
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode").GetID()
        node.SetAndObserveTransformNodeID(transform)
        self.ui.segmentSelector.setCurrentNode(None)
        self.ui.segmentSelector.setCurrentNode(node)
        self.assertIn("put them under the same one", self.ui.statusLabel.text)
        self.assertFalse(self.ui.offsetSlider.enabled)
        self.representation.exit()
        volume.SetAndObserveTransformNodeID(transform)
        self.representation.enter()
        self.assertTrue(self.ui.offsetSlider.enabled)
        self.assertEqual(self.ui.statusLabel.text, "")

    # --- overlay

    def test_what_can_not_be_shown_of_a_result_is_said(self):
        self.ui.overlayComboBox.currentIndex = 4
        self.ui.isoCheckBox.checked = True
        self.choose(addScan())
        self.ui.segmentButton.click()
        self.assertIn("This result has no uncertainty", self.finish())
        self.assertIsNotNone(self.widget._overlay._lines)

    def test_maps_are_not_offered_as_scans(self):
        volume = addScan()
        self.segment(volume)
        for index in (1, 3):
            self.ui.overlayComboBox.currentIndex = index
        self.ui.offsetSlider.value = 1.0
        self.settle()
        self.assertEqual(len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")), 3)
        for selector in (self.ui.inputSelector, self.ui.batchVolumesSelector):
            self.assertEqual(selector.nodeCount(), 1)
        path = str(self.place / "maps.mrb")
        self.assertTrue(slicer.util.saveScene(path, properties={}))
        slicer.mrmlScene.Clear(0)
        slicer.util.loadScene(path, properties={})
        self.assertEqual(self.ui.inputSelector.nodeCount(), 1)

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

    def test_a_scene_saved_with_an_overlay(self):
        volume = addScan()
        self.segment(volume)
        slicer.util.setSliceViewerLayers(background=volume)
        self.ui.overlayComboBox.currentIndex = 1
        path = str(self.place / "overlay.mrb")
        self.assertTrue(slicer.util.saveScene(path, properties={}))
        slicer.mrmlScene.Clear(0)
        slicer.util.loadScene(path, properties={})
        self.settle()
        self.assertEqual(self.ui.overlayComboBox.currentIndex, 1)
        composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
        self.assertIn("distance", slicer.mrmlScene.GetNodeByID(composite.GetForegroundVolumeID()).GetName())
        self.ui.overlayComboBox.currentIndex = 0
        self.assertIsNone(composite.GetForegroundVolumeID())
        display = self.ui.segmentSelector.currentNode().GetDisplayNode()
        self.assertTrue(display.GetVisibility2DFill())

    def test_uncertainty_when_asked_for(self):
        self.ui.uncertaintyCheckBox.checked = True
        self.segment(addScan())
        self.ui.overlayComboBox.currentIndex = 4
        composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
        shown = slicer.util.arrayFromVolume(slicer.mrmlScene.GetNodeByID(composite.GetForegroundVolumeID()))
        self.assertTrue(shown.min() >= 0 and shown.max() <= 1)

    def test_the_outline_is_drawn_on_the_edge_under_any_transform(self):
        for kind in ("none", "linear", "non-linear"):
            with self.subTest(transform=kind):
                slicer.mrmlScene.Clear(0)
                self.representation.enter()
                self.ui.modelComboBox.currentIndex = self.ui.modelComboBox.findData("bright")
                self.checkOutline(kind)

    def checkOutline(self, kind):
        """A result's outline in a slice view, pixel by pixel, against the edge of the ball that is drawn there."""
        volume = addScan()
        volume.CreateDefaultDisplayNodes()
        transform = moved(volume, kind)
        center = transform(middle())
        node = self.segment(volume)
        node.GetDisplayNode().SetVisibility2DFill(False)
        node.GetSegmentation().GetSegment("Segment_1").SetColor(0.0, 1.0, 0.0)
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode().JumpSlice(*center)
        picture = grab("Red")
        green = (picture[..., 1] > picture[..., 0] + 60) & (picture[..., 1] > picture[..., 2] + 60)
        node.SetDisplayVisibility(False)
        scan = grab("Red")[..., 0].astype(float)
        edge = np.hypot(*np.gradient(scan))
        self.assertGreater(green.sum(), 100)
        near = edge > 0.4 * np.percentile(edge, 99.5)
        rows, columns = np.nonzero(green)
        apart = np.min(np.hypot(*(np.nonzero(near)[n][:, None] - (rows, columns)[n] for n in (0, 1))), axis=0)
        self.assertLess(np.percentile(apart, 95), 3)  # pixels
        # and all around: the outline's box is that of the ball
        bright = np.argwhere(scan > (scan.max() + np.median(scan[scan > 20])) / 2)
        for side in (np.min, np.max):
            np.testing.assert_allclose(side(np.argwhere(green), axis=0), side(bright, axis=0), atol=6)

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

    def test_an_edit_elsewhere_is_taken_over_with_lines_and_sliders(self):
        from SimCVDLib import nodes

        volume = addScan()
        node = self.segment(volume)
        self.ui.isoCheckBox.checked = True
        self.ui.offsetSlider.value = 2.0
        self.settle()
        lines = self.widget._overlay._lines.get()
        before = np.array(lines.GetPolyData().GetBounds())
        byHand = ball(radius=RADIUS - 6)
        nodes.writeSegment(node, "Segment_1", byHand, volume)
        wait(lambda: self.ui.offsetSlider.value == 0.0)
        self.assertGreater(np.abs(before - lines.GetPolyData().GetBounds()).max(), 4)
        np.testing.assert_array_equal(self.mask(node, volume), byHand)

    def test_the_segment_editor_gets_what_is_chosen(self):
        volume = addScan()
        node = self.segment(volume)
        self.openWindow()
        self.ui.editorButton.click()
        self.assertEqual(slicer.util.selectedModule(), "SegmentEditor")
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        self.assertIs(editor.segmentationNode(), node)
        self.assertIs(editor.sourceVolumeNode(), volume)
        self.assertEqual(editor.currentSegmentID(), "Segment_1")

    def test_a_result_becomes_a_labelled_case(self):
        volume = addScan()
        node = self.segment(volume)
        if not hasattr(slicer.modules, "simcvdtrain"):
            self.assertTrue(self.ui.useAsCaseButton.isHidden())
            loadModule("SimCVDTrain")
            self.widget.updateGui()
        self.assertFalse(self.ui.useAsCaseButton.isHidden())
        self.openWindow()
        self.ui.useAsCaseButton.click()
        self.assertEqual(slicer.util.selectedModule(), "SimCVDTrain")
        train = slicer.modules.simcvdtrain.widgetRepresentation()
        (row,) = train.self().logic.table.rows
        self.assertIs(row.volume, volume)
        self.assertIs(row.segmentation, node)
        self.assertEqual(list(row.segmentIds), ["Segment_1"])
        self.assertEqual(row.role, "labelled")

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
        with mock.patch("simcvd.images.read_volume") as read:
            wait(lambda: self.ui.batchRunButton.text == "Segment all")
        read.assert_not_called()  # the voxels are the background process's business
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

    def test_one_that_fails_for_whatever_reason_holds_up_none_of_the_others(self):
        from SimCVDLib import batch

        folder = self.place / "odd"
        folder.mkdir()
        for name in ("one", "two"):
            slicer.util.exportNode(addScan(name), str(folder / f"{name}.nrrd"), properties={})
        self.ui.batchFolderLineEdit.currentPath = str(folder)
        self.addCleanup(setattr, self.ui.batchFolderLineEdit, "currentPath", "")
        self.ui.batchOutputButton.directory = str(folder / "results")
        with mock.patch.object(batch._FileJob, "_write", side_effect=ValueError("odd")):
            self.ui.batchRunButton.click()
            wait(lambda: self.ui.batchRunButton.text == "Segment all")
        self.assertEqual(self.ui.batchLabel.text, "0 of 2 done, 2 failed.")
        self.assertIn("one: The scan can't be segmented (odd)", self.batchLines()[0])

    def test_the_cursor_tells_that_a_folder_is_searched(self):
        shapes = []

        def search(paths):
            shapes.append(qt.QApplication.overrideCursor().shape())
            return []

        self.ui.batchFolderLineEdit.currentPath = str(self.place)
        with mock.patch("simcvd.scans.find_scans", search):
            self.ui.batchRunButton.click()
        self.assertEqual(shapes, [qt.Qt.WaitCursor])
        self.assertIn("nothing to segment", self.ui.batchLabel.text)

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
        self.assertTrue(table.GetLocked())
        text = " ".join(
            table.GetCellText(row, column)
            for row in range(table.GetNumberOfRows())
            for column in range(table.GetNumberOfColumns())
        )
        expected = dice(self.mask(node, volume), ball())
        self.assertIn(f"{100 * expected:.2f}", text)
        self.assertTrue(self.ui.saveCsvButton.enabled)
        for kind, button in (("csv", self.ui.saveCsvButton), ("html", self.ui.saveHtmlButton)):
            path = self.place / f"report.{kind}"
            self.choosePath(str(path), button)
            self.assertEqual(self.ui.reportLabel.text, f"Saved as {path}.")
            self.assertGreater(path.stat().st_size, 100)
        told = self.ui.reportLabel.text
        self.choosePath("", self.ui.saveCsvButton)  # the user thought better of it
        self.assertEqual(self.ui.reportLabel.text, told)
        self.choosePath(str(self.place / "no such folder" / "a.csv"), self.ui.saveCsvButton)
        self.assertIn("choose another place", self.ui.reportLabel.text)

    def choosePath(self, path, button):
        """Press a button and choose a path in the dialog that it opens."""
        dialog = types.SimpleNamespace(QFileDialog=types.SimpleNamespace(getSaveFileName=lambda *_: path))
        with mock.patch.object(sys.modules["SimCVDSegment"], "qt", dialog):
            button.click()

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
