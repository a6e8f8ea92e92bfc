"""The three slices of a picture: which ones show the structures, and how they are drawn over the scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from TransferSegLib.pictures.drawing import Canvas
from TransferSegLib.pictures.layout import BLACK, LETTERS, TEXT, Place, Sizes
from TransferSegLib.pictures.legend import luminous
from TransferSegLib.pictures.rendering import render_channels, render_intensities, widened
from TransferSegLib.pictures.slices import (
    PLANES,
    Crop,
    OrientedScan,
    Plane,
    StructureExtents,
    body_threshold,
    grey_window,
    interesting_part,
)
from TransferSegLib.structures import LabelSet

#: Structures are drawn this many times finer and then averaged, which smooths their outlines.
_FINER = 3
_FILL, _OUTLINE_PX = 0.30, 1.7


@dataclass(frozen=True)
class Panel:
    """One slice in the making: what is shown of it, and the width to height ratio of that."""

    plane: Plane
    intensities: np.ndarray
    channels: np.ndarray
    sides_mm: tuple[float, float]
    crop: Crop
    aspect: float


def choose_panels(scan: OrientedScan, extents: StructureExtents, ct: bool) -> tuple[list[Panel], tuple[float, float]]:
    """Return the three slices with what to show of each, and the window of grey values."""
    indices = [extents.best_slice(plane.normal) for plane in PLANES]
    slices = [scan.slice_of(scan.intensities_zyx, plane, index) for plane, index in zip(PLANES, indices, strict=True)]
    window = grey_window(slices, ct)
    panels = []
    for plane, index, intensities in zip(PLANES, indices, slices, strict=True):
        sides = scan.spacing_zyx_mm[plane.down], scan.spacing_zyx_mm[plane.across]
        crop = interesting_part(scan, extents, plane, intensities, body_threshold(window, ct))
        (top, bottom), (left, right) = crop
        aspect = (right - left) / (bottom - top)
        channels = scan.slice_of(scan.channels_zyx, plane, index)
        panels.append(Panel(plane, intensities, channels, sides, crop, aspect))
    return panels, window


def draw_panel(
    canvas: Canvas,
    panel: Panel,
    place: Place,
    window: tuple[float, float],
    label_set: LabelSet,
    sizes: Sizes,
) -> None:
    """Draw one slice with structures, letters and scale into (top, left, height, width)."""
    top, left, height, width = place
    canvas.box(top, left, height, width, BLACK)
    crop = widened(panel.crop, panel.intensities.shape, panel.sides_mm, width / height)
    (low, high), (near, far) = crop
    fitting = height / (high - low), width / (far - near)
    # Rather cut a row of pixels off than leave a black line for the rounding of the panel's size.
    scale = max(fitting) if max(fitting) < 1.01 * min(fitting) else min(fitting)
    grey = render_intensities(panel.intensities, crop, panel.sides_mm, scale, panel.plane.upwards)
    grey = np.clip((grey - window[0]) * (255.0 / (window[1] - window[0])), 0.0, 255.0)[:height, :width]
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    fine = render_channels(panel.channels, crop, panel.sides_mm, scale * _FINER, panel.plane.upwards)
    _draw_structures(Canvas(picture), fine, label_set, sizes)
    row, column = top + (height - picture.shape[0]) // 2, left + (width - picture.shape[1]) // 2
    canvas.pixels[row : row + picture.shape[0], column : column + picture.shape[1]] = picture
    _draw_letters(canvas, panel.plane, place, sizes)
    _draw_scale(canvas, scale, place, sizes)


def _draw_structures(canvas: Canvas, fine: np.ndarray, label_set: LabelSet, sizes: Sizes) -> None:
    """Draw structures, given on pixels ``_FINER`` times finer, over a picture: see-through, with an outline."""
    line = max(1.2, _OUTLINE_PX * sizes.unit) * _FINER
    reach = int(np.ceil(line)) + _FINER
    rows, columns = canvas.pixels.shape[:2]
    for number, box in enumerate(ndimage.find_objects(fine), start=1):
        if box is None:
            continue
        # Whole pixels of the picture, with room for the distance from the outside.
        top, left = ((max(0, part.start - reach) // _FINER) for part in box)
        bottom, right = (
            min(limit, -(-(part.stop + reach) // _FINER)) for part, limit in zip(box, (rows, columns), strict=True)
        )
        mask = np.zeros(((bottom - top) * _FINER, (right - left) * _FINER), bool)
        source = fine[top * _FINER : bottom * _FINER, left * _FINER : right * _FINER] == number
        mask[: source.shape[0], : source.shape[1]] = source
        outline = mask & (ndimage.distance_transform_edt(mask) <= line)
        ink = np.where(outline, 1.0, np.where(mask, _FILL, 0.0)).astype(np.float32)
        ink = ink.reshape(bottom - top, _FINER, right - left, _FINER).mean(axis=(1, 3))
        canvas.blend(top, left, ink, luminous(label_set.structures[number - 1].color))


def _draw_letters(canvas: Canvas, plane: Plane, place: Place, sizes: Sizes) -> None:
    """Write the plane's name into a corner and the patient's directions at the edges."""
    top, left, height, width = place
    size, space = sizes.text, 0.9 * sizes.text
    centre_x, centre_y = left + width / 2, top + height / 2 + size / 2
    right_x, bottom_y, top_y = left + width - space, top + height - space, top + space + size
    for letter, x, y, align in (
        (plane.edges[0], left + space, centre_y, "left"),
        (plane.edges[1], right_x, centre_y, "right"),
        (plane.edges[2], centre_x, top_y, "center"),
        (plane.edges[3], centre_x, bottom_y, "center"),
    ):
        canvas.text(x, y, letter, size, LETTERS, align=align, bold=True, rim=True)
    canvas.text(left + space, top_y, plane.name, sizes.small, TEXT, rim=True)


def _draw_scale(canvas: Canvas, pixels_per_mm: float, place: Place, sizes: Sizes) -> None:
    """Draw a bar of a round length in mm into the lower left corner."""
    top, left, height, width = place
    space = round(0.9 * sizes.text)
    longest = 0.22 * width / pixels_per_mm
    power = 10.0 ** np.floor(np.log10(longest))
    length = power * max(step for step in (1, 2, 5) if step * power <= longest * (1 + 1e-9))
    bar, thick = round(length * pixels_per_mm), max(2, round(2 * sizes.unit))
    row = top + height - space - thick
    canvas.box(row - 1, left + space - 1, thick + 2, bar + 2, BLACK)
    canvas.box(row, left + space, thick, bar, TEXT)
    canvas.text(left + space, row - 0.7 * sizes.small, f"{length:g} mm", sizes.small, TEXT, rim=True)
