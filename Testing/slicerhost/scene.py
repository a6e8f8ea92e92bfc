"""``slicer.mrmlScene``, ``slicer.app`` and the module logics that segmentations and volumes need."""

from __future__ import annotations

import os
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path

import slicer
import slicer_core
import vtk

from slicerhost.files import CoreIOManager

#: Attribute of slicer.modules, class of the logic, name under which other logics find it. Colors come first.
_LOGICS = [
    ("colors", "vtkMRMLColorLogic", "Colors"),
    ("units", "vtkSlicerUnitsLogic", "Units"),
    ("subjecthierarchy", "vtkSlicerSubjectHierarchyModuleLogic", "SubjectHierarchy"),
    ("volumes", "vtkSlicerVolumesLogic", "Volumes"),
    ("segmentations", "vtkSlicerSegmentationsModuleLogic", "Segmentations"),  # without it there are no converters
    ("transforms", "vtkSlicerTransformLogic", "Transforms"),
    ("markups", "vtkSlicerMarkupsLogic", "Markups"),
    ("models", "vtkSlicerModelsLogic", "Models"),
    ("tables", "vtkSlicerTablesLogic", "Tables"),
    ("plots", "vtkSlicerPlotsLogic", "Plots"),
]
#: Modules under which Slicer's Python code looks for these libraries.
_LIBRARIES = ("vtkSegmentationCore", "vtkITK", "MRMLCore", "MRMLLogic", "vtkSlicerSegmentationsModuleLogic")


class Module:
    """What ``slicer.modules.<name>`` is for a module made in C++."""

    def __init__(self, name: str, logic=None) -> None:
        self.name, self._logic = name, logic

    def logic(self):
        return self._logic


class Application:
    """The part of ``slicer.app`` that works without a window; ``Host`` adds what needs one."""

    applicationName = mainApplicationName = "Slicer"
    majorVersion, minorVersion = 5, 10

    def __init__(self) -> None:
        self._coreIOManager = CoreIOManager()
        self._connected: dict[str, list[Callable[[], None]]] = {"startupCompleted()": [], "aboutToQuit()": []}
        self._temporaryFolder = tempfile.TemporaryDirectory(prefix="slicerhost-")
        self.temporaryPath = self._temporaryFolder.name
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._logic.SetTemporaryPath(self.temporaryPath)

    def applicationLogic(self):
        return self._logic

    def mrmlScene(self):
        return slicer.mrmlScene

    def coreIOManager(self) -> CoreIOManager:
        return self._coreIOManager

    def testingEnabled(self) -> bool:
        return True

    def connect(self, signal: str, target: Callable[[], None]) -> None:
        """Keep what is to be called after the start-up or before the end; there are no other signals here."""
        if signal not in self._connected:
            raise AttributeError(f"the test host's application has no signal '{signal}'")
        self._connected[signal].append(target)

    def completeStartup(self) -> None:
        """Call what waits for the end of the start-up, which comes after all modules were loaded."""
        waiting, self._connected["startupCompleted()"] = self._connected["startupCompleted()"], []
        for target in waiting:
            target()

    def aboutToQuit(self) -> None:
        """Call what is to be done before Slicer is closed."""
        for target in self._connected["aboutToQuit()"]:
            target()

    def pauseRender(self) -> None:
        """Do nothing: views are drawn on request only."""

    def resumeRender(self) -> None:
        """Do nothing: views are drawn on request only."""


def start() -> Application:
    """Make the scene, the application and the logics; once per process."""
    output = vtk.vtkOutputWindow()
    output.SetDisplayModeToAlwaysStdErr()
    vtk.vtkOutputWindow.SetInstance(output)
    slicer.__path__.append(str(Path(__file__).parent / "overlay"))
    for name in _LIBRARIES:
        if hasattr(slicer_core, name):
            sys.modules.setdefault(name + "Python", getattr(slicer_core, name))
    scene = slicer.mrmlScene = slicer.vtkMRMLScene()
    application = slicer.app = Application()
    _startLogics(application.applicationLogic(), scene)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    scene.AddNode(crosshair)
    return application


def _startLogics(applicationLogic, scene) -> None:
    """Make the modules' logics, known to the application logic and in ``slicer.modules``."""
    colors = applicationLogic.GetColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    applicationLogic.SetSliceLogics(vtk.vtkCollection())
    applicationLogic.SetViewLogics(vtk.vtkCollection())
    slicer.modules = sys.modules["slicer.modules"] = types.ModuleType("slicer.modules")
    for attribute, className, name in _LOGICS:
        logic = colors if className == "vtkMRMLColorLogic" else getattr(slicer, className)()
        if logic is not colors:
            logic.SetMRMLScene(scene)
            if hasattr(logic, "SetMRMLApplicationLogic"):
                logic.SetMRMLApplicationLogic(applicationLogic)
        applicationLogic.SetModuleLogic(name, logic)
        setattr(slicer.modules, attribute, Module(name, logic))


def saveScene(path: Path) -> None:
    """Write the scene as an .mrml file, without the data of its nodes."""
    slicer.mrmlScene.SetURL(os.fspath(path))
    if not slicer.mrmlScene.Commit():
        raise RuntimeError(f"The scene cannot be written to {path}.")


def openScene(path: Path) -> None:
    """Replace the scene by one from an .mrml file."""
    slicer.mrmlScene.SetURL(os.fspath(path))
    if not slicer.mrmlScene.Connect():
        raise RuntimeError(f"The scene {path} cannot be read.")
