"""In which directions the axes of a scan run as they are stored, for models that take them so.

nnU-Net ignores how a scan is oriented: a model expects the axes of the files that it was trained on.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from TransferSegLib.images.model_grid import AxisOrder

#: By world axis x, y, z: the letters of its positive and its negative direction.
_LETTERS = ("LR", "PA", "SI")
_STORED = "ijk"


def stored_axes(image: sitk.Image) -> str:
    """Return the directions in which an image's axes i, j and k run, each by the nearest letter, such as 'LPS'."""
    order = AxisOrder.closest(np.array(image.GetDirection()).reshape(3, 3))
    letters = {
        axis: _LETTERS[world][back] for world, (axis, back) in enumerate(zip(order.axes, order.reversed, strict=True))
    }
    return "".join(letters[axis] for axis in range(3))


def named_axes(axes: str, stored: str) -> str:
    """Return a model's axes by their directions, where it takes those of scans that are stored in some way.

    Axes that are known by their directions stay.

    >>> named_axes("jik", "RAS")  # the model exchanges the first two axes
    'ARS'
    """
    return "".join(stored[_STORED.index(letter)] for letter in axes) if axes.islower() else axes
