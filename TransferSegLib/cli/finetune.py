"""``transferseg finetune``: corrected cases in, a new version of a model out, with evidence whether it is better."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from TransferSegLib.cli.default_project import add_project_option, on_project
from TransferSegLib.cli.finetune_workers import (
    add_worker_options,
    check_worker_options,
    with_room_of_cluster,
    workers_and_threads,
    workers_of,
)
from TransferSegLib.cli.jobs import add_background_options, start_in_background
from TransferSegLib.cli.options import add_device_option, add_json_option, print_json, read_settings
from TransferSegLib.cli.reporting import interruptible, progress_shown, task_shown
from TransferSegLib.errors import Cancelled, JobError, TrainingError
from TransferSegLib.evaluation.scores import DEFAULT_TOLERANCE_MM
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.request import DEFAULT_MINUTES, LIMIT_MINUTES, FineTuneRequest
from TransferSegLib.finetuning.strategies import AUTO, FINETUNE, STRATEGIES
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.training.processes import are_several, is_first, joined


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser = subparsers.add_parser(
        "finetune",
        help="fine-tune a model on corrected cases, and test whether it is better",
        description="Fine-tune a model on a project of corrected cases, compare the result with the model on "
        "cases left out of training, and keep it as a version in your library. It is used from then on only if it is "
        "better.",
        epilog="To continue after an interruption (Ctrl-C, a crash, a power cut), give the same command again. "
        'Every training setting can be given in a JSON file with --configuration, e.g. {"steps": 200}; they are '
        "described in TransferSegLib/finetuning/configuration.py.",
    )
    add_project_option(parser)
    parser.add_argument(
        "--model", help="the model to start from: name, NAME@VERSION or folder (default: the bundled one)"
    )
    parser.add_argument(
        "--name", help="model in your library that gets the new version (default: --model, or NAME-corrected)"
    )
    _add_time(parser)
    parser.add_argument(
        "--strategy",
        choices=(*STRATEGIES, AUTO),
        help="how to train [finetune; another modality: vanilla]; auto: whichever does best on cases left out of "
        "training",
    )
    parser.add_argument(
        "--cases", nargs="+", metavar="CASE", help="learn only from these (default: all cases of the project)"
    )
    parser.add_argument(
        "--structures", nargs="+", metavar="NAME", help="learn only these (default: all that were reviewed)"
    )
    parser.add_argument(
        "--modality",
        metavar="WORD",
        help="modality of the cases, e.g. MR [as the project states, else judged by intensities]",
    )
    parser.add_argument(
        "--spacing-mm",
        nargs="+",
        metavar="MM",
        help="voxel size of the new version: one number, three (x y z), or 'parent' for the model's [the model's; "
        "where all structures are new, what they need]",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="random seed [1]")
    parser.add_argument("--configuration", type=Path, metavar="FILE", help="JSON file with settings")
    parser.add_argument(
        "--folds", type=int, metavar="N", help="maximum number of folds, each with a candidate to compare [3]"
    )
    parser.add_argument(
        "--tolerance-mm",
        type=float,
        default=DEFAULT_TOLERANCE_MM,
        metavar="MM",
        help=f"tolerance of the surface Dice [{DEFAULT_TOLERANCE_MM:g}]",
    )
    _add_what_becomes_of_it(parser)
    add_device_option(parser)
    parser.add_argument(
        "--plan",
        "--dry-run",
        action="store_true",
        dest="plan",
        help="show what can and cannot be done in the time, and stop (takes some seconds to measure speeds)",
    )
    add_json_option(parser)
    changes = parser.add_argument_group("structures that change (those not named are kept, or added)")
    changes.add_argument(
        "--renamed", nargs=2, action="append", metavar=("NEW", "OLD"), help="a structure gets a new name"
    )
    changes.add_argument(
        "--merged", nargs="+", action="append", metavar="NAME", help="NEW OLD OLD ...: several become one"
    )
    changes.add_argument("--split", nargs=2, action="append", metavar=("NEW", "OLD"), help="NEW is a part of OLD")
    gone = changes.add_mutually_exclusive_group()
    gone.add_argument("--drop", nargs="+", metavar="NAME", help="structures of the model that are no longer needed")
    gone.add_argument(
        "--keep-all",
        action="store_true",
        help="keep all structures of the model, also on another modality, where otherwise none is kept",
    )
    add_worker_options(parser)
    add_background_options(parser)
    parser.set_defaults(run=on_project(run))


def _add_time(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how long to train."""
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help=f"time for the whole run [{DEFAULT_MINUTES:g}]; 0: no limit, as many steps as configured",
    )
    parser.add_argument(
        "--until-converged",
        action="store_true",
        help="train until the Dice on cases left out of training no longer improves; --minutes is then a limit "
        f"[{LIMIT_MINUTES:g}; 0: none]",
    )


