"""Knobs are chosen on validation cases: none of the test cases, and no patient that is learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from Testing.research.study.case_selection import training_set
from Testing.research.study.choosing import candidates, choice_study
from Testing.research.study.report import choice_text
from Testing.research.study.results import ResultsFile
from Testing.research.study.runs import base_identity, plan_runs
from Testing.research.study.study_data import base_dataset, prepare_data
from Testing.research.tests.conftest import WriteStudy, study_entry
from Testing.research.tests.test_runs_and_results import result
from TransferSegLib.errors import StudyError


def choosing_entry() -> dict[str, Any]:
    entry = study_entry()
    grids = {"scratch": {"scratch_rate": [0.01, 0.02]}, "ours": {"full_rate": [0.1, 0.2], "tail_steps": [5]}}
    return entry | {"choose": {"grids": grids, "sizes": [1], "seeds": [7], "validation": 1, "tasks": ["again"]}}


def test_every_combination_is_a_strategy(write_study: WriteStudy) -> None:
    study = write_study(choosing_entry())
    tried = choice_study(study)
    runs = plan_runs(tried)
    assert [run.key for run in runs] == [
        "sparse/again/1/scratch@scratch_rate=0.01/7",
        "sparse/again/1/scratch@scratch_rate=0.02/7",
        "sparse/again/1/ours@full_rate=0.1,tail_steps=5/7",
        "sparse/again/1/ours@full_rate=0.2,tail_steps=5/7",
    ]
    assert (runs[3].configuration.full_rate, runs[3].configuration.tail_steps, runs[3].configuration.steps) == (
        0.2,
        5,
        2,
    )
    assert tried.results == study.results.with_name("study.choice.jsonl")
    assert base_identity(tried, "sparse") == base_identity(study, "sparse"), "the base is the study's own"


def test_a_tasks_own_knobs_do_not_hide_what_is_tried(write_study: WriteStudy) -> None:
    entry = choosing_entry()
    entry["tasks"]["again"]["strategy_knobs"] = {
        "ours": {"full_rate": 0.7, "batch": 2, "by_size": {"1": {"full_rate": 0.8}}}
    }
    entry["strategies"]["ours"]["by_size"] = {"1": {"tail_steps": 9, "warm_up": 4}}
    runs = plan_runs(choice_study(write_study(entry)))
    found = [run.configuration for run in runs[2:]]
    assert [(one.full_rate, one.batch, one.tail_steps, one.warm_up) for one in found] == [
        (0.1, 2, 5, 4),
        (0.2, 2, 5, 4),
    ]


def test_validation_cases_are_of_other_patients(world: Path, tmp_path: Path, write_study: WriteStudy) -> None:
    study = write_study(choosing_entry())
    tried = choice_study(study)
    own, data = (prepare_data(one, world, tmp_path / "collections") for one in (study, tried))
    split, selection = data.splits["again"], own.splits["again"]
    assert own.splits["again"] == own.selections["again"] == data.selections["again"]
    assert len(split.test) == 2, "one case was asked for; its patient has two"
    assert set(split.test) | set(split.pool) == set(selection.pool)
    patients = [{id.split("_")[0] for id in ids} for ids in (selection.test, split.test, split.pool)]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 4
    learned = training_set(data.datasets["twice"], split, 0, seed=7)
    assert not set(learned) & {*split.test, *selection.test}
    assert base_dataset(tried, data, "sparse").ids == base_dataset(study, own, "sparse").ids
    assert not set(data.splits["again"].test) & set(data.selections["again"].test)


def test_the_best_comes_first_and_tasks_count_alike(write_study: WriteStudy) -> None:
    def scored(task: str, knobs: str, dice: float, seed: int = 7) -> Any:
        scores = {"c": {"x": (dice, 0.0, 1.0)}}
        return result(f"sparse/{task}/1/ours@{knobs}/{seed}", scores=scores, patients={"c": "c"})

    found = candidates(
        [
            scored("one", "full_rate=0.1", 0.5),
            scored("one", "full_rate=0.1", 0.7, seed=8),
            scored("two", "full_rate=0.1", 0.2),
            scored("one", "full_rate=0.2", 0.9),
            scored("two", "full_rate=0.2", 0.3),
        ]
    )
    assert [(candidate.knobs, candidate.runs) for candidate in found] == [("full_rate=0.2", 2), ("full_rate=0.1", 3)]
    assert [candidate.dice for candidate in found] == pytest.approx([0.6, 0.4])


def test_what_was_tried_is_in_the_report(write_study: WriteStudy) -> None:
    study = write_study(choosing_entry())
    assert choice_text(study) == ""
    run = plan_runs(choice_study(study))[3]
    scores = {"c": {"dark ball": (0.625, 0.0, 1.0)}}
    ResultsFile(study.results.with_name("study.choice.jsonl")).append(
        result(run.key, run.hash, scores=scores, patients={"c": "c"})
    )
    assert "| ours: full_rate=0.2,tail_steps=5 | 0.625 | 0.625 | 1 |" in choice_text(study)


def test_mistakes_are_said(write_study: WriteStudy) -> None:
    with pytest.raises(StudyError, match="has no 'choose'"):
        choice_study(write_study(study_entry()))
    entry = choosing_entry()
    entry["choose"]["grids"]["ours"]["full_rate"] = 0.1
    with pytest.raises(StudyError, match=r"'full_rate' of 'ours' must be a list of values to try, not 0\.1"):
        write_study(entry)
    entry = choosing_entry()
    entry["choose"]["grids"]["theirs"] = {}
    with pytest.raises(StudyError, match=r"'choose': there is no strategy theirs"):
        write_study(entry)


def test_what_was_not_tried_on_everything_comes_last() -> None:
    def scored(task: str, knobs: str, dice: float) -> Any:
        scores = {"c": {"x": (dice, 0.0, 1.0)}}
        return result(f"sparse/{task}/1/ours@{knobs}/7", scores=scores, patients={"c": "c"})

    found = candidates([scored("a", "whole", 0.7), scored("b", "whole", 0.2), scored("a", "half", 0.65)])
    assert [(one.knobs, one.runs) for one in found] == [("whole", 2), ("half", 1)]


def test_the_limits_of_a_base_are_not_meant_for_choosing(write_study: WriteStudy) -> None:
    entry = choosing_entry()
    entry["bases"]["sparse"] |= {"strategies": ["ours"], "seeds": [1], "sizes": [2], "tasks": ["slab"]}
    assert len(plan_runs(choice_study(write_study(entry)))) == 4


@pytest.mark.parametrize(
    ("grid", "words"),
    [({"intensity": ["CT"]}, "no intensity rule 'CT'"), ({"stepps": [1]}, "Unknown setting of fine-tuning: stepps")],
)
def test_values_that_cannot_be_tried_are_said(write_study: WriteStudy, grid: dict[str, Any], words: str) -> None:
    entry = choosing_entry()
    entry["choose"]["grids"] = {"ours": grid}
    with pytest.raises(StudyError, match=words):
        choice_study(write_study(entry))
