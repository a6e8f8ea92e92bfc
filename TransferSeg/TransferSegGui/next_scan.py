"""The next scan to correct: from a folder, or among the volumes that are loaded."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from TransferSegGui.case_opening import caseOf
from TransferSegGui.correction_process import CorrectionProcess
from TransferSegGui.doubt_nodes import DOUBT_VOLUME_ATTRIBUTE
from TransferSegGui.nodes import referenceVolume, segmentedBy
from TransferSegGui.reviewed_table import isReviewed

#: In the parameter node: the folder with scans to correct, empty for the volumes that are loaded.
SCAN_FOLDER = "ScanFolder"
#: Attribute of a volume node: the file of the folder that it was loaded from.
SCAN_ATTRIBUTE = "TransferSeg.ScanFile"
#: In Slicer's settings, so on this computer only: the files of scans that were saved, by project. The project itself
#: keeps no names of files.
SAVED_SETTING = "TransferSeg/SavedScans"
_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


def scanFiles(folder: Path) -> list[Path]:
    """Return the scans in a folder, not in its sub-folders, in the order of their names ('2' before '10')."""
    files = [each for each in folder.iterdir() if _isScan(each)] if folder.is_dir() else []
    return sorted(files, key=lambda each: [int(w) if w.isdigit() else w for w in re.split(r"(\d+)", each.name.lower())])


def _isScan(file: Path) -> bool:
    name = file.name.lower()
    return name.endswith(_SUFFIXES) and ".seg." not in name and not name.startswith(".") and file.is_file()


def savedScans(project: Path) -> set[str]:
    """Return the files of the scans that were saved into a project from this computer."""
    return set(_savedByProject().get(str(project), []))


def rememberSaved(volumeNode, project: Path) -> None:
    """Note that a volume's scan is in a project now."""
    file = volumeNode.GetAttribute(SCAN_ATTRIBUTE) if volumeNode is not None else None
    if file:
        every = _savedByProject()
        every[str(project)] = sorted({*every.get(str(project), []), file})
        slicer.app.userSettings().setValue(SAVED_SETTING, json.dumps(every, ensure_ascii=False))


def _savedByProject() -> dict[str, list[str]]:
    try:
        read = json.loads(slicer.app.userSettings().value(SAVED_SETTING) or "{}")
    except (TypeError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def remainingFiles(folder: Path, project: Path | None) -> list[Path]:
    """Return the scans of a folder that are not in the project yet, nor on their way into it."""
    saved = savedScans(project) if project is not None else set()
    saved |= {volume.GetAttribute(SCAN_ATTRIBUTE) for volume in CorrectionProcess.volumesOnTheirWay(project)}
    return [each for each in scanFiles(folder) if os.fspath(each) not in saved]


def remainingVolumes(project: Path | None) -> list:
    """Return the loaded volumes that are not known to be in the project yet, nor on their way into it."""
    onTheirWay = CorrectionProcess.volumesOnTheirWay(project)
    volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    plain = [each for each in volumes if each.GetClassName() == "vtkMRMLScalarVolumeNode" and each not in onTheirWay]
    scans = [each for each in plain if not each.GetHideFromEditors() and not each.GetAttribute(DOUBT_VOLUME_ATTRIBUTE)]
    return [each for each in scans if not caseOf(each, project)]


def segmentationOf(volume):
    """Return the latest segmentation of a volume that a model made or that has ticks, None when there is none."""
    every = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    found = [each for each in every if referenceVolume(each) is volume and not each.GetHideFromEditors()]
    return next((each for each in reversed(found) if segmentedBy(each) is not None or _hasTicks(each)), None)


def _hasTicks(segmentationNode) -> bool:
    segmentation = segmentationNode.GetSegmentation()
    return any(isReviewed(segmentation.GetSegment(each)) for each in segmentation.GetSegmentIDs())


def whyNoScan(folder: Path) -> str:
    """Return why a folder has no next scan."""
    if not folder.is_dir():
        return _("There is no folder {folder}.").format(folder=folder)
    if not scanFiles(folder):
        text = _(
            "There is no NIfTI, NRRD or MetaImage file in {folder}; its sub-folders are not looked into. Load DICOM "
            "scans with the module DICOM, and leave the folder empty here."
        )
        return text.format(folder=folder)
    return _("There is no other scan in {place} to correct.").format(place=folder)


def nextFile(folder: Path, files: Sequence[Path], currentVolume) -> Path | None:
    """Return which of some scans of a folder comes after the current one, from the start again after the last."""
    current = currentVolume.GetAttribute(SCAN_ATTRIBUTE) if currentVolume is not None else None
    order = [os.fspath(each) for each in scanFiles(folder)]
    place = order.index(current) if current in order else -1
    later = [each for each in files if order.index(os.fspath(each)) > place]
    return next((each for each in [*later, *files] if os.fspath(each) != current), None)


def nextVolume(project: Path | None, currentVolume):
    """Return the loaded volume after the current one that is not in the project yet, None when there is no other."""
    every = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    place = next((index for index, each in enumerate(every) if each is currentVolume), -1)
    remaining = remainingVolumes(project)
    later = [each for each in every[place + 1 :] if each in remaining]
    return next((each for each in [*later, *remaining] if each is not currentVolume), None)


def loadedScan(file: Path):
    """Return the volume that was loaded from a scan of the folder, None when there is none."""
    volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return next((each for each in volumes if each.GetAttribute(SCAN_ATTRIBUTE) == os.fspath(file)), None)


def loadScan(file: Path, show: bool = True):
    """Return the volume of a scan, which may be loaded already; raises RuntimeError when it cannot be read.

    ``show`` False: the slice views go on showing what they show.
    """
    volume = loadedScan(file)
    if volume is not None:
        return volume
    try:
        volume = slicer.util.loadVolume(str(file), {"show": show})
    except RuntimeError as error:
        raise RuntimeError(_("{file} cannot be read as a scan.").format(file=file)) from error
    volume.SetAttribute(SCAN_ATTRIBUTE, os.fspath(file))
    name = re.sub(r"_\d+$", "", volume.GetName())
    if file.name.startswith(f"{name}.") and slicer.mrmlScene.GetFirstNodeByName(name) is None:
        volume.SetName(name)  # Slicer numbers it when the scan was loaded before, even if that volume was removed
    return volume
