"""Doubtful places: found where doubt is thick, with position, size and structure, the largest doubt first."""

from __future__ import annotations

import json

import numpy as np
import pytest

from Testing.doubt.scenes import LABELS, ball, doubt_of, turned_scan
from Testing.impatient import Impatient
from TransferSegLib.doubt.places import DoubtfulPlace, doubtful_places
from TransferSegLib.errors import Cancelled
from TransferSegLib.progress import Task


def world(doubt, zyx: tuple[int, int, int]) -> np.ndarray:
    """Return where a voxel of the grid lies (LPS), whose axes are the world's and whose spacing is 2 mm."""
    return np.array(doubt.grid.origin_mm) + 2.0 * np.array(zyx[::-1])


def test_two_balls_are_two_places_and_the_larger_is_first() -> None:
    image = turned_scan()
    doubt = doubt_of(image)
    small, large = ball(doubt, (8, 12, 9), 5.0), ball(doubt, (24, 14, 22), 8.0)
    doubt.margins_zyx[small | large] = 0.0
    doubt.second_zyx[large] = 2
    first, second = doubtful_places([doubt], image, LABELS.names)
    assert (first.structure, second.structure) == ("two", "one")
    assert np.allclose(first.position_mm, world(doubt, (24, 14, 22)), atol=1e-6)
    assert np.allclose(second.position_mm, world(doubt, (8, 12, 9)), atol=1e-6)
    assert first.position_ras_mm == (-first.position_mm[0], -first.position_mm[1], first.position_mm[2])
    # The place ends where the mean doubt is half of its peak: a little within the ball, where half of the voxels are
    # expected to be wrong.
    assert 0.6 * large.sum() < first.volume_ml / 0.008 < large.sum()
    assert first.wrong_ml == pytest.approx(0.5 * first.volume_ml, rel=1e-3) and 0.3 < first.doubt <= 0.5


def test_a_thin_layer_is_no_place_but_its_thick_part_is() -> None:
    image = turned_scan()
    doubt = doubt_of(image)
    doubt.margins_zyx[15] = 3.0  # an eighth of the voxels are wrong, along a whole plane
    assert doubtful_places([doubt], image, LABELS.names) == ()
    thick = ball(doubt, (15, 12, 20), 6.0)
    doubt.margins_zyx[thick] = 0.5
    (place,) = doubtful_places([doubt], image, LABELS.names)
    assert np.linalg.norm(np.array(place.position_mm) - world(doubt, (15, 12, 20))) < 2.1


def test_only_of_structures_asked_for_and_at_most_so_many() -> None:
    image = turned_scan()
    doubt = doubt_of(image)
    for number, channel in enumerate((1, 2, 1)):
        part = ball(doubt, (14, 12, 6 + 9 * number), 4.0 + number)
        doubt.margins_zyx[part], doubt.second_zyx[part] = 0.0, channel
    assert [place.structure for place in doubtful_places([doubt], image, LABELS.names)] == ["one", "two", "one"]
    assert [place.structure for place in doubtful_places([doubt], image, ["Two "])] == ["two"]
    assert len(doubtful_places([doubt], image, LABELS.names, most=2)) == 2
    doubt.margins_zyx[:] = 16.0
    assert doubtful_places([doubt], image, LABELS.names) == ()


def test_without_a_calibration_nothing_is_expected_to_be_wrong() -> None:
    image = turned_scan()
    doubt = doubt_of(image, None)
    doubt.margins_zyx[ball(doubt, (14, 12, 10), 6.0)] = 0.0
    (place,) = doubtful_places([doubt], image, LABELS.names)
    assert place.wrong_ml is None and place.doubt > 0.7


def test_places_survive_json() -> None:
    place = DoubtfulPlace((1.25, -2.5, 3.0), "one", 0.25, 1.5, None)
    assert DoubtfulPlace.from_json(json.loads(json.dumps(place.to_json()))) == place
    with pytest.raises(KeyError):
        DoubtfulPlace.from_json({"structure": "one"})


def test_looking_for_places_stops_when_asked_to() -> None:
    image = turned_scan()
    doubt = doubt_of(image)
    doubt.margins_zyx[ball(doubt, (14, 12, 10), 6.0)] = 0.0
    for at in (1, 3):
        with pytest.raises(Cancelled):
            doubtful_places([doubt], image, LABELS.names, task=Task("", None, Impatient(at)))
