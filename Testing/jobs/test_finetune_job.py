"""Fine-tuning as a job and from the command line: killed and resumed, and the real model on real scans."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from TransferSegLib.cli.main import main
from TransferSegLib.images.intensity import CT_WINDOW
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.jobs.events import JobState, last_event
from TransferSegLib.jobs.files import RESULT, WORKER_FACTS, read_json
from TransferSegLib.jobs.status import read_state
from TransferSegLib.jobs.store import find_job
from TransferSegLib.models.description import ModelDescription, Provenance
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import Model
from TransferSegLib.models.versions.history import history
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec
from TransferSegLib.networks.unet_valid.unet import UNet3D, initialise
from TransferSegLib.structures import LabelSet, Structure

TESTING = Path(__file__).resolve().parents[1]
Wait = Callable[[Callable[[], Any]], Any]


def load(file: Path) -> ModuleType:
    """Return the module in a file: test folders are no packages."""
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


projects = load(TESTING / "finetuning" / "projects.py")


def tiny_parent() -> Model:
    """Return a model with random weights that knows bright balls."""
    label_set = LabelSet((Structure("bright", 1, (200, 0, 0)),))
    network = UNet3D(2, 1)
    initialise(network, 3)
    described = ModelDescription(
        name="tiny",
        version="1",
        label_set=label_set,
        preparation=Preparation.isotropic(1.0, CT_WINDOW),
        network=unet_valid_spec(width=1, classes=2),
        modality="CT",
        summary="",
        license="Apache-2.0",
        training_data="none",
        citation="none",
        metrics={},
        provenance=Provenance("test", 3, "0", "2026-01-31"),
    )
    return Model(described, network.state_dict(), Path("tiny"))


@pytest.mark.skipif(os.name == "nt", reason="kills with SIGKILL")
def test_killed_as_a_job_it_goes_on(
    jobs: Path, tmp_path: Path, wait_until: Wait, ended: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    project = projects.add_cases(tmp_path / "Fälle", [1, 2])
    library = projects.put_parent(tmp_path / "library", tiny_parent())
    settings = replace(projects.KNOBS, tail_steps=2, steps=16, patches_per_case=1, report_cases=0, checkpoint_every=5)
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings.to_json()), encoding="utf-8")
    words = ["finetune", "--project", str(project), "--model", "tiny", "--library", str(library), "--device", "cpu"]
    words += ["--minutes", "0", "--configuration", str(file), "--name", "Klinik"]
    assert main([*words, "--background"]) == 0
    folder = find_job(capsys.readouterr().out.strip())

    def training() -> bool:
        last = last_event(folder)
        return last is not None and (last.key or "").endswith("/all-layers") and (last.step or 0) >= 4

    wait_until(training)
    os.kill(read_json(folder / WORKER_FACTS)["pid"], signal.SIGKILL)
    wait_until(lambda: read_state(folder) == JobState.INTERRUPTED)
    assert main(["jobs", "resume", folder.name]) == 0
    assert ended(folder) == "done"
    result = read_json(folder / RESULT)["result"]
    assert result["model"] == "Klinik" and result["version"] == 1
    assert "Verdict: " in result["report"] and "Made version 1 of 'Klinik'" in result["report"]
    assert [version.number for version in history("Klinik", library).versions] == [0, 1]
    assert not (folder / "runs").exists()


def test_the_command_on_real_scans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundled model, two small real CTs and two steps: a version of its own name, not of the bundled model's."""
    data = tmp_path / "two"
    shutil.copytree(TESTING / "Data" / "head_neck_ct", data)
    content = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    content["cases"] = [case for case in content["cases"] if case["id"] in ("pt_70", "pt_120")]
    (data / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    file = tmp_path / "settings.json"
    settings = {"tail_steps": 2, "steps": 1, "patches_per_case": 1, "report_cases": 0, "tail_patch": 20, "patch": 32}
    file.write_text(json.dumps(settings), encoding="utf-8")
    words = ["finetune", "--project", str(data), "--library", str(tmp_path / "library"), "--device", "cpu"]
    assert main([*words, "--minutes", "0", "--configuration", str(file)]) == 0
    text = capsys.readouterr().out
    assert "leave one patient out, 2 patients; the scans' own grid" in text
    assert "brainstem" in text and "HD95 mm" in text and "Verdict: " in text
    assert "Made version 1 of 'head-neck-ct-corrected'" in text
    assert "transferseg models promote head-neck-ct-corrected 1" in text
    found = history("head-neck-ct-corrected", tmp_path / "library")
    assert found.current == 0
    assert "Open-KBP" in found.find(1).description.training_data


def test_what_cannot_be_done_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", "--project", str(tmp_path / "nowhere"), "--background"]) == 2
    assert "There is no project of corrected cases" in capsys.readouterr().err
    project = projects.add_cases(tmp_path / "project", [1])
    words = ["finetune", "--project", str(project), "--library", str(tmp_path / "library")]
    file, empty = tmp_path / "file", tmp_path / "no weights"
    file.write_text("")
    shutil.copytree(find_model(None), empty)
    (empty / "weights.pt").unlink()
    for more, said in (
        (["--library", str(file)], "is a file, so no model can be kept in it"),
        (["--library", str(file), "--background"], "is a file, so no model can be kept in it"),
        (["--model", str(empty), "--background"], "weights.pt"),
        (["--model", "nobody"], "There is no model 'nobody'"),
        (["--structures", "liver"], "have no structure liver"),
        (["--merged", "pair", "left parotid gland"], "'pair' is to be merged"),
        (["--folds", "1"], "at least 2 folds"),
        (["--configuration", str(tmp_path / "none.json")], "none.json cannot be read: "),
    ):
        assert main([*words, *more]) == 2
        captured = capsys.readouterr()
        assert said in captured.err and "Traceback" not in captured.err and not captured.out
