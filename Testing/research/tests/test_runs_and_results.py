"""What makes a run the same run, and a table of results that survives whatever happens to its writer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from Testing.research.study.results import Result, ResultsFile, finished_runs
from Testing.research.study.runs import plan_runs
from Testing.research.tests.conftest import WriteStudy, study_entry
from TransferSegLib.errors import StudyError


def result(key: str = "sparse/slab/1/ours/1", hash: str = "h", **values: Any) -> Result:
    base, task, size, strategy, seed = key.split("/")
    entry: dict[str, Any] = {
        "key": key,
        "hash": hash,
        "base": base,
        "task": task,
        "size": 0 if size == "all" else int(size),
        "strategy": strategy,
        "seed": int(seed),
        "training": ("t",),
        "scores": {"a_1": {"slab": (0.5, 0.25, 2.0)}, "b": {"slab": (0.0, 0.0, float("inf"))}},
        "patients": {"a_1": "a", "b": "b"},
        "tolerance_mm": 1.5,
        "grid": "own",
        "cpu_s": 1.0,
        "wall_s": 2.0,
        "test_s": 3.0,
        "tail_steps": 4,
        "steps": 5,
        "base_weights": "w",
        "device": "CPU (float32)",
        "threads": 1,
        "version": "0",
        "finished": "2026-01-01T00:00:00+00:00",
    }
    return Result(**entry | values)


def hashes(study: Any) -> dict[str, str]:
    return {run.key: run.hash for run in plan_runs(study)}


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (lambda entry: entry.update(title="x", results="other.jsonl", report="page.md", sizes=[1, 2]), set()),
        (lambda entry: entry["strategies"]["ours"].update(steps=7), {"slab/ours", "again/ours"}),
        (lambda entry: entry["tasks"]["again"]["knobs"].update(spacing_mm=3.0), {"again/ours", "again/scratch"}),
        (lambda entry: entry["tasks"]["again"].update(tolerance_mm=3.0), {"again/ours", "again/scratch"}),
        (lambda entry: entry["bases"]["sparse"]["knobs"].update(steps=9), {"slab/ours", "again/ours"}),
        (lambda entry: entry["bases"]["sparse"].update(only_fully_annotated=True), {"slab/ours", "again/ours"}),
        (
            # The base sees other cases then, too.
            lambda entry: entry["tasks"]["slab"]["selection"].update(seed=2),
            {"slab/ours", "slab/scratch", "again/ours"},
        ),
        (
            lambda entry: entry["bases"]["sparse"]["knobs"].update(width=3),
            {"slab/ours", "slab/scratch", "again/ours", "again/scratch"},
        ),
    ],
)
def test_a_run_changes_with_what_decides_its_result(write_study: WriteStudy, change: Any, changed: set[str]) -> None:
    before = hashes(write_study(study_entry()))
    entry = study_entry()
    change(entry)
    after = hashes(write_study(entry))
    found = {"/".join((key.split("/")[1], key.split("/")[3])) for key in before if before[key] != after[key]}
    assert found == changed


def test_scratch_is_run_once_for_all_bases_of_a_width(write_study: WriteStudy) -> None:
    entry = study_entry()
    entry["bases"]["dense"] = entry["bases"]["sparse"] | {"only_fully_annotated": True}
    entry["bases"]["wide"] = entry["bases"]["sparse"] | {"knobs": {"width": 4}}
    keys = [run.key for run in plan_runs(write_study(entry)) if run.task == "slab"]
    assert keys == [
        "sparse/slab/1/scratch/1",
        "sparse/slab/1/ours/1",
        "dense/slab/1/ours/1",
        "wide/slab/1/scratch/1",
        "wide/slab/1/ours/1",
    ]


def test_a_base_can_be_tried_on_less(write_study: WriteStudy) -> None:
    entry = study_entry() | {"sizes": [1, 2], "seeds": [1, 2]}
    limits = {"sizes": [2], "seeds": [1], "strategies": ["ours"], "tasks": ["slab"]}
    entry["bases"]["dense"] = entry["bases"]["sparse"] | {"only_fully_annotated": True} | limits
    assert [run.key for run in plan_runs(write_study(entry)) if run.base == "dense"] == ["dense/slab/2/ours/1"]


def test_seeds_come_one_after_the_other(write_study: WriteStudy) -> None:
    runs = plan_runs(write_study(study_entry() | {"sizes": ["all", 1], "seeds": [1, 2]}))
    assert [(run.seed, run.size) for run in runs] == sorted(
        ((run.seed, run.size) for run in runs), key=lambda pair: (pair[0], pair[1] or 1000)
    )


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path / "new" / "results.jsonl")
    assert file.read() == {}
    first, second = result(), result("sparse/slab/all/ours/1", size=0, extra={"last_loss": 0.5})
    file.append(first)
    file.append(second)
    assert file.read() == {first.key: first, second.key: second}
    again = result(hash="other")
    file.append(again)
    assert file.read()[again.key] == again, "the last one counts"


def test_a_line_cut_short_is_as_if_never_written(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path / "results.jsonl")
    file.append(result())
    whole = file.path.read_bytes()
    for length in (1, 40, len(whole) - 1):
        file.path.write_bytes(whole + whole[:length])
        assert list(file.read()) == ["sparse/slab/1/ours/1"]
        file.append(result("sparse/slab/2/ours/1"))
        assert [json.loads(line)["size"] for line in file.path.read_text(encoding="utf-8").splitlines()] == [1, 2]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path / "results.jsonl")
    file.append(result())
    file.path.write_text(file.path.read_text(encoding="utf-8") + '{"key": 1}\n', encoding="utf-8")
    with pytest.raises(StudyError, match=r"Line 2 of .*results.jsonl is no result"):
        file.read()


def test_only_results_of_the_configuration_as_it_is_count(write_study: WriteStudy) -> None:
    runs = plan_runs(write_study(study_entry()))
    good, old = result(runs[0].key, runs[0].hash), result(runs[1].key, "an older hash")
    assert finished_runs(runs, {good.key: good, old.key: old}) == {good.key: good}


def test_scratch_is_run_with_the_first_base_that_asks_for_it(write_study: WriteStudy) -> None:
    entry = study_entry() | {"seeds": [1, 2]}
    sparse = entry["bases"]["sparse"]
    # The first base is limited: what it leaves out is not to be missing altogether.
    entry["bases"] = {"dense": sparse | {"strategies": ["ours"]}, "one": sparse | {"seeds": [1]}, "sparse": sparse}
    scratch = [run.key for run in plan_runs(write_study(entry)) if run.strategy == "scratch" and run.task == "slab"]
    assert scratch == ["one/slab/1/scratch/1", "sparse/slab/1/scratch/2"]


@pytest.mark.parametrize("spoilt", [{"cpu_s": "x"}, {"wall_s": None}, {"version": None}, {"size": "many"}])
def test_a_line_with_other_kinds_of_values_is_named(tmp_path: Path, spoilt: dict[str, Any]) -> None:
    file = ResultsFile(tmp_path / "r.jsonl")
    file.path.write_text(json.dumps(result().to_json() | spoilt) + "\n", encoding="utf-8")
    with pytest.raises(StudyError, match=r"Line 1 of .* is no result"):
        file.read()


def test_only_a_distance_may_be_infinite(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path / "r.jsonl")
    file.append(result(scores={"a": {"slab": (float("nan"), 0.0, 1.0)}}, patients={"a": "a"}))
    with pytest.raises(StudyError, match="is no result"):
        file.read()
