"""The scene with the logics, files and views that the application gives it: Slicer without any Qt."""

import tempfile

import slicer
import vtk

from . import views
from .files import Files

LOGICS = {
    "Colors": "vtkSlicerColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "Cameras": "vtkSlicerCamerasModuleLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
}
LISTED = ("vtkMRMLDisplayableNode", "vtkMRMLTableNode", "vtkMRMLTextNode", "vtkMRMLPlotChartNode")


class Core:
    """Must live as long as the process: the application logic keeps only weak references to all of it."""

    def __init__(self):
        self.scene, self.appLogic = slicer.vtkMRMLScene(), slicer.vtkSlicerApplicationLogic()
        crosshair = slicer.vtkMRMLCrosshairNode()
        crosshair.SetCrosshairName("default")
        for node in (crosshair, slicer.vtkMRMLSelectionNode(), slicer.vtkMRMLInteractionNode()):
            self.scene.AddNode(node)
        self.appLogic.SetMRMLScene(self.scene)
        self.appLogic.SetSliceLogics(vtk.vtkCollection())
        self.appLogic.SetViewLogics(vtk.vtkCollection())
        self.appLogic.GetColorLogic().SetMRMLScene(self.scene)
        self.appLogic.GetColorLogic().AddDefaultColorNodes()
        self.scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())  # as the Colors module does
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene, True)
        self.logics = {name: self._logic(name, getattr(slicer, cls)()) for name, cls in LOGICS.items()}
        slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)
        self._connectFileFormats()
        self.files = Files(self.scene, self.logics, self.appLogic)
        self.scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, self._addToHierarchy)
        self.scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._removeFromHierarchy)
        self.slices = {name: views.SliceView(self.scene, self.appLogic, name) for name in views.SLICES}
        self.threeD = views.ThreeDView(self.scene, self.appLogic)

    def _logic(self, name, logic):
        if name != "Terminologies":  # it would look for files in the application's share folder
            logic.SetMRMLApplicationLogic(self.appLogic)
        if name not in ("Colors", "Terminologies"):
            logic.SetMRMLScene(self.scene)
        self.appLogic.SetModuleLogic(name, logic)
        return logic

    def _connectFileFormats(self):
        """The scene's data IO manager knows the formats: without it nothing can be written."""
        self._remote, self._data = slicer.vtkMRMLRemoteIOLogic(), slicer.vtkDataIOManagerLogic()
        self._cache = tempfile.TemporaryDirectory(prefix="slicer-cache")
        for logic in (self._remote, self._data):
            logic.SetMRMLScene(self.scene)
            logic.SetMRMLApplicationLogic(self.appLogic)
        self._remote.GetCacheManager().SetRemoteCacheDirectory(self._cache.name)
        self._data.SetAndObserveDataIOManager(self._remote.GetDataIOManager())
        self._remote.AddDataIOToScene()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _addToHierarchy(self, scene, _event, node):
        """Give a new data node its item in the subject hierarchy, as the application's plugins do."""
        hierarchy = self._hierarchyFor(scene, node)
        if hierarchy is not None and not hierarchy.GetItemByDataNode(node):
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _removeFromHierarchy(self, scene, _event, node):
        """Take away the item of a data node that leaves, but not what lies below it."""
        hierarchy = self._hierarchyFor(scene, node)
        item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
        if item:
            hierarchy.RemoveItem(item, False, False)

    @staticmethod
    def _hierarchyFor(scene, node):
        """The subject hierarchy where it should have an item of the node; it must not be asked for amid an import."""
        if scene.IsImporting() or scene.IsClosing() or node.GetHideFromEditors() or not any(map(node.IsA, LISTED)):
            return None
        return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
