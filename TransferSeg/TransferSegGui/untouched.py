"""Which segmentations are still as they were made, so that a new result may replace them: work by hand never goes."""

from __future__ import annotations


class UntouchedSegmentations:
    """Remembers what results looked like when they were made, for as long as the module is open.

    >>> untouched.add(segmentationNode)
    >>> untouched.mayBeReplaced(segmentationNode)
    True
    """

    def __init__(self) -> None:
        """Begin with none: what came with a scene may have been changed."""
        self._seen: dict[str, tuple] = {}

    def add(self, segmentationNode) -> None:
        """Remember a segmentation as it is now."""
        self._seen[segmentationNode.GetID()] = _appearance(segmentationNode)

    def mayBeReplaced(self, segmentationNode) -> bool:
        """Return whether nothing is lost by replacing the segments: there are none, or they are as they were made."""
        if segmentationNode.GetSegmentation().GetNumberOfSegments() == 0:
            return True
        return self._seen.get(segmentationNode.GetID()) == _appearance(segmentationNode)


def _appearance(segmentationNode) -> tuple:
    """Return what changes with every stroke, renaming, adding and removing of segments."""
    segmentation = segmentationNode.GetSegmentation()
    found = []
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        voxels = segment.GetRepresentation(segmentation.GetSourceRepresentationName())
        changed = 0 if voxels is None else voxels.GetMTime()
        found.append((segmentation.GetNthSegmentID(index), segment.GetName(), changed))
    return tuple(found)
