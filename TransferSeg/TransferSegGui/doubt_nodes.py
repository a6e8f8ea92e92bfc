"""The doubt of a result in the scene: its places are an attribute of the segmentation, the doubt itself is a volume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from TransferSegLib.doubt.places import DoubtfulPlace

#: Attribute of a segmentation node: its doubtful places as JSON, and whether their doubt is calibrated.
DOUBT_ATTRIBUTE = "TransferSeg.Doubt"
#: Attribute of a volume node: it is the doubt of a result, and no scan.
DOUBT_VOLUME_ATTRIBUTE = "TransferSeg.DoubtVolume"


def keepDoubt(segmentationNode, entry: dict[str, Any] | None) -> None:
    """Keep with a segmentation what a job told of its doubt (None: nothing)."""
    if entry is None:
        segmentationNode.RemoveAttribute(DOUBT_ATTRIBUTE)
    else:
        kept = {"calibrated": entry["calibrated"], "places": entry["places"]}
        segmentationNode.SetAttribute(DOUBT_ATTRIBUTE, json.dumps(kept, ensure_ascii=False))


def placesOf(segmentationNode) -> tuple[list[DoubtfulPlace], bool]:
    """Return the doubtful places of a segmentation, and whether they are known at all."""
    text = segmentationNode.GetAttribute(DOUBT_ATTRIBUTE) if segmentationNode is not None else None
    if not text:
        return [], False
    try:
        return [DoubtfulPlace.from_json(entry) for entry in json.loads(text)["places"]], True
    except (ValueError, KeyError, TypeError):  # a scene that was changed by hand
        return [], False


def worldPosition(segmentationNode, place: DoubtfulPlace) -> list[float]:
    """Return where a place is in the views (RAS, mm): under the transform of its segmentation, if it has one."""
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(segmentationNode.GetParentTransformNode(), None, transform)
    return list(transform.TransformPoint(place.position_ras_mm))


def loadDoubtVolume(file: Path, volumeNode):
    """Return the doubt as a volume node beside the scan's volume (None: it was removed), shown over nothing yet."""
    node = slicer.util.loadVolume(str(file), {"show": False})
    name = volumeNode.GetName() if volumeNode is not None else _("Scan")
    node.SetName(slicer.mrmlScene.GenerateUniqueName(_("{name} doubt").format(name=name)))
    node.SetAttribute(DOUBT_VOLUME_ATTRIBUTE, "true")
    if volumeNode is not None:
        node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    display = node.GetDisplayNode()
    if display is not None:
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(0.0, 1.0)
    return node
