"""The preview of a segmentation: structures drawn over three slices of the scan, and a legend with volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.errors import ScanError
from TransferSegLib.images.geometry_checks import same_geometry
from TransferSegLib.images.read import read_label_map, read_scan
from TransferSegLib.paths import as_path
from TransferSegLib.pictures.drawing import Canvas, check_png_path, write_png
from TransferSegLib.pictures.layout import BACKGROUND, QUIET, WHITE, Sizes, panel_places
from TransferSegLib.pictures.legend import draw_legend, lay_out_legend
from TransferSegLib.pictures.panels import choose_panels, draw_panel
from TransferSegLib.pictures.slices import OrientedScan, StructureExtents, is_ct
from TransferSegLib.pictures.text import shortened, text_width
from TransferSegLib.structures import LabelSet

_NARROWEST, _WIDEST = 480, 6000


def draw_preview(
    image: sitk.Image | Path | str,
    label_map: sitk.Image | Path | str,
    label_set: LabelSet,
    path: Path | str,
    *,
    width: int = 1500,
    title: str = "",
) -> Path:
    """Write a PNG of ``width`` pixels: the structures over an axial, a coronal and a sagittal slice, and their volumes.

    ``image`` is a 3D scan, ``label_map`` lies on its grid (both may be files); values that no structure has are not
    drawn. Slices are chosen to show the structures, in the radiological convention (the patient's right is on the
    left). Returns the path. Raises ScanError when the two do not fit, the width is absurd, or the file cannot be
    written.
    """
    path = as_path(path, "The picture", ScanError)
    check_png_path(path)
    image = image if isinstance(image, sitk.Image) else read_scan(image)
    label_map = label_map if isinstance(label_map, sitk.Image) else read_label_map(label_map)
    write_png(preview(image, label_map, label_set, width=width, title=title), path)
    return path


def preview(
    image: sitk.Image, label_map: sitk.Image, label_set: LabelSet, *, width: int = 1500, title: str = ""
) -> Canvas:
    """Return what ``draw_preview`` writes, as a canvas."""
    check_drawable(image, label_map, width)
    scan = OrientedScan.of(image, label_map, label_set)
    extents = StructureExtents.of(scan, len(label_set))
    ct = is_ct(scan)
    panels, window = choose_panels(scan, extents, ct)
    sizes = Sizes(width / 1500)
    places = panel_places([panel.aspect for panel in panels], width, sizes)
    legend_top = max(box[0] + box[2] for box in places) + round(0.8 * sizes.edge)
    voxel_mm3 = float(np.prod(scan.spacing_zyx_mm))
    legend = lay_out_legend(label_set, extents, voxel_mm3, width - 2 * sizes.edge, sizes)
    height = legend_top + legend.height + round(0.8 * sizes.edge)
    canvas = Canvas.blank(height, width, BACKGROUND)
    _draw_header(canvas, title, _details(scan, window, ct), sizes)
    for panel, place in zip(panels, places, strict=True):
        draw_panel(canvas, panel, place, window, label_set, sizes)
    draw_legend(canvas, legend, legend_top, sizes)
    return canvas


def check_drawable(image: sitk.Image, label_map: sitk.Image, width: int) -> None:
    """Raise ScanError unless a scan, a label map on its grid and a sensible width were given."""
    for what, one in (("scan", image), ("label map", label_map)):
        if one.GetDimension() != 3 or one.GetNumberOfComponentsPerPixel() != 1:
            raise ScanError(f"The {what} cannot be drawn: it is no 3D image with one value in each voxel.")
    if sitk.GetArrayViewFromImage(label_map).dtype.kind not in "iu":
        raise ScanError("The label map cannot be drawn: a label map holds whole numbers.")
    different = same_geometry(image, label_map)
    if different is not None:
        raise ScanError(f"The label map does not lie on the scan's grid: {different}. Resample it to the scan first.")
    if not _NARROWEST <= width <= _WIDEST:
        raise ScanError(f"A picture {width} pixels wide cannot be drawn: give {_NARROWEST} to {_WIDEST}.")


def _draw_header(canvas: Canvas, title: str, details: str, sizes: Sizes) -> None:
    """Write the title at the left, and at the right what the scan is where there is room for it."""
    width = canvas.pixels.shape[1]
    baseline = sizes.edge + sizes.title
    title = shortened(title, sizes.title, width - 2 * sizes.edge)
    canvas.text(sizes.edge, baseline, title, sizes.title, WHITE, bold=True)
    if text_width(title, sizes.title) + text_width(details, sizes.small) < width - 2 * sizes.edge - 2 * sizes.gap:
        canvas.text(width - sizes.edge, baseline, details, sizes.small, QUIET, align="right")


def _details(scan: OrientedScan, window: tuple[float, float], ct: bool) -> str:
    """Return the size of the scan (left-right, front-back, up-down) and the window, for the header."""
    voxels = " x ".join(str(length) for length in reversed(scan.intensities_zyx.shape))
    sides = " x ".join(f"{side:.2f}" for side in reversed(scan.spacing_zyx_mm))
    shown = f", window {window[0]:.0f} to {window[1]:.0f} HU" if ct else ""
    return f"{voxels} voxels of {sides} mm{shown}"
