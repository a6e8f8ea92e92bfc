"""Candidates of the folds in workers: the same version as in one process, bit for bit, however a run is ended."""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from Testing.finetuning import projects
from TransferSegLib.cli import finetune_workers
from TransferSegLib.cli.main import main
from TransferSegLib.errors import Cancelled, DatasetError, TrainingError
from TransferSegLib.executors.fold_jobs import fold_jobs
from TransferSegLib.file_lock import FileLock
from TransferSegLib.finetuning import cross_validation, side_by_side, speeds
from TransferSegLib.finetuning.finetune import FineTuned, finetune
from TransferSegLib.finetuning.fold_worker import FoldTraining, train_fold
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.run_folder import PLAN, RUNS_NAME
from TransferSegLib.finetuning.side_by_side import FoldWork, remove_left_jobs
from TransferSegLib.jobs.files import WORKER_LOCK
from TransferSegLib.models.store import load_model
from TransferSegLib.models.versions.versions import LOG_FILE
from TransferSegLib.progress import CancelToken, Progress, Task

#: Bytes for the features of four patches of each case, or of six of each case that a fold learns from.
CACHE = 1.14e6
KNOBS = replace(projects.KNOBS, tail_steps=6, steps=4, patches_per_case=9, cache_bytes=CACHE, report_cases=0)
FEW = replace(KNOBS, tail_steps=3, steps=2, patches_per_case=1)


class Here:
    """Workers that are this process: each candidate is trained as a worker does it, the last one first."""

    at_once, are_here = 2, True

    def __init__(self, stop_after: int = -1) -> None:
        self.trained: list[FoldTraining] = []
        self._stop_after, self.closed = stop_after, 0

    def __call__(self, jobs: Path) -> Here:
        return self

    def train(
        self,
        works: Sequence[FoldWork],
        parameters: Callable[[FoldWork], Mapping[str, Any]],
        task: Task,
        ended: Callable[[FoldWork], None],
    ) -> None:
        for work in reversed(works):
            if len(self.trained) == self._stop_after:
                raise Cancelled("Stopped on request.")
            training = FoldTraining.from_json(json.loads(json.dumps(parameters(work))))
            train_fold(training, "cpu")
            self.trained.append(training)
            ended(work)

    def close(self) -> None:
        self.closed += 1


def in_workers(request: FineTuneRequest, workers: Any, **options: Any) -> FineTuned:
    return finetune(replace(request, workers=2, threads=torch.get_num_threads()), workers=workers, **options)


def assert_same(one: FineTuned, other: FineTuned) -> None:
    """Compare versions bit for bit, and what was found."""
    found, expected = (load_model(each.version.path).state_dict for each in (one, other))
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert one.evidence.to_json() == other.evidence.to_json()
    assert one.choice == other.choice and one.curve == other.curve


Place = tuple[Path, Callable[[], Path]]


