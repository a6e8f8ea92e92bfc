"""What a model stores of its training cases: statistics of sizes and positions, and of what the network saw.

It holds means and deviations over cases, never a case. It lies in ``model.json`` as the entry ``fit``; a model without
one is checked less (``docs/fit.md``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from TransferSegLib.errors import ModelError
from TransferSegLib.fit.feature_profile import FeatureProfile
from TransferSegLib.fit.shapes import ScanShapes
from TransferSegLib.json_fields import damage_as

#: The version of the entry; a reader leaves out one it does not know.
PROFILE_VERSION = 1
#: The prior of the spread, and how many cases it counts for: sizes in log ml, positions in mm.
_PRIOR_CASES = 4.0
_PRIOR_LOG_ML, PRIOR_MM = 0.5, 25.0
#: The share of the cases whose parts count as ordinary: a network makes mistakes in training cases, too.
_NEARLY_ALL = 0.98


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of some numbers over cases."""

    cases: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @staticmethod
    def of(rows: Sequence[Sequence[float]]) -> Spread:
        """Return the spread of rows of numbers, one row per case (at least one)."""
        values = np.array(rows, np.float64)
        return Spread(len(values), _numbers(values.mean(axis=0)), _numbers(values.std(axis=0)))

    def widened(self, prior: float) -> np.ndarray:
        """Return the deviations with a prior: a few cases are not enough to estimate a spread."""
        squares = self.cases * np.square(self.deviation) + _PRIOR_CASES * prior**2 / (1 + self.cases / 10)
        return np.sqrt(squares / self.cases * (1 + 1 / self.cases))

    def joined(self, other: Spread) -> Spread:
        """Return the spread of the cases of both."""
        count = self.cases + other.cases
        share = other.cases / count
        means = [np.array(one.mean) for one in (self, other)]
        mean = (1 - share) * means[0] + share * means[1]
        squares = (1 - share) * (np.square(self.deviation) + np.square(means[0] - mean))
        squares += share * (np.square(other.deviation) + np.square(means[1] - mean))
        return Spread(count, _numbers(mean), _numbers(np.sqrt(squares)))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {"cases": self.cases, "mean": _rounded(self.mean), "deviation": _rounded(self.deviation)}

    @staticmethod
    def from_json(entry: Any, length: int) -> Spread:
        """Read what ``to_json`` wrote; raises ModelError."""
        try:
            cases = int(entry["cases"])
            mean, deviation = (tuple(float(value) for value in entry[key]) for key in ("mean", "deviation"))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"The model's entry 'fit' has a damaged spread ({error}).") from error
        finite = all(math.isfinite(value) for value in (*mean, *deviation))
        if cases < 1 or len(mean) != length or len(deviation) != length or not finite or min(deviation) < 0:
            raise ModelError("The model's entry 'fit' has a spread that cannot be.")
        return Spread(cases, mean, deviation)


