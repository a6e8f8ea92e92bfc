"""Another family of networks, with two channels on a grid of its own, from the panel: nothing in it knows a family."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

TESTING = Path(__file__).resolve().parents[1]
#: Makes the family known to every Python that a test starts; torch is only imported where a network is built.
SITE = f"""
import sys
sys.path.append({str(TESTING.parent)!r})
from TransferSegLib.networks.families import register_family

def tiny(spec):
    from Testing.tiny_family import TinyBackbone
    return TinyBackbone(spec)

register_family("tiny-same", tiny)
"""
FEW_STEPS = {"patches_per_case": 1, "tail_steps": 2, "steps": 1, "report_cases": 0, "patch": 16, "tail_patch": 16}


@pytest.fixture
def family(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a model of the family into a library of this test's, and let children know the family."""
    from Testing.tiny_family import tiny_model
    from TransferSegLib.models.store import save_model

    monkeypatch.setenv("TRANSFERSEG_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("TRANSFERSEG_JOBS", str(tmp_path / "jobs"))
    model = tiny_model()
    save_model(tmp_path / "models" / "second", model.description, model.state_dict)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(TESTING.parent)]))


def test_a_model_of_another_family_segments_and_is_fine_tuned(host, ui, family, tmp_path: Path):
    import slicer
    from TransferSegGui.nodes import segmentedBy

    host.widget.enter()
    host.widget._parameterNode.SetParameter("Model", "library/second")
    assert ui.modelComboBox.currentText.startswith("second") or "tiny" in ui.modelComboBox.currentText
    logic = slicer.util.getModuleLogic("TransferSeg")
    for seed in (1, 2):
        voxels_zyx = np.random.default_rng(seed).normal(0, 150, (20, 40, 44)).astype(np.int16)
        volume = slicer.util.addVolumeFromArray(voxels_zyx, name=f"CT {seed}")
        ui.inputVolumeSelector.setCurrentNode(volume)
        ui.outputSegmentationSelector.setCurrentNode(None)
        assert ui.segmentButton.enabled, ui.segmentButton.toolTip
        ui.segmentButton.click()
        host.waitFor(lambda: not ui.cancelSegmentButton.enabled)
        node = ui.outputSegmentationSelector.currentNode()
        assert node is not None, ui.segmentStatusLabel.text
        assert segmentedBy(node).structures == ("part 1", "part 2", "part 3")
        case = logic.saveCorrection(volume, node, ["part 1", "part 2"], project=tmp_path / "project")
        assert case["reviewed"] == ["part 1", "part 2"]
    job = logic.fineTune(
        tmp_path / "project", model="second", minutes=0, configuration=FEW_STEPS, most_folds=2, device="cpu", wait=True
    )
    assert job.result["version"] == 1, job.log()
    logic.promote("second", 1, force=True)
    again = logic.segment(volume, model="second")
    assert segmentedBy(again).version == "1"
    host.widget.enter()
