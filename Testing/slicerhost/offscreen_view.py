"""A render window without a screen, in which MRML's displayable managers draw."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy


class OffscreenView:
    """What slice views and 3D views have in common; ``pixels`` draws."""

    def __init__(self, width: int, height: int) -> None:
        self._renderer = vtk.vtkRenderer()
        self._window = vtk.vtkRenderWindow()
        self._window.ShowWindowOff()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        self._window.AddRenderer(self._renderer)
        self._window.SetSize(width, height)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._interactor.Initialize()

    def _addManagers(self, factory, names: list[str]) -> None:
        """Register displayable managers and let them draw here."""
        factory.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        for name in names:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self._managers = slicer.vtkMRMLDisplayableManagerGroup()
        self._managers.SetRenderer(self._renderer)
        self._managers.Initialize(factory, self._renderer)

    def resize(self, width: int, height: int) -> None:
        self._window.SetSize(width, height)
        self._interactor.SetSize(width, height)

    def pixels(self) -> np.ndarray:
        """Draw the view; returns height x width x 3 bytes, the top row first."""
        self._window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self._window)
        grabber.ReadFrontBufferOff()
        grabber.ShouldRerenderOff()
        grabber.Update()
        width, height, _ = grabber.GetOutput().GetDimensions()
        scalars = vtk_to_numpy(grabber.GetOutput().GetPointData().GetScalars())
        return scalars.reshape(height, width, -1)[::-1, :, :3].copy()
