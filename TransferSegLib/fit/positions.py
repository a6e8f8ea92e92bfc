"""Structures that are missing, too small, too large, or where they cannot be, measured by a model's training cases."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from TransferSegLib.fit.profile import PRIOR_MM, FitProfile, Spread
from TransferSegLib.fit.reasons import MISSING, PARTS, POSITION, SIZE, Reason
from TransferSegLib.fit.shapes import FoundStructure, ScanShapes
from TransferSegLib.wording import enumerated

#: Sizes may differ from the mean of the logarithm by so many deviations and a slack (0.8: more than twice).
_SIZE_DEVIATIONS, _SIZE_SLACK = 3.0, 0.8
#: A structure that most scans cut may be larger in a longer scan, by this factor.
_LONGER_SCAN = 3.0
#: Positions may differ from the mean by so many deviations and a slack, in mm.
_POSITION_DEVIATIONS, _POSITION_SLACK_MM = 5.0, 10.0
#: Parts may be so much farther from the largest one than they were in training, in mm: more where cases were few.
_PARTS_SLACK_MM, _PARTS_SLACK_OF_FEW_MM = 30.0, 100.0
#: A structure is missing when it was in this share of the training scans, and its place is in the scan by so many mm.
_EXPECTED_SHARE, _EXPECTED_MARGIN_MM = 0.9, 20.0
#: An order that never turns: the mean is so many deviations from 0; it has turned when it is so many mm the other way.
_CERTAIN_DEVIATIONS, _TURNED_MM = 2.3, 5.0
_AXES = (("right", "left"), ("front", "back"), ("below", "above"))


def size_reasons(shapes: ScanShapes, profile: FitProfile) -> Iterator[Reason]:
    """Yield a reason for every structure that is far smaller or larger than in training."""
    for name, found in shapes.found.items():
        known = profile.structures.get(name)
        if known is None:
            continue
        low, high = known.bounds_ml(_SIZE_DEVIATIONS, _SIZE_SLACK)
        if known.usually_cut:
            high *= _LONGER_SCAN
        usual = f"{np.exp(known.log_ml.mean[0]):.3g} ml in training"
        if found.ml > high:
            yield Reason(SIZE, f"The {name} is far too large: {found.ml:.3g} ml (about {usual}).", (name,))
        elif found.ml < low and not found.cut:
            yield Reason(SIZE, f"The {name} is far too small: {found.ml:.3g} ml (about {usual}).", (name,))


def position_reasons(shapes: ScanShapes, profile: FitProfile) -> Iterator[Reason]:
    """Yield a reason for every structure whose place contradicts that of others.

    Of structures that contradict one another the one with the most contradictions is at fault, then of the rest the
    next one; of two alone, both.
    """
    misplaced = _misplaced_pairs(shapes, profile)
    left = set(shapes.found)
    while True:
        open_pairs = {pair: far for pair, far in misplaced.items() if set(pair) <= left}
        if not open_pairs:
            return
        counts = {name: sum(1 for pair in open_pairs if name in pair) for name in left}
        most = max(counts.values())
        worst = sorted(name for name in left if counts[name] == most)
        if most == 1 and len(open_pairs) == 1 and len(_agreeing(left, worst, shapes, profile)) == 0:
            first, second = next(iter(open_pairs))
            yield Reason(POSITION, _words(first, second, shapes, profile), (first, second))
            return
        # With as many contradictions, the one that is farther from where it should be.
        name = max(worst, key=lambda one: max(far for pair, far in open_pairs.items() if one in pair))
        others = [first if second == name else second for first, second in open_pairs if name in (first, second)]
        yield Reason(POSITION, _words(others[0], name, shapes, profile), (name,))
        left.discard(name)


def missing_reasons(shapes: ScanShapes, profile: FitProfile) -> Iterator[Reason]:
    """Yield a reason for the structures that nearly every training scan had and whose place is well within the scan."""
    missing = []
    for name, known in profile.structures.items():
        if name in shapes.found or known.cases < _EXPECTED_SHARE * profile.cases:
            continue
        place = expected_place(name, shapes, profile)
        if place is not None and shapes.holds(place, _EXPECTED_MARGIN_MM):
            missing.append(name)
    if missing:
        yield Reason(MISSING, f"Not found, though the scan should show it: {enumerated(missing)}.", tuple(missing))


def parts_reasons(shapes: ScanShapes, profile: FitProfile) -> Iterator[Reason]:
    """Yield a reason for every structure with parts far farther from its largest one than in training."""
    for name, found in shapes.found.items():
        known = profile.structures.get(name)
        if known is None or known.apart_mm is None:
            continue
        farthest_mm = known.apart_mm + _PARTS_SLACK_MM + _PARTS_SLACK_OF_FEW_MM / known.cases
        far = [part for part in found.parts if part.apart_mm > farthest_mm]
        if far:
            what, lie = ("a part", "lies") if len(far) == 1 else (f"{len(far)} parts", "lie up to")
            ml = sum(part.ml for part in far)
            text = f"Of the {name} {what} ({ml:.2g} ml) {lie} {far[0].apart_mm:.0f} mm from the rest of it."
            yield Reason(PARTS, text, (name,))


def expected_place(name: str, shapes: ScanShapes, profile: FitProfile) -> np.ndarray | None:
    """Return where a structure should be (mm, LPS) by the median of what the others say, None where none does."""
    places = []
    for other, found in shapes.found.items():
        spread = profile.position(other, name) if other != name else None
        if spread is not None:
            places.append(np.add(found.centre_mm, spread.mean))
    return np.median(places, axis=0) if places else None


def _misplaced_pairs(shapes: ScanShapes, profile: FitProfile) -> dict[tuple[str, str], float]:
    """Return, of the pairs that lie as in no training case, how many times farther than they may."""
    found = {}
    for first, second in combinations(shapes.found, 2):
        spread = profile.position(first, second)
        if spread is not None:
            far = float(np.max(_excess(shapes.found[first], shapes.found[second], spread, profile)))
            if far > 1.0:
                found[first, second] = far
    return found


def _excess(first: FoundStructure, second: FoundStructure, spread: Spread, profile: FitProfile) -> np.ndarray:
    """Return along x, y and z how far a pair is from its usual place, in what it may be."""
    offset, usual = np.subtract(second.centre_mm, first.centre_mm), np.array(spread.mean)
    excess = np.abs(offset - usual) / profile.reach_mm(spread, _POSITION_DEVIATIONS, _POSITION_SLACK_MM)
    # If one always lies above (before, left of) the other, the opposite is wrong however wide the spread.
    certain = np.abs(usual) > _CERTAIN_DEVIATIONS * spread.widened(PRIOR_MM)
    turned = certain & (offset * np.sign(usual) < -_TURNED_MM)
    return np.where(turned, np.maximum(excess, 1.5), excess)


def _agreeing(left: set[str], pair: list[str], shapes: ScanShapes, profile: FitProfile) -> set[str]:
    """Return the other structures left that can tell which of a pair is at fault."""
    return {name for name in left if name not in pair and any(profile.position(name, one) for one in pair)}


def _words(reference: str, name: str, shapes: ScanShapes, profile: FitProfile) -> str:
    """Return where a structure lies as seen from another one, and where it should."""
    spread = profile.position(reference, name)
    assert spread is not None
    first, second = shapes.found[reference], shapes.found[name]
    axis = int(np.argmax(_excess(first, second, spread, profile)))
    is_, usual = second.centre_mm[axis] - first.centre_mm[axis], spread.mean[axis]
    return (
        f"The {name} is not where it should be: {_offset(is_, axis)} the {reference} instead of about "
        f"{_offset(usual, axis)} it."
    )


def _offset(mm: float, axis: int) -> str:
    """Return an offset as text: '35 mm above'."""
    word = _AXES[axis][int(mm > 0)]
    link = {"right": "to the right of", "left": "to the left of", "front": "in front of", "back": "behind"}
    return f"{abs(mm):.0f} mm {link.get(word, word)}"
