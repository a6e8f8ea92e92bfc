"""Parts of a structure that lie where they cannot, and results too poor to confirm themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.errors import ModelError
from TransferSegLib.fit.check import check_fit
from TransferSegLib.fit.profile import FitProfile, StructureProfile
from TransferSegLib.fit.shapes import FoundStructure, Part, ScanShapes, other_parts, shapes_of
from TransferSegLib.structures import LabelSet, Structure

LABELS = LabelSet((Structure("jaw", 1, (1, 0, 0)), Structure("teeth", 2, (0, 1, 0))))
SPACING_XYZ = (1.0, 2.0, 5.0)


def label_map(*boxes_zyx: tuple[slice, slice, slice], label: int = 1) -> sitk.Image:
    """Return a map of 20 x 40 x 50 voxels (z, y, x) with some boxes of a label."""
    labels = np.zeros((20, 40, 50), np.uint8)
    for box in boxes_zyx:
        labels[box] = label
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing(SPACING_XYZ)
    return image


LARGEST = (slice(0, 5), slice(0, 10), slice(0, 10))
#: 5 slices above (25 mm), 6 rows behind (12 mm), 20 columns to the left (20 mm): 27 voxels of 10 mm3.
FAR = (slice(10, 13), slice(16, 19), slice(30, 33))


def test_parts_are_measured_by_hand():
    shapes = shapes_of(label_map(LARGEST, FAR), LABELS)
    (part,) = shapes.found["jaw"].parts
    assert part.ml == pytest.approx(0.27)
    assert part.apart_mm == pytest.approx(np.linalg.norm([25.0, 12.0, 20.0]))


def test_specks_and_what_touches_are_no_parts():
    speck = (slice(10, 11), slice(16, 19), slice(30, 33))  # 0.09 ml
    corner = (slice(5, 8), slice(10, 13), slice(10, 13))
    assert shapes_of(label_map(LARGEST, speck, corner), LABELS).found["jaw"].parts == ()
    assert shapes_of(label_map(LARGEST, FAR), LABELS, in_one_part=("jaw",)).found["jaw"].parts == ()
    assert other_parts(np.zeros((3, 3, 3), bool), SPACING_XYZ) == ()


def profile_of(parts: list[tuple[Part, ...]]) -> FitProfile:
    scan = shapes_of(label_map(LARGEST), LABELS)
    return FitProfile.of([replace(scan, found={"jaw": replace(scan.found["jaw"], parts=one)}) for one in parts])


def test_a_far_part_is_named_with_its_size_and_distance():
    profile = profile_of([()] * 40)
    fit = check_fit([], shapes_of(label_map(LARGEST, FAR), LABELS), profile, ["jaw"])
    (reason,) = fit.reasons
    assert (reason.kind, fit.doubtful) == ("parts", ("jaw",))
    assert reason.text == "Of the jaw a part (0.27 ml) lies 34 mm from the rest of it."


def test_parts_where_they_were_in_training_are_ordinary():
    profile = profile_of([(Part(0.3, 30.0),)] * 40)
    shapes = shapes_of(label_map(LARGEST, FAR), LABELS)
    assert check_fit([], shapes, profile, ["jaw"]).fits
    # One case in a hundred is an error of the network, and no excuse.
    assert profile_of([(Part(0.3, 300.0),)] + [()] * 99).structures["jaw"].apart_mm == pytest.approx(0.0)
    # Profiles written before parts were looked at say nothing of them.
    old = FitProfile(40, {"jaw": replace(profile.structures["jaw"], apart_mm=None)}, {})
    assert check_fit([], shapes, old, ["jaw"]).fits


def test_few_cases_are_no_reason_to_be_strict():
    assert check_fit([], shapes_of(label_map(LARGEST, FAR), LABELS), profile_of([()] * 2), ["jaw"]).fits


def test_distances_survive_and_damaged_ones_are_refused():
    one = profile_of([(Part(0.3, 30.0),)] * 3).structures["jaw"]
    assert StructureProfile.from_json(one.to_json()).apart_mm == 30.0
    assert "apart_mm" not in replace(one, apart_mm=None).to_json()
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ModelError):
            StructureProfile.from_json(one.to_json() | {"apart_mm": wrong})
    assert one.joined(replace(one, apart_mm=70.0)).apart_mm == 70.0
    assert one.joined(replace(one, apart_mm=None)).apart_mm == 30.0


@pytest.mark.parametrize(("found", "warned"), [(1, True), (2, True), (3, False), (7, False)])
def test_two_of_seven_confirm_nothing(found: int, warned: bool):
    names = [f"part {number}" for number in range(7)]
    every = {name: FoundStructure(10.0, (0.0, 0.0, 50.0 * place), True) for place, name in enumerate(names)}
    whole = ScanShapes(every, (-99.0,) * 3, (400.0,) * 3)
    profile = FitProfile.of([whole] * 40)
    cropped = replace(whole, found=dict(list(every.items())[:found]), high_mm=(99.0, 99.0, 50.0 * found))
    fit = check_fit([], cropped, profile, names)
    assert [reason.kind for reason in fit.reasons] == (["nothing found"] if warned else [])
    assert fit.doubtful == (tuple(names) if warned else ())


def test_nothing_of_what_was_asked_for():
    shapes = shapes_of(label_map(LARGEST), LABELS)
    fit = check_fit([], shapes, None, LABELS.names, wanted=["teeth"])
    assert [reason.kind for reason in fit.reasons] == ["nothing found"] and fit.doubtful == ("teeth",)
    assert "asked for" in fit.lines()[0]
    assert check_fit([], shapes, None, LABELS.names, wanted=["jaw"]).fits
