"""A tiny study from end to end: interrupted, resumed, changed, reported; each run in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from Testing.research.study import runner
from Testing.research.study.base_facts import BaseFacts, facts_file, keep_facts, read_facts
from Testing.research.study.command import main
from Testing.research.study.configuration import Study
from Testing.research.study.results import ResultsFile
from Testing.research.study.run_worker import make_run
from Testing.research.study.runner import StudyOptions, run_study
from Testing.research.tests.conftest import WriteStudy, study_entry
from TransferSegLib.errors import Cancelled, StudyError
from TransferSegLib.models.locate import find_model
from TransferSegLib.progress import CancelToken, Progress

TINY_RUNS = 4


def in_this_process(
    self: object, module: str, place: Path, request: dict[str, object], threads: int
) -> dict[str, object]:
    """Do what a worker does, without the seconds that a process of its own takes to import torch."""
    assert module == "run_worker"
    place.mkdir(parents=True)
    return json.loads(json.dumps(make_run(json.loads(json.dumps(request)), place)))


@pytest.mark.timeout(1200)  # ten seconds of work, but a busy machine may take its time
def test_a_study_is_interrupted_resumed_changed_and_reported(
    world: Path,
    tmp_path: Path,
    write_study: WriteStudy,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = study_entry() | {"data": str(world), "report": "docs/page.md", "comparisons": [["ours", "scratch"]]}
    study = write_study(entry)
    options = StudyOptions(data=world, work=tmp_path / "work")
    said: list[Progress] = []
    token = CancelToken()

    def stop_after_the_first(progress: Progress) -> None:
        said.append(progress)
        if progress.key == "runs":
            token.cancel()

    with pytest.raises(Cancelled):
        run_study(study, options, stop_after_the_first, token)
    file = ResultsFile(study.results)
    before = file.read()
    assert len(before) == 1
    assert said[-1].steps == TINY_RUNS
    bases = list((tmp_path / "work" / "bases").iterdir())
    assert len(bases) == 1
    trained = (bases[0] / "run" / "model" / "weights.pt").stat().st_mtime_ns
    # As if killed while writing.
    with file.path.open("a", encoding="utf-8") as stream:
        stream.write('{"key": "sparse/sl')

    # The base and the first run had processes of their own.
    monkeypatch.setattr(runner._Runner, "_worker", in_this_process)
    with pytest.raises(StudyError, match="continue with --resume"):
        run_study(study, options)
    work = ["--work", str(tmp_path / "work")]
    assert main(["--config", str(study.path), "--resume", "--workers", "2", *work]) == 0
    assert (
        f"{TINY_RUNS} runs: {len(before)} were there, {TINY_RUNS - len(before)} made, 0 failed"
        in capsys.readouterr().out
    )
    results = file.read()
    assert {key: results[key] for key in before} == before
    assert len(results) == len(file.path.read_text(encoding="utf-8").splitlines()) == TINY_RUNS
    assert (bases[0] / "run" / "model" / "weights.pt").stat().st_mtime_ns == trained
    _check_results(study_entry(), results)
    assert main(["--config", str(study.path), "--resume", *work]) == 0
    assert f"{TINY_RUNS} were there, 0 made" in capsys.readouterr().out
    _check_bases_handed_in(study, world, bases[0] / "run" / "model", tmp_path)

    # Another number of steps of one strategy: its runs, and no others, are made again.
    entry["strategies"]["scratch"]["steps"] = 2
    study = write_study(entry)
    only = ["--only", "slab"]
    assert main(["run", "--config", str(study.path), "--resume", *only, *work]) == 0
    assert "2 runs: 1 were there, 1 made, 0 failed" in capsys.readouterr().out
    assert file.read()["sparse/slab/1/scratch/1"].steps == 2
    assert main(["list", "--config", str(study.path)]) == 0
    assert "     sparse/again/1/scratch/1" in capsys.readouterr().out.splitlines()

    assert main(["report", "--config", str(study.path)]) == 0
    printed = capsys.readouterr().out
    assert "3 of 4 runs are done" in printed
    assert "1 more results in the file belong to another configuration and are left out." in printed
    mean = np.mean([triple[0] for row in results["sparse/again/1/ours/1"].scores.values() for triple in row.values()])
    assert f"| ours | {mean:.3f} |" in printed, "four test cases are two patients: a mean without an interval"
    assert main(["report", "--write", "--config", str(study.path)]) == 0
    page = (tmp_path / "docs" / "page.md").read_text(encoding="utf-8")
    assert printed.strip().splitlines()[-1] in page
    assert "images/study-sparse.png" in page
    weights = results["sparse/slab/1/ours/1"].base_weights
    facts = read_facts(facts_file(study))["sparse", weights]
    assert f"| sparse | 4 | 1 | {facts.dice:.3f} | bright ball 4, dark ball 4 | {weights} |" in printed
    assert (tmp_path / "docs" / "images" / "study-sparse.png").read_bytes().startswith(b"\x89PNG")


def _check_results(entry: dict[str, object], results: dict[str, object]) -> None:
    """Check what the four runs say of themselves."""
    slab, again = (results[f"sparse/{task}/1/ours/1"] for task in ("slab", "again"))
    assert (slab.tail_steps, slab.steps) == (3, 2)  # type: ignore[attr-defined]
    assert {name for row in slab.scores.values() for name in row} == {"slab"}  # type: ignore[attr-defined]
    assert {name for row in again.scores.values() for name in row} == {"bright ball", "dark ball"}  # type: ignore[attr-defined]
    assert len(set(again.patients.values())) == 2  # type: ignore[attr-defined]
    patients = {case.split("_")[0] for case in again.training} & set(again.patients.values())  # type: ignore[attr-defined]
    assert not patients
    scratch = results["sparse/slab/1/scratch/1"]
    assert scratch.training == slab.training  # type: ignore[attr-defined]
    assert scratch.tail_steps == 0  # type: ignore[attr-defined]
    assert scratch.cpu_s > 0  # type: ignore[attr-defined]


def test_the_base_sees_no_patient_and_no_structure_of_the_tasks(
    world: Path, tmp_path: Path, write_study: WriteStudy
) -> None:
    from Testing.research.study.study_data import base_dataset, prepare_data, task_dataset

    study = write_study(study_entry())
    data = prepare_data(study, world, tmp_path / "collections")
    base, task = base_dataset(study, data, "sparse"), task_dataset(study, data, "slab")
    assert len(base) == 4, "9 cases, of which 5 are reserved"
    assert not set(base.ids) & set(task.ids)
    assert base.label_set.names == ("bright ball", "dark ball")
    assert task.label_set.names == ("slab",)


def _check_bases_handed_in(study: Study, world: Path, model: Path, folder: Path) -> None:
    """Check that a base of these knobs is taken, one of an earlier version with fewer knobs too, and no other."""
    from Testing.research.study.bases import handed_in
    from Testing.research.study.study_data import prepare_data

    data = prepare_data(study, world, folder / "collections")
    entry = json.loads((model / "model.json").read_text(encoding="utf-8"))
    made_with = entry["provenance"]["configuration"]
    earlier = {name: value for name, value in made_with.items() if name != "size_share"}
    for name, knobs in (("earlier", earlier), ("other", made_with | {"steps": 4})):
        shutil.copytree(model, folder / name)
        entry["provenance"]["configuration"] = knobs
        (folder / name / "model.json").write_text(json.dumps(entry), encoding="utf-8")
    assert (
        handed_in(study, data, "sparse", model).weights == handed_in(study, data, "sparse", folder / "earlier").weights
    )
    with pytest.raises(StudyError, match="it was trained with another steps than the study says"):
        handed_in(study, data, "sparse", folder / "other")
    entry["provenance"]["configuration"] = made_with
    entry["metrics"]["validation"]["ids"] = ["case_8"]
    (folder / "other" / "model.json").write_text(json.dumps(entry), encoding="utf-8")
    with pytest.raises(StudyError, match=r"was validated on case_8, this base would be on case_\d\. So it was trained"):
        handed_in(study, data, "sparse", folder / "other")


def test_a_base_is_handed_in_only_when_it_is_the_one_described(
    world: Path, tmp_path: Path, write_study: WriteStudy
) -> None:
    from Testing.research.study.bases import handed_in
    from Testing.research.study.study_data import prepare_data

    study = write_study(study_entry())
    data = prepare_data(study, world, tmp_path / "collections")
    with pytest.raises(StudyError, match="cannot be used as the base 'sparse': it knows brainstem"):
        handed_in(study, data, "sparse", find_model(None))
    with pytest.raises(StudyError, match="The base 'sparse' cannot be used: "):
        handed_in(study, data, "sparse", tmp_path)


def test_a_crashing_run_costs_that_run(
    world: Path, tmp_path: Path, write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study(study_entry())
    options = StudyOptions(data=world, work=tmp_path / "work")
    made = {
        "scores": {},
        "patients": {},
        "grid": "own",
        "cpu_s": 1,
        "wall_s": 1,
        "test_s": 1,
        "tail_steps": 0,
        "steps": 0,
        "device": "CPU",
        "starts": [],
        "last_loss": None,
    }
    monkeypatch.setattr(runner, "train", lambda *words: runner.ReadyBase(find_model(None), "w"))

    def worker(self: object, module: str, place: Path, request: dict[str, object], threads: int) -> dict[str, object]:
        if "again" in place.name and "ours" in place.name:
            raise StudyError("it crashed")
        return made

    monkeypatch.setattr(runner._Runner, "_worker", worker)
    outcome = run_study(study, options)
    assert (outcome.made, dict(outcome.failed)) == (3, {"sparse/again/1/ours/1": "it crashed"})
    assert len(ResultsFile(study.results).read()) == 3


def test_what_a_crashed_process_said_is_kept(world: Path, tmp_path: Path, write_study: WriteStudy) -> None:
    study = write_study(study_entry())
    options = StudyOptions(data=world, work=tmp_path / "work")
    at_work = runner._Runner(study, options, ResultsFile(study.results), {}, None, None)
    with pytest.raises(
        StudyError, match=r"The process of x failed \(exit code 1\): KeyError: 'dataset'. See "
    ) as caught:
        at_work._worker("base_worker", tmp_path / "work" / "x", {"output": str(tmp_path)}, 1)
    kept = Path(str(caught.value).rpartition("See ")[2].rstrip("."))
    assert "Traceback" in kept.read_text(encoding="utf-8")
    assert not (tmp_path / "work" / "x").exists()


def test_facts_of_bases_are_kept_once(tmp_path: Path) -> None:
    file = tmp_path / "new" / "study.bases.jsonl"
    first = BaseFacts("sparse", "ab", 9, 2, {"cord": 5, "mandible": 9}, 0.5)
    for facts in (first, first, replace(first, weights="cd"), replace(first, dice=None)):
        keep_facts(file, facts)
    assert len(file.read_text(encoding="utf-8").splitlines()) == 2
    assert read_facts(file) == {
        ("sparse", "ab"): replace(first, dice=None),
        ("sparse", "cd"): replace(first, weights="cd"),
    }
    file.write_text('{"base": "sparse"}\n', encoding="utf-8")
    with pytest.raises(StudyError, match=r"holds no facts of bases .* remove it"):
        read_facts(file)


def test_two_studies_do_not_share_a_work_folder(world: Path, tmp_path: Path, write_study: WriteStudy) -> None:
    from TransferSegLib.file_lock import FileLock

    study = write_study(study_entry())
    (tmp_path / "work").mkdir()
    with (
        FileLock(tmp_path / "work" / "study.lock", 1.0, "busy", StudyError),
        pytest.raises(StudyError, match="Another process runs a study in"),
    ):
        run_study(study, StudyOptions(data=world, work=tmp_path / "work"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--base", "sparse"], "--base takes NAME=FOLDER, not 'sparse'"),
        (["--base", "other=x"], "The study has no base other; it has sparse"),
        (["--only", "("], "--only '(' is not a regular expression"),
        (["--only", "spleen"], "No run of the study has a key like 'spleen'"),
        (["--workers", "0"], "at least one worker"),
        (["--data", "nowhere"], "There is no data folder"),
        (["list", "--only", "("], "--only '(' is not a regular expression"),
        (["--work", "study.json/work"], "study.json is a file, not a folder. Name another folder."),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(
    tmp_path: Path,
    world: Path,
    write_study: WriteStudy,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = write_study(study_entry() | {"data": str(world)})
    monkeypatch.chdir(tmp_path)
    assert main(["--config", str(study.path), "--work", str(tmp_path / "work"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not study.results.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows gives a process whose parent is gone no other parent")
def test_a_worker_ends_when_its_parent_was_killed() -> None:
    worker = "from Testing.research.study.worker import _end_with; print('up', flush=True); _end_with({0})"
    parent = (
        "import os, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {json.dumps(worker)}.replace('{{0}}', str(os.getpid()))])\n"
        "time.sleep(120)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"up"
    process.kill()
    process.wait()
    assert process.stdout.read() == b"", "the pipe closes when the worker, which holds it too, has ended"
    process.stdout.close()
