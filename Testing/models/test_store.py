"""Saving and loading models, and models that are damaged, changed or made to do harm."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from TransferSegLib.errors import ModelError
from TransferSegLib.models import store
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.store import expected_shapes, load_description, load_model, save_model
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec
from TransferSegLib.networks.unet_valid.unet import UNet3D

Weights = dict[str, torch.Tensor]


def resign(folder: Path, weights: bytes) -> None:
    """Replace a model's weights file and its checksum, as an attacker would."""
    (folder / "weights.pt").write_bytes(weights)
    entry = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    entry["weights"] = {"file": "weights.pt", "sha256": sha256(weights).hexdigest(), "size": len(weights)}
    (folder / "model.json").write_text(json.dumps(entry), encoding="utf-8")


def as_bytes(content: Any, **options: Any) -> bytes:
    """Return what torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def content_of(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_saved_model_is_read_back_exactly(saved: Path, description: ModelDescription, state_dict: Weights) -> None:
    model = load_model(saved)
    assert model.description == description
    assert model.path == saved
    assert list(model.state_dict) == list(state_dict)
    for name, values in state_dict.items():
        assert torch.equal(model.state_dict[name], values)
    assert load_description(str(saved)) == description


def test_network_computes_what_was_saved(saved: Path, state_dict: Weights) -> None:
    original = UNet3D(classes=3, width=1)
    original.load_state_dict(state_dict)
    tile = torch.rand(1, 1, 108, 108, 108, generator=torch.Generator().manual_seed(0))
    network = load_model(saved).network()
    assert not network.training
    with torch.no_grad():
        assert torch.equal(network(tile), original(tile))


def test_network_is_a_copy_and_draws_no_random_numbers(saved: Path) -> None:
    model = load_model(saved)
    before = torch.get_rng_state()
    network = model.network()
    assert torch.equal(before, torch.get_rng_state())
    with torch.no_grad():
        network.head.bias.add_(1)
    assert network.head.bias.requires_grad
    assert torch.equal(model.network().head.bias, network.head.bias - 1)


def test_half_precision_halves_the_file_and_keeps_three_digits(
    tmp_path: Path, description: ModelDescription, state_dict: Weights
) -> None:
    full = save_model(tmp_path / "full", description, state_dict)
    half = save_model(tmp_path / "half", description, state_dict, half_precision=True)
    loaded = load_model(half).state_dict
    for name, values in state_dict.items():
        assert loaded[name].dtype == torch.float32
        np.testing.assert_allclose(loaded[name], values, rtol=2**-11, atol=1e-7)
    saved_bytes = sum(values.numel() * 2 for values in state_dict.values())
    sizes = [(folder / "weights.pt").stat().st_size for folder in (full, half)]
    assert sizes[0] - sizes[1] == pytest.approx(saved_bytes, rel=0.1)


def test_views_are_stored_without_what_they_look_at(
    tmp_path: Path, description: ModelDescription, state_dict: Weights
) -> None:
    wide = {name: torch.cat([values, values])[: values.shape[0]] for name, values in state_dict.items()}
    plain = save_model(tmp_path / "plain", description, state_dict)
    viewed = save_model(tmp_path / "viewed", description, wide)
    assert content_of(plain) == content_of(viewed)


def test_the_same_model_gives_the_same_bytes(saved: Path, description: ModelDescription, state_dict: Weights) -> None:
    shuffled = dict(reversed(state_dict.items()))
    again = save_model(saved.with_name("again"), description, shuffled)
    assert content_of(again) == content_of(saved)


def test_saving_leaves_nothing_beside_the_model(saved: Path) -> None:
    assert sorted(content_of(saved)) == ["model.json", "weights.pt"]
    assert [entry.name for entry in saved.parent.iterdir()] == ["tiny"]


def test_existing_folder_is_refused(saved: Path, description: ModelDescription, state_dict: Weights) -> None:
    before = content_of(saved)
    with pytest.raises(ModelError, match="exists already"):
        save_model(saved, replace(description, version="3"), state_dict)
    assert content_of(saved) == before


def test_empty_folder_is_filled(tmp_path: Path, description: ModelDescription, state_dict: Weights) -> None:
    (tmp_path / "empty").mkdir()
    assert load_model(save_model(tmp_path / "empty", description, state_dict)).description == description


def test_a_file_is_never_replaced(tmp_path: Path, description: ModelDescription, state_dict: Weights) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ModelError, match="is a file"):
        save_model(tmp_path / "file", description, state_dict, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_overwriting_replaces_the_model_and_keeps_other_files(
    saved: Path, description: ModelDescription, state_dict: Weights
) -> None:
    (saved / "checkpoint.pt").write_bytes(b"precious")
    (saved / "log").mkdir()
    (saved / "log" / "events.jsonl").write_text("{}")
    save_model(saved, replace(description, version="3"), state_dict, overwrite=True)
    assert load_model(saved).description.version == "3"
    assert (saved / "checkpoint.pt").read_bytes() == b"precious"
    assert (saved / "log" / "events.jsonl").read_text() == "{}"
    assert [entry.name for entry in saved.parent.iterdir()] == ["tiny"]


def fail_on(call: int, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is interrupted at its ``call``-th call and else does what ``original`` does."""
    calls = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    return interrupted


