"""A 3D view drawn offscreen by the real MRML displayable managers."""

from __future__ import annotations

import slicer

from slicerhost.offscreen_view import OffscreenView

_MANAGERS = [
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
]


class ThreeDView(OffscreenView):
    """A 3D view for one of the scene's view nodes."""

    def __init__(self, node, width: int = 320, height: int = 300) -> None:
        super().__init__(width, height)
        self._addManagers(slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance(), _MANAGERS)
        application = slicer.app.applicationLogic()
        self.logic = slicer.vtkMRMLViewLogic()
        self.logic.SetMRMLApplicationLogic(application)
        application.GetViewLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.node = node
        self.node.SetBoxVisible(False)
        self.node.SetAxisLabelsVisible(False)
        self.node.SetInteractionNode(application.GetInteractionNode())
        self._managers.SetMRMLDisplayableNode(self.node)

    def fit(self) -> None:
        """Move the camera so that everything is seen."""
        self._renderer.ResetCamera()
        self._renderer.ResetCameraClippingRange()
