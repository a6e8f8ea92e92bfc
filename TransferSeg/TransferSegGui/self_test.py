"""The module's self-test: the whole loop in short, on the bundled sample scan with the bundled model.

It runs in Slicer ("Reload and Test") and in the test host. Models, jobs and cases go to a temporary folder: those of
the user are neither used nor changed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from TransferSegGui.console import InstalledModel
from TransferSegLib.datasets.dataset import Case, read_dataset
from TransferSegLib.evaluation.verdict import Answer
from TransferSegLib.models.locate import bundled_sample

#: A fine-tuning of a few steps, which shows that everything works, and nothing else.
FEW_STEPS = {"patches_per_case": 1, "tail_steps": 2, "steps": 1, "report_cases": 0, "patch": 48, "tail_patch": 20}
_STRUCTURE, _RADIUS_MM = "left parotid gland", 6.0
#: Voxels around the structure that are used.
_AROUND = 10


@contextmanager
def temporaryUserFolders() -> Iterator[Path]:
    """Let models, jobs and measurements go to a folder that is removed afterwards; gives the folder."""
    names = {"TRANSFERSEG_MODELS": "models", "TRANSFERSEG_JOBS": "jobs", "TRANSFERSEG_PROJECTS": "projects"}
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(prefix="TransferSeg-test-", ignore_cleanup_errors=True) as folder:
        os.environ.update({name: str(Path(folder) / part) for name, part in names.items()})
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def runWholeLoop(logic, test, log: Callable[[str], None]) -> None:
    """Segment, correct, save, fine-tune, look at the verdict, promote, segment again, roll back; ``test`` asserts."""
    with temporaryUserFolders() as folder:
        log("Load the sample scan and segment it")
        volume = loadSample(folder)
        segmentation = logic.segment(volume)
        test.assertIsNotNone(segmentation.GetSegmentation().GetSegmentIdBySegmentName(_STRUCTURE))
        test.assertEqual(segmentation.GetNodeReferenceID("referenceImageGeometryRef"), volume.GetID())

        log("Paint a correction, and save the case")
        before = voxelsOf(segmentation, volume)
        painted = paint(segmentation, volume)
        test.assertGreater(painted, 0)
        test.assertGreater(voxelsOf(segmentation, volume), before)
        project = folder / "cases"
        case = logic.saveCorrection(volume, segmentation, [_STRUCTURE], project=project)
        test.assertEqual((case["id"], case["reviewed"]), ("case-0001", [_STRUCTURE]))

        log("Fine-tune for a few steps in the background")
        points = []
        job = logic.fineTune(
            project, minutes=0, configuration=FEW_STEPS, most_folds=2, onPoint=lambda *point: points.append(point)
        )
        job.wait()
        test.assertEqual((str(job.state), job.error), ("done", ""))
        test.assertTrue(points, "no point of a curve was reported")
        test.assertIn(job.result["evidence"]["verdict"], [str(answer) for answer in Answer])

        log("Use the new version, segment with it, and go back")
        model, version = job.result["model"], job.result["version"]
        logic.promote(model, version, force=True)
        test.assertEqual(named(logic, model).version, str(version))
        again = logic.segment(volume, model=model, structures=[_STRUCTURE])
        test.assertEqual(again.GetAttribute("TransferSeg.ModelVersion"), str(version))
        logic.rollback(model)
        test.assertNotEqual(named(logic, model).version, str(version))


def loadSample(folder: Path):
    """Load the surroundings of the structure in the bundled sample scan: the whole scan would take longer."""
    sample = read_dataset(bundled_sample())
    file = writePart(sample.cases[0], sample.label_set.find(_STRUCTURE).label, folder / "sample.nrrd")
    return slicer.modules.volumes.logic().AddArchetypeVolume(str(file), "CT head and neck", 0)


def writePart(case: Case, label: int, file: Path) -> Path:
    """Write the part of a case's scan that is around a structure, and return its file."""
    image, shape = sitk.ReadImage(str(case.image)), sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(sitk.ReadImage(str(case.labels)))
    box = shape.GetBoundingBox(label)
    begin = [max(0, first - _AROUND) for first in box[:3]]
    end = [min(n, first + size + _AROUND) for n, first, size in zip(image.GetSize(), box[:3], box[3:], strict=True)]
    sitk.WriteImage(image[begin[0] : end[0], begin[1] : end[1], begin[2] : end[2]], str(file))
    return file


def named(logic, name: str) -> InstalledModel:
    """Return a model of that name."""
    return next(model for model in logic.models() if model.name == name)


def voxelsOf(segmentationNode, volumeNode) -> int:
    """Return how many voxels the corrected structure has."""
    segmentId = segmentationNode.GetSegmentation().GetSegmentIdBySegmentName(_STRUCTURE)
    return int(np.count_nonzero(slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, segmentId, volumeNode)))


def paint(segmentationNode, volumeNode) -> int:
    """Paint a sphere at the rim of the structure with the logic of Slicer's segment editor; returns its voxels."""
    segmentId = segmentationNode.GetSegmentation().GetSegmentIdBySegmentName(_STRUCTURE)
    editorNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode", "TransferSegTest")
    editorNode.SetAndObserveSegmentationNode(segmentationNode)
    editorNode.SetAndObserveSourceVolumeNode(volumeNode)
    editorNode.SetSelectedSegmentID(segmentId)
    logic = slicer.vtkSlicerSegmentEditorLogic()
    logic.SetMRMLScene(slicer.mrmlScene)
    logic.SetSegmentEditorNode(editorNode)
    logic.UpdateReferenceGeometryImage()
    logic.ResetModifierLabelmapToDefault()
    modifier = logic.GetModifierLabelmap()
    sphere_zyx = _nearTo(modifier, rimOf(segmentationNode, segmentId, volumeNode))
    vtk_to_numpy(modifier.GetPointData().GetScalars()).reshape(sphere_zyx.shape)[sphere_zyx] = 1
    modifier.Modified()
    logic.UpdateMaskLabelmap()
    logic.ModifySegmentByLabelmap(segmentationNode, segmentId, modifier, logic.ModificationModeAdd, False, False)
    logic.SetSegmentEditorNode(None)
    slicer.mrmlScene.RemoveNode(editorNode)
    return int(sphere_zyx.sum())


def rimOf(segmentationNode, segmentId: str, volumeNode) -> np.ndarray:
    """Return a place (RAS, mm) at the side of a segment, half way up: beside it a brush finds voxels that are new."""
    voxels_zyx = slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, segmentId, volumeNode)
    filled = np.flatnonzero(voxels_zyx.any(axis=(1, 2)))
    k = int(filled[len(filled) // 2])
    js, ii = np.nonzero(voxels_zyx[k])
    i, j = int(ii.max()), int(js[ii.argmax()])
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)[:3] @ np.array([i, j, k, 1.0])


def _nearTo(image, centerRas) -> np.ndarray:
    """Return the voxels (zyx) of an oriented image that are within the brush's radius of a point."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    ijkToRas = slicer.util.arrayFromVTKMatrix(matrix)
    firstI, lastI, firstJ, lastJ, firstK, lastK = image.GetExtent()
    k, j, i = np.mgrid[firstK : lastK + 1, firstJ : lastJ + 1, firstI : lastI + 1]
    ras = np.stack([i, j, k], axis=-1) @ ijkToRas[:3, :3].T + ijkToRas[:3, 3]
    return np.linalg.norm(ras - centerRas, axis=-1) <= _RADIUS_MM
