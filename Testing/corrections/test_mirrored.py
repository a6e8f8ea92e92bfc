"""A label map that lies upside down or mirrored is told where a prediction or an earlier revision shows it."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.corrections.mirrored import exchanged_sides, turned_line
from TransferSegLib.corrections.project import Project
from TransferSegLib.structures import LabelSet, Structure

NAMES = ("left kidney", "right kidney", "liver", "bladder")
ORGANS = LabelSet(tuple(Structure(name, 2 * number, (1, 1, 1)) for number, name in enumerate(NAMES, start=1)))
LPS = np.eye(3)


def body(seed: int = 0) -> np.ndarray:
    """Return labels (zyx, LPS) of organs at places of their own; the seed moves their borders a little."""
    z, y, x = np.indices((24, 20, 28)).astype(float)
    wobble = np.random.default_rng(seed).uniform(-0.6, 0.6, 4)
    labels = np.zeros(z.shape, np.uint8)
    for value, (cz, cy, cx, radius) in zip(
        (2, 4, 6, 8), ((9, 14, 20, 4), (8, 14, 6, 4), (16, 8, 8, 5.5), (3, 6, 13, 3)), strict=True
    ):
        inside = (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < (radius + wobble[value // 2 - 1]) ** 2
        labels[inside] = value
    return labels


def image(labels_zyx: np.ndarray, direction: np.ndarray = LPS) -> sitk.Image:
    made = sitk.GetImageFromArray(np.ascontiguousarray(labels_zyx))
    made.SetDirection(direction.ravel().tolist())
    return made


def line(labels_zyx: np.ndarray, other_zyx: np.ndarray, direction: np.ndarray = LPS) -> str | None:
    return turned_line(image(labels_zyx, direction), ORGANS, image(other_zyx, direction), ORGANS, "the prediction")


@pytest.mark.parametrize(
    ("flips", "words"),
    [
        ((-1, 1, 1), "upside down"),
        ((1, -1, 1), "turned back to front"),
        ((1, 1, -1), "mirrored (left and right exchanged)"),
        ((-1, -1, 1), "turned back to front and upside down"),
    ],
)
def test_turned_label_maps_are_told(flips: tuple[int, ...], words: str) -> None:
    turned = body(1)[tuple(slice(None, None, flip) for flip in flips)]
    said = line(turned, body(2))
    assert (
        said is not None
        and f"WARNING: the label map seems to be {words}: the other" in said
        and "the prediction" in said
    )


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_words_are_the_patients_whatever_the_files_axes(axes: tuple[int, ...]) -> None:
    """The scan's array axes in any order: its own axis n runs along the world's axis ``axes[n]``."""
    for signs in product((1, -1), repeat=3):
        direction = np.eye(3)[:, list(axes)] * signs

        def stored(world_zyx: np.ndarray, signs=signs) -> np.ndarray:
            own_xyz = world_zyx.transpose(2, 1, 0).transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
            return own_xyz.transpose(2, 1, 0)

        said = line(stored(body(1)[::-1]), stored(body(2)), direction)
        assert said is not None and "seems to be upside down" in said


def test_exchanged_names_are_told() -> None:
    swapped = body(1)
    swapped[body(1) == 2], swapped[body(1) == 4] = 4, 2
    said = line(swapped, body(2))
    assert said is not None and "with the names of left and right exchanged" in said
    assert [(left.name, right.name) for left, right in exchanged_sides(image(swapped), ORGANS)] == [
        ("left kidney", "right kidney")
    ]
    assert exchanged_sides(image(body()), ORGANS) == []
    mirrored = image(body()[..., ::-1], np.diag([-1.0, 1.0, 1.0]))
    assert exchanged_sides(mirrored, ORGANS) == [], "the same patient, stored from left to right"


def test_what_is_right_is_not_doubted() -> None:
    assert line(body(1), body(2)) is None
    assert line(np.where(body(1) == 6, 6, 0), body(2)) is None
    assert line(np.zeros_like(body()), body()) is None
    assert line(body(1), np.zeros_like(body())) is None
    poor = np.roll(body(2), 5, axis=0)  # a prediction that is wrong, but no mirror image
    assert line(body(1), poor) is None
    symmetric = np.zeros((20, 20, 20), np.uint8)
    symmetric[5:9, 5:15, 5:15] = 6
    assert line(symmetric, np.roll(symmetric, 1, axis=0)) is None


def test_adding_a_case_warns(make, project: Project) -> None:
    def add(labels_zyx: np.ndarray, seed: int, **more: object) -> tuple[str, ...]:
        scan = sitk.GetImageFromArray(
            np.random.default_rng(seed).integers(-1000, 2000, labels_zyx.shape).astype(np.int16)
        )
        return project.add_case(scan, image(labels_zyx), "all", structures=ORGANS, **more).notes

    assert not any("WARNING" in note for note in add(body(1), 0, prediction=image(body(2))))
    assert "upside down" in add(body(1)[::-1], 1, prediction=image(body(2)))[0]
    assert not any("WARNING" in note for note in add(body(2), 0))
    assert "by a Dice of" in add(body(3)[::-1], 0)[0], "the same scan: compared with its revision 2"
    assert "'left kidney' lies to the right of 'right kidney'" in add(body(4)[..., ::-1], 5)[0]
