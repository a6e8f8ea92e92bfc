"""A full disk, and few descriptors: an act fails with one line or works, and what was there stays."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import kill_outputs
import SimpleITK as sitk
import tiny
from trials import Outcome
from warm import in_process

from TransferSegLib.corrections.checking import check_project
from TransferSegLib.corrections.project import Project
from TransferSegLib.datasets.validate import has_errors, report
from TransferSegLib.errors import TransferSegError
from TransferSegLib.images.read import read_label_map, read_scan
from TransferSegLib.images.write import write_label_map
from TransferSegLib.models.archive import export_model
from TransferSegLib.models.library import import_model
from TransferSegLib.models.locate import library_models
from TransferSegLib.models.store import load_model


def full_disk(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """No file may become longer than so many bytes, which is how a disk fills up while it is written."""
    return _trials(folder, chance, _no_long_files, lambda: int(10 ** chance.uniform(0, 5.3)))


def few_descriptors(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """Only some more files may be open at once."""
    return _trials(folder, chance, _few_files, lambda: chance.randrange(0, 9))


def _trials(
    folder: Path, chance: random.Random, limit: Callable[[int], None], amount: Callable[[], int]
) -> Iterator[Outcome]:
    """Yield what was wrong after each act under a limit."""
    made = in_process(_prepare, str(folder))
    if made.failure:
        yield 1, [made.failure]
        return
    names = list(_acts(folder))
    while True:
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(folder / "template", work)
        act, how_much = chance.choice(names), amount()
        done = in_process(_act, str(folder), act, limit, how_much)
        checked = in_process(_check, str(work))
        wrong = [*(done.value or []), *(checked.value or []), *(end.failure for end in (done, checked) if end.failure)]
        yield 1, [f"{act} with {how_much}: {line}" for line in wrong]


def _prepare(folder: str) -> None:
    """Make a project, a library and files to work on."""
    place = Path(folder) / "template"
    place.mkdir()
    project = Project(place / "project", create=True)
    for number in range(2):
        project.add_case(tiny.scan(number), tiny.label_map(1), ["liver"], structures=tiny.LABEL_SET)
    model = tiny.write_model(place / "model")
    export_model(model, place / "model.zip")
    import_model(place / "model.zip", place / "library", "one")
    write_label_map(tiny.label_map(1), place / "labels.nii.gz", tiny.LABEL_SET)
    sitk.WriteImage(tiny.scan(3), str(place / "scan.nii.gz"))
    sitk.WriteImage(tiny.scan(3), str(place / "scan.vtk"))


def _acts(folder: Path) -> dict[str, Callable[[], Any]]:
    """Return the acts by name."""
    place = folder / "work"
    big = tiny.label_map(2, (30, 40, 40))
    words = [
        "segment",
        str(place / "scan.nii.gz"),
        "--output",
        str(place / "out.nii.gz"),
        "--model",
        str(place / "model"),
    ]
    project = place / "project"
    return {
        "add a case": lambda: Project(project).add_case(
            tiny.scan(7), tiny.label_map(2), ["liver"], structures=tiny.LABEL_SET
        ),
        "remove a case": lambda: Project(project).remove_case("case-0001"),
        "import": partial(import_model, place / "model.zip", place / "library", "two"),
        "import again": partial(import_model, place / "model.zip", place / "library", "one", replace=True),
        "export": partial(export_model, place / "library" / "one", place / "model.zip", overwrite=True),
        "save": partial(tiny.write_model, place / "model", 2),
        "write": partial(write_label_map, big, place / "labels.nii.gz", tiny.LABEL_SET),
        "segment": partial(kill_outputs._command, [*words, "--device", "cpu"]),
        "read": partial(read_scan, place / "scan.vtk"),
        "make a job": partial(kill_outputs._make_job, str(place), str(place / "jobs")),
    }


def _no_long_files(most_bytes: int) -> None:
    """Let a write beyond so many bytes fail."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))


def _few_files(more: int) -> None:
    """Let only so many more files be open."""
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, lowest + more))


def _act(folder: str, name: str, limit: Callable[[int], None], amount: int) -> list[str]:
    """Do an act under a limit; returns what is wrong with the way it ends."""
    act = _acts(Path(folder))[name]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit(amount)
    try:
        code = act()
        return [f"exit code {code}"] if isinstance(code, int) and code not in (0, 2) else []
    except TransferSegError as error:
        return ["not one line"] if "\n" in str(error) else []
    finally:
        if limit is _no_long_files:
            pass
        elif resource.getrlimit(resource.RLIMIT_NOFILE)[1] == before[1]:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _check(place: str) -> list[str]:
    """Return what is lost, and do the next act."""
    work, wrong = Path(place), []
    state = Project(work / "project").state()
    if len(state.current) + len(state.removed) not in (2, 3):
        wrong.append(f"{len(state.current)} cases")
    Project(work / "project").add_case(tiny.scan(9), tiny.label_map(1), ["liver"], structures=tiny.LABEL_SET)
    problems = check_project(Project(work / "project"))
    if has_errors(problems):
        wrong.append(" | ".join(report(problems).splitlines()))
    read_label_map(work / "labels.nii.gz")
    for model in (work / "model", work / "model.zip", *library_models(work / "library")):
        load_model(model)
    if not (work / "library" / "one").exists():
        wrong.append("a model is gone")
    import_model(work / "model.zip", work / "library", "three")
    return wrong
