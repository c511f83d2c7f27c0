"""Slice and 3D views that render off-screen through Slicer's own displayable managers, as the application's do."""

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

SLICES = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
COMMON = ("OrientationMarker", "Ruler", "Markups", "ColorLegend")
SLICE_MANAGERS = ("Crosshair", "ModelSlice", "ScalarBar", "Segmentations:2D", *COMMON)
THREED_MANAGERS = ("VolumeRendering", "Camera", "View", "Model", "ThreeDReformat", "Segmentations:3D", *COMMON)


class View:
    """A render window with its displayable managers."""

    def __init__(self, factory, managers, appLogic, size):
        self.renderer, self.window = vtk.vtkRenderer(), vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.AddRenderer(self.renderer)
        self.window.SetSize(*size)
        self.interactor = vtk.vtkRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
        factory = factory.GetInstance()
        factory.SetMRMLApplicationLogic(appLogic)
        for base, _, dimension in (name.partition(":") for name in managers):
            name = f"vtkMRML{base}DisplayableManager{dimension}"
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self.managers = slicer.vtkMRMLDisplayableManagerGroup()
        self.managers.SetRenderer(self.renderer)
        self.managers.Initialize(factory, self.renderer)

    def render(self):
        self.window.Render()

    def resize(self, size):
        self.window.SetSize(*size)

    def grab(self):
        """The rendered picture, (H, W, 3) uint8."""
        self.render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self.window)
        grabber.ReadFrontBufferOff()
        grabber.ShouldRerenderOff()
        grabber.Update()
        width, height, _ = grabber.GetOutput().GetDimensions()
        return np.flipud(
            vtk_to_numpy(grabber.GetOutput().GetPointData().GetScalars()).reshape(height, width, -1)
        ).copy()


class SliceView(View):
    def __init__(self, scene, appLogic, name, size=(400, 400)):
        super().__init__(slicer.vtkMRMLSliceViewDisplayableManagerFactory, SLICE_MANAGERS, appLogic, size)
        self.renderer.GetActiveCamera().ParallelProjectionOn()
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(appLogic)
        appLogic.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(scene)
        self.node = self.logic.AddSliceNode(name)
        self.node.SetOrientation(SLICES[name])
        self.composite = self.logic.GetSliceCompositeNode()
        self.managers.SetMRMLDisplayableNode(self.node)
        self.mapper, self.actor = vtk.vtkImageMapper(), vtk.vtkActor2D()
        self.mapper.SetColorWindow(255)
        self.mapper.SetColorLevel(127.5)
        self.actor.SetMapper(self.mapper)
        self.actor.GetProperty().SetDisplayLocationToBackground()
        self.renderer.AddViewProp(self.actor)
        self.logic.ResizeSliceNode(*size)

    def render(self):
        connection = self.logic.GetImageDataConnection()
        self.mapper.SetInputConnection(connection)
        self.actor.SetVisibility(bool(connection))
        super().render()

    def resize(self, size):
        if tuple(self.window.GetSize()) != tuple(size):
            super().resize(size)
            self.logic.ResizeSliceNode(*size)
            self.reset()

    def reset(self):
        self.logic.FitSliceToBackground()


class ThreeDView(View):
    def __init__(self, scene, appLogic, size=(400, 400)):
        super().__init__(slicer.vtkMRMLThreeDViewDisplayableManagerFactory, THREED_MANAGERS, appLogic, size)
        self.logic = slicer.vtkMRMLViewLogic()
        self.logic.SetMRMLApplicationLogic(appLogic)
        appLogic.GetViewLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(scene)
        self.node = self.logic.AddViewNode("1")
        self.managers.SetMRMLDisplayableNode(self.node)

    def reset(self):
        self.node.InvokeEvent(slicer.vtkMRMLViewNode.ResetFocalPointRequestedEvent)

    def fit(self):
        """Let all that is shown fill the view, and the box enclose it."""
        self.reset()
        self.render()
        self.renderer.ResetCamera()
