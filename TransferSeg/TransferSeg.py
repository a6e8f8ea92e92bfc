"""The TransferSeg module of 3D Slicer: a shell around TransferSegGui (the panel) and TransferSegLib (the work).

Both are imported when they are first needed: Slicer imports this file each time it starts.
"""

import importlib.util
import os
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


class TransferSeg(ScriptedLoadableModule):
    """What Slicer's module list shows."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("TransferSeg")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "Volumes", "SegmentEditor"]
        self.parent.contributors = ["TransferSeg contributors"]
        self.parent.helpText = _(
            "Segments CT and MR volumes with a 3D network, lets you correct a few results, and fine-tunes the network "
            "on your corrections. Cases left out of training show whether the new model is better. Everything is "
            "computed in the background on this computer: no image leaves it. The results are for research; a person "
            'must check them. See the <a href="{url}">tutorial</a>.'
        ).format(url="https://github.com/transferseg/SlicerTransferSeg/blob/main/docs/tutorial.md")
        self.parent.acknowledgementText = _(
            "The method is that of Humpire-Mamani et al., Transfer learning from a sparsely annotated dataset of 3D "
            "medical images (arXiv:2311.05032, 2023). The bundled model and the sample were made from Open-KBP (Babier "
            "et al., Medical Physics 48, 2021). Built with PyTorch, SimpleITK and 3D Slicer."
        )
        slicer.app.connect("startupCompleted()", self.registerSampleData)
        slicer.app.connect("startupCompleted()", self.registerViewMenu)
        slicer.app.connect("aboutToQuit()", self.finishSaving)

    def registerSampleData(self):
        """Offer the bundled sample scan in the Sample Data module, which may be loaded after this one."""
        from TransferSegGui.sample_data import registerSampleData

        registerSampleData(str(Path(__file__).parent / "Resources" / "Icons" / "HeadNeckCT.png"))

    def registerViewMenu(self):
        """Add lines to the menu that a right click opens in the views; without such menus nothing happens."""
        if hasattr(slicer, "qSlicerSubjectHierarchyScriptedPlugin"):
            from TransferSegGui.TransferSegSubjectHierarchyPlugin import registerViewMenu

            registerViewMenu()

    def finishSaving(self):
        """Wait for corrected cases that a script is saving, when Slicer is closed with the panel never opened."""
        correctionProcess = sys.modules.get("TransferSegGui.correction_process")
        if correctionProcess is not None:
            correctionProcess.CorrectionProcess.finishAll()


class TransferSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's panel: loads the .ui file and keeps its sections on the scene's parameter node."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        #: The sections: each has refresh, setParameterNode, updateFromParameterNode and stop.
        self.panels = []
        self._parameterNode = None

    def setup(self):
        """Build the panel; called once, when the module is first opened."""
        ScriptedLoadableModuleWidget.setup(self)
        from TransferSegGui.correct_panel import CorrectPanel
        from TransferSegGui.doubtful_places import DoubtfulPlaces
        from TransferSegGui.finetune_panel import FineTunePanel
        from TransferSegGui.first_steps import FirstSteps
        from TransferSegGui.learn_here_widgets import LearnHereWidgets
        from TransferSegGui.model_panel import ModelPanel
        from TransferSegGui.rank_widgets import RankWidgets
        from TransferSegGui.segment_panel import SegmentPanel

        widget = slicer.util.loadUI(self.resourcePath("UI/TransferSeg.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = TransferSegLogic()
        self.modelPanel = ModelPanel(self.ui)
        self.segmentPanel = SegmentPanel(self.ui)
        self.correctPanel = CorrectPanel(self.ui, self.segmentPanel)
        self.fineTunePanel = FineTunePanel(self.ui)
        self.firstSteps = FirstSteps(self.ui, self.fineTunePanel)
        self.firstSteps.installTorch = self.modelPanel.installTorch
        self.doubtfulPlaces = DoubtfulPlaces(self.ui)
        self.learnHere = LearnHereWidgets(self.ui, self.correctPanel)
        self.ranking = RankWidgets(self.ui, self.correctPanel.order)
        self.panels = [
            self.modelPanel,
            self.segmentPanel,
            self.correctPanel,
            self.learnHere,
            self.ranking,
            self.fineTunePanel,
            self.firstSteps,
            self.doubtfulPlaces,
        ]
        self.modelPanel.onModelsChanged = self.refreshPanels
        self.correctPanel.casesChanged += [
            self.fineTunePanel.updateFromParameterNode,
            self.firstSteps.updateFromParameterNode,
            self.ranking.refresh,
        ]
        self.fineTunePanel.onMade, self.fineTunePanel.onPromoted = self.modelPanel.lookAgain, self.modelPanel.choose
        self.fineTunePanel.showCase = self.correctPanel.cases.open
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEnd)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEnd)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent):
            self.addObserver(scene, event, self.onSceneNodes)
        self.setParameterNode(self.logic.getParameterNode())

    def cleanup(self):
        """Stop what runs for this window only; called when Slicer closes or the module is reloaded."""
        for panel in self.panels:
            panel.stop()
        self.correctPanel.close()
        self.learnHere.close()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """Bring the panel up to date each time the module is opened."""
        for panel in self.panels:
            panel.refresh()
        self.paintBoxes()
        self.setParameterNode(self.logic.getParameterNode())
        self.correctPanel.enter()

    def exit(self):
        """Deactivate the painting tools: another module is opened."""
        self.correctPanel.leave()

    def paintBoxes(self):
        """Let boxes without a tick be seen in Slicer's present style."""
        from TransferSegGui.colors import showUntickedBoxes

        for name, widget in vars(self.ui).items():
            if name.endswith("CheckBox") or name in ("structureList", "reviewedTable", "fineTuneCaseTable"):
                showUntickedBoxes(widget)

    def refreshPanels(self):
        """Let all other sections look again: models or versions have changed."""
        for panel in self.panels:
            if panel is not self.modelPanel:
                panel.refresh()

    def onSceneStartClose(self, caller, event):
        """Stop what needs this scene: its volumes go away."""
        for panel in self.panels:
            panel.stop()
        self.setParameterNode(None)

    def onSceneEnd(self, caller, event):
        """Follow the parameter node of the new or changed scene, if the panel is open; else ``enter`` does."""
        if self.parent.isEntered:
            self.setParameterNode(self.logic.getParameterNode())

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onSceneNodes(self, caller, event, node):
        """See whether there is a scan now."""
        if node is not None and node.IsA("vtkMRMLScalarVolumeNode"):
            self.firstSteps.updateFromParameterNode()

    def setParameterNode(self, parameterNode):
        """Observe another parameter node (None: no one)."""
        if self._parameterNode is not None:
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameterNodeModified)
        self._parameterNode = parameterNode
        if parameterNode is not None:
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameterNodeModified)
        for panel in self.panels:
            panel.setParameterNode(parameterNode)

    def onParameterNodeModified(self, caller, event):
        """Show what a script or a loaded scene changed."""
        for panel in self.panels:
            panel.updateFromParameterNode()


