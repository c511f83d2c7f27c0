"""SimCVD Segment where scans and segmentations move, are cropped, belong to others or come from another scene."""

import numpy as np
import slicer
from test_segment_module import SHAPE, TURNED, SegmentPanelTest, addScan, ball, dice, middle, nearest, wait

SEGMENT = {"value": 1, "name": "Structure", "color": [1, 0, 0], "terminology": None}


def shift(millimetres):
    """ID of a new transform that moves to the right."""
    matrix = np.eye(4)
    matrix[0, 3] = millimetres
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node.GetID()


def left(node):
    """Where a node begins in the world, from the left."""
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    return bounds[0]


def setOrigin(volume, millimetres):
    """Move a scan itself, as Center volume does."""
    x, y, z = volume.GetOrigin()
    volume.SetOrigin(x + millimetres, y, z)


def pointLists():
    return slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")


class SegmentPlacesTest(SegmentPanelTest):
    def draw(self, volume, *masks):
        """A segmentation drawn on a scan, which it doesn't name, as one from a file."""
        from SimCVDLib import nodes

        names = [{**SEGMENT, "value": n, "name": f"Structure {n}"} for n in range(1, len(masks) + 1)]
        node = nodes.newSegmentation(volume, names, "drawn")
        for identifier, mask in zip(node.GetSegmentation().GetSegmentIDs(), masks, strict=True):
            nodes.writeSegment(node, identifier, mask, volume)
        node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), None)
        return node

    def pick(self, node, segmentId="Segment_1"):
        self.ui.segmentSelector.setCurrentNode(node)
        self.ui.segmentSelector.setCurrentSegmentID(segmentId)
        self.settle()

    def offset(self, millimetres):
        self.ui.offsetSlider.value = millimetres
        self.settle()

    def undo(self):
        self.ui.undoButton.click()
        self.settle()

    def test_the_second_of_two_structures_is_corrected_alone(self):
        volume = addScan()
        one = ball((-8, 0, 0), 9)
        two = ball((6, 0, 0), 9) & ~one
        node = self.draw(volume, one, two)
        self.assertEqual(node.GetSegmentation().GetNumberOfLayers(), 1)
        self.choose(volume)
        self.pick(node, "Segment_2")
        for millimetres in (1.5, -2.0, 0.6):
            self.offset(millimetres)
            self.assertTrue(np.array_equal(self.mask(node, volume, "Segment_1"), one))
            self.assertNotEqual(self.mask(node, volume, "Segment_2").sum(), two.sum())
        self.ui.insideButton.click()
        self.addPoint(middle() + (18, 0, 0))
        self.settle()
        self.assertTrue(self.mask(node, volume, "Segment_2")[nearest(middle() + (18, 0, 0))])
        while self.widget._corrections.canUndo:
            self.undo()
        self.assertTrue(np.array_equal(self.mask(node, volume, "Segment_1"), one))
        self.assertTrue(np.array_equal(self.mask(node, volume, "Segment_2"), two))

    def test_a_scene_that_is_added_leaves_the_open_result_as_it_is(self):
        self.segment(addScan("first"))
        self.offset(5.0)
        path = str(self.place / "first.mrb")
        self.assertTrue(slicer.util.saveScene(path, properties={}))
        slicer.mrmlScene.Clear(0)
        volume = addScan("second")
        node = self.segment(volume)
        self.offset(1.0)
        before = self.mask(node, volume)
        slicer.util.loadScene(path, properties={"clear": False})
        self.settle()
        self.assertTrue(np.array_equal(self.mask(node, volume), before))
        self.pick(slicer.util.getNode("first segmentation"))
        self.assertEqual(self.ui.offsetSlider.value, 5.0)
        self.pick(node)
        self.assertEqual(self.ui.offsetSlider.value, 1.0)
        self.undo()
        self.assertTrue(np.array_equal(self.mask(node, volume), before))  # what was undone before it was added

    def test_a_scan_that_is_moved_alone_can_no_longer_be_corrected_on(self):
        volume = addScan()
        node = self.segment(volume)
        before = self.mask(node, volume)
        volume.SetAndObserveTransformNodeID(shift(15))
        self.offset(1.5)
        self.assertIn("put them under the same one", self.ui.statusLabel.text)
        self.assertFalse(self.ui.offsetSlider.enabled)
        volume.SetAndObserveTransformNodeID(None)
        self.assertTrue(np.array_equal(self.mask(node, volume), before))

    def test_map_lines_and_points_go_where_scan_and_segmentation_go(self):
        volume = addScan()
        node = self.segment(volume)
        self.ui.overlayComboBox.currentIndex = 1
        self.ui.isoCheckBox.checked = True
        self.ui.insideButton.click()
        self.addPoint(middle() + (18, 0, 0))
        self.settle()
        self.ui.insideButton.click()
        lines = self.widget._overlay._lines.get()
        things = [volume, self.widget._maps[node.GetID()].node("distance", "Segment_1"), lines, *pointLists()]
        before = [left(thing) for thing in things]
        self.representation.exit()
        transform = shift(25)
        volume.SetAndObserveTransformNodeID(transform)
        node.SetAndObserveTransformNodeID(transform)
        self.representation.enter()
        things[2] = self.widget._overlay._lines.get()
        np.testing.assert_allclose([left(thing) - b for thing, b in zip(things, before, strict=True)], 25, atol=1e-3)
        self.offset(0.6)
        self.assertTrue(self.mask(node, volume)[nearest(middle() + (18, 0, 0))])

    def test_after_the_scan_itself_was_moved_the_segment_is_corrected_where_it_lies(self):
        volume = addScan()
        node = self.segment(volume)
        self.ui.overlayComboBox.currentIndex = 1
        self.offset(0.5)
        before = node.GetSegmentCenterRAS("Segment_1")
        setOrigin(volume, 6.0)
        self.offset(1.5)  # begins anew: the boundary as it was then is no boundary here
        self.offset(1.0)
        self.assertLess(np.linalg.norm(np.subtract(node.GetSegmentCenterRAS("Segment_1"), before)), 1.5)
        self.assertEqual(left(self.widget._maps[node.GetID()].node("distance", "Segment_1")), left(volume))
        self.undo()
        self.assertLess(np.linalg.norm(np.subtract(node.GetSegmentCenterRAS("Segment_1"), before)), 1.5)

    def test_a_point_on_a_scan_that_was_moved_since_says_what_to_do(self):
        volume = addScan()
        node = self.segment(volume)
        self.ui.insideButton.click()
        setOrigin(volume, 6.0)
        before = self.mask(node, volume)
        self.addPoint(middle() + (18, 0, 0))
        self.settle()
        self.assertIn("moved or cropped meanwhile", self.ui.statusLabel.text)
        self.assertTrue(np.array_equal(self.mask(node, volume), before))
        self.assertTrue(self.ui.offsetSlider.enabled)

    def test_a_segment_drawn_on_another_scan_is_not_cut_off(self):
        theirs, volume = addScan("theirs"), addScan()
        node = self.draw(theirs, ball())
        setOrigin(volume, 60.0)
        self.choose(volume)
        self.pick(node)
        self.assertIn("Structure 1 reaches beyond the volume scan", self.ui.statusLabel.text)
        self.assertFalse(self.ui.offsetSlider.enabled)
        self.choose(theirs)
        self.assertTrue(self.ui.offsetSlider.enabled)
        self.assertIs(self.widget._overlay._volume.get(), theirs)
        self.offset(1.0)
        self.assertGreater(self.mask(node, theirs).sum(), ball().sum())

    def test_another_input_takes_maps_and_corrections_of_a_drawn_segment_along(self):
        volume = addScan()
        node = self.draw(volume, ball(radius=9))
        other = slicer.util.addVolumeFromArray(
            np.zeros((20, 60, 40), np.float32), ijkToRAS=np.array(TURNED), name="other"
        )
        self.choose(volume)
        self.pick(node)
        self.ui.overlayComboBox.currentIndex = 1
        self.choose(other)
        self.assertEqual(self.widget._maps[node.GetID()].array("distance", "Segment_1").shape, (20, 60, 40))
        self.offset(2.0)
        self.assertGreater(self.mask(node, volume).sum(), ball(radius=9).sum())

    def test_with_another_input_a_new_result_is_made(self):
        first, second = addScan("first"), addScan("second")
        node = self.segment(first)
        before = self.mask(node, first)
        self.ui.outputSelector.setCurrentNode(node)
        self.choose(second)
        self.assertIsNone(self.ui.outputSelector.currentNode())
        self.ui.outputSelector.setCurrentNode(node)  # on purpose
        self.ui.segmentButton.click()
        self.assertIn("first segmentation belongs to the scan first", self.ui.statusLabel.text)
        self.assertTrue(np.array_equal(self.mask(node, first), before))
        self.choose(first)
        self.assertIs(self.ui.outputSelector.currentNode(), node)  # its own

    def test_points_that_are_removed_as_a_node_are_taken_back(self):
        volume = addScan()
        node = self.segment(volume)
        before = self.mask(node, volume)
        self.ui.insideButton.click()
        self.addPoint(middle() + (18, 0, 0))
        self.settle()
        self.assertGreater(self.mask(node, volume).sum(), before.sum())
        slicer.mrmlScene.RemoveNode(pointLists()[0])
        self.settle()
        self.assertFalse(self.ui.insideButton.checked)
        self.assertTrue(np.array_equal(self.mask(node, volume), before))

    def test_the_distance_of_a_drawn_segment_is_shown(self):
        volume = addScan()
        node = self.draw(volume, ball())
        self.choose(volume)
        self.pick(node)
        self.ui.overlayComboBox.currentIndex = 1
        found = self.widget._maps[node.GetID()].array("distance", "Segment_1")
        self.assertGreater(dice(found < 0, ball()), 0.99)
        self.ui.overlayComboBox.currentIndex = 3
        self.assertIn("no probability; segment the scan again", self.ui.statusLabel.text)
        self.ui.overlayComboBox.currentIndex = 1
        self.offset(1.0)
        grown = self.mask(node, volume).sum()
        self.offset(0.0)
        self.assertTrue(grown > ball().sum() == self.mask(node, volume).sum())

    def test_a_shown_distance_follows_edits_while_another_segment_is_chosen(self):
        from SimCVDLib import nodes

        volume = addScan()
        one, two = ball((-8, 0, 0), 9), ball((12, 0, 0), 6)
        node = self.draw(volume, one, two)
        self.choose(volume)
        self.pick(node)
        self.ui.overlayComboBox.currentIndex = 1
        self.pick(node, "Segment_2")
        nodes.writeSegment(node, "Segment_1", ball((-8, 0, 0), 5), volume)
        self.pick(node)
        found = self.widget._maps[node.GetID()]
        wait(lambda: (found.array("distance", "Segment_1") < 0).sum() < one.sum())
        self.assertGreater(dice(found.array("distance", "Segment_1") < 0, ball((-8, 0, 0), 5)), 0.95)

    def test_a_drawn_segment_is_exported_on_the_grid_of_the_input(self):
        from simcvd.images import read_labels

        volume = addScan()
        node = self.draw(volume, ball())
        self.choose(volume)
        self.pick(node)
        self.ui.exportFolderButton.directory = str(self.place)
        self.ui.exportKindComboBox.currentIndex = 1
        self.ui.exportSegmentationButton.click()
        path = self.ui.exportLabel.text.partition(": ")[2]
        self.assertTrue(np.array_equal(read_labels(path).array, ball()))
        self.assertEqual(read_labels(path).array.shape, SHAPE)
