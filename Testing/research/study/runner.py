"""Making the runs of a study that are missing: bases first, then run by run, some at a time, each in a process.

The work folder holds ``collections`` (dataset.json files that point at the data), ``bases``, ``running`` (requests of
the workers) and ``failed`` (their messages). All of it can be removed at any time: it is made again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from Testing.research.study.base_facts import facts_file, facts_of, keep_facts
from Testing.research.study.bases import ReadyBase, handed_in, ready_base, train
from Testing.research.study.case_selection import training_set
from Testing.research.study.configuration import Study
from Testing.research.study.results import Result, ResultsFile, finished_runs
from Testing.research.study.runs import Run, plan_runs
from Testing.research.study.study_data import StudyData, prepare_data
from Testing.research.study.worker import REQUEST_FILE, RESULT_FILE, read_progress
from TransferSegLib.child_process import find_interpreter, run_module
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.errors import Cancelled, StudyError
from TransferSegLib.file_lock import FileLock
from TransferSegLib.progress import CancelToken, Progress, ProgressCallback, Task
from TransferSegLib.version import code_version

if TYPE_CHECKING:
    from Testing.research.study.on_cluster import ClusterWorkers

_LOOK_S = 0.5
#: Where the modules of the workers lie.
_PACKAGE = "Testing.research.study"
#: After this number of failures in a row the cause is not a single run.
_FAILURES_IN_A_ROW = 4


@dataclass(frozen=True)
class StudyOptions:
    """How a study is run; none of it changes a result but ``device``.

    ``bases`` hands in models that are trained already, by the base's name; ``only`` is a regular expression found in a
    run's key; ``threads`` is per run. ``ray`` is the address of a Ray cluster that makes the runs ('': this computer).
    """

    data: Path
    work: Path
    resume: bool = False
    only: str = ""
    workers: int = 1
    threads: int = 1
    device: str = "auto"
    bases: Mapping[str, Path] = field(default_factory=dict)
    ray: str = ""

    def __post_init__(self) -> None:
        """Raise StudyError for what cannot work."""
        if self.workers < 1 or self.threads < 1:
            raise StudyError("A study needs at least one worker and one thread.")
        try:
            re.compile(self.only)
        except re.error as error:
            raise StudyError(f"--only '{self.only}' is not a regular expression: {error}.") from error


@dataclass(frozen=True)
class StudyOutcome:
    """Numbers of runs asked for, found and made, and the messages of those that failed."""

    runs: int
    found: int
    made: int
    failed: Mapping[str, str]


def run_study(
    study: Study,
    options: StudyOptions,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> StudyOutcome:
    """Make the runs that are missing or whose configuration changed; each result is on the disk as soon as it is there.

    Raises StudyError when the study or its data cannot be used, when there are results and ``resume`` is not set, and
    when nearly everything fails; Cancelled.
    """
    file = ResultsFile(study.results)
    results = file.read()
    if results and not options.resume:
        raise StudyError(
            f"{study.results} holds {len(results)} results already: continue with --resume, or name another file in "
            "the configuration's 'results'."
        )
    unknown = sorted(set(options.bases) - set(study.bases))
    if unknown:
        raise StudyError(f"The study has no base {', '.join(unknown)}; it has {', '.join(study.bases)}.")
    try:
        options.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(
            f"The work folder {options.work} cannot be made: {error.strerror or error}. Name another with --work."
        ) from error
    busy = f"Another process runs a study in {options.work}: wait for it, or choose another --work folder."
    with FileLock(options.work / "study.lock", 1.0, busy, StudyError):
        return _Runner(study, options, file, results, progress, cancel).run()


class _Stop(CancelToken):
    """Stops the workers when the user asks for it, or when this process has a reason of its own."""

    def __init__(self, user: CancelToken | None) -> None:
        super().__init__()
        self._user = user

    @property
    def cancelled(self) -> bool:
        """Whether stopping was asked for, by whomever."""
        return self._event.is_set() or (self._user is not None and self._user.cancelled)


class _Runner:
    """One call of ``run_study``."""

    def __init__(
        self,
        study: Study,
        options: StudyOptions,
        file: ResultsFile,
        results: Mapping[str, Result],
        progress: ProgressCallback | None,
        cancel: CancelToken | None,
    ) -> None:
        self._study, self._options, self._file, self._results = study, options, file, results
        self._progress, self._stop = progress, _Stop(cancel)
        python = find_interpreter()
        if python is None:
            raise StudyError("No Python was found to run the study's processes in.")
        self._python = python
        self._cluster: ClusterWorkers | None = None
        self._failed: dict[str, str] = {}
        self._failures_in_a_row = 0
        self._made = 0

    def run(self) -> StudyOutcome:
        """Make what is missing."""
        work = self._options.work
        shutil.rmtree(work / "running", ignore_errors=True)
        wanted = [run for run in plan_runs(self._study) if re.search(self._options.only, run.key)]
        if not wanted:
            raise StudyError(f"No run of the study has a key like '{self._options.only}'.")
        data = prepare_data(self._study, self._options.data, work / "collections", self._progress, self._stop)
        found = self._still_valid(wanted, data)
        pending = [run for run in wanted if run.key not in found]
        task = Task("runs", self._progress, self._stop, "runs").counting(len(pending))
        precision = self._precision() if pending else ""
        with self._workers():
            self._make_all(wanted, pending, data, precision, task)
        return StudyOutcome(len(wanted), len(found), self._made, self._failed)

    @contextmanager
    def _workers(self) -> Iterator[None]:
        """Connect to the cluster, if there is one."""
        options = self._options
        if not options.ray:
            yield
            return
        from Testing.research.study.on_cluster import cluster_workers

        with cluster_workers(options.ray, options.work, options.workers, options.threads, options.device) as workers:
            self._cluster = workers
            yield

    def _make_all(self, wanted: list[Run], pending: list[Run], data: StudyData, precision: str, task: Task) -> None:
        """Make the bases that are needed, and the runs of each."""
        for name in self._study.bases:
            mine = [run for run in pending if run.base == name]
            if mine or (name in self._options.bases and any(run.base == name for run in wanted)):
                base = self._base(name, data)
                keep_facts(facts_file(self._study), facts_of(self._study, data, name, base))
                self._make(mine, base, data, precision, task)

    def _still_valid(self, wanted: list[Run], data: StudyData) -> dict[str, Result]:
        """Return the results that are still valid for the runs as configured now."""
        found = finished_runs(wanted, self._results)
        ready: dict[str, str] = {}
        for run in wanted:
            result = found.get(run.key)
            if result is None:
                continue
            dataset = data.datasets[self._study.tasks[run.task].collection]
            selection = data.splits[run.task]
            is_same = result.training == training_set(dataset, selection, run.size, run.seed)
            is_same &= tuple(result.scores) == selection.test
            if self._study.bases[run.base].model and run.configuration.strategy != "scratch":
                # A model that was handed in is known by its weights only.
                if run.base not in ready:
                    ready[run.base] = self._base(run.base, data).weights
                is_same &= result.base_weights == ready[run.base]
            if not is_same:
                del found[run.key]
        return found

    def _precision(self) -> str:
        """Return the precision for all runs, chosen once: workers that choose for themselves may differ."""
        from TransferSegLib.inference.devices import choose_device

        return str(choose_device(self._options.device).dtype).removeprefix("torch.")

    def _base(self, name: str, data: StudyData) -> ReadyBase:
        """Return a base, trained now where it has to be; raises StudyError."""
        given = self._options.bases.get(name)
        if given is None and self._study.bases[name].model:
            given = self._study.path.parent / self._study.bases[name].model
        if given is not None:
            return handed_in(self._study, data, name, given.absolute())
        folder = self._options.work.absolute() / "bases"
        ready = ready_base(self._study, name, folder)
        if ready is not None:
            return ready

        def in_worker(request: dict[str, Any]) -> Mapping[str, Any]:
            threads = self._options.threads * self._options.workers
            with ThreadPoolExecutor(1) as pool:
                place = self._place(f"base-{name}")
                future = pool.submit(self._worker, "base_worker", place, request, threads)
                try:
                    while not future.done():
                        wait([future], _LOOK_S)
                        said = read_progress(place)
                        if said is not None and self._progress is not None:
                            stage = f"base {name}: {said.stage}"
                            self._progress(Progress(stage, said.fraction, said.message, said.seconds_left))
                except BaseException:
                    self._stop.cancel()
                    raise
                return future.result()

        return train(self._study, data, name, folder, self._options.device, in_worker)

    def _make(self, runs: list[Run], base: ReadyBase, data: StudyData, precision: str, task: Task) -> None:
        """Make the runs of one base, some at a time; raises Cancelled and StudyError once all workers have ended."""
        waiting = list(reversed(runs))
        at_work: dict[Future[Mapping[str, Any]], Run] = {}
        with ThreadPoolExecutor(self._options.workers) as pool:
            try:
                while waiting or at_work:
                    self._stop.check()
                    while waiting and len(at_work) < self._options.workers:
                        run = waiting.pop()
                        request = self._request(run, base, data, precision)
                        place, threads = self._place(run.key), self._options.threads
                        future = pool.submit(self._worker, "run_worker", place, request, threads)
                        at_work[future] = run
                    for future in wait(list(at_work), _LOOK_S, FIRST_COMPLETED).done:
                        self._finish(at_work.pop(future), future, base, data, task)
            except BaseException:
                self._stop.cancel()
                raise

    def _finish(
        self, run: Run, future: Future[Mapping[str, Any]], base: ReadyBase, data: StudyData, task: Task
    ) -> None:
        """Keep the result of a run, or what went wrong."""
        try:
            result = self._result(run, future.result(), base, data)
        except Cancelled:
            raise
        except StudyError as error:
            self._failed[run.key] = str(error)
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= _FAILURES_IN_A_ROW:
                raise StudyError(
                    f"{self._failures_in_a_row} runs failed one after another, the last: {error}"
                ) from error
            task.step(f"{run.key} failed")
            return
        self._file.append(result)
        self._made += 1
        self._failures_in_a_row = 0
        values = [triple[0] for row in result.scores.values() for triple in row.values()]
        mean = sum(values) / len(values) if values else float("nan")
        task.step(f"{run.key}: Dice {mean:.3f} in {result.wall_s + result.test_s:.0f} s", dice=mean)

    def _place(self, key: str) -> Path:
        """Return the folder of a worker."""
        return self._options.work.absolute() / "running" / key.replace("/", "_")

    def _request(self, run: Run, base: ReadyBase, data: StudyData, precision: str) -> dict[str, Any]:
        """Return what a run's worker must know."""
        task = self._study.tasks[run.task]
        selection = data.splits[run.task]
        dataset = data.datasets[task.collection]
        return {
            "dataset": str(self._options.work.absolute() / "collections" / task.collection),
            "structures": list(task.structures),
            "training": list(training_set(dataset, selection, run.size, run.seed)),
            "test": list(selection.test),
            "configuration": run.configuration.to_json(),
            "model": str(base.model),
            "tolerance_mm": task.tolerance_mm,
            "device": self._options.device,
            "precision": precision,
        }

    def _worker(self, module: str, place: Path, request: dict[str, Any], threads: int) -> Mapping[str, Any]:
        """Run a module of this package in a process; returns its result.

        Raises StudyError with what it said when it fails, Cancelled.
        """
        if self._cluster is not None:
            return self._cluster.run(module, place, request, self._stop)
        request = request | {"threads": threads, "parent": os.getpid()}
        try:
            place.mkdir(parents=True, exist_ok=True)
            write_text_durably(place / REQUEST_FILE, json.dumps(request))
            end = run_module(self._python, f"{_PACKAGE}.{module}", [str(place)], float("inf"), self._stop)
            if end.exit_code != 0 or not (place / RESULT_FILE).is_file():
                raise StudyError(self._bad_end(place.name, end.exit_code, end.end_signal, end.messages))
            result: dict[str, Any] = json.loads((place / RESULT_FILE).read_text(encoding="utf-8"))
        except OSError as error:
            raise StudyError(f"The process of {place.name} cannot be run: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(place, ignore_errors=True)
        if "error" in result:
            raise StudyError(str(result["error"]))
        return result

    def _bad_end(self, name: str, exit_code: int, signal: int | None, messages: bytes) -> str:
        """Keep the messages of a failed process in a file, and return the last one for a person."""
        path = self._options.work.absolute() / "failed" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(messages)
        last = messages.decode("utf-8", "replace").strip().splitlines()[-1:]
        ended = f"ended by signal {signal}" if signal is not None else f"exit code {exit_code}"
        memory = "; most likely there was not enough memory" if signal == 9 else ""
        return (
            f"The process of {name} failed ({ended}{memory}): {last[0] if last else 'it printed nothing'}. See {path}."
        )

    def _result(self, run: Run, made: Mapping[str, Any], base: ReadyBase, data: StudyData) -> Result:
        """Return the line of the results for what a worker returned."""
        task = self._study.tasks[run.task]
        training = training_set(data.datasets[task.collection], data.splits[run.task], run.size, run.seed)
        return Result(
            key=run.key,
            hash=run.hash,
            base=run.base,
            task=run.task,
            size=run.size,
            strategy=run.strategy,
            seed=run.seed,
            training=training,
            scores={
                case: {name: tuple(triple) for name, triple in row.items()}  # type: ignore[misc]
                for case, row in made["scores"].items()
            },
            patients=made["patients"],
            tolerance_mm=task.tolerance_mm,
            grid=made["grid"],
            cpu_s=made["cpu_s"],
            wall_s=made["wall_s"],
            test_s=made["test_s"],
            tail_steps=made["tail_steps"],
            steps=made["steps"],
            base_weights=base.weights,
            device=made["device"],
            threads=self._options.threads,
            version=code_version(),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            extra={"starts": made["starts"], "last_loss": made["last_loss"]},
        )
