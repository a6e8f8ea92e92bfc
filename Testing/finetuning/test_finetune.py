"""From corrected cases to a version: a gain is seen and used, wrong labels are not, and a killed run goes on."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
import torch

from Testing.finetuning import projects
from TransferSegLib.errors import Cancelled, DatasetError, ModelError, TrainingError
from TransferSegLib.finetuning import cross_validation as module
from TransferSegLib.finetuning.cross_validation import FoldComparisons
from TransferSegLib.finetuning.finetune import FineTuned, _has_frozen_layers_of_parent, finetune
from TransferSegLib.finetuning.plan import plan_fine_tuning
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.run_folder import RUNS_NAME
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_model
from TransferSegLib.models.versions.history import history
from TransferSegLib.models.versions.versions import promote, rollback
from TransferSegLib.progress import CancelToken, Progress

KNOBS, UNBROKEN = projects.KNOBS, projects.UNBROKEN
add_cases, put_parent, request = projects.add_cases, projects.put_parent, projects.request


@pytest.fixture(scope="module")
def better(world: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[FineTuned, Path, list[Progress]]:
    """Return what comes of three patients whose bright ball the parent does not find, the library, and all progress."""
    place = tmp_path_factory.mktemp("better")
    library = put_parent(place / "library", projects.seeing(world.make_parent(world.label_set("bright", "dark"))))
    reports: list[Progress] = []
    project = add_cases(place / "project", [1, 2, 3], ["bright"])
    return finetune(request(project, library), reports.append), library, reports


def test_a_gain_is_seen_and_used(better: tuple[FineTuned, Path, list[Progress]]) -> None:
    result, library, _ = better
    row = next(row for row in result.evidence.rows if row.structure == "bright")
    assert row.cases == 3 and row.candidate is not None and row.parent is not None
    assert row.candidate > 0.8 and row.parent < 0.2
    assert result.evidence.answer == "better"
    assert result.version.number == 1 and result.version.current
    # The scores are those of a user: three candidates, each measured on the patient it did not see.
    assert len(result.evidence.cases) == 3 and result.time_plan.folds == 3
    image, truth = projects.ball_scan(77)
    found = Segmenter(load_model(find_model("tiny", library)), "cpu").segment(image)
    mask = sitk.GetArrayFromImage(found.label_map) == 1
    assert 2 * (mask & (truth == 1)).sum() / (mask.sum() + (truth == 1).sum()) > 0.7


def test_what_is_recorded(better: tuple[FineTuned, Path, list[Progress]]) -> None:
    result, library, _ = better
    record = history("tiny", library).find(1).record
    assert record is not None and record.verdict == "better"
    fit = load_model(find_model("tiny", library)).description.fit
    assert fit is not None and fit.structures["bright"].cases == 3
    doubt = load_model(find_model("tiny", library)).description.doubt
    assert doubt is not None and doubt.cases == 3, "counted on the patients that the candidates did not see"
    assert doubt.wrong[0] > 2 * doubt.wrong[-1]
    hashes = [revision.content_hash for revision in projects.Project(result.plan.request.project).state().current]
    assert [case.content_hash for case in record.cases] == hashes
    assert record.parent.sha256 == history("tiny", library).find(0).sha256
    description = result.version.description
    assert description.license == "Apache-2.0" and "3 corrected cases" in description.training_data
    assert description.provenance.configuration["tail_steps"] == KNOBS.tail_steps
    exported = json.loads((result.version.path / "model.json").read_text(encoding="utf-8"))
    assert "case-0001" not in json.dumps(exported), "what travels names no case"
    assert result.evidence.grid == "the scans' own grid"
    # Nobody reviewed the dark ball, which the parent finds: how much it changed is told.
    dark = next(row for row in result.evidence.rows if row.structure == "dark")
    assert dark.cases == 0 and dark.unannotated_cases == 3 and dark.agreement is not None
    assert 0.3 < dark.agreement < 0.9
    assert [line.split()[0] for line in result.to_json()["not_corrected"]] == ["dark"]
    # The parent was not trained at all: it is no use to keep three quarters of its weights.
    assert "The trained weights are kept as they are" in result.evidence.verdict.text
    assert [fate["parent"] for fate in result.changes] == [["bright"], ["dark"]]
    assert not (result.plan.request.project / RUNS_NAME).exists()


def test_progress_is_of_the_whole(better: tuple[FineTuned, Path, list[Progress]]) -> None:
    reports = better[2]
    dice = [report.dice for report in reports if report.key.endswith("/case")]
    assert dice == [case.candidate["bright"].dice for case in better[0].evidence.cases]
    assert len(dice) == 3, "the curve of held-out Dice has a point for each case"
    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions) and fractions[-1] > 0.9
    stages = list(dict.fromkeys(report.stage for report in reports))
    assert "Comparison 2 of 3 on cases left out of training: training the last layers" in stages
    assert stages.index("Computing features") < stages.index("Comparison 1 of 3 on cases left out of training")


def test_wrong_labels_are_not_used(world: Any, better: tuple[FineTuned, Path, list[Progress]], tmp_path: Path) -> None:
    """Labels that are moved in every case otherwise: the parent, version 1, stays in use."""
    _, library, _ = better
    project = add_cases(tmp_path / "spoilt", [11, 12, 13], shifts=[(0, 9, 9), (14, 0, -9), (9, 11, 0)])
    knobs = replace(UNBROKEN, report_cases=0)
    result = finetune(request(project, library, configuration=knobs, promote=False))
    assert result.evidence.answer != "better"
    assert not result.version.current and history("tiny", library).current == 1
    assert result.plan.reference.version == "1"


def test_one_patient_is_weak_evidence(world: Any, tmp_path: Path) -> None:
    library = put_parent(tmp_path / "library", world.make_parent(world.label_set("bright"), width=2))
    project = add_cases(tmp_path / "project", [1, 2], patients=["the same", "the same"])
    knobs = replace(UNBROKEN, tail_steps=20, report_cases=0)
    result = finetune(request(project, library, configuration=knobs, name="mine"))
    assert result.evidence.is_weak and result.evidence.patients == 1
    assert "Weak evidence" in result.evidence.verdict.text
    assert {one.case for one in result.evidence.cases} == {
        f"case-000{number} part {part}" for number in (1, 2) for part in (1, 2)
    }
    assert result.evidence.answer == "trained too short to say" and not result.version.current
    row = result.evidence.rows[0]
    assert (row.cases, row.patients) == (2, 1), "four slabs are two cases of one patient"
    assert result.version.description.metrics["held out"]["cases"] == 2
    assert find_model("mine", library).parent.name != "1"


def test_a_structure_the_parent_does_not_know(world: Any, tmp_path: Path) -> None:
    library = put_parent(tmp_path / "library", projects.seeing(world.make_parent(world.label_set("bright"))))
    project = add_cases(tmp_path / "project", [1, 2, 3], ["dark"])
    result = finetune(request(project, library, structures=("dark",)))
    assert result.plan.change.label_set.names == ("bright", "dark")
    assert result.plan.change.fates == ("kept", "new")
    row = next(row for row in result.evidence.rows if row.structure == "dark")
    assert row.parent is None and row.candidate is not None and row.candidate > 0.15
    # It finds what the parent cannot, and is not usable yet: neither better nor used by itself.
    assert (
        result.evidence.answer == "not usable yet" and result.evidence.verdict.new[0].word == "learns, not usable yet"
    )
    assert not result.version.current and result.evidence.verdict.training.steps == 60


def test_islands_of_a_new_structure_go_where_that_is_better(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = put_parent(tmp_path / "library", projects.seeing(world.make_parent(world.label_set("bright"))))
    plain = projects.ball_scan

    def with_a_dark_corner(number: int) -> Any:
        image, truth = plain(number)
        image[2:8, 2:8, 24:30] = -450  # as dark as the ball, and not of it
        return image, truth

    monkeypatch.setattr(projects, "ball_scan", with_a_dark_corner)
    project = add_cases(tmp_path / "project", [1, 2, 3], ["dark"])
    result = finetune(request(project, library, structures=("dark",)))
    assert load_model(result.version.path).description.single_part == ("dark",)
    # The evidence is of what a user gets, and says what was done.
    assert all(case.candidate["dark"] == case.largest_part["dark"] for case in result.evidence.cases)
    # The corner lies further away. On some processors one of so briefly trained candidates finds nothing but it.
    near = [case.candidate["dark"].hd95_mm < 15 for case in result.evidence.cases]
    assert sum(near) >= 2
    assert all(
        close or case.candidate["dark"].dice == 0 for close, case in zip(near, result.evidence.cases, strict=True)
    )
    assert "Only the largest connected part is kept" in result.evidence.verdict.text
    image, _ = with_a_dark_corner(77)
    found = Segmenter(load_model(result.version.path), "cpu").segment(image)
    assert not (sitk.GetArrayFromImage(found.label_map)[24:30, 2:8, 2:8] == 2).any()


def test_patients_are_not_divided(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No candidate learns from a case of a patient that it is measured on."""
    library = put_parent(tmp_path / "library", world.make_parent(world.label_set("bright"), width=1))
    project = add_cases(tmp_path / "project", [1, 2, 3, 4], patients=["a", "b", "a", "c"])
    learned: list[set[str]] = []
    adapt = module.adapt

    def watched(parent: Any, training: Any, *others: Any, **more: Any) -> Any:
        learned.append({case.id for case in training})
        return adapt(parent, training, *others, **more)

    monkeypatch.setattr(module, "adapt", watched)
    result = finetune(request(project, library, configuration=replace(KNOBS, tail_steps=1, report_cases=0)))
    groups = result.plan.groups
    *of_folds, of_final = learned
    assert of_final == set(groups)
    held = [set(groups) - training for training in of_folds]
    assert sorted(sorted(ids) for ids in held) == [["case-0001", "case-0003"], ["case-0002"], ["case-0004"]]


