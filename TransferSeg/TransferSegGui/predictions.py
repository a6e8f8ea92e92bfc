"""What a model predicted, kept as a file until the correction is saved: a case records what it started from.

A segmentation node is changed by the corrections, so its first state is a file in this session's temporary folder; the
node's attribute tells which. In a scene that is opened another day the file is gone, and the case is saved without it.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import slicer

from TransferSegGui.label_map import onGridOf
from TransferSegLib.own_files import is_link, make_private_folder

#: Attribute of a segmentation node: the path of the label map that it began as.
PREDICTION_ATTRIBUTE = "TransferSeg.Prediction"
#: How much positions (mm) and directions may differ: files hold them with some rounding.
_TOLERANCE = 1e-3


def keepPrediction(segmentationNode, file: Path) -> None:
    """Keep a copy of the .seg.nrrd file that a segmentation was just read from."""
    folder = Path(slicer.app.temporaryPath) / "TransferSegPredictions"
    kept = folder / f"{uuid.uuid4().hex}.seg.nrrd"
    try:
        if is_link(folder):  # the place for temporary files may be shared with others
            raise OSError(f"{folder} is a link")
        make_private_folder(folder, parents=True, exist_ok=True)
        shutil.copyfile(file, kept)
    except OSError:
        segmentationNode.RemoveAttribute(PREDICTION_ATTRIBUTE)  # it is a record; correcting works without it
        return
    segmentationNode.SetAttribute(PREDICTION_ATTRIBUTE, str(kept))


def predictionOf(segmentationNode, volumeNode) -> Path | None:
    """Return the label map that a segmentation began as; None when that is not known, is gone, or has another grid.

    The grid is another one after a transform of the volume was hardened: the record is lost then, not the correction.
    """
    path = segmentationNode.GetAttribute(PREDICTION_ATTRIBUTE)
    if not path or not Path(path).is_file():
        return None
    reader = sitk.ImageFileReader()
    reader.SetFileName(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    grid = onGridOf(volumeNode, np.zeros((1, 1, 1), np.uint8))
    if tuple(reader.GetSize()) != tuple(volumeNode.GetImageData().GetDimensions()):
        return None
    same = [
        np.allclose(its, ours, atol=_TOLERANCE)
        for its, ours in (
            (reader.GetOrigin(), grid.GetOrigin()),
            (reader.GetSpacing(), grid.GetSpacing()),
            (reader.GetDirection(), grid.GetDirection()),
        )
    ]
    return Path(path) if all(same) else None


def forgetPredictions() -> None:
    """Remove the files of this session: Slicer is closing."""
    shutil.rmtree(Path(slicer.app.temporaryPath) / "TransferSegPredictions", ignore_errors=True)
