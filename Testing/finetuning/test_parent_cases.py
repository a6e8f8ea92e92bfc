"""A parent that has learned some of the compared cases has an advantage: it is seen, and told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import SimpleITK as sitk

from Testing.finetuning.projects import BOTH, add_cases, ball_scan, put_parent, request
from TransferSegLib.corrections.project import Project
from TransferSegLib.evaluation.scores import Score
from TransferSegLib.finetuning.evidence import Evidence, summarise
from TransferSegLib.finetuning.folds import Fold
from TransferSegLib.finetuning.held_out import CaseComparison
from TransferSegLib.finetuning.parent_cases import ParentCases, parent_cases
from TransferSegLib.finetuning.plan import plan_fine_tuning
from TransferSegLib.models.store import load_model
from TransferSegLib.models.versions.record import LearnedCase, ModelReference, VersionRecord
from TransferSegLib.models.versions.versions import add_version


def add_child(library: Path, parent: Path, cases: list[LearnedCase]) -> Path:
    """Add a version that learned from these cases, with other weights than its parent, and use it."""
    model = load_model(parent)
    state = {name: values + 0.01 for name, values in model.state_dict.items()}
    record = VersionRecord(parent=ModelReference.of(parent), cases=tuple(cases))
    return add_version(library, "clinic", model.description, state, record, origin=parent, promote="unless worse").path


def test_what_the_parent_and_its_parent_learned_is_found(world: Any, tmp_path: Path) -> None:
    library = put_parent(tmp_path / "library", world.make_parent(world.label_set("bright"), width=2))
    folder = add_cases(tmp_path / "project", [1, 2, 3, 4])
    hashes = [revision.content_hash for revision in Project(folder).state().current]
    asked = request(folder, library, name="clinic")
    assert not parent_cases(plan_fine_tuning(asked)).learned, "a base model learned none of them"
    first = add_child(library, library / "tiny", [LearnedCase(hashes[0], "case-0001")])
    add_child(library, first, [LearnedCase(hashes[1], "case-0002")])
    # Case 2 is corrected again: the scan is the one that was learned from.
    image, truth = ball_scan(2)
    truth[0, 0, 0] = 1
    labels = sitk.GetImageFromArray(truth)
    labels.CopyInformation(image)
    Project(folder).add_case(image, labels, ["bright"], structures=BOTH, group="patient 2", any_modality=True)
    plan = plan_fine_tuning(request(folder, library, model="clinic"))
    assert plan.reference.version == "2"
    assert parent_cases(plan).learned == {"case-0001", "case-0002"} and parent_cases(plan).continues


def evidence(before: ParentCases | None, parent: float | None = 0.5) -> Evidence:
    def score(dice: float) -> Score:
        return Score(dice, dice, 2.0, 1.0, 1.0)

    known = {} if parent is None else {"bright": score(parent)}
    compared = [CaseComparison(f"c{n}", known, {"bright": score(0.8)}, {}) for n in range(6)]
    folds = [Fold((), (f"c{n}",)) for n in range(6)]
    groups = {f"c{n}": f"p{n}" for n in range(6)}
    return summarise(compared, groups, folds, ("bright",), "grid", 3.0, before=before)


def test_the_first_sentences_say_that_the_old_version_has_an_advantage() -> None:
    first = evidence(ParentCases(frozenset({"c1", "c2", "elsewhere"}))).verdict.reasons[0]
    assert first == (
        "On scans left out of training, the new version is better (Dice 0.80, before 0.50). The old version had "
        "learned from 2 of these 6 scans before, and the new one continues from it: there the Dice of both is too "
        "high, more so for the old version, so a gain may be hidden."
    )
    scratch = evidence(ParentCases(frozenset({"c1"}), continues=False)).verdict.reasons[0]
    assert "1 of these 6 scans before: its Dice is too high there" in scratch
    for count, scans in ((1, "this scan"), (2, "both scans"), (3, "all 3 scans")):
        cases = [f"c{n}" for n in range(count)]
        assert (
            ParentCases(frozenset(cases)).note(cases).startswith(f"The old version had learned from {scans} before, ")
        )
    for none in (None, ParentCases(frozenset({"elsewhere"}))):
        assert evidence(none).verdict.reasons[0].startswith("On scans left out of training, ")
    new = evidence(ParentCases(frozenset({"c1"})), parent=None).verdict.reasons[0]
    assert "The old version had" not in new, "it does not know the structure: nothing is compared"
