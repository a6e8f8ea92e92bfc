"""The configuration file: what goes over what, and clear messages for mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from Testing.research.study.configuration_file import read_study
from Testing.research.study.runs import plan_runs
from Testing.research.tests.conftest import WriteStudy, study_entry
from TransferSegLib.errors import StudyError
from TransferSegLib.images.intensity import MR_PERCENTILES

RESEARCH = Path(__file__).resolve().parents[1]


def test_knobs_go_over_one_another(write_study: WriteStudy) -> None:
    entry = study_entry()
    entry["knobs"] |= {"steps": 9, "batch": 2, "augmentation": {"noise": 0.3, "gamma": 0.2}}
    entry["tasks"]["again"]["knobs"] |= {"batch": 3, "intensity": "MR_PERCENTILES", "augmentation": {"gamma": 0.6}}
    entry["tasks"]["again"]["strategy_knobs"] = {"ours": {"steps": 5}}
    study = write_study(entry)
    ours = study.configuration("again", "ours", 7, 1)
    assert (ours.steps, ours.batch, ours.seed, ours.minutes) == (5, 3, 7, 0)
    assert ours.intensity == MR_PERCENTILES
    assert (ours.augmentation.noise, ours.augmentation.gamma) == (0.3, 0.6)
    assert study.configuration("again", "scratch", 7, 1).steps == 3
    assert study.configuration("slab", "ours", 7, 1).batch == 2


def test_knobs_can_depend_on_the_size(write_study: WriteStudy) -> None:
    entry = study_entry() | {"sizes": [1, 2, "all"]}
    entry["strategies"]["ours"]["by_size"] = {"2": {"steps": 8}, "all": {"steps": 9, "tail_steps": 1}}
    entry["tasks"]["again"]["strategy_knobs"] = {"ours": {"steps": 4, "by_size": {"all": {"batch": 2}}}}
    study = write_study(entry)
    found = {
        (task, size): (study.configuration(task, "ours", 1, size))
        for task in ("slab", "again")
        for size in study.tasks[task].sizes
    }
    assert {key: (knobs.steps, knobs.tail_steps, knobs.batch) for key, knobs in found.items()} == {
        ("slab", 1): (2, 3, 1),
        ("slab", 2): (8, 3, 1),
        ("slab", 0): (9, 1, 1),
        ("again", 1): (4, 3, 1),
        ("again", 2): (4, 3, 1),
        ("again", 0): (4, 1, 2),
    }
    entry["strategies"]["ours"]["by_size"] = {"many": {}}
    with pytest.raises(StudyError, match="'by_size' is about numbers of cases"):
        write_study(entry)


def test_a_task_can_have_its_own_sizes_seeds_and_strategies(write_study: WriteStudy) -> None:
    entry = study_entry()
    entry["tasks"]["slab"] |= {"sizes": [2, "all"], "seeds": [4, 5], "strategies": ["ours"]}
    keys = {run.key for run in plan_runs(write_study(entry))}
    assert {key for key in keys if "slab" in key} == {
        f"sparse/slab/{size}/ours/{seed}" for size in ("2", "all") for seed in (4, 5)
    }
    assert {key for key in keys if "again" in key} == {"sparse/again/1/scratch/1", "sparse/again/1/ours/1"}


def _without_leaving_out(entry: dict[str, Any]) -> None:
    entry["bases"]["sparse"]["without_cases_of"] = []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda entry: entry.update(colections={}), "the file has no colections"),
        (lambda entry: entry["bases"].clear(), "'bases' must name at least one"),
        (lambda entry: entry["tasks"]["slab"].pop("selection"), "task 'slab': 'selection' must be an object, not None"),
        (lambda entry: entry["tasks"]["slab"].update(collection="x"), "task 'slab': there is no collection x"),
        (lambda entry: entry["tasks"]["slab"].update(structures=[]), "task 'slab': 'structures' must name at least"),
        (lambda entry: entry["tasks"]["slab"].update(sizes=[0]), "a size is a number of cases from 1 up"),
        (lambda entry: entry["tasks"]["slab"].update(tolerance_mm=0), "'tolerance_mm' must be above 0"),
        (lambda entry: entry["tasks"]["slab"]["selection"].update(tests=2), "task 'slab': 'selection' has no tests"),
        (lambda entry: entry["tasks"].update({"a/b": {}}), "'a/b' cannot be the name of a task"),
        (lambda entry: entry["strategies"]["ours"].update(stepps=1), "'ours': Unknown setting of fine-tuning: stepps"),
        (lambda entry: entry["strategies"]["ours"].update(seed=1), "the seed of a run is one of 'seeds'"),
        (lambda entry: entry["tasks"]["slab"].update(knobs={"intensity": "CT"}), "there is no intensity rule 'CT'"),
        (lambda entry: entry["bases"]["sparse"]["knobs"].update(widht=1), "base 'sparse': Unknown setting of training"),
        (lambda entry: entry["bases"]["sparse"].update(model="m"), "must have a 'collection' to be trained on, or a"),
        (lambda entry: entry.update(floors=[{"task": "slab", "strategy": "x"}]), "floor"),
        (lambda entry: entry.update(comparisons=[["ours"]]), "an entry of 'comparisons' must be two of scratch, ours"),
        (lambda entry: entry.update(seeds=[-1]), "'seeds' must be a list of whole numbers from 0 up"),
        (lambda entry: entry.update(seeds=[1, 2, 1]), "'seeds' has 1 twice"),
        (lambda entry: entry.update(sizes=[1, "all", 1]), "'sizes' has 1 twice"),
        (lambda entry: entry.update(floors=5), "'floors' must be a list, not 5"),
        (lambda entry: entry["collections"]["plain"].update(images=5), "collection 'plain': 'images' must be text"),
        (lambda entry: entry["collections"]["plain"].update(structures={"1": 5}), "must be names by label value"),
        (lambda entry: entry["collections"]["plain"].update(cases_per_patient=0), "must be a whole number from 1 up"),
        (lambda entry: entry["bases"]["sparse"].update(collection=[]), "base 'sparse': 'collection' must be a name"),
        (lambda entry: entry["tasks"]["slab"].update(collection=5), "task 'slab': 'collection' must be a name, not 5"),
        (lambda entry: entry["tasks"]["slab"].update(tolerance_mm=float("nan")), "NaN is not a number"),
        (lambda entry: entry["tasks"]["slab"]["selection"].update(test=0), "'test' must be a whole number from 1 up"),
        (lambda entry: entry["tasks"]["slab"]["selection"].update(seed="a"), "'seed' must be a whole number from 0 up"),
        (lambda entry: entry["tasks"]["slab"]["selection"].update(smallest_share=2), "must be between 0 and 1"),
        (_without_leaving_out, "would see the test cases of slab"),
    ],
)
def test_mistakes_are_said(write_study: WriteStudy, spoil: Callable[[dict[str, Any]], object], words: str) -> None:
    entry = study_entry()
    spoil(entry)
    with pytest.raises(StudyError) as caught:
        write_study(entry)
    assert words in str(caught.value)
    assert "study.json" in str(caught.value)


def test_what_is_no_json_is_said(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{", encoding="utf-8")
    with pytest.raises(StudyError, match="cannot be read as JSON"):
        read_study(tmp_path / "study.json")


@pytest.mark.parametrize("name", ["study", "floors"])
def test_the_committed_studies_are_whole(name: str) -> None:
    study = read_study(RESEARCH / f"{name}.json")
    runs = plan_runs(study)
    assert len({run.key for run in runs}) == len(runs)
    content = json.loads((RESEARCH / f"{name}.json").read_text(encoding="utf-8"))
    assert not Path(content["data"]).is_absolute()


def test_the_floors_are_those_of_the_issue() -> None:
    floors = read_study(RESEARCH / "floors.json").floors
    assert [(floor.task, floor.against, floor.at_least, floor.sizes, floor.on_average) for floor in floors] == [
        ("mandible", "scratch", 0.1, (1, 3), False),
        ("mandible", "scratch", 0.0, (1, 3, 10), False),
        ("mandible", "vanilla", 0.0, (1, 3, 10), True),
        ("hippocampus", "scratch", -0.01, (1, 3, 10), False),
    ]


def test_names_with_line_breaks_are_told_in_one_line(write_study: WriteStudy) -> None:
    entry = study_entry()
    entry["bases"] = {"Größe\n2": next(iter(entry["bases"].values()))} if entry.get("bases") else {"Größe\n2": {}}
    with pytest.raises(StudyError) as caught:
        write_study(entry)
    assert "\n" not in str(caught.value)
