"""The examples of docs/slicer-module.md run as they stand, but for the model's name: the tiny one of the tests."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

TESTING = Path(__file__).resolve().parents[1]
PAGE = TESTING.parent / "docs" / "slicer-module.md"


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


#: A model with another spacing along each axis.
SLICES = Path(__file__).parents[1] / "Data" / "model_format_2" / "model"


@pytest.fixture
def tiny_is_the_usual_model(models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let ``model=None`` be the tiny model of a library of this test's, and jobs and relative paths be its own too."""
    from TransferSegGui import segment_process

    shutil.copytree(models, tmp_path / "models")
    shutil.copytree(SLICES, tmp_path / "models" / "thick-slices")
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(tmp_path / "models"))
    find_model = segment_process.find_model
    monkeypatch.setattr(segment_process, "find_model", lambda name: find_model(name or "tiny"))
    monkeypatch.setenv("TRANSFERSEG_JOBS", str(tmp_path / "jobs"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.timeout(900)
def test_the_examples_run(host, tiny_is_the_usual_model, tmp_path: Path):
    import slicer

    z, y, x = np.mgrid[:20, :22, :24]
    slicer.util.addVolumeFromArray((50 * z + 40 * y - 44 * x).astype(np.int16), name="CT head and neck")
    namespace: dict[str, object] = {}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for number, code in enumerate(examples(), start=1):
            text = code.replace('"head-neck-ct"', '"tiny"').replace('"mandible"', '"brainstem"')
            exec(compile(text, f"{PAGE.name}, example {number}", "exec"), namespace)
    output = said.getvalue()
    assert "thick-slices 1.0" in output and "(2.5, 1.5, 4.0) mm" in output
    assert "tiny 1.0 CT" in output and "There is no structure 'spleen' here" in output
    assert namespace["organs"].GetAttribute("TransferSeg.Structures").count("parotid") == 2, "a group"
    assert namespace["case"]["reviewed"] == ["brainstem", "left parotid gland"]
    assert namespace["run"].cancelled and namespace["run"].segmentationNode is None
    assert f"Verdict: {namespace['verdict']}." in output
    assert str(namespace["again"].state) == "done"
    version = namespace["job"].result["version"]
    assert namespace["better"].GetAttribute("TransferSeg.ModelVersion") == str(version)
    (now,) = [model for model in namespace["logic"].models() if model.name == namespace["job"].result["model"]]
    assert now.versions == (0, version) and now.version != str(version), "rolled back"
    assert (tmp_path / "my-cases" / "dataset.json").is_file()
