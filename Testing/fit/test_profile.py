"""Statistics of training cases, and structures that contradict them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.errors import ModelError
from TransferSegLib.fit.check import NO_PROFILE, check_fit
from TransferSegLib.fit.feature_profile import FeatureProfile, ScanFeatures
from TransferSegLib.fit.profile import FitProfile, Spread
from TransferSegLib.fit.reasons import Fit
from TransferSegLib.fit.shapes import FoundStructure, ScanShapes, shapes_of
from TransferSegLib.structures import LabelSet, Structure

PLACES = {
    "right": (-60.0, 0.0, 0.0),
    "left": (60.0, 0.0, 0.0),
    "stem": (0.0, 25.0, 35.0),
    "jaw": (0.0, -50.0, -15.0),
    "larynx": (0.0, -15.0, -75.0),
}
NAMES = tuple(PLACES)


def scan(seed: int, shift: float = 0.0, **changes) -> ScanShapes:
    """Return a scan like all others but for chance and the changes: a FoundStructure by name, or None for missing."""
    random = np.random.default_rng(seed)
    found = {}
    for name, place in PLACES.items():
        centre = np.add(place, random.normal(0, 5, 3)) + shift
        found[name] = FoundStructure(25 * math.exp(random.normal(0, 0.2)), tuple(centre), False)
    for name, change in changes.items():
        if change is None:
            del found[name]
        else:
            found[name] = replace(found[name], **change)
    return ScanShapes(found, (-200.0 + shift,) * 3, (200.0 + shift,) * 3)


@pytest.fixture(scope="module")
def profile() -> FitProfile:
    return FitProfile.of([scan(seed) for seed in range(40)])


def judged(profile: FitProfile | None, shapes: ScanShapes) -> Fit:
    return check_fit([], shapes, profile, NAMES)


def test_scans_like_the_training_ones_fit(profile):
    fits = [judged(profile, scan(seed, shift=500.0)) for seed in range(100, 200)]
    assert all(fit.fits and not fit.doubtful and not fit.lines() for fit in fits)


@pytest.mark.parametrize(
    ("changes", "doubtful"),
    [
        ({"jaw": {"centre_mm": (150.0, 0.0, 0.0)}}, ("jaw",)),
        ({"jaw": {"ml": 2.0}}, ("jaw",)),
        ({"jaw": {"ml": 300.0}}, ("jaw",)),
        ({"jaw": {"ml": 2.0, "cut": True}}, ()),
        ({"larynx": None}, ("larynx",)),
        ({"right": {"centre_mm": PLACES["left"]}, "left": {"centre_mm": PLACES["right"]}}, ("right", "left")),
        ({"stem": {"centre_mm": (0.0, 25.0, -150.0)}}, ("stem",)),
    ],
)
def test_only_the_wrong_structures_are_doubtful(profile, changes, doubtful):
    fit = judged(profile, scan(300, **changes))
    assert fit.doubtful == doubtful
    assert all(name in " ".join(fit.lines()) for name in doubtful)


def test_a_structure_beyond_the_scan_is_not_missing(profile):
    shapes = scan(300, larynx=None)
    assert judged(profile, replace(shapes, low_mm=(-200.0, -200.0, -60.0))).fits


def test_a_scan_upside_down_is_seen(profile):
    turned = {name: {"centre_mm": (x, y, -z)} for name, (x, y, z) in PLACES.items()}
    assert not judged(profile, scan(300, **turned)).fits


def test_nothing_found_and_a_lonely_structure(profile):
    empty = ScanShapes({}, (0.0,) * 3, (1.0,) * 3)
    assert judged(profile, empty).doubtful == NAMES
    lonely = scan(300, **dict.fromkeys(NAMES[1:]))
    fit = judged(profile, replace(lonely, low_mm=(-70.0, -10.0, -10.0), high_mm=(-50.0, 10.0, 10.0)))
    assert fit.doubtful == NAMES and "Only the right was found" in fit.lines()[0]


def test_without_a_profile_what_is_not_checked_is_named():
    fit = judged(None, scan(1))
    assert fit.fits and fit.unchecked == (NO_PROFILE,)
    assert not judged(None, ScanShapes({}, (0.0,) * 3, (1.0,) * 3)).fits


def test_only_what_was_asked_for_is_told(profile):
    fit = judged(profile, scan(300, jaw={"ml": 2.0}))
    assert fit.for_structures(["stem"]).fits
    assert fit.for_structures(["jaw", "stem"]) == fit


def test_json_round_trips(profile):
    again = FitProfile.from_json(json.loads(json.dumps(profile.to_json())))
    assert again is not None and again.structures.keys() == profile.structures.keys()
    np.testing.assert_allclose(again.position("right", "left").mean, profile.position("right", "left").mean, atol=1e-3)
    fit = judged(profile, scan(300, jaw={"ml": 2.0}))
    assert Fit.from_json(json.loads(json.dumps(fit.to_json()))) == fit
    assert Fit.from_json(None).fits and Fit.from_json({"reasons": 3 * [None]}).fits


@pytest.mark.parametrize("entry", [[], {"version": 1}, {"version": 1, "cases": "x", "structures": {}, "pairs": []}, 3])
def test_damaged_profiles_are_refused(entry):
    with pytest.raises(ModelError, match="fit"):
        FitProfile.from_json(entry)


def test_newer_profiles_are_left_out():
    assert FitProfile.from_json({"version": 2, "anything": "else"}) is None


def test_spreads_join_as_if_counted_together():
    random = np.random.default_rng(1)
    first, second = random.normal(size=(7, 3)), random.normal(2, 3, size=(4, 3))
    joined = Spread.of(first.tolist()).joined(Spread.of(second.tolist()))
    together = Spread.of([*first.tolist(), *second.tolist()])
    np.testing.assert_allclose(joined.mean, together.mean)
    np.testing.assert_allclose(joined.deviation, together.deviation)


def test_few_cases_are_no_reason_to_be_strict(profile):
    few = FitProfile.of([scan(1), scan(2)])
    assert all(judged(few, scan(seed)).fits for seed in range(100, 150))
    derived = profile.derived([*NAMES, "new"], few, None)
    assert derived.structures["jaw"].cases == 42 and "new" not in derived.structures


def test_shapes_of_a_label_map():
    labels = np.zeros((20, 30, 40), np.uint8)
    labels[5:9, 10:14, 20:24] = 3
    labels[0:2, 10:14, 20:24] = 7
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((2.0, 3.0, 5.0))
    image.SetOrigin((100.0, -50.0, 10.0))
    names = LabelSet(tuple(Structure(name, label, (1, 1, 1)) for name, label in (("a", 3), ("b", 7), ("c", 9))))
    shapes = shapes_of(image, names)
    assert set(shapes.found) == {"a", "b"}
    assert shapes.found["a"].ml == pytest.approx(64 * 30 / 1000)
    assert shapes.found["a"].centre_mm == pytest.approx((100 + 21.5 * 2, -50 + 11.5 * 3, 10 + 6.5 * 5))
    assert not shapes.found["a"].cut and shapes.found["b"].cut
    assert shapes.low_mm == pytest.approx((99.0, -51.5, 7.5)) and shapes.high_mm == pytest.approx((179, 38.5, 107.5))
    flipped = sitk.Flip(image, (True, False, True))
    assert shapes_of(flipped, names).found["a"].centre_mm == pytest.approx(shapes.found["a"].centre_mm)


def features(seed: int, excited: float = 1.0) -> ScanFeatures:
    random = np.random.default_rng(seed)
    usual = np.linspace(0.5, 3.0, 24)
    return ScanFeatures(usual * np.exp(random.normal(0, 0.1, 24)) * excited, 500)


def test_features_unlike_the_training_ones():
    known = FeatureProfile.of([features(seed) for seed in range(40)], [np.linspace(0.5, 1.5, 101)] * 40)
    assert known is not None and known.familiar == pytest.approx(0.6)
    assert all(known.distance(features(seed)) < 2.2 for seed in range(100, 130))
    assert known.distance(features(200, excited=0.3)) > 4
    again = FeatureProfile.from_json(json.loads(json.dumps(known.to_json())))
    assert again is not None
    assert again.distance(features(200, 0.3)) == pytest.approx(known.distance(features(200, 0.3)), rel=0.02)
    with pytest.raises(ModelError, match="features"):
        FeatureProfile.from_json(known.to_json() | {"mean": known.to_json()["mean"][:8]})


def test_a_handful_of_scans_says_nothing_of_features():
    assert FeatureProfile.of([features(seed) for seed in range(5)]) is None