@pytest.fixture(scope="module")
def place(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Return a project of three patients, and what makes a library with a parent to which one structure is new."""
    folder = tmp_path_factory.mktemp("Projekt mit Köpfen")
    parent, numbers = world.make_parent(world.label_set("dark"), width=1), itertools.count()
    project = projects.add_cases(folder / "project", [1, 2, 3], ["bright"])
    return project, lambda: projects.put_parent(folder / f"library {next(numbers)}", parent)


@pytest.fixture(scope="module")
def alone(place: Place) -> FineTuned:
    """Return what one process makes."""
    project, library = place
    return finetune(projects.request(project, library(), configuration=KNOBS))


def test_the_same_version_as_in_one_process(place: Place, alone: FineTuned) -> None:
    """In three processes, of which two run at the same time."""
    project, library = place
    seen: list[Progress] = []
    wanted = projects.request(project, library(), configuration=KNOBS, workers=2, threads=torch.get_num_threads())
    spread = finetune(wanted, seen.append, workers=fold_jobs(wanted))
    assert_same(spread, alone)
    fractions = [one.fraction for one in seen]
    assert len({one.fraction for one in seen if one.key == "folds:1"}) > 3 and fractions == sorted(fractions)
    assert not any(one.key.startswith("train-") for one in seen), "no candidate of a fold was trained here"
    logs = [(one.version.path / LOG_FILE).read_text(encoding="utf-8").splitlines() for one in (spread, alone)]
    assert logs[0][1].startswith("fold-1-finetune: 6 + 4 steps"), "of the first fold, first"
    assert logs[0][1:] == logs[1][1:], "all but the plan, which names the workers"
    assert not (project / RUNS_NAME).exists()


def test_a_choice_of_strategies_and_rounds_end_the_same_too(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("TransferSegLib.finetuning.rounds._MOST_ROUNDS", 2)
    project, knobs = projects.add_cases(tmp_path / "two patients", [1, 2]), replace(FEW, strategy="auto")
    wanted = projects.request(project, place[1](), configuration=knobs, until_converged=True)
    whole, workers = finetune(wanted), Here()
    assert_same(in_workers(replace(wanted, library=place[1]()), workers), whole)
    strategy = whole.plan.configuration.strategy
    assert whole.choice is not None and len(whole.curve) == 2
    # Both folds choose; the winner is trained for another round.
    assert sorted((one.fold, one.strategy, one.round) for one in workers.trained) == sorted(
        [(fold, tried, 0) for fold in (0, 1) for tried in ("finetune", "vanilla")]
        + [(fold, strategy, 1) for fold in (0, 1)]
    )
    assert workers.closed


def test_slabs_of_one_patient_end_the_same_too(place: Place, tmp_path: Path) -> None:
    project = projects.add_cases(tmp_path / "one patient", [1])
    wanted = projects.request(project, place[1](), configuration=FEW)
    whole, workers = finetune(wanted), Here()
    assert_same(in_workers(replace(wanted, library=place[1]()), workers), whole)
    assert len(workers.trained) == 2


def test_a_stopped_run_goes_on_with_or_without_workers(
    place: Place, alone: FineTuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, library = place
    wanted = projects.request(project, library(), configuration=KNOBS)
    cancel = CancelToken()

    def stop(progress: Progress) -> None:
        if progress.key == "train-finetune:1/all-layers" and progress.step == 2:
            cancel.cancel()

    with pytest.raises(Cancelled):
        finetune(wanted, stop, cancel)
    with pytest.raises(Cancelled):
        in_workers(wanted, first := Here(stop_after=1))
    assert [one.fold for one in first.trained] == [2]
    adapted: list[Any] = []
    adapt = cross_validation.adapt
    monkeypatch.setattr(
        cross_validation, "adapt", lambda *given, **more: adapted.append(more["resume"]) or adapt(*given, **more)
    )
    with pytest.raises(Cancelled):
        in_workers(wanted, second := Here(stop_after=1))
    assert [one.fold for one in second.trained] == [1] and adapted == [None]
    assert_same(result := finetune(wanted), alone)
    assert len(adapted) == 3 and adapted[1]["trainer"]["step"] == 2, "the first fold goes on from its checkpoint"
    log = (result.version.path / LOG_FILE).read_text(encoding="utf-8")
    assert [log.count(f"\nfold-{number}-finetune: 6 + 4 steps\n") for number in (1, 2, 3)] == [1, 1, 1]


def test_minutes_are_given_to_all_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    project, library = place
    lines: list[str] = []
    knobs, threads = replace(KNOBS, checkpoint_every=1000), torch.get_num_threads()
    wanted = projects.request(project, library(), configuration=knobs, minutes=1, workers=2, threads=threads + 1)
    measured, set_threads = list[int](), speeds._threads
    monkeypatch.setattr(speeds, "_threads", lambda count: measured.append(count) or set_threads(count))
    result = finetune(wanted, workers=(workers := Here()), tell=lines.append)
    assert measured == [threads + 1] and torch.get_num_threads() == threads, "a step, as a worker makes it"
    assert result.version.number == 1 and len(workers.trained) == result.time_plan.folds
    assert all(0 < one.minutes <= result.time_plan.minutes_each for one in workers.trained)
    assert "2 workers train the compared ones" in lines[0]
    assert re.search(r"takes a worker \d+\.\d times as long", lines[0])


def test_a_case_that_is_added_meanwhile_is_for_the_next_run(place: Place, tmp_path: Path) -> None:
    """As in one process, which reads its cases once. A worker that began later used to refuse the run."""
    project = projects.add_cases(tmp_path / "project", [1, 2], ["bright"])
    wanted = projects.request(project, place[1](), configuration=FEW)

    class Adding(Here):
        def train(self, works: Sequence[FoldWork], *others: Any) -> None:
            projects.add_cases(project, [4], ["bright", "dark"])
            super().train(works, *others)

    result = in_workers(wanted, workers := Adding())
    assert len(workers.trained) == 2 and set(result.plan.dataset.ids) == {"case-0001", "case-0002"}


def test_cases_and_parent_may_change_meanwhile(place: Place, alone: FineTuned, tmp_path: Path) -> None:
    """A worker that begins later has what the run began with, as one process has."""
    project = projects.add_cases(tmp_path / "project", [1, 2, 3], ["bright"])
    given = place[1]() / "tiny"
    wanted = projects.request(project, tmp_path / "library", model=str(given), name="tiny", configuration=KNOBS)

    class Correcting(Here):
        def train(self, works: Sequence[FoldWork], *others: Any) -> None:
            projects.add_cases(project, [2], ["bright"], shifts=[(3, 0, 0)])
            shutil.rmtree(given)
            super().train(works, *others)

    result = in_workers(wanted, workers := Correcting())
    assert len(workers.trained) == 3
    assert_same(result, alone)


def test_more_workers_than_candidates_do_not_take_threads_from_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune_workers, "_cores", lambda: 16)
    asked = argparse.Namespace(workers=8, ray=None, threads=None, folds=None, strategy=None)
    assert finetune_workers.workers_and_threads(asked) == (3, 5)
    asked.strategy = "auto"
    assert finetune_workers.workers_and_threads(asked) == (6, 2)
    asked.folds, asked.strategy = 2, "vanilla"
    assert finetune_workers.workers_and_threads(asked) == (2, 8)


def test_a_worker_refuses_another_run(place: Place, tmp_path: Path) -> None:
    project, library = projects.add_cases(tmp_path / "project", [1, 2, 3], ["bright"]), place[1]
    wanted = projects.request(project, library(), configuration=KNOBS)
    with pytest.raises(Cancelled):
        in_workers(wanted, Here(stop_after=0))
    (run,) = (project / RUNS_NAME).iterdir()
    assert json.loads((run / PLAN).read_text())["rounds"] == 4, "as many patches as fit for all cases"
    told = FoldTraining(run, wanted.to_json(), "cpu", "finetune", 0, "finetune", 0, 0.0, "")
    others = replace(told, request=replace(wanted, tolerance_mm=1.25).to_json())
    with pytest.raises(TrainingError, match="not those with which this fine-tuning began: give the command again"):
        train_fold(others, "cpu")
    shutil.rmtree(run / "cases")
    with pytest.raises(DatasetError, match=r"dataset\.json is missing"):
        train_fold(told, "cpu")
    with pytest.raises(TrainingError, match="parameters of the fold are damaged"):
        FoldTraining.from_json({"run": str(run)})


def test_workers_and_their_number_come_together(place: Place) -> None:
    project, library = place
    wanted = projects.request(project, library())
    for request, workers in ((replace(wanted, workers=2), None), (wanted, Here())):
        with pytest.raises(TrainingError, match="must be given together"):
            finetune(request, workers=workers)
    with pytest.raises(TrainingError, match="1 thread or more"):
        replace(wanted, workers=2, threads=0)


def test_workers_of_a_killed_process_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "_END_S", 0.1)
    monkeypatch.setattr(side_by_side, "_LOOK_S", 0.1)
    job = tmp_path / "jobs" / "a job"
    job.mkdir(parents=True)
    with (
        FileLock(job / WORKER_LOCK, 0, "free"),
        pytest.raises(TrainingError, match=r"A worker of an earlier process of this run is still at .*a job: wait"),
    ):
        remove_left_jobs(tmp_path / "jobs")
    assert job.exists()
    remove_left_jobs(tmp_path / "jobs")
    assert not (tmp_path / "jobs").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--threads", "2"], "--threads is for --workers or --ray."),
        (["--workers", "0"], "--workers 0: give 1 or more."),
        (["--ray", "auto", "--background"], "--workers and --ray are neither for torchrun nor for --background"),
    ],
)
def test_options_that_do_not_go_together(
    words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["finetune", "--project", str(tmp_path), *words]) == 2
    assert line in capsys.readouterr().err
