"""Structures of every model that is offered can be told apart by their colours, and no chosen colour is changed."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from TransferSegLib.anatomy import describe_structure
from TransferSegLib.display_colors import CLOSE, color_distance, distinguishable, least_distance
from TransferSegLib.models.catalogue import CATALOGUE_FILE, read_catalogue
from TransferSegLib.models.store import load_description
from TransferSegLib.structures import LabelSet

MODELS = Path(__file__).resolve().parents[1] / "Resources" / "Models"
RIGHT, LEFT = "right parotid gland", "left parotid gland"


def described(*names: str) -> LabelSet:
    return LabelSet(tuple(describe_structure(name, label) for label, name in enumerate(names, start=1)))


def least_of(label_set: LabelSet) -> float:
    return min(color_distance(one.color, other.color) for one, other in combinations(label_set, 2))


def test_distances_are_those_of_lab_with_half_the_lightness() -> None:
    assert color_distance((0, 0, 0), (255, 255, 255)) == pytest.approx(50, abs=0.1), "lightness is 0 to 100"
    # sRGB's red is at L 53.24, a 80.09, b 67.20, its green at 87.73, -86.18, 83.18 (Lindbloom's calculator, D65).
    wanted = ((0.5 * (87.73 - 53.24)) ** 2 + (80.09 + 86.18) ** 2 + (67.20 - 83.18) ** 2) ** 0.5
    assert color_distance((255, 0, 0), (0, 255, 0)) == pytest.approx(wanted, abs=0.1)


def test_the_bundled_model_s_structures_can_be_told_apart() -> None:
    stored = load_description(MODELS / "head-neck-ct").label_set
    assert least_of(stored) < CLOSE, "two greens, as Slicer's terminology has them"
    shown = distinguishable(stored)
    assert least_of(shown) >= CLOSE
    moved = [one.name for one, other in zip(stored, shown, strict=True) if one.color != other.color]
    assert moved == [LEFT] and [replace(s, color=(0, 0, 0)) for s in stored] == [
        replace(s, color=(0, 0, 0)) for s in shown
    ]


def test_so_can_those_of_every_model_of_the_catalogue() -> None:
    entries = [entry for entry in read_catalogue(MODELS / CATALOGUE_FILE).entries if len(entry.structures) > 1]
    assert len(entries) > 40 and max(len(entry.structures) for entry in entries) > 100
    for entry in entries:
        usual = described(*entry.structures)
        shown = distinguishable(usual)
        assert least_of(shown) >= least_distance(len(usual)), entry.name
    assert least_distance(12) == CLOSE > least_distance(24) > least_distance(117) > 8


def test_the_same_structures_get_the_same_colours_and_those_that_differ_keep_theirs() -> None:
    again = described(RIGHT, LEFT)
    assert distinguishable(described(RIGHT, LEFT)) == distinguishable(again)
    distinguishable.cache_clear()
    assert distinguishable(described(RIGHT, LEFT)) == distinguishable(again)
    apart = described("mandible", RIGHT, "larynx")
    assert distinguishable(apart) == apart


def test_a_colour_that_somebody_chose_stays_and_others_make_room() -> None:
    right, left = described(RIGHT, LEFT)
    chosen = LabelSet((right, replace(left, color=(72, 165, 118))))
    shown = distinguishable(chosen)
    assert shown.structures[1].color == (72, 165, 118) and color_distance(*(s.color for s in shown)) >= CLOSE
    both = LabelSet((replace(right, color=(72, 165, 119)), replace(left, color=(72, 165, 118))))
    assert distinguishable(both) == both, "the user wants it so"


def test_colours_that_are_taken_are_avoided() -> None:
    (right,) = described(RIGHT)
    (shown,) = distinguishable(LabelSet((right,)), (right.color, (255, 0, 0)))
    assert color_distance(shown.color, right.color) >= CLOSE <= color_distance(shown.color, (255, 0, 0))
