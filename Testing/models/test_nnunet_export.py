"""Models written for nnU-Net: its own names and keys, read back to the same model, and nothing half-written.

Real nnU-Net predicts with such a folder in ``Testing/nnunet_chain.py``, which needs its package.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import random_model

from Testing.nnunet_fixtures import NAMES, OLD, RESIDUAL, TRAINED, NnUNetFixture, imported, model_in
from TransferSegLib.cli.main import main
from TransferSegLib.errors import Cancelled, ModelError
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.exporters.nnunet import export
from TransferSegLib.models.exporters.nnunet.checkpoint import with_all_names
from TransferSegLib.models.exporters.nnunet.export import export_nnunet
from TransferSegLib.models.exporters.nnunet.plans import nnunet_files, notes
from TransferSegLib.models.part_names import part_of
from TransferSegLib.models.store import Model, load_model, save_model
from TransferSegLib.progress import CancelToken, Task
from TransferSegLib.structures import LabelSet, Structure

INNER = "nnUNetTrainer__nnUNetPlans__3d_fullres"


def saved(name: str, folder: Path, change: Callable[[ModelDescription], ModelDescription] | None = None) -> Path:
    """Save a fixture's model in a folder as this library does, with another description if asked for."""
    description, state = imported(name)
    description = replace(description, name="my model")
    return save_model(folder, description if change is None else change(description), state)


def reread(folder: Path) -> Model:
    """Return the exported model as our own importer reads it."""
    return Model(*model_in(folder), folder)


def checkpoint(folder: Path, fold: int = 0) -> dict[str, Any]:
    return torch.load(folder / f"fold_{fold}" / "checkpoint_final.pth", weights_only=True)


def original(name: str) -> dict[str, Any]:
    with zipfile.ZipFile(NnUNetFixture(name).model) as archive:
        file = min(entry for entry in archive.namelist() if entry.endswith("checkpoint_final.pth"))
        # A file of this repository, with NumPy's scalars as nnU-Net writes them.
        return torch.load(io.BytesIO(archive.read(file)), weights_only=False)


@pytest.mark.parametrize("name", NAMES)
def test_the_checkpoint_has_exactly_the_names_and_weights_of_nnunets(name: str, tmp_path: Path) -> None:
    exported = export_nnunet(saved(name, tmp_path / "model"), tmp_path / "results")
    theirs, written = original(name)["network_weights"], checkpoint(exported.folder)["network_weights"]
    assert set(written) == set(theirs)
    assert all(torch.equal(written[key], theirs[key].float()) for key in theirs)
    storages = {values.untyped_storage().data_ptr(): values.untyped_storage().nbytes() for values in written.values()}
    assert sum(storages.values()) == 4 * sum(
        values.numel() for key, values in theirs.items() if "all_modules" not in key and "decoder.encoder" not in key
    ), "every array is stored once"


def test_every_fold_is_written(tmp_path: Path) -> None:
    path = saved(RESIDUAL, tmp_path / "model")
    exported = export_nnunet(path, tmp_path / "results")
    assert exported.folds == 2 and exported.command.endswith("-f 0 1")
    model, again = load_model(path), reread(exported.folder)
    assert [checkpoint(exported.folder, fold)["init_args"]["fold"] for fold in (0, 1)] == [0, 1]
    head = "decoder.seg_layers.1.weight"
    for fold in (0, 1):
        assert torch.equal(checkpoint(exported.folder, fold)["network_weights"][head], model.fold_weights(fold)[head])
        assert torch.equal(again.fold_weights(fold)[head], model.fold_weights(fold)[head])
    assert not torch.equal(model.fold_weights(0)[head], model.fold_weights(1)[head])


@pytest.mark.parametrize("name", [OLD, TRAINED])
def test_the_axes_of_mirroring_are_handed_on(name: str, tmp_path: Path) -> None:
    entry = "inference_allowed_mirroring_axes"
    exported = export_nnunet(saved(name, tmp_path / "model"), tmp_path / "results")
    assert checkpoint(exported.folder)[entry] == original(name)[entry]
    assert len(exported.notes) == 1 and "--disable_tta" in exported.notes[0]

    def unmirrored(description: ModelDescription) -> ModelDescription:
        network = replace(description.network, arguments=description.network.arguments | {"mirror_axes_zyx": []})
        return replace(description, network=network)

    other = export_nnunet(saved(name, tmp_path / "other", unmirrored), tmp_path / "other_results")
    assert checkpoint(other.folder)[entry] is None
    assert other.notes == ()


