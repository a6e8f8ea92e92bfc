"""Training a base model as a job: killed, cancelled, resumed, and the same in the end, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from TransferSegLib.cli.main import main
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.errors import Cancelled, JobError, TrainingError
from TransferSegLib.jobs.events import JobState, last_event, read_events
from TransferSegLib.jobs.files import RESULT, WORKER_FACTS, read_json
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.status import read_state
from TransferSegLib.jobs.store import create_job, find_job
from TransferSegLib.jobs.train_base_job import TrainBaseParameters, run_train_base
from TransferSegLib.models.store import load_model
from TransferSegLib.progress import CancelToken, Progress
from TransferSegLib.training import base
from TransferSegLib.training.base import BaseModelPlan, train_base
from TransferSegLib.training.checkpoint import read_checkpoint
from TransferSegLib.training.configuration import TrainingConfiguration

DATA = Path(__file__).resolve().parents[1] / "Data" / "head_neck_ct"
KNOBS = ["--width", "2", "--spacing-mm", "8", "--patch", "32", "--frame", "2", "--warm-up", "2", "--seed", "5"]
Wait = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a dataset of three of the six cases, so that workers start quickly."""
    folder = tmp_path / "Fälle"
    shutil.copytree(DATA, folder)
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    content["cases"] = content["cases"][:3]
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def step_of(folder: Path) -> int:
    """Return the last training step that a job has told of."""
    last = last_event(folder)
    return 0 if last is None or last.key != "training" else last.step or 0


@pytest.mark.skipif(os.name == "nt", reason="kills with SIGKILL")
def test_killed_and_cancelled_it_ends_as_if_it_had_not_been(
    jobs: Path,
    data: Path,
    tmp_path: Path,
    wait_until: Wait,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "run"
    words = ["train-base", "--data", str(data), "--output", str(output), "--device", "cpu", *KNOBS]
    words += ["--steps", "24", "--checkpoint-every", "4", "--validate-every", "10"]
    assert main([*words, "--background"]) == 0
    folder = find_job(capsys.readouterr().out.strip())

    wait_until(lambda: step_of(folder) >= 6)  # between two checkpoints
    os.kill(read_json(folder / WORKER_FACTS)["pid"], signal.SIGKILL)
    wait_until(lambda: read_state(folder) == JobState.INTERRUPTED)
    killed_at = read_checkpoint(output / "checkpoint.pt")["trainer"]["step"]
    assert main(["jobs", "list"]) == 0
    assert "ended from outside" in capsys.readouterr().out
    assert main(["jobs", "follow", folder.name]) == 2

    assert main(["jobs", "resume", folder.name]) == 0
    wait_until(lambda: step_of(folder) >= 12)  # after a validation
    assert main(["jobs", "cancel", folder.name]) == 0
    assert "cancelled: Stopped on request." in capsys.readouterr().out
    cancelled_at = read_checkpoint(output / "checkpoint.pt")["trainer"]["step"]
    assert 4 <= killed_at < 12 <= cancelled_at < 24
    assert main(["jobs", "follow", folder.name]) == 130

    assert main(["jobs", "resume", folder.name]) == 0
    assert main(["jobs", "follow", folder.name]) == 0
    result = read_json(folder / RESULT)["result"]
    assert result["validation"]["cases"] == 1 and Path(result["model"]) == output / "model"
    trained = [event for event in read_events(folder)[0] if event.key == "training"]
    assert all(event.loss is not None for event in trained) and any(event.dice is not None for event in trained)

    # The same without a job, in the precision that the job's first worker measured to be the faster one.
    saved = read_checkpoint(output / "checkpoint.pt")
    choose = base.choose_device
    monkeypatch.setattr(base, "choose_device", lambda wanted, _: choose(wanted, getattr(torch, saved["precision"])))
    configuration = TrainingConfiguration.from_json(saved["configuration"])
    train_base(BaseModelPlan(read_dataset(data), tmp_path / "whole", configuration, "run", "cpu"))
    whole = read_checkpoint(tmp_path / "whole" / "checkpoint.pt")
    for part in ("network", "average"):
        for name, value in whole["trainer"][part].items():
            assert torch.equal(value, saved["trainer"][part][name]), name
    for name, value in load_model(tmp_path / "whole" / "model").state_dict.items():
        assert torch.equal(value, load_model(output / "model").state_dict[name]), name
    assert whole["best"] == saved["best"]


def test_without_an_output_folder_the_run_is_in_the_jobs_own(jobs: Path, data: Path) -> None:
    settings = TrainingConfiguration(width=2, spacing_mm=8.0, steps=3, patch=32, frame=2, validation_share=0.0)
    request = JobRequest("train-base", TrainBaseParameters(data, "tiny", configuration=settings).to_json(), "cpu")
    folder = create_job(request)
    cancel = CancelToken()

    def stop(report: Progress) -> None:
        if report.key == "training":
            cancel.cancel()

    with pytest.raises(Cancelled):
        run_train_base(request, folder, stop, cancel)
    assert read_checkpoint(folder / "checkpoint.pt")["trainer"]["step"] == 1
    result = run_train_base(request, folder, lambda report: None, CancelToken())
    assert result == {"model": str(folder / "model"), "validation": {}}
    assert read_checkpoint(folder / "checkpoint.pt")["trainer"]["step"] == 3


def test_a_run_that_is_not_the_jobs_own_is_not_touched(jobs: Path, data: Path, tmp_path: Path) -> None:
    settings = TrainingConfiguration(width=2, spacing_mm=8.0, steps=1, patch=32, frame=2, validation_share=0.0)
    plan = BaseModelPlan(read_dataset(data), tmp_path / "run", settings, "first", "cpu")
    train_base(plan)
    parameters = TrainBaseParameters(data, "second", tmp_path / "run", settings)
    folder = create_job(JobRequest("train-base", parameters.to_json(), "cpu"))
    for _ in range(2):  # resuming the job that failed does not take the run for its own either
        with pytest.raises(TrainingError, match="holds a training run already"):
            run_train_base(JobRequest("train-base", parameters.to_json(), "cpu"), folder, lambda _: None, CancelToken())


def test_damaged_parameters(tmp_path: Path) -> None:
    good = TrainBaseParameters(tmp_path, "name").to_json()
    assert TrainBaseParameters.from_json(good) == TrainBaseParameters(tmp_path.absolute(), "name")
    with pytest.raises(JobError, match="damaged"):
        TrainBaseParameters.from_json({"name": "x"})
    with pytest.raises(TrainingError, match="Unknown setting"):
        TrainBaseParameters.from_json({**good, "configuration": {"widht": 3}})
