"""The lettering: a complete, legible alphabet whose ink lies where it should."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from TransferSegLib.pictures.glyphs import GLYPHS, SIDE_BEARINGS, SUBSTITUTES
from TransferSegLib.pictures.lettering import draw_text, printable, shortened, text_width, wrapped

PRINTABLE = [chr(code) for code in range(32, 127)]


def test_the_table_is_printable_ascii() -> None:
    assert set(GLYPHS) == set(PRINTABLE)
    assert all(printable(text) in GLYPHS or set(text) <= set(PRINTABLE) for text in SUBSTITUTES.values())


@pytest.mark.parametrize("letter", PRINTABLE[1:])
def test_every_character_but_the_space_has_ink_within_its_line(letter: str) -> None:
    drawn = draw_text(letter, 20)
    assert drawn.ink.max() == 1.0
    rows = np.flatnonzero(drawn.ink.max(axis=1) > 0.5)
    assert drawn.origin_row - 24 <= rows[0] and rows[-1] <= drawn.origin_row + 8
    columns = np.flatnonzero(drawn.ink.max(axis=0) > 0.5) - drawn.origin_column
    assert columns[0] >= -1 and columns[-1] <= text_width(letter, 20) + 1


def test_the_space_has_width_and_no_ink() -> None:
    assert not draw_text(" ", 20).ink.any()
    assert text_width("a b", 20) > text_width("ab", 20) + 4


@pytest.mark.parametrize("height", [9, 14, 20])
def test_any_two_characters_look_different(height: int) -> None:
    drawn = {letter: draw_text(letter, height).ink for letter in PRINTABLE}
    width = max(ink.shape[1] for ink in drawn.values())
    padded = {letter: np.pad(ink, ((0, 0), (0, width - ink.shape[1]))) for letter, ink in drawn.items()}
    for first, second in itertools.combinations(PRINTABLE, 2):
        # More ink than a full pixel has is added or taken away: the dot between ',' and ';' at the smallest.
        assert np.abs(padded[first] - padded[second]).sum() > 1.2, (first, second)


def test_a_bar_has_the_area_of_a_pen_stroke() -> None:
    # '|' is 26 units long, the pen 2.25 wide with round ends; at 40 pixels a unit is 2 pixels.
    length, pen = 52.0, 4.5
    assert draw_text("|", 40).ink.sum() == pytest.approx(length * pen + math.pi * (pen / 2) ** 2, rel=0.01)


def test_a_capital_stands_on_the_baseline_and_reaches_its_height() -> None:
    drawn = draw_text("H", 20)
    left_stem = drawn.ink[:, drawn.origin_column + round(SIDE_BEARINGS["|"])]
    rows = np.flatnonzero(left_stem > 0.5) - drawn.origin_row
    # Half a pen (1.1 pixels) more at either end.
    assert (rows[0], rows[-1]) == (-21, 1)


def test_a_small_letter_is_seven_tenths_of_a_capital() -> None:
    drawn = draw_text("x", 20)
    rows = np.flatnonzero(drawn.ink.max(axis=1) > 0.5) - drawn.origin_row
    assert (rows[0], rows[-1]) == (-15, 1)


def test_digits_are_equally_wide_so_that_columns_of_numbers_align() -> None:
    assert len({text_width(digit, 13) for digit in "0123456789"}) == 1


def test_a_start_within_the_pixel_moves_the_ink_by_as_much() -> None:
    def centre(start: float) -> float:
        ink = draw_text("l", 20, start=start).ink.sum(axis=0)
        return float((ink * np.arange(len(ink))).sum() / ink.sum())

    assert centre(0.5) - centre(0.0) == pytest.approx(0.5, abs=0.06)


def test_width_is_additive_and_proportional() -> None:
    assert text_width("ab", 10) == pytest.approx(text_width("a", 10) + text_width("b", 10))
    assert text_width("mandible", 30) == pytest.approx(3 * text_width("mandible", 10))


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


def test_an_unknown_character_is_an_empty_box() -> None:
    box = draw_text("脳", 20)
    assert box.ink.max() == 1.0
    assert box.ink[box.origin_row - 10, box.origin_column + 8] == 0.0
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
@given(st.text(max_size=12), st.floats(6, 40), st.floats(0, 0.99))
def test_any_text_can_be_drawn(text: str, height: float, start: float) -> None:
    ink = draw_text(text, height, start=start).ink
    assert np.isfinite(ink).all() and ink.min() >= 0.0 and ink.max() <= 1.0
    assert bool(ink.any()) == bool(printable(text).strip())
    # Nothing is cut off at the borders.
    assert not ink[[0, -1]].any() and not ink[:, [0, -1]].any()
