"""The TransferSeg module of 3D Slicer: a shell around TransferSegGui (the panel) and TransferSegLib (the work)."""

import importlib.util
import sys
from pathlib import Path

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

if importlib.util.find_spec("TransferSegLib") is None:
    # Run from a source checkout: Slicer knows this folder only, and the library lies beside it.
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from TransferSegGui.process import SegmentProcess
from TransferSegGui.segment_panel import SegmentPanel


class TransferSeg(ScriptedLoadableModule):
    """What Slicer's module list shows."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("TransferSeg")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "Volumes"]
        self.parent.contributors = ["TransferSeg contributors"]
        self.parent.helpText = _(
            "Segments CT and MR volumes with a 3D network that was trained on sparsely annotated scans. The work is "
            "done in the background, on this computer: no image leaves it. "
            "The results are for research and must be checked by a person."
        )
        self.parent.acknowledgementText = _("Built with PyTorch, SimpleITK and 3D Slicer.")


class TransferSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's panel: loads the .ui file and keeps the section(s) on the scene's parameter node."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.segmentPanel = None
        self._parameterNode = None

    def setup(self):
        """Build the panel; called once, when the module is first opened."""
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/TransferSeg.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = TransferSegLogic()
        self.segmentPanel = SegmentPanel(self.ui)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEnd)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEnd)
        self.setParameterNode(self.logic.getParameterNode())

    def cleanup(self):
        """Stop what runs; called when Slicer closes or the module is reloaded."""
        self.segmentPanel.stop()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """Bring the panel up to date each time the module is opened."""
        self.segmentPanel.refresh()
        self.setParameterNode(self.logic.getParameterNode())

    def onSceneStartClose(self, caller, event):
        """Stop a run: its volume goes away."""
        self.segmentPanel.stop()
        self.setParameterNode(None)

    def onSceneEnd(self, caller, event):
        """Follow the parameter node of the new or changed scene, if the panel is open; else ``enter`` does."""
        if self.parent.isEntered:
            self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, parameterNode):
        """Observe another parameter node (None: no one)."""
        if self._parameterNode is not None:
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameterNodeModified)
        self._parameterNode = parameterNode
        if parameterNode is not None:
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameterNodeModified)
        self.segmentPanel.setParameterNode(parameterNode)

    def onParameterNodeModified(self, caller, event):
        """Show what a script or a loaded scene changed."""
        self.segmentPanel.updateFromParameterNode()


class TransferSegLogic(ScriptedLoadableModuleLogic):
    """For the Python console and scripts: ``slicer.util.getModuleLogic("TransferSeg")``."""

    def segment(self, volumeNode, model=None, device="auto", structures=None):
        """Return a new segmentation node for a volume; this waits until it is done.

        ``model`` is a model's name or path (None: the bundled one), ``device`` auto, cpu, cuda or mps, ``structures``
        names those wanted (None: all that the model knows). Raises RuntimeError that says what is wrong.

        >>> logic = slicer.util.getModuleLogic("TransferSeg")
        >>> segmentation = logic.segment(slicer.util.getNode("CT"), structures=["brainstem"])
        """
        model = "" if model is None else str(model)
        run = SegmentProcess(volumeNode, model=model, device=device, structures=structures or ())
        run.start()
        run.wait()
        if run.segmentationNode is None:
            raise RuntimeError(run.error)
        return run.segmentationNode


class TransferSegTest(ScriptedLoadableModuleTest):
    """The module's self-test, for "Reload and Test" in Slicer and for the test host."""

    def setUp(self):
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Run all tests."""
        self.setUp()
        self.test_unknownModelIsToldInOneLine()

    def test_unknownModelIsToldInOneLine(self):
        """The child process starts, reads the volume, and its message arrives: all but the network itself."""
        import numpy as np

        self.delayDisplay(_("Starting the process with a model that does not exist"))
        volume = slicer.util.addVolumeFromArray(np.zeros((8, 9, 10), np.int16), name="Test")
        with self.assertRaisesRegex(RuntimeError, "There is no model 'no-such-model'"):
            slicer.util.getModuleLogic("TransferSeg").segment(volume, model="no-such-model")
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)
        self.delayDisplay(_("Test passed"))
