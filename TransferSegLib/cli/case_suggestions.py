"""``transferseg cases suggest``: in which order to correct the scans of a folder."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from TransferSegLib.cli.options import add_device_option, add_json_option
from TransferSegLib.cli.reporting import task_shown
from TransferSegLib.cli.scan_folders import scans_in
from TransferSegLib.errors import TransferSegError
from TransferSegLib.wording import counted, table

if TYPE_CHECKING:
    from TransferSegLib.corrections.revisions import ProjectState
    from TransferSegLib.corrections.suggestion import SuggestedScan, Suggestions

#: Scans that are shown unless asked otherwise.
_SHOWN = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of scan files or DICOM folders")
    parser.add_argument("--model", help="model name, folder or .zip (default: the bundled head and neck CT model)")
    parser.add_argument("--count", type=int, default=_SHOWN, metavar="N", help=f"scans to show (default: {_SHOWN})")
    parser.add_argument("--memory", type=float, metavar="GB", help="memory limit, as of transferseg segment")
    add_device_option(parser)
    add_json_option(parser)


def run_suggest(arguments: argparse.Namespace) -> int:
    """Print the scans in the order in which to correct them; 2 when none of them can be used."""
    from TransferSegLib.corrections.kept_order import keep_order, mark
    from TransferSegLib.corrections.suggestion import suggest
    from TransferSegLib.models.locate import find_model

    if arguments.count < 1:
        raise TransferSegError(f"--count {arguments.count}: give a number of scans, 1 or more.")
    if arguments.memory is not None and not 0 < arguments.memory < float("inf"):
        raise TransferSegError(f"--memory {arguments.memory:g} is no amount of memory: give gigabytes, e.g. 4.")
    model = find_model(arguments.model)
    project = _project(arguments.project)
    scans = scans_in(arguments.folder, None, arguments.project)
    seen = {scan: mark(scan) for scan in scans}
    with task_shown("Looking at scans") as task:
        found = suggest(scans, model, project, device=arguments.device, memory_gb=arguments.memory, task=task)
    keep_order(found, arguments.folder, model, arguments.project, seen)
    for path, why in found.unreadable:
        print(f"transferseg: {path.name} is left out: {why}", file=sys.stderr)
    if arguments.json:
        print(json.dumps({"folder": str(arguments.folder), "model": str(model), **found.to_json()}))
    else:
        print(report(found, arguments.count))
    return 0 if found.ranked or found.corrected else 2


def _project(folder: Path) -> ProjectState | None:
    """Return what a project holds, None for one that its first case will make."""
    from TransferSegLib.corrections.project import Project

    return Project(folder).state() if (folder / "dataset.json").exists() else None


def report(found: Suggestions, count: int) -> str:
    """Return the table of the first scans, and what else was in the folder."""
    rows = [_row(number, one) for number, one in enumerate(found.ranked[:count], start=1)]
    parts = [table(("", "scan", "doubt", "unlike the others", "note"), rows)] if rows else []
    others = [
        f"{counted(len(paths), 'scan')} {what}"
        for paths, what in (
            (found.corrected, "in the project already"),
            (found.twice, "there twice"),
            (found.unreadable, "cannot be used"),
        )
        if paths
    ]
    left = len(found.ranked) - len(rows)
    if left:
        others.insert(0, f"{counted(left, 'more scan')} to correct")
    return "\n".join([*parts, *([f"{'; '.join(others)}."] if others else [])])


def _row(number: int, one: SuggestedScan) -> tuple[str, ...]:
    novelty = "-" if one.novelty is None else f"{one.novelty:.2f}"
    return (str(number), one.scan.name, f"{one.doubt:.2f}", novelty, one.warnings[0] if one.warnings else "")
