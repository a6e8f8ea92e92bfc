"""Fine-tuning with several processes: the same version as with one, made once, and one end for all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from Testing.finetuning import projects
from Testing.training.group import run_group
from TransferSegLib.errors import Cancelled, TrainingError
from TransferSegLib.finetuning import all_layers, holding_out
from TransferSegLib.finetuning.finetune import finetune
from TransferSegLib.inference import devices
from TransferSegLib.models.store import load_model
from TransferSegLib.models.versions.history import history
from TransferSegLib.progress import CancelToken, Progress
from TransferSegLib.training.processes import is_first

#: What the processes may take before the test fails.
_LONGEST_S = 300
KNOBS = replace(projects.KNOBS, tail_steps=4, steps=4, batch=3, patches_per_case=1, report_cases=0)


def make_version(project: Path, library: Path, stop_at: str = "", fail_at: str = "", **more: Any) -> Any:
    """Fine-tune in float32, whose roundings are small; return the result as JSON, or "stopped"."""
    float32 = devices.Device("cpu", "CPU", torch.float32)
    devices.choose_device = all_layers.choose_device = lambda name, dtype=None: float32  # type: ignore[assignment]
    cancel, seen = CancelToken(), []

    def watch(progress: Progress) -> None:
        assert is_first(), "another process has reported progress"
        seen.append(progress.key)
        if stop_at and stop_at in progress.key:
            cancel.cancel()

    if fail_at:

        def fail(*arguments: Any, **options: Any) -> None:
            raise TrainingError(f"{fail_at} failed.")

        setattr(holding_out.HoldingOut, fail_at, fail)
    request = projects.request(project, library, configuration=KNOBS, **more)
    try:
        return finetune(request, watch, cancel).to_json()
    except Cancelled:
        return "stopped"


@pytest.fixture
def place(world: Any, tmp_path: Path) -> tuple[Path, Any]:
    """Return a project of three patients, and a function that makes a library with a parent to which one is new."""
    parent = world.make_parent(world.label_set("dark"), width=1)
    project = projects.add_cases(tmp_path / "project", [1, 2, 3], ["bright"])
    return project, lambda name: projects.put_parent(tmp_path / name, parent)


def comparable(result: dict[str, Any]) -> str:
    """Return what was found out, with Dice to two digits, without paths and times."""
    rows = [
        (row["structure"], row["candidate"] and round(row["candidate"], 2))
        for row in result["evidence"]["method"]["rows"]
    ]
    return json.dumps([result["version"], result["strategy"], rows, result["cases"]])


def test_two_processes_make_the_version_that_one_makes(place: tuple[Path, Any]) -> None:
    project, library = place
    two = library("two")
    whole = run_group(1, make_version, project, library("one"))[0]
    assert isinstance(whole, dict), whole
    # Stopped while all layers are trained, and resumed with another number of processes.
    assert run_group(2, make_version, project, two, "train-finetune:2/all-layers") == ["stopped"] * 2
    first, second, third = run_group(3, make_version, project, two)
    assert first == second == third, "every process returns the result"
    assert isinstance(first, dict), first
    assert comparable(first) == comparable(whole)
    assert [version.number for version in history("tiny", two).versions] == [0, 1]
    # In this tiny network some weights have next to no gradient, and follow its rounding: noise of 3e-7 in gradients
    # moves them apart by 0.11, a patch less in each step by 0.70.
    made, expected, before = (
        load_model(path).state_dict for path in (Path(first["path"]), Path(whole["path"]), two / "tiny")
    )
    layers = [name for name, value in before.items() if value.shape == expected[name].shape]
    moved = torch.cat([(expected[name] - before[name]).flatten() for name in layers]).abs().mean()
    apart = torch.cat([(made[name] - expected[name]).flatten() for name in layers]).abs().mean()
    assert moved > 1e-3 and apart < 0.2 * moved, (moved, apart)
    assert not (project / ".fine-tuning").exists()


def test_the_others_end_as_the_first_does(place: tuple[Path, Any]) -> None:
    project, library = place
    expected = ["TrainingError: compare failed."] * 2
    assert run_group(2, make_version, project, library("one"), "", "compare") == expected


def test_a_plan_by_minutes_is_measured_together(place: tuple[Path, Any]) -> None:
    project, library = place
    first, second = run_group(2, _by_minutes, project, library("one"))
    assert first == second and isinstance(first, dict) and first["version"] == 1, (first, second)


def _by_minutes(project: Path, library: Path) -> Any:
    return make_version(project, library, minutes=0.4)


def test_a_batch_of_one_is_refused(place: tuple[Path, Any]) -> None:
    project, library = place
    for one in run_group(2, _batch_of_one, project, library("one")):
        assert one.startswith("TrainingError: 2 processes cannot share a step of 1 patch"), one
    assert not (project / ".fine-tuning").exists()


def _batch_of_one(project: Path, library: Path) -> Any:
    return finetune(projects.request(project, library, configuration=replace(KNOBS, batch=1)))


def test_the_command_under_torchrun(place: tuple[Path, Any], tmp_path: Path) -> None:
    project, library = place
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(KNOBS.to_json() | {"batch": 2}), encoding="utf-8")
    words = ["--project", str(project), "--library", str(library("one")), "--model", "tiny", "--minutes", "0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "TransferSegLib"]
    done = subprocess.run(
        [*command, "finetune", *words, "--device", "cpu", "--configuration", str(settings)],
        capture_output=True,
        text=True,
        timeout=_LONGEST_S,
        cwd=Path(projects.__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("strategy finetune, 3 corrected cases of 3 patients") == 1, done.stdout
    assert [version.number for version in history("tiny", tmp_path / "one").versions] == [0, 1]