@pytest.mark.parametrize("name", NAMES)
def test_read_back_it_is_the_same_model(name: str, tmp_path: Path) -> None:
    path = saved(name, tmp_path / "model")
    before, after = load_model(path), reread(export_nnunet(path, tmp_path / "results").folder)
    for entry in ("preparation", "network", "label_set", "regions", "folds", "modality"):
        assert getattr(after.description, entry) == getattr(before.description, entry)
    assert list(after.state_dict) == list(before.state_dict)
    assert all(torch.equal(after.state_dict[key], before.state_dict[key]) for key in before.state_dict)


def test_the_folder_and_its_files_are_what_nnunet_looks_for(tmp_path: Path) -> None:
    folder = export_nnunet(saved(TRAINED, tmp_path / "model"), tmp_path / "results").folder
    assert folder == tmp_path / "results" / "Dataset900_my-model" / INNER
    assert sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()) == [
        "dataset.json",
        "fold_0/checkpoint_final.pth",
        "plans.json",
    ]
    plans, dataset = (json.loads((folder / name).read_text()) for name in ("plans.json", "dataset.json"))
    assert (plans["dataset_name"], plans["plans_name"]) == ("Dataset900_my-model", "nnUNetPlans")
    assert list(plans["configurations"]) == ["3d_fullres"]
    assert dataset["labels"] == {"background": 0, "anterior": 1, "posterior": 2}
    assert dataset["channel_names"] == {"0": "MR"}
    entry = checkpoint(folder)
    assert entry["trainer_name"] == "nnUNetTrainer"
    assert entry["init_args"]["configuration"] == "3d_fullres"
    assert entry["init_args"]["plans"] == plans and entry["init_args"]["dataset_json"] == dataset
    assert set(entry) == {
        "network_weights",
        "optimizer_state",
        "grad_scaler_state",
        "logging",
        "_best_ema",
        "current_epoch",
        "init_args",
        "trainer_name",
        "inference_allowed_mirroring_axes",
    }


def test_names_of_both_kinds_of_layers() -> None:
    value = torch.zeros(1)
    names = set(with_all_names({"encoder.stages.0.0.convs.1.conv.weight": value, "decoder.seg_layers.2.bias": value}))
    assert names == {
        "encoder.stages.0.0.convs.1.conv.weight",
        "encoder.stages.0.0.convs.1.all_modules.0.weight",
        "decoder.encoder.stages.0.0.convs.1.conv.weight",
        "decoder.encoder.stages.0.0.convs.1.all_modules.0.weight",
        "decoder.seg_layers.2.bias",
    }


def test_classes_are_sorted_by_label_in_the_heads_of_all_resolutions(tmp_path: Path) -> None:
    other = LabelSet((Structure("b", 2, (1, 1, 1)), Structure("a", 1, (2, 2, 2))))
    path = saved(TRAINED, tmp_path / "model", lambda description: replace(description, label_set=other))
    exported = export_nnunet(path, tmp_path / "results")
    before, after = load_model(path).state_dict, reread(exported.folder)
    assert after.description.label_set.names == ("a", "b")
    heads = [key for key in before if ".seg_layers." in key]
    assert len(heads) >= 4
    for key in before:
        expected = before[key][[0, 2, 1]] if key in heads else before[key]
        assert torch.equal(after.state_dict[key], expected)
    assert not any("numbers labels" in line for line in exported.notes)


def test_labels_with_gaps_are_numbered_anew_and_told(tmp_path: Path) -> None:
    other = LabelSet((Structure("mandible", 7, (1, 1, 1)), Structure("larynx", 1, (2, 2, 2))))
    path = saved(TRAINED, tmp_path / "model", lambda description: replace(description, label_set=other))
    exported = export_nnunet(path, tmp_path / "results")
    assert json.loads((exported.folder / "dataset.json").read_text())["labels"] == {
        "background": 0,
        "larynx": 1,
        "mandible": 2,
    }
    assert exported.notes[0] == "nnU-Net numbers labels from 1 on without gaps: mandible 7 -> 2"


def test_what_nnunet_would_do_otherwise_is_told() -> None:
    description, _ = imported(TRAINED)
    network = replace(description.network, arguments=description.network.arguments | {"overlap": 0.2})
    changed = replace(description, network=network, single_part=("anterior",))
    step, _, part = notes(changed, nnunet_files(changed, "Dataset900_x"))
    assert "-step_size 0.8" in step
    assert part.endswith("nnU-Net does not: anterior")


