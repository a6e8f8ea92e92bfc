"""A canvas of RGB pixels that draws boxes and lines of text, and writes them as a PNG file."""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.durable_writing import replace_file
from TransferSegLib.errors import ScanError
from TransferSegLib.images.isolated_reading import first_line
from TransferSegLib.output_checks import why_no_folder
from TransferSegLib.pictures.text import draw_text, text_width

Color = tuple[int, int, int]

#: Width of the dark rim around text on a picture, and what bold letters are wider, in parts of the capitals' height.
_RIM, _BOLD = 0.15, 0.06
_RIM_OPACITY = 0.7


@dataclass(frozen=True)
class Canvas:
    """A picture in the making: float32 pixels (rows, columns, RGB), 0 to 255."""

    pixels: np.ndarray

    @staticmethod
    def blank(height: int, width: int, color: Color) -> Canvas:
        """Return a canvas of one colour."""
        pixels = np.empty((height, width, 3), np.float32)
        pixels[:] = color
        return Canvas(pixels)

    def blend(self, top: int, left: int, ink: np.ndarray, color: Color | np.ndarray) -> None:
        """Blend a colour into a part of the canvas with the opacity ``ink`` (rows x columns, 0 to 1)."""
        rows, columns = self.pixels.shape[:2]
        bottom, right = min(rows, top + ink.shape[0]), min(columns, left + ink.shape[1])
        if bottom <= max(0, top) or right <= max(0, left):
            return
        inner = ink[max(0, -top) : bottom - top, max(0, -left) : right - left, None]
        part = self.pixels[max(0, top) : bottom, max(0, left) : right]
        part += inner * (np.asarray(color, np.float32) - part)

    def box(self, top: int, left: int, height: int, width: int, color: Color, *, radius: float = 0.0) -> None:
        """Fill a box, its corners rounded by ``radius`` pixels."""
        self.blend(top, left, _rounded_box(height, width, radius), color)

    def text(
        self,
        x: float,
        baseline: float,
        text: str,
        height_px: float,
        color: Color,
        *,
        align: str = "left",
        bold: bool = False,
        rim: bool = False,
    ) -> None:
        """Write a line of text whose capitals are ``height_px`` high and stand on row ``baseline``.

        ``align`` says which end of the text ``x`` is: left, center or right; ``rim`` puts a dark rim around it, to be
        read on a picture.
        """
        shift = {"left": 0.0, "center": 0.5, "right": 1.0}[align] * text_width(text, height_px)
        row, column = round(baseline), round(x - shift)
        if rim:
            wide = draw_text(text, height_px, max(1, round(_RIM * height_px)))
            self.blend(row - wide.origin_row, column - wide.origin_column, _RIM_OPACITY * wide.ink, (0, 0, 0))
        drawn = draw_text(text, height_px)
        for right in (0, max(1, round(_BOLD * height_px))) if bold else (0,):
            self.blend(row - drawn.origin_row, column + right - drawn.origin_column, drawn.ink, color)


def check_png_path(path: Path) -> None:
    """Raise ScanError unless a file name ends in .png."""
    if path.suffix.lower() != ".png":
        raise ScanError(f"{path} cannot be written: a picture's file name ends in .png.")


def write_png(canvas: Canvas, path: Path) -> None:
    """Write a canvas as a PNG file; its folder is made, a file of that name replaced. Raises ScanError if it cannot."""
    check_png_path(path)
    pixels = np.clip(np.rint(canvas.pixels), 0, 255).astype(np.uint8)
    partial = path.with_name(f".{uuid.uuid4().hex}.partial.png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(partial), useCompression=True)
        replace_file(partial, path)
    except (OSError, RuntimeError) as error:
        reason = why_no_folder(path.parent, error) if isinstance(error, OSError) else first_line(error)
        raise ScanError(f"{path} cannot be written: {reason}. Check the folder's permissions and the disk.") from error
    finally:
        # In a place that is no folder there is nothing to remove, and asking for it is an error again.
        with suppress(OSError):
            partial.unlink()


def _rounded_box(height: int, width: int, radius: float) -> np.ndarray:
    """Return how much of each pixel (height x width) a box with round corners covers."""
    y = np.abs(np.arange(height) + 0.5 - height / 2)[:, None] - (height / 2 - radius)
    x = np.abs(np.arange(width) + 0.5 - width / 2)[None, :] - (width / 2 - radius)
    outside = np.hypot(np.maximum(x, 0.0), np.maximum(y, 0.0)) + np.minimum(np.maximum(x, y), 0.0) - radius
    return np.clip(0.5 - outside, 0.0, 1.0).astype(np.float32)
