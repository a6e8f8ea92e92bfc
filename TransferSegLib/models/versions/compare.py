"""Two versions of a model side by side, from what is recorded of them: nothing is measured anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from TransferSegLib.images.preparation import Preparation
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.versions.card import evidence_rows, reached
from TransferSegLib.models.versions.history import History, Version
from TransferSegLib.models.versions.record import number
from TransferSegLib.structures import LabelSet, structure_key


@dataclass(frozen=True)
class ComparedStructure:
    """Mean Dice of a structure in both versions; the difference has an interval where both saw the same cases."""

    structure: str
    first: float | None
    second: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return dict(vars(self))


@dataclass(frozen=True)
class ConfigurationChange:
    """A setting with its two values as JSON-like data; None where a version has no such setting."""

    knob: str
    first: Any
    second: Any

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return dict(vars(self))


@dataclass(frozen=True)
class VersionComparison:
    """What sets two versions apart.

    ``measured_together``: one was made from the other and compared with it on the same cases. Otherwise the numbers
    are each version's own, perhaps of different cases, and no difference is given. The row of the structure ``mean``
    is that of their mean.
    """

    first: Version
    second: Version
    measured_together: bool
    rows: tuple[ComparedStructure, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    configuration: tuple[ConfigurationChange, ...]

    @property
    def note(self) -> str:
        """What to keep in mind when reading the numbers."""
        if not self.rows:
            return "Neither was measured on cases left out of training."
        if self.measured_together:
            return "Both were measured on the same cases, which were left out of training."
        return (
            "Each was measured against what it was made from, perhaps on different cases: the numbers do not say which "
            "of the two is better."
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "versions": [self.first.number, self.second.number],
            "measured_together": self.measured_together,
            "note": self.note,
            "structures": [row.to_json() for row in self.rows],
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
            "configuration": [change.to_json() for change in self.configuration],
        }


def compare_versions(found: History, first: int, second: int) -> VersionComparison:
    """Return the comparison of two versions of a model; raises ModelError when there is no such version."""
    one, other = found.find(first), found.find(second)
    rows, together = _direct_rows(found, one, other), True
    if not rows:
        rows, together = _own_rows(one, other), False
    return VersionComparison(
        one,
        other,
        together,
        tuple(rows),
        _missing(one.description.label_set, other.description.label_set),
        _missing(other.description.label_set, one.description.label_set),
        tuple(_changed_settings(one.description, other.description)),
    )


def _direct_rows(found: History, one: Version, other: Version) -> list[ComparedStructure]:
    """Return the evidence of a child against its parent, turned the way that was asked for; nothing for others."""
    for parent, child, sign in ((one, other, 1.0), (other, one, -1.0)):
        if found.parent_of(child) is not parent or child.record is None:
            continue
        rows = []
        for structure, entry in _entries(child):
            before, after = number(entry, "parent"), reached(entry)
            ends = [None if end is None else sign * end for end in (number(entry, "low"), number(entry, "high"))]
            low, high = ends if sign > 0 else reversed(ends)
            difference = number(entry, "difference")
            turned = (before, after) if sign > 0 else (after, before)
            rows.append(
                ComparedStructure(structure, *turned, None if difference is None else sign * difference, low, high)
            )
        return rows
    return []


def _own_rows(one: Version, other: Version) -> list[ComparedStructure]:
    """Return what each of two versions reached on its own held-out cases."""
    entries = [dict(_entries(version)) for version in (one, other)]
    names = {structure_key(name): name for found in reversed(entries) for name in found}
    keyed = [{structure_key(name): reached(entry) for name, entry in found.items()} for found in entries]
    order = dict.fromkeys(structure_key(name) for found in entries for name in found if name != "mean")
    keys = [*order, *(["mean"] if "mean" in names else [])]
    return [ComparedStructure(names[key], keyed[0].get(key), keyed[1].get(key)) for key in keys]


def _entries(version: Version) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the evidence of a version by structure, that of the mean last."""
    evidence = {} if version.record is None else version.record.evidence
    return evidence_rows(evidence)


def _missing(of: LabelSet, elsewhere: LabelSet) -> tuple[str, ...]:
    """Return the structures that another label set does not have."""
    return tuple(structure.name for structure in of if elsewhere.find(structure.name) is None)


def _changed_settings(first: ModelDescription, second: ModelDescription) -> list[ConfigurationChange]:
    """Return the settings of two configurations that differ, and how the models see a scan."""
    one, other = (
        {
            **dict(_flat(description.provenance.configuration)),
            "model: modality": description.modality,
            "model: spacing": description.preparation.spacing_text,
            "model: network": description.backbone.summary,
            "model: seed": description.provenance.seed,
            **_intensities(description.preparation),
        }
        for description in (first, second)
    )
    knobs = dict.fromkeys([*one, *other])
    return [
        ConfigurationChange(knob, one.get(knob), other.get(knob)) for knob in knobs if one.get(knob) != other.get(knob)
    ]


def _intensities(preparation: Preparation) -> dict[str, Any]:
    """Return the settings of every channel's intensity rule by name; one channel needs no number."""
    rules = [rule.to_json() for rule in preparation.channels]
    if len(rules) == 1:
        return {f"model: intensity.{key}": value for key, value in _flat(rules[0])}
    return {f"model: intensity {n}.{key}": value for n, rule in enumerate(rules, 1) for key, value in _flat(rule)}


def _flat(entry: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of nested entries: {"a": {"b": 1}} -> ("a.b", 1)."""
    for key, value in entry.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