@dataclass(frozen=True)
class StructureProfile:
    """How often a structure was found and cut by the edge of the scan, and the logarithm of its millilitres.

    ``apart_mm`` is how far in nearly all cases a part of it was from its largest one at most, None where it is unknown.
    """

    cases: int
    cut: int
    log_ml: Spread
    apart_mm: float | None = None

    def joined(self, other: StructureProfile) -> StructureProfile:
        """Return the statistics of the cases of both."""
        known = [one for one in (self.apart_mm, other.apart_mm) if one is not None]
        return StructureProfile(
            self.cases + other.cases,
            self.cut + other.cut,
            self.log_ml.joined(other.log_ml),
            max(known) if known else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        entry = {"cases": self.cases, "cut": self.cut, "log_ml": self.log_ml.to_json()}
        return entry if self.apart_mm is None else entry | {"apart_mm": round(self.apart_mm, 1)}

    @staticmethod
    def from_json(entry: Any) -> StructureProfile:
        """Read what ``to_json`` wrote; raises ModelError, or the errors of conversion."""
        apart_mm = None if entry.get("apart_mm") is None else float(entry["apart_mm"])
        if apart_mm is not None and not (math.isfinite(apart_mm) and apart_mm >= 0):
            raise ModelError("The model's entry 'fit' has a distance that cannot be.")
        return StructureProfile(int(entry["cases"]), int(entry["cut"]), Spread.from_json(entry["log_ml"], 1), apart_mm)

    @property
    def usually_cut(self) -> bool:
        """Whether most scans held only a part of it, as of the spinal cord."""
        return self.cut > 0.5 * self.cases

    def bounds_ml(self, tolerance: float, slack: float) -> tuple[float, float]:
        """Return the smallest and the largest ordinary size: so many deviations, and a slack of log ml."""
        reach = tolerance * float(self.log_ml.widened(_PRIOR_LOG_ML)[0]) + slack
        middle = self.log_ml.mean[0]
        return math.exp(min(50.0, middle - reach)), math.exp(min(50.0, middle + reach))


@dataclass(frozen=True)
class FitProfile:
    """Statistics over ``cases`` training cases: structures by name, positions by pair of names, features or None.

    The position of a pair is the second structure's centre less the first one's, in mm (LPS).
    """

    cases: int
    structures: Mapping[str, StructureProfile]
    pairs: Mapping[tuple[str, str], Spread]
    features: FeatureProfile | None = None

    @staticmethod
    def of(scans: Sequence[ScanShapes], features: FeatureProfile | None = None) -> FitProfile:
        """Return the statistics of what was found in the training scans (at least one)."""
        names = list(dict.fromkeys(name for scan in scans for name in scan.found))
        structures = {name: _structure(name, scans) for name in names}
        pairs = {}
        for first, second in combinations(names, 2):
            rows = [
                np.subtract(scan.found[second].centre_mm, scan.found[first].centre_mm)
                for scan in scans
                if first in scan.found and second in scan.found
            ]
            if rows:
                pairs[first, second] = Spread.of([_numbers(row) for row in rows])
        return FitProfile(len(scans), structures, pairs, features)

    def derived(self, names: Sequence[str], own: FitProfile | None, features: FeatureProfile | None) -> FitProfile:
        """Return the profile of a model made from this one's: its structures, joined with its own few cases."""
        own = own or FitProfile(0, {}, {})
        structures = {}
        for name in names:
            both = [profile.structures[name] for profile in (self, own) if name in profile.structures]
            if both:
                structures[name] = both[0] if len(both) == 1 else both[0].joined(both[1])
        pairs: dict[tuple[str, str], Spread] = {}
        for first, second in combinations(names, 2):
            known = (self.position(first, second), own.position(first, second))
            spreads = [spread for spread in known if spread is not None]
            if spreads:
                pairs[first, second] = spreads[0] if len(spreads) == 1 else spreads[0].joined(spreads[1])
        return FitProfile(self.cases + own.cases, structures, pairs, features)

    def position(self, first: str, second: str) -> Spread | None:
        """Return where the second structure lies as seen from the first one, None where no case had both."""
        if (first, second) in self.pairs:
            return self.pairs[first, second]
        turned = self.pairs.get((second, first))
        return None if turned is None else Spread(turned.cases, _numbers(-np.array(turned.mean)), turned.deviation)

    def reach_mm(self, spread: Spread, tolerance: float, slack_mm: float) -> np.ndarray:
        """Return by how much a position may differ from the mean along x, y and z: deviations and a slack."""
        return tolerance * spread.widened(PRIOR_MM) + slack_mm

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "version": PROFILE_VERSION,
            "cases": self.cases,
            "structures": {name: one.to_json() for name, one in self.structures.items()},
            "pairs": [
                {"first": first, "second": second, **spread.to_json()} for (first, second), spread in self.pairs.items()
            ],
            "features": None if self.features is None else self.features.to_json(),
        }

    @staticmethod
    def from_json(entry: Any) -> FitProfile | None:
        """Read what ``to_json`` wrote; None for a version this one does not know. Raises ModelError."""
        if entry is None:
            return None
        with damage_as(ModelError, "The model's entry 'fit' is"):
            if entry["version"] != PROFILE_VERSION:
                return None
            structures = {str(name): StructureProfile.from_json(one) for name, one in entry["structures"].items()}
            pairs = {(str(one["first"]), str(one["second"])): Spread.from_json(one, 3) for one in entry["pairs"]}
            features = FeatureProfile.from_json(entry.get("features"))
            return FitProfile(int(entry["cases"]), structures, pairs, features)


def _structure(name: str, scans: Sequence[ScanShapes]) -> StructureProfile:
    """Return the statistics of one structure; sizes are of whole ones where there are enough of them."""
    found = [scan.found[name] for scan in scans if name in scan.found]
    whole = [one for one in found if not one.cut]
    measured = whole if len(whole) >= 0.3 * len(found) else found
    spread = Spread.of([(math.log(max(one.ml, 1e-6)),) for one in measured])
    farthest_mm = [max((part.apart_mm for part in one.parts), default=0.0) for one in found]
    apart_mm = float(np.quantile(farthest_mm, _NEARLY_ALL))
    return StructureProfile(len(found), len(found) - len(whole), spread, apart_mm)


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    """Return the values of an array."""
    return tuple(float(value) for value in values)


def _rounded(values: Sequence[float]) -> list[float]:
    """Return numbers with the digits that mean something."""
    return [round(value, 4) for value in values]