@pytest.mark.parametrize("strategy", ["finetune", "vanilla", "scratch"])
def test_what_is_kept_starts_from_the_average(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """The last layers are not trained first again; from random weights there is nothing to average."""
    library = put_parent(tmp_path / "library", world.make_parent(world.label_set("bright"), width=1))
    project = add_cases(tmp_path / "project", [1, 2])
    module = sys.modules["TransferSegLib.finetuning.cross_validation"]
    adapt, made, starts = module.adapt, [], []

    def watched(*args: Any, start: Any = None, **more: Any) -> Any:
        starts.append(start)
        made.append(adapt(*args, start=start, **more))
        return made[-1]

    monkeypatch.setattr(module, "adapt", watched)
    settings = replace(KNOBS, strategy=strategy, tail_steps=2, steps=2, patches_per_case=1, report_cases=0)
    finetune(request(project, library, configuration=settings))
    first, second, final = made
    assert starts[:2] == [None, None] and final.steps == 2
    if strategy == "scratch":
        assert starts[2] is None
        return
    assert final.tail_steps == 0 and first.tail_steps == (2 if strategy == "finetune" else 0)
    for name, weights in starts[2].items():
        assert torch.allclose(weights, (first.state_dict[name] + second.state_dict[name]) / 2), name
    assert not torch.equal(first.state_dict["head.weight"], second.state_dict["head.weight"])


def test_last_layers_alone_continue_from_the_average(world: Any, tmp_path: Path) -> None:
    """Where nothing else is trained, the final candidate trains them further; the rest stays the parent's."""
    parent = world.make_parent(world.label_set("bright"), width=1)
    library = put_parent(tmp_path / "library", parent)
    settings = replace(KNOBS, tail_steps=2, steps=0, patches_per_case=1, report_cases=0)
    result = finetune(request(add_cases(tmp_path / "project", [1, 2]), library, configuration=settings))
    state = load_model(result.version.path).state_dict
    frozen, trained = "down.0.first.weight", "up.2.second.weight"
    assert torch.equal(state[frozen], parent.state_dict[frozen])
    assert not torch.equal(state[trained], parent.state_dict[trained])


@pytest.mark.skipif(os.name == "nt", reason="kills with SIGKILL")
def test_killed_it_goes_on_and_ends_the_same(world: Any, tmp_path: Path) -> None:
    knobs = replace(KNOBS, tail_steps=3, steps=3, patches_per_case=1, report_cases=0)
    project = add_cases(tmp_path / "project", [1, 2])
    parent = world.make_parent(world.label_set("bright"), width=1)
    whole = finetune(request(project, put_parent(tmp_path / "whole", parent), configuration=knobs))
    library = put_parent(tmp_path / "library", parent)
    wanted = request(project, library, configuration=knobs)
    file = tmp_path / "request.json"
    file.write_text(json.dumps(wanted.to_json()), encoding="utf-8")
    for key in ("train-finetune:2/all-layers", "final-training/all-layers"):
        words = [sys.executable, projects.__file__, str(file), key, "3"]
        assert subprocess.run(words, check=False).returncode == -9
        assert len(list((project / RUNS_NAME).glob("run-*"))) == 1
        assert history("tiny", library).current == 0
    reports: list[Progress] = []
    result = finetune(wanted, reports.append)
    done = ("train-finetune:1", "train-finetune:2", "compare")
    assert not any(report.key.startswith(done) for report in reports), "what was done is not done again"
    steps = projects.made_steps(reports, "final-training/all-layers")
    assert steps == [3], "the checkpoint after 2 steps was gone on from"
    assert result.evidence.to_json() == whole.evidence.to_json()
    assert result.version.sha256 == whole.version.sha256
    assert not (project / RUNS_NAME).exists()
    # Asked again, it is found to be the same candidate.
    again = finetune(wanted)
    assert again.version.number == 1 and len(history("tiny", library).versions) == 2


def test_stopped_it_goes_on(world: Any, tmp_path: Path) -> None:
    library = put_parent(tmp_path / "library", world.make_parent(world.label_set("bright"), width=1))
    wanted = request(add_cases(tmp_path / "project", [1, 2]), library, configuration=replace(KNOBS, tail_steps=4))
    token = CancelToken()

    def watch(report: Progress) -> None:
        if report.key == "train-finetune:2/last-layers" and report.step == 2:
            token.cancel()

    with pytest.raises(Cancelled):
        finetune(wanted, watch, token)
    assert len(history("tiny", library).versions) == 1
    reports: list[Progress] = []
    finetune(wanted, reports.append)
    assert not any(report.key.startswith(("train-finetune:1", "compare-finetune:1")) for report in reports)
    later = "train-finetune:2/last-layers"
    assert projects.made_steps(reports, later) == [3, 4]


def test_time_is_planned_by_what_a_stopped_process_measured(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run stopped between the parent's predictions and the plan does not take them for free."""
    library = put_parent(tmp_path / "library", world.make_parent(world.label_set("bright"), width=1))
    wanted = request(add_cases(tmp_path / "project", [1, 2]), library)
    told: list[float] = []
    ask = FoldComparisons.predict_by_parent
    monkeypatch.setattr(FoldComparisons, "predict_by_parent", lambda self: told.append(ask(self)) or told[-1])
    looks = itertools.count(0.0, 1.5)  # every look at the clock takes a while
    for _ in range(2):
        token = CancelToken()

        def watch(report: Progress, token: CancelToken = token) -> None:
            if "features" in report.key:
                token.cancel()

        with pytest.raises(Cancelled):
            finetune(wanted, watch, token, clock=lambda: next(looks))
    assert told[0] >= 1.5 and told[1] == told[0]


def test_the_parent_may_vanish_meanwhile(world: Any, tmp_path: Path) -> None:
    library = put_parent(tmp_path / "elsewhere", world.make_parent(world.label_set("bright"), width=1))
    project = add_cases(tmp_path / "project", [1, 2])

    def watch(report: Progress) -> None:
        if report.key.startswith("train-finetune:1"):
            shutil.rmtree(library, ignore_errors=True)

    knobs = replace(KNOBS, tail_steps=1, report_cases=0)
    wanted = request(project, tmp_path / "library", model=str(library / "tiny"), name="mine", configuration=knobs)
    result = finetune(wanted, watch)
    assert not library.exists()
    versions = history("mine", tmp_path / "library").versions
    assert [version.number for version in versions] == [0, 1]
    assert versions[0].sha256 == result.plan.reference.sha256


def test_worse_is_never_promoted(world: Any, better: tuple[FineTuned, Path, list[Progress]], tmp_path: Path) -> None:
    """One step from random weights instead of good ones: kept out of use even where promoting was asked for."""
    library = tmp_path / "library"
    put_parent(library, load_model(better[0].version.path))
    project = add_cases(tmp_path / "project", [21, 22])
    knobs = replace(KNOBS, strategy="scratch", steps=1)
    result = finetune(request(project, library, configuration=knobs, promote=True))
    assert result.evidence.answer == "trained too short to say"
    assert result.evidence.verdict.overall.answer == "worse" and "1 training step," in result.evidence.verdict.text
    assert not result.version.current and history("tiny", library).current == 0
    with pytest.raises(ModelError, match="is worse than"):
        promote("tiny", library, 1)
    with pytest.raises(ModelError):
        rollback("tiny", library)


def test_what_cannot_be_done_is_said(world: Any, tmp_path: Path) -> None:
    library = put_parent(tmp_path / "library", world.make_parent(world.label_set("bright"), width=1))
    with pytest.raises(DatasetError, match="There is no project of corrected cases"):
        finetune(request(tmp_path / "nowhere", library))
    project = add_cases(tmp_path / "project", [1])
    with pytest.raises(TrainingError, match=r"have no structure liver. They have: bright"):
        finetune(request(project, library, structures=("liver",)))
    with pytest.raises(DatasetError, match=r"There is no case pelvis in .*\. It has: case-0001\."):
        finetune(request(project, library, cases=("case-0001", "pelvis")))
    with pytest.raises(DatasetError, match=r"No case of .* is chosen"):
        finetune(request(project, library, cases=()))
    with pytest.raises(ModelError, match="There is no model 'nobody'"):
        finetune(request(project, library, model="nobody"))
    with pytest.raises(ModelError, match="comes with TransferSeg and stays"):
        finetune(request(project, library, name="head-neck-ct"))
    with pytest.raises(TrainingError, match="cannot both be used and not be used"):
        request(project, library, promote=True, no_promote=True)
    with pytest.raises(TrainingError, match="no time to train for"):
        request(project, library, minutes=-1)
    for case in ("case-0001",):
        projects.Project(project).remove_case(case)
    with pytest.raises(DatasetError, match=r"no corrected case in .*: add one with: transferseg cases add"):
        finetune(request(project, library))
    assert not (project / RUNS_NAME).exists()


def test_only_the_chosen_cases_are_learned_from(world: Any, tmp_path: Path) -> None:
    library = put_parent(tmp_path / "library", world.make_parent(world.label_set("bright"), width=1))
    project = add_cases(tmp_path / "project", [1, 2, 3])
    chosen = plan_fine_tuning(request(project, library, cases=("case-0003", "case-0001")))
    assert chosen.dataset.ids == ("case-0001", "case-0003") and set(chosen.hashes) == {"case-0001", "case-0003"}
    assert chosen.notes == ("2 of the 3 cases were chosen to learn from.",)
    every = plan_fine_tuning(request(project, library))
    assert every.dataset.ids == ("case-0001", "case-0002", "case-0003") and every.notes == ()
    assert every.identity() != chosen.identity(), "another run"


def test_what_the_deepest_maps_hold_is_kept_where_only_the_last_layers_changed(world: Any, tmp_path: Path) -> None:
    library = put_parent(tmp_path / "library", world.make_parent(world.label_set("bright"), width=1))
    plan = plan_fine_tuning(request(add_cases(tmp_path / "project", [1]), library))
    for layer, kept in (("head.weight", True), ("up.2.second.weight", True), ("down.0.first.weight", False)):
        state = dict(plan.parent.state_dict)
        assert _has_frozen_layers_of_parent(plan, state)
        state[layer] = state[layer] + 1
        assert _has_frozen_layers_of_parent(plan, state) == kept
    coarser = replace(plan, configuration=replace(plan.configuration, spacing_mm=2.0))
    assert not _has_frozen_layers_of_parent(coarser, plan.parent.state_dict)


def test_request_survives_json(tmp_path: Path) -> None:
    wanted = request(
        tmp_path.absolute(),
        tmp_path / "library",
        cases=("case-0001", "case-0003"),
        merged={"both": ("bright", "dark")},
        dropped=("dark",),
        most_folds=3,
        no_promote=True,
    )
    assert wanted.promotion == "never"
    assert FineTuneRequest.from_json(json.loads(json.dumps(wanted.to_json())), "cpu") == wanted
    with pytest.raises(TrainingError, match="damaged"):
        FineTuneRequest.from_json({})


def test_scratch_owes_its_parent_nothing(world: Any, tmp_path: Path) -> None:
    library = put_parent(tmp_path / "library", world.make_parent(world.label_set("bright"), width=1))
    knobs = replace(KNOBS, strategy="scratch", steps=1, scratch_width=2)
    result = finetune(request(add_cases(tmp_path / "project", [1, 2]), library, configuration=knobs))
    description = load_model(result.version.path).description
    assert description.network.arguments["width"] == 2
    assert description.license == "of the cases it was trained on: not stated"
    assert description.training_data == "trained from random weights on 2 corrected cases"
    assert torch.isfinite(torch.tensor(result.seconds))
