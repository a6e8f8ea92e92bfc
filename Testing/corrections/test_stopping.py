"""Adding a case and checking a project stop at any look they take at the token; the project is as it was then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from Testing.impatient import Impatient
from TransferSegLib.corrections.checking import check_project
from TransferSegLib.errors import Cancelled
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
