"""Checkpoints of nnU-Net from elsewhere: nothing in them runs, and each that cannot be used is refused in one line."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunet_folders import DATASET, checkpoint_of, plans_with, saved, write_results, zipped

from Testing.impatient import Impatient
from Testing.nnunet_fixtures import OLD, RESIDUAL, NnUNetFixture, model_in
from TransferSegLib.errors import Cancelled, ModelError
from TransferSegLib.models.importers.nnunet import isolated
from TransferSegLib.models.importers.nnunet.checkpoint import NnUNetCheckpoint, read_checkpoint
from TransferSegLib.models.importers.nnunet.convert import model_from_nnunet
from TransferSegLib.models.importers.nnunet.isolated import read_checkpoint_isolated
from TransferSegLib.models.importers.nnunet.source import NnUNetSource, find_source
from TransferSegLib.process_limits import Limits
from TransferSegLib.progress import Task


@pytest.fixture(autouse=True)
def checkpoints_read_here() -> None:
    """Read checkpoints in a child process, as everywhere but in these tests."""


class Harmful:
    """Makes a file when it is unpickled by someone careless."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def read(content: bytes) -> NnUNetCheckpoint:
    return read_checkpoint(io.BytesIO(content), "the file")


def refused(content: bytes) -> str:
    with pytest.raises(ModelError) as caught:
        read(content)
    text = str(caught.value)
    assert text.startswith("the file ") and "\n" not in text
    return text


def test_what_a_checkpoint_says_is_read() -> None:
    entry = checkpoint_of(plans_with(), DATASET, inference_allowed_mirroring_axes=(0, 1))
    found = read(saved(entry))
    assert (found.configuration, found.trainer, found.mirror_axes_zyx) == ("3d_fullres", "nnUNetTrainer", (0, 1))
    assert set(found.weights) == set(entry["network_weights"])
    assert read(saved(entry | {"inference_allowed_mirroring_axes": None})).mirror_axes_zyx == ()
    del entry["inference_allowed_mirroring_axes"]
    assert read(saved(entry)).mirror_axes_zyx == (), "checkpoints of the first versions do not say it"


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8, np.bool_])
def test_scalars_of_numpy_in_the_log_are_harmless(kind: Any) -> None:
    assert read(saved(checkpoint_of(plans_with(), DATASET, _best_ema=kind(1)))).trainer == "nnUNetTrainer"


def test_scalars_written_with_numpy_1_are_harmless() -> None:
    content = saved(checkpoint_of(plans_with(), DATASET))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    pickled = next(name for name in files if name.endswith("data.pkl"))
    assert b"numpy._core.multiarray" in files[pickled]
    files[pickled] = files[pickled].replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, part in files.items():
            archive.writestr(name, part)
    assert read(buffer.getvalue()).trainer == "nnUNetTrainer"


@pytest.mark.parametrize("where", ["network_weights", "logging", "optimizer_state", "init_args"])
def test_what_would_run_code_is_refused_with_its_name(where: str, tmp_path: Path) -> None:
    text = refused(saved(checkpoint_of(plans_with(), DATASET, **{where: {"x": Harmful(tmp_path / "made")}})))
    assert "mkdir" in text and "refused" in text
    assert not (tmp_path / "made").exists()


def test_other_classes_are_refused_with_their_names() -> None:
    assert "torch.nn.modules.linear.Linear" in refused(saved(torch.nn.Linear(1, 1)))
    assert "Path" in refused(saved(checkpoint_of(plans_with(), DATASET, logging={"folder": Path("x")})))


@pytest.mark.parametrize("missing", ["network_weights", "init_args", "trainer_name"])
def test_a_missing_entry_is_named(missing: str) -> None:
    entry = checkpoint_of(plans_with(), DATASET)
    del entry[missing]
    assert missing in refused(saved(entry))


@pytest.mark.parametrize("entry", [{}, [1, 2], 7, {"state_dict": {}}])
def test_other_files_of_torch_are_no_checkpoint(entry: Any) -> None:
    assert "no checkpoint of nnU-Net v2" in refused(saved(entry))


@pytest.mark.parametrize("weights", [{}, [torch.zeros(1)], {"a": 7}, {3: torch.zeros(1)}, {"a": torch.zeros(1).int()}])
def test_weights_that_are_no_arrays_are_refused(weights: Any) -> None:
    assert "no checkpoint of nnU-Net v2" in refused(
        saved(checkpoint_of(plans_with(), DATASET, network_weights=weights))
    )


