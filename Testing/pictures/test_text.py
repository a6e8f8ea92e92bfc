"""Lines of text: legible, of known width and height, in any language, with a clear error without Pillow."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from TransferSegLib.errors import ScanError
from TransferSegLib.pictures import text as text_module
from TransferSegLib.pictures.text import draw_text, printable, shortened, text_width, wrapped

PRINTABLE = [chr(code) for code in range(32, 127)]


@pytest.mark.parametrize("letter", PRINTABLE[1:])
def test_every_character_but_the_space_has_ink_within_its_line(letter: str) -> None:
    drawn = draw_text(letter, 20)
    assert drawn.ink.max() > 0.95
    rows = np.flatnonzero(drawn.ink.max(axis=1) > 0.5)
    assert drawn.origin_row - 24 <= rows[0] and rows[-1] <= drawn.origin_row + 8
    columns = np.flatnonzero(drawn.ink.max(axis=0) > 0.5) - drawn.origin_column
    assert columns[0] >= -1 and columns[-1] <= text_width(letter, 20) + 1


def test_the_space_has_width_and_no_ink() -> None:
    assert not draw_text(" ", 20).ink.any()
    assert text_width("a b", 20) > text_width("ab", 20) + 4


def test_no_ascii_character_is_missing_in_the_font() -> None:
    missing = draw_text("脳", 20).ink
    assert not any(np.array_equal(draw_text(letter, 20).ink, missing) for letter in PRINTABLE)


def test_a_capital_stands_on_the_baseline_and_reaches_its_height() -> None:
    for height in (10, 20, 40):
        drawn = draw_text("H", height)
        rows = np.flatnonzero(drawn.ink.max(axis=1) > 0.5) - drawn.origin_row
        assert rows[-1] == -1 and rows[0] == pytest.approx(-height, abs=1)


def test_an_outline_makes_letters_wider_on_every_side() -> None:
    plain, wide = draw_text("H", 20), draw_text("H", 20, 3)
    rows, wide_rows = (np.flatnonzero(one.ink.max(axis=1) > 0.5) - one.origin_row for one in (plain, wide))
    assert (wide_rows[0], wide_rows[-1]) == (rows[0] - 3, rows[-1] + 3)


def test_digits_are_equally_wide_so_that_columns_of_numbers_align() -> None:
    assert len({text_width(digit, 13) for digit in "0123456789"}) == 1


@pytest.mark.parametrize(
    ("given_text", "plain"),
    [
        ("Ödème naïf", "Odeme naif"),
        ("Halsrückenmark – Größe", "Halsruckenmark - Grosse"),
        ("Śledziona, łokieć", "Sledziona, lokiec"),
        ("5 µm × 3½", "5 um x 31/2"),
        ("a\tb\n c", "a b c"),
        ("“left” lung…", '"left" lung...'),
    ],
)
def test_accents_and_typographic_signs_become_plain(given_text: str, plain: str) -> None:
    assert printable(given_text) == plain
    assert np.array_equal(draw_text(given_text, 12).ink, draw_text(plain, 12).ink)


def test_an_unknown_character_is_a_box() -> None:
    box = draw_text("脳", 20)
    assert box.ink.max() > 0.95
    assert np.array_equal(box.ink, draw_text("肝", 20).ink)


def test_shortened_text_fits_and_says_that_it_is_cut() -> None:
    text = "left common carotid artery"
    assert shortened(text, 12, 1000) == text
    cut = shortened(text, 12, 120)
    assert cut.endswith("...") and text.startswith(cut[:-3]) and text_width(cut, 12) <= 120
    assert text_width(cut[:-3] + text[len(cut) - 3 : len(cut) - 1] + "...", 12) > 120


def test_wrapped_lines_hold_all_words_and_fit() -> None:
    text = "Not found: " + ", ".join(f"vertebra T{number}" for number in range(1, 13))
    lines = wrapped(text, 12, 300)
    assert " ".join(lines) == text
    assert len(lines) > 3 and all(text_width(line, 12) <= 300 for line in lines)
    assert wrapped("", 12, 300) == []


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=12), st.floats(6, 40), st.integers(0, 6))
def test_any_text_can_be_drawn(text: str, height: float, outline_px: int) -> None:
    ink = draw_text(text, height, outline_px).ink
    assert np.isfinite(ink).all() and ink.min() >= 0.0 and ink.max() <= 1.0
    # Nothing is cut off at the borders.
    assert not ink[[0, -1]].any() and not ink[:, [0, -1]].any()


def test_without_pillow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    text_module._font.cache_clear()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ScanError, match="pip install Pillow"):
        draw_text("H", 20)
