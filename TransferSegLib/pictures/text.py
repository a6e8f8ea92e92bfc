"""Lines of text as pixels, in the font that Pillow embeds (Aileron). 3D Slicer 5.8 and later bundle Pillow."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from TransferSegLib.errors import ScanError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

#: The height of the font's capitals in parts of its size.
_CAP_HEIGHT = 0.7
#: The font has printable ASCII only. Unicode's own decomposition (NFKD) covers accents, this table the rest.
_SUBSTITUTES = {
    "ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D",
    "ð": "d", "þ": "th", "ı": "i", "×": "x", "·": ".", "±": "+/-", "μ": "u", "°": "deg", "‐": "-", "‑": "-", "–": "-",
    "—": "-", "−": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "„": '"', "«": "<<", "»": ">>", "…": "...", "⁄": "/",
}  # fmt: skip


@dataclass(frozen=True)
class Lettering:
    """Drawn text: how much of each pixel is ink (0 to 1, rows from the top), and which pixel its origin lies in."""

    ink: np.ndarray
    origin_row: int
    origin_column: int


def printable(text: str) -> str:
    """Return the text in characters that the font has, as far as possible: accents dropped, dashes made plain."""
    decomposed = unicodedata.normalize("NFKD", "".join(_SUBSTITUTES.get(letter, letter) for letter in text))
    letters = (_SUBSTITUTES.get(letter, letter) for letter in decomposed if not unicodedata.combining(letter))
    return " ".join("".join(letters).split())


def text_width(text: str, height_px: float) -> float:
    """Return how many pixels wide a text is whose capitals are ``height_px`` high."""
    return _font(height_px).getlength(printable(text))


def shortened(text: str, height_px: float, width_px: float) -> str:
    """Return the text, cut and ended with '...' when it is wider than ``width_px``."""
    text = printable(text)
    if text_width(text, height_px) <= width_px:
        return text
    while text and text_width(text + "...", height_px) > width_px:
        text = text[:-1]
    return text.rstrip() + "..."


def wrapped(text: str, height_px: float, width_px: float) -> list[str]:
    """Return the text in lines of at most ``width_px``, broken between words; a longer word is cut."""
    lines: list[str] = []
    for word in printable(text).split():
        if lines and text_width(f"{lines[-1]} {word}", height_px) <= width_px:
            lines[-1] += f" {word}"
        else:
            lines.append(shortened(word, height_px, width_px))
    return lines


def draw_text(text: str, height_px: float, outline_px: int = 0) -> Lettering:
    """Return a line of text as ink; capitals are ``height_px`` high.

    ``outline_px`` makes the letters wider on every side. Raises ScanError without Pillow.
    """
    font = _font(height_px)
    from PIL import Image, ImageDraw

    text = printable(text)
    left, top, right, bottom = font.getbbox(text, anchor="ls", stroke_width=outline_px)
    row, column = 2 - int(top), 2 - int(left)
    image = Image.new("L", (int(right) + column + 3, int(bottom) + row + 3))
    ImageDraw.Draw(image).text((column, row), text, 255, font, anchor="ls", stroke_width=outline_px)
    return Lettering(np.asarray(image, np.float32) / 255, row, column)


@lru_cache(maxsize=64)
def _font(height_px: float) -> FreeTypeFont:
    """Return the font whose capitals have this height; raises ScanError without Pillow."""
    try:
        from PIL import ImageFont

        font = ImageFont.load_default(size=height_px / _CAP_HEIGHT)
        assert isinstance(font, ImageFont.FreeTypeFont)
    except (ImportError, TypeError) as error:  # TypeError: before Pillow 10.1 there was no size
        raise ScanError(f"A preview needs Pillow 10.1 or newer: pip install Pillow ({error}).") from error
    return font
