"""A slice view drawn offscreen by the real MRML displayable managers."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

_MANAGERS = ["vtkMRMLModelSliceDisplayableManager", "vtkMRMLSegmentationsDisplayableManager2D"]
_ORIENTATIONS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}


class SliceView:
    """One of Slicer's slice views: Red, Yellow or Green."""

    def __init__(self, name: str, width: int = 320, height: int = 300) -> None:
        self._renderer = vtk.vtkRenderer()
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self._window = vtk.vtkRenderWindow()
        self._window.ShowWindowOff()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        self._window.AddRenderer(self._renderer)
        self._window.SetSize(width, height)
        # The image must be added before the managers add theirs, or it hides them.
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._image = vtk.vtkActor2D()
        self._image.SetMapper(self._mapper)
        self._image.GetProperty().SetDisplayLocationToBackground()
        self._image.VisibilityOff()
        self._renderer.AddViewProp(self._image)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._interactor.Initialize()
        self._connect(name, width, height)

    def _connect(self, name: str, width: int, height: int) -> None:
        """Make the slice's node and logic, and the managers that draw segmentations."""
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        application = slicer.app.applicationLogic()
        factory.SetMRMLApplicationLogic(application)
        for manager in _MANAGERS:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self._managers = slicer.vtkMRMLDisplayableManagerGroup()
        self._managers.SetRenderer(self._renderer)
        self._managers.Initialize(factory, self._renderer)
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application)
        application.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.node = self.logic.AddSliceNode(name)
        self._managers.SetMRMLDisplayableNode(self.node)
        self.node.SetOrientation(_ORIENTATIONS[name])
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        self._window.SetSize(width, height)
        self._interactor.SetSize(width, height)
        self.logic.ResizeSliceNode(width, height)

    def show(self, volumeNode, centerRas: tuple[float, float, float]) -> None:
        """Show a volume, fitted to the view, in the slice through a point (RAS, mm)."""
        self.logic.GetSliceCompositeNode().SetBackgroundVolumeID(volumeNode.GetID())
        self.logic.FitSliceToBackground()
        self.node.JumpSlice(*centerRas)

    def pixels(self) -> np.ndarray:
        """Draw the view; returns height x width x 3 bytes, the top row first."""
        connection = self.logic.GetImageDataConnection()
        if connection is not None:
            self._mapper.SetInputConnection(connection)
        self._image.SetVisibility(connection is not None)
        self._window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self._window)
        grabber.ReadFrontBufferOff()
        grabber.ShouldRerenderOff()
        grabber.Update()
        width, height, _ = grabber.GetOutput().GetDimensions()
        scalars = vtk_to_numpy(grabber.GetOutput().GetPointData().GetScalars())
        return scalars.reshape(height, width, -1)[::-1, :, :3].copy()
