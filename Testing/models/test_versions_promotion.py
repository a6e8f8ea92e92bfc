"""What becomes the current version by itself: only what nothing speaks against. And what a person is told before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from version_lines import CASES, Weights, evidence

from TransferSegLib.errors import ModelError
from TransferSegLib.evaluation.verdict import Training, judge
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.versions.card import card
from TransferSegLib.models.versions.history import Version, history
from TransferSegLib.models.versions.record import ModelReference, VersionRecord
from TransferSegLib.models.versions.versions import Promotion, add_version, promote

DATA = Path(__file__).resolve().parents[1] / "Data" / "model_versions_1"
ENOUGH = Training(400)


def judged(before: dict[str, float], after: dict[str, float], patients: int = 6, steps: int = 400) -> dict[str, Any]:
    """Return the evidence of a candidate with these Dice in every patient."""
    cases = [f"case {n}" for n in range(patients)]
    found = judge(dict.fromkeys(cases, before), dict.fromkeys(cases, after), training=Training(steps))
    return json.loads(json.dumps(found.to_json()))


def added(
    saved: Path, library: Path, description: ModelDescription, weights: Weights, entry: dict[str, Any], how: Promotion
) -> Version:
    record = VersionRecord(ModelReference.of(saved), CASES, evidence=entry)
    changed = {name: values + 0.5 for name, values in weights.items()}
    return add_version(library, "ours", replace(description), changed, record, origin=saved, promote=how)


FAULTS = {
    "a new structure at 0.0125": judged({}, {"mandible": 0.0125}),
    "a new structure at 0.203": judged({}, {"left ventricle": 0.203}),
    "five patients at 0": judged({}, {"larynx": 0.0}, patients=5),
    "larynx 0.614 to 0.299": judged({"larynx": 0.614, "brainstem": 0.7}, {"larynx": 0.299, "brainstem": 0.7}, 2),
    "one structure of three worse": judged({"a": 0.6, "b": 0.7, "c": 0.6}, {"a": 0.8, "b": 0.62, "c": 0.8}),
    "ten steps": judged({"larynx": 0.5}, {"larynx": 0.9}, steps=10),
    "better and still useless": judged({"larynx": 0.1}, {"larynx": 0.3}),
    "one new structure of two unusable": judged({}, {"mandible": 0.9, "larynx": 0.2}),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("how", ["if better", "unless worse"])
def test_what_is_spoken_against_is_not_used_by_itself(
    fault: str, how: Promotion, saved: Path, tmp_path: Path, description: ModelDescription, state_dict: Weights
) -> None:
    library = tmp_path / "library"
    version = added(saved, library, description, state_dict, FAULTS[fault], how)
    assert not version.current and version.record is not None and version.record.warning
    assert version.record.verdict != "better"
    # A person can use it all the same.
    assert promote("ours", library, 1, force=version.record.is_worse).current


@pytest.mark.parametrize(
    ("entry", "how", "current"),
    [
        (judged({"a": 0.6}, {"a": 0.7}), "if better", True),
        (judged({}, {"a": 0.8}), "if better", True),
        (judged({}, {"a": 0.8}, patients=2), "if better", False),
        (judged({}, {"a": 0.8}, patients=2), "unless worse", True),
        (judged({"a": 0.6}, {"a": 0.6}), "if better", False),
        (judged({"a": 0.6}, {"a": 0.6}), "unless worse", True),
        (judged({"a": 0.6}, {"a": 0.7}), "never", False),
    ],
)
def test_what_nothing_speaks_against(
    entry: dict[str, Any],
    how: Promotion,
    current: bool,
    saved: Path,
    tmp_path: Path,
    description: ModelDescription,
    state_dict: Weights,
) -> None:
    version = added(saved, tmp_path / "library", description, state_dict, entry, how)
    assert version.current is current and version.record is not None and not version.record.warning


def test_a_word_alone_does_not_promote_against_the_numbers() -> None:
    """Evidence that was written by an earlier version, or by hand, is looked at again."""
    reference = ModelReference("x", "1", "0" * 64)
    entry = evidence("better")
    assert VersionRecord(reference, evidence=entry).is_promoted_by_itself
    entry["new"][0]["mean"] = 0.0125
    old = VersionRecord(reference, evidence=entry)
    assert not old.is_promoted_by_itself and "Rückenmark is not usable yet (mean Dice 0.01)" in old.warning
    lost = evidence("too few cases to say", 0.614, 0.299)
    assert VersionRecord(reference, evidence=lost).warning.startswith("left kidney fell from 0.61 to 0.30")
    assert "worse than what it was made from" in VersionRecord(reference, evidence={"verdict": "worse"}).warning
    for promotion in ({"automatic": "yes"}, {}, {"automatic": False}):
        entry = evidence("better") | {"promotion": promotion}
        assert not VersionRecord(reference, evidence=entry).is_promoted_by_itself
    odd = evidence("better") | {"promotion": {"warned": True, "obstacles": [3, "no"]}, "overall": 3, "new": "none"}
    assert (
        VersionRecord(reference, evidence=odd).warning == "no" and not VersionRecord(reference, evidence=odd).is_worse
    )


def test_what_is_clearly_worse_needs_force_whatever_the_word(
    saved: Path, tmp_path: Path, description: ModelDescription, state_dict: Weights
) -> None:
    """Ten steps are no verdict, but a candidate that lost nearly everything is not used without asking twice."""
    library = tmp_path / "library"
    entry = judged({"larynx": 0.9}, {"larynx": 0.1}, steps=10)
    assert entry["verdict"] == "trained too short to say"
    added(saved, library, description, state_dict, entry, "never")
    with pytest.raises(ModelError, match="is worse than what it was made from"):
        promote("ours", library, 1)
    assert history("ours", library).current == 0


def test_the_record_of_today_is_read(description: ModelDescription) -> None:
    """The contract: intervals, words and conditions of promotion as they were written first."""
    file = DATA / "record_with_promotion.json"
    record = VersionRecord.from_json(json.loads(file.read_text(encoding="utf-8")), str(file))
    assert record.verdict == "worse in some structures" and not record.is_promoted_by_itself and not record.is_worse
    assert record.warning == "larynx is worse (0.70 to 0.62)."
    travelling = record.without_cases()
    assert travelling.warning == record.warning and travelling.cases[0].id == ""
    text = card(description, travelling)
    assert "| larynx | 6 | 0.700 | 0.620 | -0.080 | " in text and "| 0.37 to 0.77 | worse |" in text
    assert "| mandible | 6 | - | 0.800 | - | - | 0.48 to 0.88 | usable |" in text