@pytest.mark.parametrize(
    ("owner", "function", "call"),
    [(store, "_write", 1), (store, "_write", 2), (os, "fsync", 1), (Path, "rename", 1), (Path, "rename", 2)],
)
def test_saving_that_is_interrupted_keeps_the_old_model(
    saved: Path,
    description: ModelDescription,
    state_dict: Weights,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    function: str,
    call: int,
) -> None:
    before = content_of(saved)
    monkeypatch.setattr(owner, function, fail_on(call, getattr(owner, function)))
    with pytest.raises(KeyboardInterrupt):
        save_model(saved, replace(description, version="3"), state_dict, overwrite=True)
    monkeypatch.undo()
    assert content_of(saved) == before
    assert [entry.name for entry in saved.parent.iterdir()] == ["tiny"]


def test_a_first_saving_that_is_interrupted_leaves_nothing(
    tmp_path: Path, description: ModelDescription, state_dict: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_write", fail_on(2, store._write))
    with pytest.raises(KeyboardInterrupt):
        save_model(tmp_path / "new", description, state_dict)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_a_model_error(
    saved: Path, description: ModelDescription, state_dict: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes, *more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_write", full)
    with pytest.raises(ModelError, match=r"cannot be written to .*No space left"):
        save_model(saved, description, state_dict, overwrite=True)


def test_weights_that_do_not_fit_are_not_saved(
    tmp_path: Path, description: ModelDescription, state_dict: Weights
) -> None:
    short = {name: values for name, values in state_dict.items() if name != "up.1.second.bias"}
    cases = [
        (short, r"lack the layer 'up\.1\.second\.bias'"),
        (state_dict | {"extra.weight": torch.zeros(1)}, "'extra.weight' that the network has not"),
        (state_dict | {"head.weight": torch.zeros(4, 2, 1, 1, 1)}, r"'head.weight' has the shape \(4, 2, 1, 1, 1\)"),
        (state_dict | {"head.bias": torch.tensor([0.0, float("nan"), 0.0])}, "'head.bias'.*not finite"),
        (state_dict | {"head.bias": torch.zeros(3, dtype=torch.int64)}, "'head.bias' is not an array of numbers"),
    ]
    for weights, words in cases:
        with pytest.raises(ModelError, match=words):
            save_model(tmp_path / "wrong", description, weights)
    with pytest.raises(ModelError, match="half precision: save it in full"):
        save_model(tmp_path / "wrong", description, state_dict | {"head.bias": torch.full((3,), 1e6)}, True)
    assert list(tmp_path.iterdir()) == []


def test_metrics_that_are_not_json_are_not_saved(
    tmp_path: Path, description: ModelDescription, state_dict: Weights
) -> None:
    with pytest.raises(ModelError, match="metrics or configuration"):
        save_model(tmp_path / "wrong", replace(description, metrics={"a": {"b": {1, 2}}}), state_dict)


def test_expected_shapes_are_the_networks() -> None:
    shapes = expected_shapes(unet_valid_spec(width=32, classes=23))
    assert shapes["down.0.first.weight"] == (32, 1, 3, 3, 3)
    assert shapes["up.0.first.weight"] == (256, 768, 3, 3, 3)
    assert shapes["head.weight"] == (23, 64, 1, 1, 1)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 16_317_015


# Damaged models


@pytest.mark.parametrize(
    ("missing", "words"), [("model.json", r"there is no model\.json in it"), ("weights.pt", r"weights\.pt is missing")]
)
def test_missing_file_is_named(saved: Path, missing: str, words: str) -> None:
    (saved / missing).unlink()
    with pytest.raises(ModelError, match=words):
        load_model(saved)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model at .*nowhere"):
        load_model(tmp_path / "nowhere")


def test_truncated_weights(saved: Path) -> None:
    weights = (saved / "weights.pt").read_bytes()
    (saved / "weights.pt").write_bytes(weights[:-100])
    with pytest.raises(ModelError, match="incomplete"):
        load_model(saved)


def test_every_changed_byte_is_noticed(saved: Path) -> None:
    weights = (saved / "weights.pt").read_bytes()
    for place in (0, len(weights) // 2, len(weights) - 1):
        tampered = bytearray(weights)
        tampered[place] ^= 1
        (saved / "weights.pt").write_bytes(bytes(tampered))
        with pytest.raises(ModelError, match="SHA-256 differs"):
            load_model(saved)


def test_damaged_description_names_the_file(saved: Path) -> None:
    (saved / "model.json").write_text("{", encoding="utf-8")
    for load in (load_model, load_description):
        with pytest.raises(ModelError, match=r"tiny.model\.json is not valid JSON"):
            load(saved)


def test_newer_model_is_refused(saved: Path) -> None:
    entry = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    (saved / "model.json").write_text(json.dumps(entry | {"format_version": 3}), encoding="utf-8")
    with pytest.raises(ModelError, match="made by a newer TransferSeg"):
        load_model(saved)


def test_weights_of_another_width_name_the_layer(saved: Path) -> None:
    resign(saved, as_bytes(dict(UNet3D(classes=3, width=2).state_dict())))
    with pytest.raises(ModelError, match=r"'down\.0\.first\.weight' has the shape \(2, 1, 3, 3, 3\) instead of \(1, 1"):
        load_model(saved)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (as_bytes([1, 2]), "as TransferSeg writes them"),
        (as_bytes({1: torch.zeros(1)}), "lack the layer"),
        (as_bytes({"head.bias": torch.zeros(3)}, _use_new_zipfile_serialization=False), "as TransferSeg writes them"),
        (b"", "as TransferSeg writes them"),
        (b"PK\x05\x06" + bytes(18), "as TransferSeg writes them"),
        (b"not weights at all" * 20, "as TransferSeg writes them"),
    ],
    ids=["list", "numbered", "old pickle", "empty", "empty zip", "text"],
)
def test_other_content_is_refused(saved: Path, content: bytes, words: str) -> None:
    resign(saved, content)
    with pytest.raises(ModelError, match=words):
        load_model(saved)


def test_sparse_and_number_weights_are_refused(saved: Path, state_dict: Weights) -> None:
    for wrong in (torch.zeros(3).to_sparse(), [0.0, 0.0, 0.0]):
        resign(saved, as_bytes(state_dict | {"head.bias": wrong}))
        with pytest.raises(ModelError, match=r"'head.bias' is not an array|as TransferSeg writes them"):
            load_model(saved)


class Intruder:
    """An object whose unpickling makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_pickled_code_is_not_run(saved: Path, state_dict: Weights, tmp_path: Path) -> None:
    target = tmp_path / "intruded"
    for content in (Intruder(target), state_dict | {"head.bias": Intruder(target)}):
        for options in ({}, {"_use_new_zipfile_serialization": False}):
            resign(saved, as_bytes(content, **options))
            with pytest.raises(ModelError, match="as TransferSeg writes them"):
                load_model(saved)
    assert not target.exists()
    pickle.loads(pickle.dumps(Intruder(target)))
    assert target.is_dir(), "the intruder must be able to do harm, or this test shows nothing"


def test_weights_that_grow_on_reading_are_refused(saved: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10**7))
    resign(saved, packed.getvalue())
    with pytest.raises(ModelError, match="would unpack to 10,000,000 bytes"):
        load_model(saved)
