"""From nnU-Net and back by the commands that a user gives, without nnunetv2; with it: ``run.py nnunet``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from Testing.nnunet_chain import STRUCTURES, chain, exported, make_cases
from Testing.nnunet_fixtures import model_in
from TransferSegLib.cli.main import main
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_model


def test_a_model_of_nnunet_is_corrected_fine_tuned_and_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(tmp_path / "library"))
    make_cases(tmp_path)
    settings = {"tail_steps": 2, "steps": 2, "patches_per_case": 1, "report_cases": 0}
    for command in chain(tmp_path, settings):
        assert main(command) == 0, capsys.readouterr().err
    description, state = model_in(exported(tmp_path))
    ours, parent = load_model(find_model("tiny@1")), load_model(find_model("tiny@0"))
    assert description.label_set.names == tuple(STRUCTURES.values())
    assert (description.preparation, description.network) == (ours.description.preparation, ours.description.network)
    assert all(torch.equal(state[name], ours.state_dict[name]) for name in ours.state_dict)
    assert not torch.equal(
        state["encoder.stages.0.0.convs.0.conv.weight"], parent.state_dict["encoder.stages.0.0.convs.0.conv.weight"]
    )
    heads = [name for name in state if ".seg_layers." in name and name.endswith("weight")]
    assert [len(state[name]) for name in heads] == [4] * len(heads), "the heads of all resolutions have the new class"