def test_shapes_that_claim_more_than_the_file_holds_are_refused() -> None:
    absurd = {"a": torch.zeros(1).expand(1000, 1000, 1000, 1000)}
    text = refused(saved(checkpoint_of(plans_with(), DATASET, network_weights=absurd)))
    assert "claim 4,000,000,000,000 bytes" in text
    storage = torch.zeros(100_000)
    views = {str(start): storage[start:] for start in range(100)}
    assert "more than its own size" in refused(saved(checkpoint_of(plans_with(), DATASET, network_weights=views)))


def test_a_part_of_a_file_is_refused() -> None:
    content = saved(checkpoint_of(plans_with(), DATASET))
    for length in (0, 10, len(content) // 2, len(content) - 30):
        assert "no checkpoint" in refused(content[:length])


def test_a_packed_file_is_refused_before_it_is_unpacked() -> None:
    content = saved(checkpoint_of(plans_with(), DATASET))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, zipfile.ZipFile(io.BytesIO(content)) as given:
        for info in given.infolist():
            archive.writestr(info.filename, given.read(info))
        archive.writestr("archive/data/999", bytes(10**8))
    assert "unpack to more than its own size" in refused(buffer.getvalue())


def test_a_damaged_pickle_is_refused() -> None:
    content = saved(checkpoint_of(plans_with(), DATASET))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, zipfile.ZipFile(io.BytesIO(content)) as given:
        for info in given.infolist():
            part = given.read(info)
            archive.writestr(info.filename, part[: len(part) // 2] if info.filename.endswith("data.pkl") else part)
    assert "is damaged" in refused(buffer.getvalue())


@pytest.mark.parametrize("name", [RESIDUAL, OLD])
def test_the_child_reads_what_this_process_reads(name: str) -> None:
    source = find_source(NnUNetFixture(name).model)
    assert source is not None
    fold = source.usual_folds[-1]
    content = source.checkpoint(fold)
    here, there = read(content), read_checkpoint_isolated(source, fold)
    assert there.size == len(content)
    for entry in ("configuration", "trainer", "mirror_axes_zyx"):
        assert getattr(there.content, entry) == getattr(here, entry)
    assert list(there.content.weights) == list(here.weights)
    assert all(torch.equal(there.content.weights[layer], here.weights[layer].float()) for layer in here.weights)


def test_in_the_child_nothing_runs_either(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "model", logging={"x": Harmful(tmp_path / "made")})
    for path in (folder, zipped(folder, tmp_path / "model.zip")):
        source = find_source(path)
        assert source is not None
        with pytest.raises(ModelError, match=r"checkpoint_final.pth is refused: .*mkdir"):
            model_from_nnunet(source, "x")
    assert not (tmp_path / "made").exists()


def test_a_child_that_takes_too_much_memory_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = find_source(NnUNetFixture(RESIDUAL).model)
    assert source is not None
    little = Limits(memory_bytes=1 << 20, processor_s=60, input_bytes=1000)
    monkeypatch.setattr(Limits, "for_input", classmethod(lambda cls, *args: little))
    with pytest.raises(ModelError, match="memory"):
        read_checkpoint_isolated(source, "0")


def test_the_child_ends_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "waits_for_ever.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(isolated, "_MODULE", "waits_for_ever")
    source = NnUNetSource(
        write_results(tmp_path / "model"), "plans.json", "dataset.json", {"0": "fold_0/checkpoint_final.pth"}
    )
    with pytest.raises(Cancelled):
        model_from_nnunet(source, "x", task=Task("", None, Impatient(12)))


def test_weights_of_another_network_are_refused_naming_the_layer(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "model")
    plans = plans_with()
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [2, 4, 8]
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(
        ModelError, match=r"layer 'encoder.stages.2.0.convs.0.conv.weight' should have the shape \(8, 4"
    ):
        model_in(folder)


def test_names_that_wrappers_of_torch_changed_are_understood(tmp_path: Path) -> None:
    entry = checkpoint_of(plans_with(), DATASET)
    wrapped = {f"module._orig_mod.{name}": values for name, values in entry["network_weights"].items()}
    _, state = model_in(write_results(tmp_path / "model", network_weights=wrapped))
    assert all(torch.equal(values, entry["network_weights"][name]) for name, values in state.items())
