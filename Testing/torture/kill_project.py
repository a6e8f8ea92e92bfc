"""Four writers on a project, killed at random moments: what was reported saved is there, and the next change works."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import tiny
from trials import Outcome
from warm import Warm, in_process

from TransferSegLib.corrections.checking import check_project
from TransferSegLib.corrections.project import Project
from TransferSegLib.datasets.validate import has_errors, report

WRITERS = 4
KILLS_A_PROJECT = 24
_CHILD = Path(__file__).parents[1] / "corrections" / "adding_child.py"
_specification = importlib.util.spec_from_file_location("adding_child", _CHILD)
assert _specification is not None and _specification.loader is not None
adding_child = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(adding_child)


def trials(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """Yield after each kill what was lost."""
    number = 0
    while True:
        number += 1
        project = folder / f"project-{number}"
        lines: list[dict[str, Any]] = []
        writers = [_start(project, chance) for _ in range(WRITERS)]
        ended: list[Warm] = []
        try:
            for kill in range(1, KILLS_A_PROJECT + 1):
                time.sleep(chance.uniform(0.0, 0.15))
                victim = chance.randrange(len(writers))
                writers[victim].kill()
                ended.append(writers[victim])
                last = kill > KILLS_A_PROJECT - WRITERS
                if last:
                    writers.pop(victim)
                else:
                    writers[victim] = _start(project, chance)
                for writer in writers:
                    writer.read()
                lines = [json.loads(line) for one in [*ended, *writers] for line in one.lines if line.startswith("{")]
                wrong = [line for one in ended for line in one.lines if line.startswith("traceback ")]
                wrong = [line for line in wrong if "DatasetError" not in line and "ScanError" not in line]
                for one in ended:
                    one.lines = [line for line in one.lines if not line.startswith("traceback ")]
                found = in_process(_check, project, lines, not writers)
                yield 1, [*wrong, *(found.value or []), *([found.failure] if found.failure else [])]
        finally:
            for writer in writers:
                writer.kill()
        shutil.rmtree(project, ignore_errors=True)


def _start(project: Path, chance: random.Random) -> Warm:
    """Start a writer; several add the same scans now and then."""
    return Warm(adding_child.main, str(project), chance.randrange(1, 40), 10**9)


def _check(folder: Path, lines: list[dict[str, Any]], alone: bool) -> list[str]:
    """Return what is not as it was reported; ``alone``: nothing else runs, so that everything must be tidy."""
    if not (folder / "dataset.json").exists():
        return ["the project is gone"] if lines else []
    wrong = []
    revisions = {(one.case.id, one.number): one for one in Project(folder).state().every_revision}
    for line in lines:
        revision = revisions.get((line["case"], line["revision"]))
        if revision is None or revision.notes != line["notes"]:
            wrong.append(f"lost: {line['case']} revision {line['revision']}")
        elif line["values"] is not None and alone:
            voxels_zyx = sitk.GetArrayFromImage(sitk.ReadImage(str(revision.case.labels)))
            if not (voxels_zyx == line["values"]).all():
                wrong.append(f"other voxels: {line['case']} revision {line['revision']}")
    if alone:
        Project(folder).add_case(tiny.scan(999_999), tiny.label_map(1), ["liver"], structures=adding_child.STRUCTURES)
        problems = check_project(Project(folder))
        if has_errors(problems):
            wrong.append(" | ".join(report(problems).splitlines()))
        named = {file for one in Project(folder).state().every_revision for file in one.files()}
        wrong += [
            f"left over: {file}" for file in (folder / "cases").rglob("*") if file.is_file() and file not in named
        ]
        wrong += [f"left over: {file}" for file in (folder / ".incoming").glob("*")]
    return wrong