def _add_what_becomes_of_it(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the new version is kept, and when it is used."""
    promotion = parser.add_mutually_exclusive_group()
    promotion.add_argument(
        "--promote", action="store_true", help="use the new version unless it is worse or not usable"
    )
    promotion.add_argument(
        "--no-promote", action="store_true", help="never use the new version automatically, even if it is better"
    )
    parser.add_argument("--library", type=Path, metavar="FOLDER", help="another model library than your own")


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune and print what came of it."""
    started = time.monotonic()  # loading PyTorch takes some of the minutes
    check_worker_options(arguments)
    request = _request(arguments)
    if are_several() and (arguments.plan or arguments.background):
        raise TrainingError("--plan and --background are for one process: give them without torchrun.")
    if arguments.plan:
        return _show_plan(request, arguments)
    if arguments.background:
        return _start_in_background(request, arguments)
    from TransferSegLib.finetuning.finetune import finetune
    from TransferSegLib.finetuning.report import report_text

    with joined(arguments.device) as processes:
        if processes.is_first:
            _tell_of_others(request, arguments)
        is_shown = processes.is_first and not arguments.json
        with progress_shown() if is_shown else nullcontext() as progress, interruptible() as cancel:
            try:
                workers = workers_of(arguments, request, _tell)
                result = finetune(request, progress, cancel, tell=_tell, started=started, workers=workers).to_json()
            except Cancelled:
                raise Cancelled("Stopped. What was done is kept: give the same command again to go on.") from None
    if not is_first():
        return 0
    if arguments.json:
        print_json(result)
    else:
        print(report_text(result))
    return 0


def _tell(line: str) -> None:
    """Say what is planned, beside the progress: standard output is for the result."""
    print(line, file=sys.stderr, flush=True)


def _tell_of_others(request: FineTuneRequest, arguments: argparse.Namespace) -> None:
    """Say which other runs are at the project, and what this one will do."""
    from TransferSegLib.finetuning.run_folder import running, runs_of
    from TransferSegLib.jobs.others import on_project

    with suppress(JobError):  # a folder of jobs that cannot be read is told of where it matters
        for job in on_project(request.project, arguments.jobs_folder):
            waits = arguments.background and job.is_before(request.device)
            does = "This one waits until it has ended" if waits else "This one runs beside it, and both take longer"
            _tell(
                f"The job {job.id} ({job.state}) fine-tunes on this project, too. {does}; each makes its own version."
            )
    if running(runs_of(request)):
        does = "This one runs beside it, and both take longer; each makes its own version."
        _tell(f"Another fine-tuning of this project is running. {does}")


def _show_plan(request: FineTuneRequest, arguments: argparse.Namespace) -> int:
    """Print what would be done; exit code 2 where the minutes do not suffice."""
    from TransferSegLib.finetuning.time_budget import foresee

    request = with_room_of_cluster(request, arguments)
    with task_shown(shown=not arguments.json) as task:
        forecast = foresee(request, task, workers_are_here=arguments.ray is None)
    if arguments.json:
        print_json(forecast.to_json())
    else:
        lines = [f"Plan: {forecast.text}" if forecast.time_plan is not None else forecast.text, *forecast.warnings]
        print("\n".join([*lines, "Nothing was started."]))
    return 0 if forecast.time_plan is not None else 2


def _start_in_background(request: FineTuneRequest, arguments: argparse.Namespace) -> int:
    """Start the same as a job, after the checks that take no time."""
    from TransferSegLib.finetuning.plan import check_request
    from TransferSegLib.jobs.others import unfinished_jobs

    title = f"fine-tune {check_request(request)} on {request.project.name}"
    job = JobRequest("finetune", request.to_json(), arguments.device, title)
    if not any(each.is_same(job) for each in unfinished_jobs(arguments.jobs_folder)):  # else nothing is started
        _tell_of_others(request, arguments)
    return start_in_background(job, arguments)


def _request(arguments: argparse.Namespace) -> FineTuneRequest:
    """Return what the command line asks for; raises TrainingError for what cannot be."""
    settings = {} if arguments.configuration is None else read_settings(arguments.configuration, '{"steps": 200}')
    for name in ("strategy", "seed"):
        if getattr(arguments, name) is not None:
            settings[name] = getattr(arguments, name)
    if arguments.spacing_mm is not None:
        settings["spacing_mm"] = _spacing(arguments.spacing_mm)
    if arguments.strategy == FINETUNE:  # asked for by name, it is meant for another modality, too
        settings.setdefault("head_start", "data")
    merged = {new: tuple(old) for new, *old in arguments.merged or ()}
    minutes = arguments.minutes
    if minutes is None:
        minutes = LIMIT_MINUTES if arguments.until_converged else DEFAULT_MINUTES
    workers, threads = workers_and_threads(arguments)
    return FineTuneRequest(
        project=arguments.project,
        model=arguments.model,
        name=arguments.name,
        minutes=minutes,
        until_converged=arguments.until_converged,
        configuration=FineTuningConfiguration.from_json(settings),
        cases=None if arguments.cases is None else tuple(arguments.cases),
        structures=None if arguments.structures is None else tuple(arguments.structures),
        renamed=dict(arguments.renamed or ()),
        merged=merged,
        split=dict(arguments.split or ()),
        dropped=() if arguments.keep_all else None if arguments.drop is None else tuple(arguments.drop),
        modality=arguments.modality,
        device=arguments.device,
        library=arguments.library,
        promote=arguments.promote,
        no_promote=arguments.no_promote,
        most_folds=arguments.folds,
        tolerance_mm=arguments.tolerance_mm,
        command=_command(arguments, minutes),
        workers=workers,
        threads=threads,
    )


def _spacing(texts: Sequence[str]) -> str | list[float]:
    """Return what --spacing-mm says as the setting of that name; a word is checked there."""
    try:
        return [float(text) for text in texts]
    except ValueError:
        return " ".join(texts)


def _command(arguments: argparse.Namespace, minutes: float) -> str:
    """Return the command for the model's provenance: of what was asked only what names no folder and no case."""
    from TransferSegLib.models.leaving import told_command

    names = (
        "minutes",
        "until_converged",
        "folds",
        "tolerance_mm",
        "strategy",
        "seed",
        "device",
        "promote",
        "no_promote",
    )
    return told_command("finetune", {name: getattr(arguments, name) for name in names})
