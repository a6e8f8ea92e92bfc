from __future__ import annotations

import json

import pytest
import torch

from TransferSegLib.inference import probe
from TransferSegLib.inference.probe import Fastest, fastest
from TransferSegLib.user_folders import CACHE_VARIABLE


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    fastest.cache_clear()
    yield tmp_path / "cache"
    fastest.cache_clear()


@pytest.fixture
def times(monkeypatch):
    """Seconds by precision and memory format, as if measured; counts the measurements."""
    table = {}
    asked = []

    def seconds(device, dtype, memory_format):
        asked.append((dtype, memory_format))
        return table[dtype, memory_format]

    monkeypatch.setattr(probe, "_seconds", seconds)
    return table, asked


USUAL, LAST, HALF = torch.contiguous_format, torch.channels_last_3d, torch.bfloat16


def test_measured_for_real_leaves_the_number_of_threads(folder):
    threads = torch.get_num_threads()
    result = fastest("cpu", "CPU", HALF)
    assert result.channels_last
    assert torch.get_num_threads() == threads
    (entry,) = json.loads((folder / "fastest-convolution.json").read_text()).values()
    assert entry == {"half": result.half, "channels_last": True}


@pytest.mark.parametrize(
    ("single", "half", "expected"),
    [
        ((1.0, 1.0), (0.5, 0.3), Fastest(True, True)),
        ((1.0, 1.0), (0.5, 0.49), Fastest(True, False)),
        ((1.0, 0.4), (0.9, 0.9), Fastest(False, True)),
        ((1.0, 1.0), (0.9, 0.9), Fastest(False, False)),
        ((1.0, 1.0), (float("inf"), float("inf")), Fastest(False, False)),
    ],
)
def test_on_a_gpu_both_are_measured(folder, times, single, half, expected):
    for dtype, values in ((torch.float32, single), (HALF, half)):
        times[0].update({(dtype, USUAL): values[0], (dtype, LAST): values[1]})
    assert fastest("cuda:0", "GPU", HALF) == expected


def test_measured_once_and_remembered_by_other_processes(folder, times):
    times[0].update({(torch.float32, LAST): 1.0, (HALF, LAST): 0.5})
    assert fastest("cpu", "CPU", HALF) == Fastest(True, True)
    fastest.cache_clear()  # as in a new process
    times[0][HALF, LAST] = 2.0
    assert fastest("cpu", "CPU", HALF) == Fastest(True, True)
    assert len(times[1]) == 2
    assert fastest("cpu", "another CPU", HALF) == Fastest(False, True)
    assert len(json.loads((folder / "fastest-convolution.json").read_text())) == 2
    assert [file.name for file in folder.iterdir()] == ["fastest-convolution.json"]


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"a": 1}', "\x00"])
def test_a_damaged_file_is_measured_anew(folder, times, content):
    times[0].update({(torch.float32, LAST): 1.0})
    folder.mkdir()
    (folder / "fastest-convolution.json").write_text(content)
    assert fastest("cpu", "CPU", None) == Fastest(False, True)
    assert any("CPU" in key for key in json.loads((folder / "fastest-convolution.json").read_text()))


def test_a_folder_that_cannot_be_made_does_not_matter(tmp_path, times, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    fastest.cache_clear()
    times[0].update({(torch.float32, LAST): 1.0})
    assert fastest("cpu", "CPU", None) == Fastest(False, True)
    fastest.cache_clear()