class TransferSegLogic(ScriptedLoadableModuleLogic):
    """For the Python console and scripts: ``slicer.util.getModuleLogic("TransferSeg")``; see docs/slicer-module.md."""

    def models(self):
        """Return the models on this computer: see ``TransferSegGui.console.models``."""
        from TransferSegGui import console

        return console.models()

    def structureGroups(self, model=None):
        """Return a model's structures by group: see ``TransferSegGui.console.structureGroups``."""
        from TransferSegGui import console

        return console.structureGroups(model)

    def segment(self, volumeNode, model=None, device="auto", structures=None, **more):
        """Segment a volume: ``TransferSegGui.console.segment`` tells how; ``structures`` None: those ticked."""
        from TransferSegGui import console

        if structures is None:
            structures = console.panelStructures(self.getParameterNode(), model)
        return console.segment(volumeNode, model, device, structures, **more)

    def saveCorrection(self, volumeNode, segmentationNode, reviewed, project=None, **more):
        """Save a corrected case: see ``TransferSegGui.console.saveCorrection``."""
        from TransferSegGui import console

        return console.saveCorrection(
            volumeNode, segmentationNode, reviewed, project or console.panelProject(self.getParameterNode()), **more
        )

    def learnHere(self, volumeNode, segmentationNode, structures, slices, **more):
        """Redraw the rest of a scan from its corrected slices: see ``TransferSegGui.console.learnHere``."""
        from TransferSegGui import console

        return console.learnHere(volumeNode, segmentationNode, structures, slices, **more)

    def fineTune(self, project=None, model=None, **more):
        """Make a better model from corrected cases: see ``TransferSegGui.console.fineTune``."""
        from TransferSegGui import console

        return console.fineTune(project or console.panelProject(self.getParameterNode()), model, **more)

    def promote(self, model, version, **more):
        """Use a version of a model: see ``TransferSegGui.console.promote``."""
        from TransferSegGui import console

        return console.promote(model, version, **more)

    def rollback(self, model, **more):
        """Go back to the version used before: see ``TransferSegGui.console.rollback``."""
        from TransferSegGui import console

        return console.rollback(model, **more)


class TransferSegTest(ScriptedLoadableModuleTest):
    """The module's self-test, for "Reload and Test" in Slicer and for the test host."""

    def setUp(self):
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Run all tests."""
        self.setUp()
        self.test_unknownModelIsAnError()
        self.setUp()
        self.test_wholeLoop()

    def test_unknownModelIsAnError(self):
        """An error is one line, and leaves nothing behind."""
        import numpy as np

        self.delayDisplay("Segmenting with a model that does not exist")
        volume = slicer.util.addVolumeFromArray(np.zeros((8, 9, 10), np.int16), name="Test")
        with self.assertRaisesRegex(RuntimeError, "There is no model 'no-such-model'"):
            slicer.util.getModuleLogic("TransferSeg").segment(volume, model="no-such-model")
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)

    def test_wholeLoop(self):
        """Segment, correct, save, fine-tune for a few steps, verdict, promote, roll back, with the bundled model."""
        from TransferSegGui.package_install import torchIsInstalled
        from TransferSegGui.self_test import runWholeLoop

        if not torchIsInstalled() and not os.environ.get("CI"):
            self.delayDisplay("PyTorch is not installed: the whole loop was NOT tested")
            return
        runWholeLoop(slicer.util.getModuleLogic("TransferSeg"), self, self.delayDisplay)
        self.delayDisplay("Test passed")
