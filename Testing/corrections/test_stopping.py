"""Adding a case and checking a project stop at any look they take at the token; the project is as it was then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from Testing.impatient import Impatient
from TransferSegLib.corrections.checking import check_project
from TransferSegLib.corrections.project import Project
from TransferSegLib.corrections.structure_changes import drop_structure, merge_structures
from TransferSegLib.errors import Cancelled, DatasetError
from TransferSegLib.images.read import read_label_map
from TransferSegLib.progress import Task


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_adding_stops_also_under_the_lock(make: Any) -> None:
    make.add(1, 1, 2)
    before = files(make.project.folder)
    token = Impatient()
    looks_before_the_lock = 0
    for at in range(1, 200, 2):
        token = Impatient(at)
        try:
            make.add(2, 1, 2, prediction=make.labels(2, 1), cancel=token)
            break
        except Cancelled:
            assert files(make.project.folder) == before, at
            looks_before_the_lock = at
    # The scan's four planes are hashed twice, those of the label map and of the prediction twice each.
    assert looks_before_the_lock > 6 * 4
    assert len(make.project.state().current) == 2


def merged(project: Any, task: Task) -> None:
    merge_structures(project, ["liver", "spleen"], "organs", task)


def dropped(project: Any, task: Task) -> None:
    drop_structure(project, "liver", task)


def add_three(make: Any) -> None:
    """Add a case, one with a prediction and an annotated region, and one whose label map no change concerns."""
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[1:3] = 1
    make.add(1, 1, 2)
    make.add(2, 1, 2, prediction=make.labels(2, 1), judged=make.on_grid(mask))
    make.add(3, 5)


@pytest.mark.parametrize("change", [merged, dropped])
def test_changing_structures_stops_at_any_look(make: Any, change: Any) -> None:
    add_three(make)
    before, at = files(make.project.folder), 1
    while True:
        try:
            change(make.project, Task("", None, Impatient(at)))
            break
        except Cancelled:
            assert files(make.project.folder) == before, at
        at += 3
    assert at > 5 * 4, "label maps are looked at plane by plane"
    assert [one.number for one in make.project.state().current] == [2, 2, 2]
    assert not [problem for problem in check_project(make.project) if "saved" in problem.what], "the hashes are right"


@pytest.mark.parametrize("change", [merged, dropped])
def test_changing_structures_reads_nothing_while_it_holds_the_project(
    make: Any, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It read and hashed every scan of the project then, of which no change of structures changes any."""
    add_three(make)
    locked: list[bool] = []
    changing = Project.changing

    @contextmanager
    def watched(project: Project, *words: Any, **more: Any) -> Iterator[Any]:
        with changing(project, *words, **more) as found:
            locked.append(True)
            yield found
            locked.clear()

    def read(path: Path, *words: Any, **more: Any) -> Any:
        assert not locked and path.name != "image.nrrd", path
        return read_label_map(path, *words, **more)

    monkeypatch.setattr(Project, "changing", watched)
    for name in ("content_hash.read_scan", "content_hash.read_label_map", "structure_changes.read_label_map"):
        monkeypatch.setattr(f"TransferSegLib.corrections.{name}", read)
    change(make.project, Task())
    assert [one.number for one in make.project.state().current] == [2, 2, 2]


def test_a_project_that_is_changed_meanwhile_keeps_its_structure(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    add_three(make)

    def meanwhile(*words: Any, **more: Any) -> Any:
        monkeypatch.undo()
        make.add(4, 1)
        return read_label_map(*words, **more)

    monkeypatch.setattr("TransferSegLib.corrections.content_hash.read_label_map", meanwhile)
    with pytest.raises(DatasetError, match=r"changed meanwhile\. Drop 'liver' again"):
        dropped(make.project, Task())
    assert len(make.project.state().current) == 4


def test_checking_a_project_stops_within_a_revision(make: Any) -> None:
    make.add(1, 1, 2)
    token = Impatient()
    assert not [
        problem for problem in check_project(make.project, Task("", None, token)) if problem.severity == "error"
    ]
    # Scan, scan and label map, then scan and label map again: planes are looked at one by one.
    assert token.looks > 4 * 4
    for at in range(1, token.looks + 1, 5):
        with pytest.raises(Cancelled):
            check_project(make.project, Task("", None, Impatient(at)))
