"""A slice view drawn offscreen by the real MRML displayable managers."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from slicerhost.offscreen_view import OffscreenView

_MANAGERS = [
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
]
_ORIENTATIONS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}
_COLORS = {"Red": (0.95, 0.29, 0.20), "Yellow": (0.93, 0.84, 0.30), "Green": (0.43, 0.69, 0.29)}


class SliceView(OffscreenView):
    """One of Slicer's slice views: Red, Yellow or Green."""

    def __init__(self, name: str, width: int = 320, height: int = 300) -> None:
        super().__init__(width, height)
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        # The image must be added before the managers add theirs, or it hides them.
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._image = vtk.vtkActor2D()
        self._image.SetMapper(self._mapper)
        self._image.GetProperty().SetDisplayLocationToBackground()
        self._image.VisibilityOff()
        self._renderer.AddViewProp(self._image)
        self._addManagers(slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), _MANAGERS)
        application = slicer.app.applicationLogic()
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application)
        application.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.node = self.logic.AddSliceNode(name)
        self.node.SetLayoutLabel(name[0])
        self.node.SetLayoutColor(*_COLORS[name])
        self._managers.SetMRMLDisplayableNode(self.node)
        self.node.SetOrientation(_ORIENTATIONS[name])
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        super().resize(width, height)
        self.logic.ResizeSliceNode(width, height)

    def fit(self) -> None:
        self.logic.FitSliceToBackground()
        self.logic.SnapSliceOffsetToIJK()

    def show(self, volumeNode, centerRas: tuple[float, float, float]) -> None:
        """Show a volume, fitted to the view, in the slice through a point (RAS, mm)."""
        self.logic.GetSliceCompositeNode().SetBackgroundVolumeID(volumeNode.GetID())
        self.logic.FitSliceToBackground()
        self.node.JumpSlice(*centerRas)

    def pixels(self) -> np.ndarray:
        connection = self.logic.GetImageDataConnection()
        if connection is not None:
            self._mapper.SetInputConnection(connection)
        self._image.SetVisibility(connection is not None)
        return super().pixels()
