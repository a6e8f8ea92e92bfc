"""``transferseg devices`` lists what ``--device`` takes, what ``auto`` takes first."""

from __future__ import annotations

import json

import pytest
import torch

from TransferSegLib.cli.main import main
from TransferSegLib.inference import devices
from TransferSegLib.inference.devices import choose_device, found_devices


def test_devices_are_those_that_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed[-1] == {"device": "cpu", "name": "CPU"}
    assert choose_device("auto", torch.float32).torch_name == listed[0]["device"]
    assert [choose_device(each["device"], torch.float32).name for each in listed] == [each["name"] for each in listed]
    assert main(["devices"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "cpu      CPU"


def test_a_gpu_that_does_not_run_the_network_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {number}")
    monkeypatch.setattr(devices, "_failure", lambda name: "too old" if name == "cuda:0" else None)
    assert found_devices() == (("cpu", "CPU"), ("cuda:1", "GPU 1")), "auto does not look for a second one"
