"""Islands: of a structure that is one piece of anatomy, only the largest connected part is kept."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import ndimage

#: Voxels that share a face, an edge or a corner belong together.
_NEIGHBOURS = np.ones((3, 3, 3), bool)


def keep_largest_part(labels_zyx: np.ndarray, label_values: Iterable[int]) -> None:
    """Set to 0, in place, what does not belong to the largest connected part of each of these labels.

    Of parts of the same size the first one (in the order of z, y, x) stays.
    """
    boxes = ndimage.find_objects(labels_zyx)
    for value in label_values:
        box = boxes[value - 1] if value <= len(boxes) else None
        if box is None:
            continue
        inside = labels_zyx[box]
        parts, count = ndimage.label(inside == value, _NEIGHBOURS)
        if count > 1:
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            inside[(parts != 0) & (parts != sizes.argmax())] = 0