@pytest.mark.parametrize(
    ("axes", "reader", "transpose"),
    [
        ("ijk", "SimpleITKIO", [0, 1, 2]),
        ("jik", "SimpleITKIO", [0, 2, 1]),
        ("jki", "SimpleITKIO", [2, 0, 1]),
        ("RAS", "NibabelIOWithReorient", [0, 1, 2]),
        ("ASR", "NibabelIOWithReorient", [2, 0, 1]),
    ],
)
def test_axes_become_a_reader_and_a_transposition(axes: str, reader: str, transpose: list[int], tmp_path: Path) -> None:
    path = saved(
        TRAINED,
        tmp_path / "model",
        lambda description: replace(description, preparation=replace(description.preparation, axes=axes)),
    )
    folder = export_nnunet(path, tmp_path / "results").folder
    plans = json.loads((folder / "plans.json").read_text())
    assert (plans["image_reader_writer"], plans["transpose_forward"]) == (reader, transpose)
    assert [transpose[axis] for axis in plans["transpose_backward"]] == [0, 1, 2]
    assert reread(folder).description.preparation.axes == axes


def _with(description: ModelDescription, **changes: Any) -> ModelDescription:
    return replace(description, preparation=replace(description.preparation, **changes))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: _with(d, axes="LPS"), "needs LPS axes"),
        (
            lambda d: replace(d, label_set=LabelSet((Structure("Ignore", 1, (1, 1, 1)), d.label_set.structures[1]))),
            "Ign",
        ),
    ],
)
def test_what_nnunet_cannot_do_is_refused(
    change: Callable[[ModelDescription], ModelDescription], reason: str, tmp_path: Path
) -> None:
    path = saved(TRAINED, tmp_path / "model", change)
    with pytest.raises(ModelError, match=reason):
        export_nnunet(path, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_another_family_is_refused(tmp_path: Path) -> None:
    model = random_model()
    path = save_model(tmp_path / "model", model.description, model.state_dict)
    with pytest.raises(ModelError, match="has no network of nnU-Net"):
        export_nnunet(path, tmp_path / "results")


def test_nothing_but_what_nnunet_needs_is_written(tmp_path: Path) -> None:
    def identified(description: ModelDescription) -> ModelDescription:
        provenance = replace(
            description.provenance,
            command="transferseg finetune --project /data/JANEDOE",
            configuration={"cases": ["JANEDOE"], "imported_from": {"file": "/home/JANEDOE/x.zip"}},
        )
        return replace(
            description, provenance=provenance, training_data="JANEDOE", summary="JANEDOE", metrics={"JANEDOE": {}}
        )

    exported = export_nnunet(saved(TRAINED, tmp_path / "model", identified), tmp_path / "results")
    for file in exported.folder.rglob("*"):
        if file.is_file():
            assert b"JANEDOE" not in file.read_bytes()
            assert str(tmp_path).encode() not in file.read_bytes()


def test_an_earlier_export_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path, results = saved(TRAINED, tmp_path / "model"), tmp_path / "results"
    folder = export_nnunet(path, results).folder
    before = (folder / "fold_0" / "checkpoint_final.pth").stat().st_mtime_ns
    with pytest.raises(ModelError, match="--replace"):
        export_nnunet(path, results)
    assert (folder / "fold_0" / "checkpoint_final.pth").stat().st_mtime_ns == before
    assert export_nnunet(path, results, replace=True).folder == folder
    assert (folder / "fold_0" / "checkpoint_final.pth").stat().st_mtime_ns > before
    assert [entry.name for entry in results.iterdir()] == ["Dataset900_my-model"]
    assert [entry.name for entry in folder.parent.iterdir()] == [INNER]


def test_what_others_wrote_is_not_replaced(tmp_path: Path) -> None:
    path, results = saved(TRAINED, tmp_path / "model"), tmp_path / "results"
    folder = export_nnunet(path, results).folder
    predictions = folder / "my_predictions" / "case.nii.gz"
    predictions.parent.mkdir()
    predictions.write_bytes(b"mine")
    with pytest.raises(ModelError, match="move it elsewhere"):
        export_nnunet(path, results, replace=True)
    assert predictions.read_bytes() == b"mine"
    predictions.unlink()
    (folder / "dataset.json").write_text('{"labels": {}}')
    with pytest.raises(ModelError, match="not written by TransferSeg"):
        export_nnunet(path, results, replace=True)
    assert (folder / "dataset.json").read_text() == '{"labels": {}}'


def test_numbers_of_data_sets(tmp_path: Path) -> None:
    path, results = saved(TRAINED, tmp_path / "model"), tmp_path / "results"
    (results / "Dataset900_Other").mkdir(parents=True)
    assert export_nnunet(path, results).folder.parent.name == "Dataset901_my-model"
    assert export_nnunet(path, results, dataset_id=7).folder.parent.name == "Dataset007_my-model"
    with pytest.raises(ModelError, match="Dataset900_Other already"):
        export_nnunet(path, results, dataset_id=900)
    with pytest.raises(ModelError, match="1 to 999"):
        export_nnunet(path, results, dataset_id=1000)


def test_another_configuration_of_the_same_data_set_stays(tmp_path: Path) -> None:
    path, results = saved(TRAINED, tmp_path / "model"), tmp_path / "results"
    other = results / "Dataset012_my-model" / "nnUNetTrainer__nnUNetPlans__2d"
    other.mkdir(parents=True)
    (other / "plans.json").write_text("theirs")
    folder = export_nnunet(path, results).folder
    assert folder.parent == other.parent
    assert (other / "plans.json").read_text() == "theirs"


def test_stopped_or_failing_it_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, results = saved(TRAINED, tmp_path / "model"), tmp_path / "results"
    cancel = CancelToken()
    write = export.write_files

    def and_stop(*args: Any) -> None:
        write(*args)
        cancel.cancel()

    monkeypatch.setattr(export, "write_files", and_stop)
    with pytest.raises(Cancelled):
        export_nnunet(path, results, task=Task("", None, cancel))
    assert list(results.iterdir()) == []

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_files", full)
    with pytest.raises(ModelError, match="No space left"):
        export_nnunet(path, results)
    assert list(results.iterdir()) == []


def test_a_failed_replacement_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, results = saved(TRAINED, tmp_path / "model"), tmp_path / "results"
    folder = export_nnunet(path, results).folder
    move, calls = export.move, []

    def failing(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(5, "broken disk")
        move(source, target)

    monkeypatch.setattr(export, "move", failing)
    with pytest.raises(ModelError, match="broken disk"):
        export_nnunet(path, results, replace=True)
    assert reread(folder).description.label_set.names == ("anterior", "posterior")
    assert [entry.name for entry in folder.parent.iterdir()] == [INNER]


def test_what_killed_exports_left_is_tidied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, results = saved(TRAINED, tmp_path / "model"), tmp_path / "results"
    folder = export_nnunet(path, results).folder
    dead = 2**22 + 1  # no system has a process of this number
    with monkeypatch.context() as patch:
        patch.setattr("TransferSegLib.models.part_names.os.getpid", lambda: dead)
        left, retired = part_of(folder.parent), part_of(folder, "old")
    left.mkdir()
    folder.rename(retired)
    with pytest.raises(ModelError, match="exists already"):
        export_nnunet(path, results)
    assert (folder / "plans.json").is_file(), "the model that was about to be replaced is back"
    assert [entry.name for entry in results.iterdir()] == ["Dataset900_my-model"]


def test_the_command_names_all_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(RESIDUAL, tmp_path / "model")
    assert main(["models", "export", str(path), str(tmp_path / "results"), "--format", "nnunet"]) == 0
    assert "-o LABELS -f 0 1\n" in capsys.readouterr().out


def test_the_command_writes_it_and_says_how_to_use_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(TRAINED, tmp_path / "model")
    args = ["models", "export", str(path), str(tmp_path / "results"), "--format", "nnunet"]
    assert main([*args, "--dataset-id", "5"]) == 0
    folder = tmp_path / "results" / "Dataset005_my-model" / INNER
    shown = capsys.readouterr().out
    assert f"written to {folder}" in shown
    assert f"nnUNetv2_predict_from_modelfolder -m {folder} -i SCANS -o LABELS -f 0" in shown
    assert main([*args, "--dataset-id", "5"]) == 2
    assert "--replace" in capsys.readouterr().err
    assert main(["models", "export", str(path), str(tmp_path / "x.zip"), "--dataset-id", "5"]) == 2
