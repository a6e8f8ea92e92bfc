"""``--strategy auto``: the best on held-out cases goes on, who chose does not judge, and a killed run goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from Testing.finetuning import projects
from TransferSegLib.cli.finetune import _request
from TransferSegLib.cli.main import make_parser
from TransferSegLib.datasets.dataset import read_dataset, write_dataset
from TransferSegLib.errors import TrainingError
from TransferSegLib.evaluation.scores import Score
from TransferSegLib.finetuning.adapt import adapt
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.finetune import finetune
from TransferSegLib.finetuning.folds import Fold
from TransferSegLib.finetuning.held_out import CaseComparison
from TransferSegLib.finetuning.label_change import unchanged
from TransferSegLib.finetuning.plan import plan_fine_tuning
from TransferSegLib.finetuning.report import report_text
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.strategy_choice import (
    choose,
    evaluation_folds,
    strategies_to_try,
    with_strategies,
)
from TransferSegLib.finetuning.time_plan import Amount, Speeds, plan_time
from TransferSegLib.images.intensity import MR_PERCENTILES
from TransferSegLib.models.versions.history import history
from TransferSegLib.progress import Progress

AUTO = replace(projects.KNOBS, strategy="auto", report_cases=0)
OTHER_INTENSITIES = FineTuningConfiguration(intensity=MR_PERCENTILES)


def compared(case: str, dice: float) -> CaseComparison:
    return CaseComparison(case, {}, {"bright": Score(dice, dice, 1.0, 1.0, 1.0)}, {})


def test_the_best_mean_wins_and_ties_go_to_the_default() -> None:
    groups = {"a": "p", "b": "p", "c": "q"}
    tried = {
        "finetune": [compared("a", 0.9), compared("b", 0.9), compared("c", 0.1)],
        "vanilla": [compared("a", 0.5), compared("b", 0.5), compared("c", 0.6)],
    }
    found = choose(tried, groups, apart=True)
    # By patients it is 0.5 to 0.55, by cases it would be 0.63 to 0.53.
    assert found.strategy == "vanilla" and found.patients == 2
    assert found.mean_dice == pytest.approx({"finetune": 0.5, "vanilla": 0.55})
    assert "finetune 0.500, vanilla 0.550" in found.text and "2 patients who do not count here" in found.caveat
    assert found.to_json()["judges_alone"] is True, "the name in records of versions"
    near = {"finetune": [compared("a", 0.5)], "vanilla": [compared("a", 0.504)]}
    assert choose(near, groups, apart=False).strategy == "finetune"
    turned = {"vanilla": [compared("a", 0.5)], "finetune": [compared("a", 0.504)]}
    assert choose(turned, groups, apart=False).strategy == "vanilla"
    assert "a little too high" in choose(near, groups, apart=False).caveat


@pytest.mark.parametrize(("patients", "judging"), [(2, (0, 1)), (4, (0, 1, 2, 3)), (5, (2, 3, 4)), (6, (2, 3, 4, 5))])
def test_who_chose_does_not_judge_where_enough_are_left(patients: int, judging: tuple[int, ...]) -> None:
    folds = [Fold((), (f"case {number}",)) for number in range(patients)]
    groups = {f"case {number}": f"patient {number}" for number in range(patients)}
    assert evaluation_folds(folds, groups) == judging


@pytest.mark.parametrize(
    ("reviewed", "changes", "rule", "tried", "note"),
    [
        (["bright"], {}, None, ("finetune", "vanilla"), ""),
        (["bright"], {}, "MR", ("vanilla", "finetune", "scratch"), ""),
        (["dark"], {}, None, ("finetune", "vanilla"), "no case has bright drawn"),
        (["dark"], {"dropped": ("bright",)}, None, ("finetune", "vanilla", "scratch"), ""),
    ],
)
def test_what_is_tried(
    world: Any, tmp_path: Path, reviewed: list[str], changes: Any, rule: Any, tried: Any, note: str
) -> None:
    library = projects.put_parent(tmp_path / "library", world.make_parent(world.label_set("bright"), width=1))
    project = projects.add_cases(tmp_path / "project", [1, 2], reviewed)
    work = plan_fine_tuning(projects.request(project, library, configuration=AUTO, **changes))
    dataset = work.dataset if rule is None else replace(work.dataset, modality=rule)
    found, notes = strategies_to_try(work.parent.description, work.parent.description.preparation, work.change, dataset)
    assert found == tried
    assert (note in " ".join(notes)) if note else not notes


@pytest.mark.parametrize(
    ("modality", "knobs", "strategy", "rate"),
    [
        ("CT", {}, "finetune", 0.01),
        ("MR", {}, "vanilla", 0.02),
        ("MR", {"vanilla_rate": 0.03}, "vanilla", 0.03),
        ("MR", {"head_start": "data"}, "finetune", 0.02),  # who says how channels start means finetune
        ("MR", {"strategy": "scratch"}, "scratch", 0.02),
        ("MR", {"strategy": "auto"}, "auto", 0.02),
    ],
)
def test_another_modality_learns_everything_at_once(
    world: Any, tmp_path: Path, modality: str, knobs: dict[str, Any], strategy: str, rate: float
) -> None:
    library = projects.put_parent(tmp_path / "library", world.make_parent(world.label_set("bright"), width=1))
    project = projects.add_cases(tmp_path / "project", [1], ["bright"])
    dataset = read_dataset(project)
    write_dataset(replace(dataset, modality=modality), project)
    work = plan_fine_tuning(
        projects.request(project, library, configuration=replace(FineTuningConfiguration(), **knobs))
    )
    assert (work.configuration.strategy, work.configuration.vanilla_rate) == (strategy, rate)
    assert (work.configuration.intensity == MR_PERCENTILES) == (modality == "MR")
    assert ("all layers learn at once" in " ".join(work.notes)) == (strategy == "vanilla")
    assert with_strategies(work)[1] == (("vanilla",) if strategy == "auto" else (strategy,)), "one patient: no choice"


def test_intensities_tell_where_no_modality_is_named(world: Any, tmp_path: Path) -> None:
    """Of a parent that names no modality."""
    parent = world.make_parent(world.label_set("bright"), width=1)
    parent = replace(parent, description=replace(parent.description, modality=""))
    project = projects.add_cases(tmp_path / "project", [1, 2], ["bright"])
    library = projects.put_parent(tmp_path / "library", parent)
    for knobs, strategy in ((FineTuningConfiguration(), "finetune"), (OTHER_INTENSITIES, "vanilla")):
        work = plan_fine_tuning(projects.request(project, library, configuration=knobs))
        assert work.configuration.strategy == strategy
        of_auto = plan_fine_tuning(projects.request(project, library, configuration=replace(knobs, strategy="auto")))
        assert with_strategies(of_auto)[1][0] == strategy, "the default is the first to be tried, and wins ties"


@pytest.mark.parametrize(
    ("brighter", "asked", "modality", "strategy"),
    [
        ((0, 0), None, "CT", "finetune"),
        ((1000, 1000), None, "MR", "vanilla"),
        ((1000, 1000), "ct", "CT", "finetune"),
        ((0, 0), "mri", "MR", "vanilla"),
        ((0, 1000), None, "", "finetune"),
    ],
)
def test_scans_tell_the_modality_that_a_project_does_not_name(
    world: Any, tmp_path: Path, brighter: tuple[int, int], asked: str | None, modality: str, strategy: str
) -> None:
    """As those made by earlier versions; where its scans differ, it stays unknown."""
    library = projects.put_parent(tmp_path / "library", world.make_parent(world.label_set("bright"), width=1))
    for number, more in enumerate(brighter):
        project = projects.add_cases(tmp_path / "project", [number + 1], ["bright"], brighter=more)
    entry = json.loads((project / "dataset.json").read_text(encoding="utf-8"))
    (project / "dataset.json").write_text(json.dumps(entry | {"modality": ""}), encoding="utf-8")
    assert read_dataset(project).modality == ""
    work = plan_fine_tuning(
        projects.request(project, library, modality=asked, configuration=replace(projects.KNOBS, head_start="auto"))
    )
    assert work.dataset.modality == modality and work.configuration.strategy == strategy
    assert work.describe().modality == (modality or "CT"), "what is unknown is taken for the parent's"
    assert (work.configuration.intensity == MR_PERCENTILES) == (strategy == "vanilla") == bool(work.notes)
    again = projects.request(project, library, modality=asked)
    assert FineTuneRequest.from_json(json.loads(json.dumps(again.to_json())), "cpu") == again


def test_the_strategy_asked_for_by_name_is_meant(tmp_path: Path) -> None:
    """Also for another modality, where the default is another one."""
    parser = make_parser()
    words = ["finetune", "--project", str(tmp_path), "--modality", "MR"]
    asked = _request(parser.parse_args([*words, "--strategy", "finetune"]))
    assert (asked.modality, asked.configuration.strategy, asked.configuration.head_start) == ("MR", "finetune", "data")
    assert _request(parser.parse_args(words)).configuration.head_start == "auto"
    with pytest.raises(TrainingError, match="modality of the cases is empty"):
        _request(parser.parse_args([*words[:-1], " "]))


def test_time_for_the_choice() -> None:
    """Of 10 min less a twentieth, the final candidate gets half and the seven others share the rest."""
    speeds = Speeds(0.0, 0.0, 0.0, 0.0, 0.1, 0.5, 0.0, 0.0)
    amount = Amount(5, 5, 5, 2, 0, tail_steps=300, steps=400, patches=16, tail_share=0.35, cache_share=0.6, extra=2)
    plan = plan_time(10.0, amount, speeds)
    assert plan.folds == 5 and plan.minutes_each * 60 * 7 == pytest.approx(285) == 60 * plan.final_minutes
    assert "2 more candidates serve to choose" in plan.text
    assert "choose" not in plan_time(10.0, replace(amount, extra=0), speeds).text


def test_adapt_makes_one_model_by_one_strategy(world: Any) -> None:
    parent = world.make_parent(world.label_set("bright", "dark"), width=1)
    knobs = replace(world.quick, strategy="auto")
    with pytest.raises(TrainingError, match="not by 'auto'"):
        adapt(parent, [world.ball_case()], unchanged(parent.description.label_set), knobs)


def test_one_patient_falls_back_to_finetune(world: Any, tmp_path: Path) -> None:
    library = projects.put_parent(tmp_path / "library", world.make_parent(world.label_set("bright"), width=1))
    knobs = replace(AUTO, tail_steps=1)
    result = finetune(projects.request(projects.add_cases(tmp_path / "project", [1]), library, configuration=knobs))
    assert result.choice is None and result.to_json()["strategy"] == "finetune"
    assert "needs cases of at least 2 patients" in report_text(result.to_json())


def test_the_winner_goes_on_and_others_judge_it(world: Any, tmp_path: Path) -> None:
    """Fine-tuning that learns nothing (no steps of stage 1, a rate of nothing) loses, and goes no further."""
    parent = projects.seeing(world.make_parent(world.label_set("bright"), width=2))
    library = projects.put_parent(tmp_path / "library", parent)
    knobs = replace(AUTO, tail_steps=0, steps=14, full_rate=1e-9, vanilla_rate=0.1, checkpoint_every=1000)
    project = projects.add_cases(tmp_path / "project", [1, 2, 3, 4, 5])
    reports: list[Progress] = []
    result = finetune(projects.request(project, library, configuration=knobs), reports.append)
    choice = result.choice
    assert choice is not None and choice.strategy == "vanilla" and choice.apart
    assert choice.mean_dice["vanilla"] > choice.mean_dice["finetune"] + 0.1
    stages = dict.fromkeys(report.stage.partition(":")[0] for report in reports)
    assert [stage for stage in stages if "Trying" in stage or "omparison" in stage] == [
        "Trying 'finetune' 1 of 2",
        "Trying 'vanilla' 1 of 2",
        "Trying 'finetune' 2 of 2",
        "Trying 'vanilla' 2 of 2",
        *(f"Comparison {number} of 5 on cases left out of training" for number in (3, 4, 5)),
    ]
    assert result.evidence.patients == 3 and len(result.evidence.cases) == 3
    assert "2 patients who do not count here" in result.evidence.verdict.text
    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions)
    # What is stored says by which strategy it was made, and why.
    assert result.version.description.provenance.configuration["strategy"] == "vanilla"
    record = history("tiny", library).find(1).record
    assert record is not None and record.evidence["strategy_choice"]["strategy"] == "vanilla"
    assert "case-000" not in json.dumps(record.evidence["strategy_choice"])
    assert "Strategy 'vanilla' was chosen" in report_text(result.to_json())


@pytest.mark.skipif(os.name == "nt", reason="kills with SIGKILL")
def test_killed_while_choosing_it_goes_on_and_ends_the_same(world: Any, tmp_path: Path) -> None:
    knobs = replace(AUTO, tail_steps=2, steps=3, patches_per_case=1)
    project = projects.add_cases(tmp_path / "project", [1, 2])
    parent = world.make_parent(world.label_set("bright"), width=1)
    library = projects.put_parent(tmp_path / "whole", parent)
    whole = finetune(projects.request(project, library, configuration=knobs))
    wanted = projects.request(project, projects.put_parent(tmp_path / "library", parent), configuration=knobs)
    file = tmp_path / "request.json"
    file.write_text(json.dumps(wanted.to_json()), encoding="utf-8")
    words = [sys.executable, projects.__file__, str(file), "train-vanilla:2/all-layers", "3"]
    assert subprocess.run(words, check=False).returncode == -9
    reports: list[Progress] = []
    result = finetune(wanted, reports.append)
    parts = {report.key.partition("/")[0] for report in reports}
    assert not parts & {"train-finetune:1", "train-vanilla:1", "train-finetune:2", "compare-finetune:2"}, "done is done"
    steps = projects.made_steps(reports, "train-vanilla:2")
    assert steps[0] == 3, "the checkpoint after 2 steps was gone on from"
    assert result.choice == whole.choice and result.choice is not None
    assert "a little too high" in result.evidence.verdict.text
    assert result.evidence.to_json() == whole.evidence.to_json()
    assert result.version.sha256 == whole.version.sha256
