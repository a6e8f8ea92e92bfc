"""Whether a label map lies upside down, back to front or mirrored in its scan: compared with an earlier one.

A label map stored in another order than its header says has the scan's grid and fits nothing in it. Where a prediction
or an earlier revision of the same scan is at hand, it fits that far better once it is turned the right way.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import SimpleITK as sitk

from TransferSegLib.images.model_grid import AxisOrder
from TransferSegLib.structures import LabelSet, Structure, structure_key, swap_side

#: A turned label map must agree so well (mean Dice of the shared structures), and so much better than as it is.
_AGREES, _BETTER_BY = 0.5, 0.25
#: Voxels compared, at most: every second or third of a large scan.
_COMPARED_VOXELS = 4_000_000
_WORDS = ("mirrored (left and right exchanged)", "turned back to front", "upside down")


def turned_line(
    labels: sitk.Image, label_set: LabelSet, other: sitk.Image, other_set: LabelSet, what: str
) -> str | None:
    """Return a line for a person when a label map fits another one of the same scan far better once turned.

    Both lie on the scan's grid; ``what`` is what the line calls the other one. None when it fits as well as it is, or
    when they share no structure with voxels.
    """
    labels_zyx, other_zyx = sitk.GetArrayViewFromImage(labels), sitk.GetArrayViewFromImage(other)
    step = max(1, int(np.ceil((labels_zyx.size / _COMPARED_VOXELS) ** (1 / 3))))
    strides = (slice(None, None, step),) * 3
    reference = _numbered(other_zyx[strides], other_set, {one.key: n for n, one in enumerate(label_set, start=1)})
    own = {one.key: n for n, one in enumerate(label_set, start=1)}
    swapped = {one.key: own.get(structure_key(swap_side(one.name)), own[one.key]) for one in label_set}
    as_it_is = _agreement(_numbered(labels_zyx[strides], label_set, own), reference)
    if as_it_is is None or as_it_is > 1 - _BETTER_BY:
        return None
    found: list[tuple[float, str]] = []
    for flips in product((1, -1), repeat=3):
        turned = labels_zyx[tuple(slice(None, None, flip) for flip in flips)][strides]
        if flips != (1, 1, 1):
            found.append((_agreement(_numbered(turned, label_set, own), reference) or 0.0, _flip_text(flips, labels)))
    if swapped != own:
        exchanged = _agreement(_numbered(labels_zyx[strides], label_set, swapped), reference) or 0.0
        found.append((exchanged, "labelled with the names of left and right exchanged"))
    best, how = max(found)
    if best < _AGREES or best < as_it_is + _BETTER_BY:
        return None
    return (
        f"WARNING: the label map seems to be {how}: the other way round it agrees with {what} by a Dice of {best:.2f}, "
        f"as it is by {as_it_is:.2f}. Look at it over the scan before anything learns from it."
    )


def exchanged_sides(labels: sitk.Image, label_set: LabelSet) -> list[tuple[Structure, Structure]]:
    """Return the left structures that lie to the right of their right partner, each with that."""
    labels_zyx = sitk.GetArrayViewFromImage(labels)
    return label_set.exchanged_sides(lambda structure: _centre_x_mm(labels, labels_zyx == structure.label))


def _centre_x_mm(labels: sitk.Image, mask_zyx: np.ndarray) -> float | None:
    """Return the mean x (to the patient's left, mm) of the voxels of a mask, None for an empty one."""
    count = int(np.count_nonzero(mask_zyx))
    if not count:
        return None
    along = [mask_zyx.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in (2, 1, 0)]
    centre = [float(np.arange(sums.size) @ sums / count) for sums in along]
    return float(labels.TransformContinuousIndexToPhysicalPoint(centre)[0])


def _numbered(values_zyx: np.ndarray, label_set: LabelSet, numbers: dict[str, int]) -> np.ndarray:
    """Return the numbers of structures by name instead of their label values, 0 for all without one."""
    table = np.zeros(int(values_zyx.max(initial=0)) + 1, np.uint16)
    for structure in label_set:
        if structure.label < table.size:
            table[structure.label] = numbers.get(structure.key, 0)
    return np.asarray(table[values_zyx])


def _agreement(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return the mean Dice of the structures that both have voxels of, None when there is none."""
    classes = int(max(first.max(initial=0), second.max(initial=0))) + 1
    sizes = [np.bincount(one.ravel(), minlength=classes)[1:] for one in (first, second)]
    both = np.bincount(first[first == second], minlength=classes)[1:]
    shared = (sizes[0] > 0) & (sizes[1] > 0)
    return float((2 * both / np.maximum(sizes[0] + sizes[1], 1))[shared].mean()) if shared.any() else None


def _flip_text(flips_zyx: tuple[int, ...], labels: sitk.Image) -> str:
    """Return what is exchanged in the patient when the array's axes are reversed."""
    order = AxisOrder.closest(np.array(labels.GetDirection()).reshape(3, 3))
    parts = [_WORDS[world] for world, axis in enumerate(order.axes) if flips_zyx[2 - axis] < 0]
    return " and ".join(parts)
