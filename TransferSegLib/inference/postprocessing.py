"""Islands: of a structure that is one piece of anatomy, only the largest connected part is kept."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import ndimage

from TransferSegLib.progress import Task

#: Voxels that share a face, an edge or a corner belong together.
_NEIGHBOURS = np.ones((3, 3, 3), bool)
#: Voxels among which boxes, and of which connected parts, are found in a second, roughly.
_SEEN_PER_SECOND, _LABELLED_PER_SECOND = 3e8, 4e7


def keep_largest_part(labels_zyx: np.ndarray, label_values: Iterable[int], task: Task | None = None) -> None:
    """Set to 0, in place, what does not belong to the largest connected part of each of these labels.

    Of parts of the same size the first one (in the order of z, y, x) stays. Raises Cancelled from the task.
    """
    values = tuple(label_values)
    finding, keeping = (task or Task()).split(1, 2)
    boxes = finding.wait(lambda: ndimage.find_objects(labels_zyx), labels_zyx.size / _SEEN_PER_SECOND)
    for number, value in enumerate(values):
        here = keeping.share(number, len(values))
        here.at(0.0)
        box = boxes[value - 1] if value <= len(boxes) else None
        if box is None:
            continue
        inside = labels_zyx[box]
        parts, count = _connected_parts(inside == value, here)
        if count > 1:
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            here.check()
            inside[(parts != 0) & (parts != sizes.argmax())] = 0


def _connected_parts(mask_zyx: np.ndarray, task: Task) -> tuple[np.ndarray, int]:
    """Return the number of its part for every voxel of a mask, and how many parts there are."""
    found: tuple[np.ndarray, int] = task.wait(
        lambda: ndimage.label(mask_zyx, _NEIGHBOURS), mask_zyx.size / _LABELLED_PER_SECOND
    )
    return found
