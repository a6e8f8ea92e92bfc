"""Death at any moment: what was reported saved is there, the project is readable, and what is left over goes."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from TransferSegLib.corrections import project as project_module
from TransferSegLib.corrections.checking import check_project
from TransferSegLib.corrections.project import Project
from TransferSegLib.corrections.structure_changes import merge_structures
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.datasets.validate import has_errors, report
from TransferSegLib.errors import DatasetError

CHILD = Path(__file__).with_name("adding_child.py")


class Snapshots:
    """Copies a project before every file operation of a change: each copy is what a kill at that moment leaves."""

    def __init__(self, project: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._project, self._folder = project, folder
        self._copying = False
        self.taken: list[Path] = []
        self._last = ""
        operations = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "open")
        for module, names in ((os, operations), (sitk, ("WriteImage",))):
            for name in names:
                monkeypatch.setattr(module, name, self._wrapped(getattr(module, name)))

    def _wrapped(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*words: Any, **more: Any) -> Any:
            self.take()
            return original(*words, **more)

        return operation

    def take(self) -> None:
        """Copy the project unless nothing changed since the last copy."""
        if self._copying or not self._project.exists():
            return
        self._copying = True
        files = sorted(path for path in self._project.rglob("*") if path.is_file())
        now = repr([(str(path), path.read_bytes()) for path in files])
        if now != self._last:
            self._last = now
            self.taken.append(self._folder / str(len(self.taken)))
            shutil.copytree(self._project, self.taken[-1])
        self._copying = False


def contents(folder: Path) -> dict[tuple[str, int], tuple[str, bool]]:
    """Return, per case and revision, its content hash and whether it is removed."""
    state = Project(folder).state()
    return {(r.case.id, r.number): (r.content_hash, bool(r.removed)) for r in state.every_revision}


def settled(folder: Path) -> None:
    """Assert that the next change clears everything that is left over, and that all files are as they should be."""
    problems = check_project(Project(folder))
    assert not has_errors(problems), report(problems)
    assert not [problem for problem in problems if "belongs to no revision" in problem.what]
    assert check_project(Project(folder)) == [problem for problem in problems if "cleared" not in problem.what]
    assert not list((folder / ".incoming").glob("*"))
    named = {file for revision in Project(folder).state().every_revision for file in revision.files()}
    assert {path for path in (folder / "cases").rglob("*") if path.is_file()} == named


def test_at_every_file_operation_of_the_first_case(make, tmp_path: Path) -> None:
    """A project that is being made is there with its case, or is still to be made."""
    with pytest.MonkeyPatch.context() as patch:
        snapshots = Snapshots(make.project.folder, tmp_path / "snapshots", patch)
        make.add(0, 1, 2)
    after = contents(make.project.folder)
    seen = []
    for snapshot in snapshots.taken:
        there = (snapshot / "dataset.json").exists()
        seen.append(there)
        if there:
            assert contents(snapshot) == after
        else:
            with pytest.raises(DatasetError, match="no project"):
                Project(snapshot).state()
            again = Project(snapshot, create=True).add_case(
                make.scan(), make.labels(1, 2), ["liver", "spleen"], structures=make.organs
            )
            assert again.revision.case.id == "case-0001" and contents(snapshot) == after
        settled(snapshot)
    assert seen == sorted(seen) and not seen[0] and seen[-1]


@pytest.mark.parametrize("change", ["add", "again", "remove", "merge"])
def test_at_every_file_operation(make, tmp_path: Path, change: str) -> None:
    folder = make.project.folder
    make.add(0, 1, 2)
    make.add(1, 1, 2, prediction=make.labels(2))
    before = contents(folder)
    with pytest.MonkeyPatch.context() as patch:
        snapshots = Snapshots(folder, tmp_path / "snapshots", patch)
        if change == "add":
            make.add(2, 2, prediction=make.labels(1))
        elif change == "again":
            make.add(0, 2, 2)
        elif change == "remove":
            make.project.remove_case("case-0001")
        else:
            merge_structures(make.project, ["liver", "spleen"], "organs")
    after = contents(folder)
    settled(folder)
    assert len(snapshots.taken) >= {"remove": 4}.get(change, 12)
    seen = []
    for number, snapshot in enumerate(snapshots.taken):
        seen.append(contents(snapshot))
        assert seen[-1] in (before, after), snapshot
        assert read_dataset(snapshot).ids
        # The backup never lacks what was reported saved.
        shutil.copytree(snapshot, tmp_path / "damaged")
        (tmp_path / "damaged" / "dataset.json").unlink()
        Project(tmp_path / "damaged").repair()
        repaired = contents(tmp_path / "damaged")
        assert repaired == seen[-1] or (repaired == after and seen[-1] == before)
        if repaired != seen[-1]:
            settled(tmp_path / "damaged")
        shutil.rmtree(tmp_path / "damaged")
        if number % 2 or seen[-1] != seen[0]:
            settled(snapshot)
            assert contents(snapshot) == seen[-1]
    assert seen == sorted(seen, key=lambda one: one == after), "once saved, it stays"
    assert seen[0] == before and seen[-1] == after


def start(*words: object) -> subprocess.Popen[str]:
    """Start the child and wait until it has imported everything."""
    child = subprocess.Popen(
        [sys.executable, str(CHILD), *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHILD.parents[2])},
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    return child


def saved_in(folder: Path, lines: list[dict[str, Any]], kills: int) -> None:
    """Assert that everything children reported is in the project, as it was reported.

    A killed child may have saved one change more, which it could not report.
    """
    state = Project(folder).state()
    revisions = {(r.case.id, r.number): r for r in state.every_revision}
    for line in lines:
        revision = revisions[line["case"], line["revision"]]
        assert revision.notes == line["notes"]
        if line["values"] is not None:
            voxels_zyx = sitk.GetArrayFromImage(sitk.ReadImage(str(revision.case.labels)))
            assert (voxels_zyx == line["values"]).all()
    reported = {line["case"]: (line["revision"], line["removed"]) for line in lines}
    found = {r.case.id: (r.number, bool(r.removed)) for r in (*state.current, *state.removed)}
    assert len(found.items() - reported.items()) <= kills


def test_killed_at_random_moments(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    chance = random.Random(4)
    lines: list[dict[str, Any]] = []
    for seed in range(1, 6):
        with start(folder, seed) as child:
            assert child.stdout is not None
            told = [child.stdout.readline() for _ in range(chance.randint(0, 4))]
            time.sleep(chance.uniform(0.0, 0.15))
            child.kill()
            told += child.stdout.read().splitlines()
        lines += [json.loads(line) for line in told if line.strip().endswith("}")]
        if (folder / "dataset.json").exists():
            saved_in(folder, lines, kills=seed)
        else:
            assert not lines
    assert len(lines) > 5, "the children were killed before they did anything"
    settled(folder)


def test_two_processes_use_one_project(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    children = [start(folder, seed, 6) for seed in (1, 1, 2)]  # two of them add the same scans
    lines = []
    for child in children:
        told, _ = child.communicate(timeout=120)
        assert child.returncode in (0, 1)
        lines.append([json.loads(line) for line in told.splitlines()])
    assert len(lines[2]) == 6
    revisions = {(r.case.id, r.number): r for r in Project(folder).state().every_revision}
    for told in lines:
        for line in told:
            assert revisions[line["case"], line["revision"]].notes == line["notes"]
    added = [(line["case"], line["revision"]) for told in lines for line in told if line["values"] is not None]
    assert len(added) == len(set(added)) == len(revisions), "no revision was overwritten"
    settled(folder)


def test_changes_that_overlap_are_both_kept(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that stops between reading the project and saving it must not overwrite what another one saves."""
    make.add(0, 1)
    original = project_module.save_project_text

    def slow(*words: Any) -> None:
        time.sleep(0.3)
        original(*words)

    monkeypatch.setattr(project_module, "save_project_text", slow)
    with ThreadPoolExecutor() as pool:
        added = list(pool.map(lambda seed: make.add(seed, 1), [1, 2, 1]))
    found = {(one.revision.case.id, one.revision.number) for one in added}
    assert found | {("case-0001", 1)} == set(contents(make.project.folder)) and len(found) == 3
    settled(make.project.folder)


def test_a_change_waits_for_another_one_and_says_so(make) -> None:
    make.add(0, 1)
    impatient = Project(make.project.folder, timeout_s=0.1)
    with (
        make.project.changing(),
        pytest.raises(DatasetError, match=r"is being changed by another program\. Try again"),
    ):
        impatient.remove_case("case-0001")
    impatient.remove_case("case-0001")
