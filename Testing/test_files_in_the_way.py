"""A file where a folder should be: everything that makes folders says so in one sentence, and names the file.

The system says "File exists", "Not a directory" or "No such file or directory" then, by the order of the steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.errors import TransferSegError
from TransferSegLib.output_checks import file_in_the_way, why_no_folder
from TransferSegLib.structures import LabelSet, Structure

MODEL = Path(__file__).parent / "Data" / "model_format_1" / "model"
SPLEEN = LabelSet((Structure("spleen", 1, (200, 0, 0)),))


def label_map() -> sitk.Image:
    return sitk.GetImageFromArray(np.pad(np.ones((2, 2, 2), np.uint8), 3))


def write_labels(folder: Path) -> None:
    from TransferSegLib.images.write import write_label_map

    write_label_map(label_map(), folder / "labels.nii.gz", SPLEEN)


def write_picture(folder: Path) -> None:
    from TransferSegLib.pictures.drawing import Canvas, write_png

    write_png(Canvas.blank(20, 20, (0, 0, 0)), folder / "picture.png")


def keep_features(folder: Path) -> None:
    from TransferSegLib.inference.kept_features import KeptFeatures, save_features

    empty = np.zeros(0, np.int64)
    save_features(KeptFeatures("a", "b", (2, 2, 2), empty, empty.astype(np.float16)), folder / "features.npz")


def write_a_dataset(folder: Path) -> None:
    from TransferSegLib.datasets.dataset import read_dataset, write_dataset

    write_dataset(read_dataset(Path(__file__).parent / "Data" / "dataset_format_1"), folder)


def copy_a_scan(folder: Path) -> None:
    from TransferSegLib.datasets.copying import copy_label_map

    source = folder.parent / "source.nii.gz" if folder.parent.is_dir() else folder.parents[2] / "source.nii.gz"
    sitk.WriteImage(label_map(), str(source))
    copy_label_map(source, folder, "case", None, SPLEEN)


def save_a_model(folder: Path) -> None:
    from TransferSegLib.models.store import load_model, save_model

    model = load_model(MODEL)
    save_model(folder / "model", model.description, model.state_dict)


def export_a_model(folder: Path) -> None:
    from TransferSegLib.models.archive import export_model

    export_model(MODEL, folder / "model.zip")


def export_for_nnunet(folder: Path) -> None:
    from TransferSegLib.models.exporters.nnunet.export import _check_results

    _check_results(folder / "results")


def import_a_model(folder: Path) -> None:
    from TransferSegLib.models.library import import_model

    import_model(MODEL, folder)


def list_a_library(folder: Path) -> None:
    from TransferSegLib.models.locate import library_models

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFERSEG_MODELS", str(folder))
        library_models()


def make_a_job(folder: Path) -> None:
    from TransferSegLib.jobs.request import JobRequest
    from TransferSegLib.jobs.store import create_job

    create_job(JobRequest("fetch-model", {"name": "x"}, "cpu", "fetch x"), folder)


def list_the_jobs(folder: Path) -> None:
    from TransferSegLib.jobs.store import list_jobs

    list_jobs(folder)


def begin_training(folder: Path) -> None:
    from TransferSegLib.training.saved_run import saved_run

    plan: Any = SimpleNamespace(output=folder)
    saved_run(plan, resume=False)


def begin_fine_tuning(folder: Path) -> None:
    from TransferSegLib.finetuning.run_folder import RunFolder

    with RunFolder(folder, {}):
        pass


def add_a_case(folder: Path) -> None:
    from TransferSegLib.corrections.project import Project

    scan = sitk.GetImageFromArray(np.arange(512, dtype=np.int16).reshape(8, 8, 8))
    Project(folder, create=True).add_case(scan, label_map(), "all", structures=SPLEEN)


def read_a_project(folder: Path) -> None:
    from TransferSegLib.corrections.project import Project

    Project(folder).state()


def remember_a_project(folder: Path) -> None:
    from TransferSegLib.cli.default_project import remember_project

    remember_project(folder)


def remember_in_settings(folder: Path) -> None:
    from TransferSegLib.cli.default_project import remember_project

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFERSEG_SETTINGS", str(folder))
        remember_project(Path(__file__).parent)


@pytest.mark.parametrize(
    "make",
    [
        write_labels,
        write_picture,
        keep_features,
        write_a_dataset,
        copy_a_scan,
        save_a_model,
        export_a_model,
        export_for_nnunet,
        import_a_model,
        list_a_library,
        make_a_job,
        list_the_jobs,
        begin_training,
        begin_fine_tuning,
        add_a_case,
        read_a_project,
        remember_a_project,
        remember_in_settings,
    ],
    ids=lambda make: make.__name__,
)
@pytest.mark.parametrize("below", ["", "cases", "deeper/cases"], ids=["the file", "below it", "further below"])
def test_a_file_in_the_way(make: Callable[[Path], None], below: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder", encoding="utf-8")
    with pytest.raises(TransferSegError) as told:
        make(file / below)
    said = str(told.value)
    assert f"{file} is a file" in said and "\n" not in said, said
    for word in ("Errno", "File exists", "Not a directory", "No such file", "Make it first"):
        assert word not in said, said
    assert file.read_text(encoding="utf-8") == "no folder"


def test_words_for_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    assert file_in_the_way(tmp_path) is None and file_in_the_way(tmp_path / "new" / "one") is None
    assert file_in_the_way(tmp_path / ("x" * 5000)) is None, "that cannot be told"
    assert file_in_the_way(file) == file_in_the_way(file / "a" / "b") == file
    assert why_no_folder(tmp_path / "new", OSError(28, "No space left on device")) == "No space left on device"
    denied = PermissionError(13, "Permission denied")
    assert why_no_folder(file / "a", denied) == f"{file} is a file, not a folder"
    assert why_no_folder(tmp_path / "new", denied) == "Permission denied", "the folder itself may be written"
    monkeypatch.setattr(os, "access", lambda *words, **more: False)
    assert why_no_folder(tmp_path / "new" / "one", denied) == f"you have no permission to write in {tmp_path}"
