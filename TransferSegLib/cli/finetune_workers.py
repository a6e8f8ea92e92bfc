"""Options of ``transferseg finetune`` for candidates of the folds that are trained at the same time."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from TransferSegLib.errors import TrainingError
from TransferSegLib.finetuning.strategies import AUTO, STRATEGIES
from TransferSegLib.finetuning.time_plan import CHOOSING_FOLDS, MOST_FOLDS
from TransferSegLib.training.processes import are_several

if TYPE_CHECKING:
    from TransferSegLib.finetuning.request import FineTuneRequest
    from TransferSegLib.finetuning.side_by_side import OpenWorkers


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("candidates of the folds at the same time (of no use on one GPU)")
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="train N candidates at a time, each in a process (default: one after another; with --ray as many as fit, "
        "up to one for each candidate)",
    )
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="on the nodes of a running Ray cluster (auto, or HOST:PORT); they must share the folders",
    )
    group.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads of each worker (default: the CPU cores divided by N; with --ray 1)",
    )


def check_worker_options(arguments: argparse.Namespace) -> None:
    """Raise TrainingError for options that do not go together."""
    if arguments.workers is None and arguments.ray is None:
        if arguments.threads is not None:
            raise TrainingError("--threads is for --workers or --ray.")
        return
    for name in ("workers", "threads"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            raise TrainingError(f"--{name} {getattr(arguments, name)}: give 1 or more.")
    if are_several() or arguments.background:
        raise TrainingError("--workers and --ray are neither for torchrun nor for --background: give them without.")


def workers_and_threads(arguments: argparse.Namespace) -> tuple[int, int]:
    """Return how many workers the plan counts with (0: none), and the threads of each.

    More workers than candidates would only leave fewer threads for each.
    """
    if arguments.workers is None and arguments.ray is None:
        return 0, 1
    most = arguments.folds or MOST_FOLDS
    if arguments.strategy == AUTO:
        most = max(most, CHOOSING_FOLDS * len(STRATEGIES))
    workers = min(arguments.workers or most, most)
    return workers, arguments.threads or (1 if arguments.ray is not None else max(1, _cores() // workers))


def workers_of(
    arguments: argparse.Namespace, request: FineTuneRequest, tell: Callable[[str], None]
) -> OpenWorkers | None:
    """Return what starts the workers that were asked for, and tells where they must wait; None where there are none."""
    if not request.workers:
        return None
    from TransferSegLib.executors.fold_jobs import fold_jobs

    return fold_jobs(request, arguments.ray, None if arguments.workers is None else request.workers, tell)


def with_room_of_cluster(request: FineTuneRequest, arguments: argparse.Namespace) -> FineTuneRequest:
    """Return the request with as many workers as there will be, which on a cluster only the cluster knows.

    Raises JobError where no cluster answers, or none of its nodes is large enough for a worker.
    """
    if arguments.ray is None:
        return request
    from TransferSegLib.executors.ray_cluster import cluster_room

    room = cluster_room(arguments.ray, request.threads, request.device)
    return request if arguments.workers is not None else replace(request, workers=max(1, min(request.workers, room)))


def _cores() -> int:
    """Return the CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
