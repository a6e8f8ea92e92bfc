"""What a model predicted, kept as a file until the correction is saved: a case records what it started from.

A segmentation node is changed by the corrections, so its first state is a file in this session's temporary folder; the
node's attribute tells which. In a scene that is opened another day the file is gone, and the case is saved without it.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import slicer

#: Attribute of a segmentation node: the path of the label map that it began as.
PREDICTION_ATTRIBUTE = "TransferSeg.Prediction"


def keepPrediction(segmentationNode, file: Path) -> None:
    """Keep a copy of the .seg.nrrd file that a segmentation was just read from."""
    folder = Path(slicer.app.temporaryPath) / "TransferSegPredictions"
    kept = folder / f"{uuid.uuid4().hex}.seg.nrrd"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, kept)
    except OSError:
        segmentationNode.RemoveAttribute(PREDICTION_ATTRIBUTE)  # it is a record; correcting works without it
        return
    segmentationNode.SetAttribute(PREDICTION_ATTRIBUTE, str(kept))


def predictionOf(segmentationNode) -> Path | None:
    """Return the label map that a segmentation began as, None when it is not known or not there any more."""
    path = segmentationNode.GetAttribute(PREDICTION_ATTRIBUTE)
    return Path(path) if path and Path(path).is_file() else None


def forgetPredictions() -> None:
    """Remove the files of this session: Slicer is closing."""
    shutil.rmtree(Path(slicer.app.temporaryPath) / "TransferSegPredictions", ignore_errors=True)
