"""What people give to Python functions: text or paths, dictionaries as settings, and one sentence for mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.corrections.project import Project
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.datasets.make import FolderSource, dataset_from_folders
from TransferSegLib.errors import TransferSegError
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.images.read import read_scan
from TransferSegLib.inference.segment import Segmenter, segment
from TransferSegLib.models.library import import_model
from TransferSegLib.models.store import load_model
from TransferSegLib.models.versions.history import history
from TransferSegLib.models.versions.versions import promote
from TransferSegLib.paths import as_path
from TransferSegLib.pictures.preview import draw_preview
from TransferSegLib.training.base import BaseModelPlan
from TransferSegLib.training.configuration import TrainingConfiguration

DATA = Path(__file__).resolve().parent / "Data"
MODEL = DATA / "model_format_1" / "model"
SCAN = DATA / "head_neck_ct" / "images" / "pt_103.nii.gz"
LABELS = DATA / "head_neck_ct" / "labels" / "pt_103.nii.gz"


def test_paths_as_text() -> None:
    assert as_path("a/b", "x") == as_path(Path("a/b"), "x") == Path("a/b")
    request = FineTuneRequest("project", library="library", cases=["a"], configuration={"seed": 7})  # type: ignore[arg-type]
    assert (request.project, request.library, request.cases) == (Path("project"), Path("library"), ("a",))
    assert request.configuration == FineTuningConfiguration(seed=7)
    dataset = read_dataset(str(DATA / "head_neck_ct"))
    plan = BaseModelPlan(dataset, "run", {"width": 4}, "name")  # type: ignore[arg-type]
    assert plan.output == Path("run") and plan.configuration == TrainingConfiguration(width=4)
    assert FolderSource("images", "labels").labels == Path("labels")  # type: ignore[arg-type]


def test_a_file_where_an_image_is_taken(tmp_path: Path) -> None:
    segmenter = Segmenter(load_model(MODEL), "cpu")
    one, other = (segmenter.segment(scan) for scan in (str(SCAN), read_scan(SCAN)))
    assert np.array_equal(*(sitk.GetArrayFromImage(found.label_map) for found in (one, other)))
    dataset = read_dataset(DATA / "head_neck_ct")
    picture = draw_preview(str(SCAN), LABELS, dataset.label_set, str(tmp_path / "picture.png"))
    assert picture.stat().st_size > 10_000


MISTAKES: list[tuple[Callable[[], object], str]] = [
    (lambda: segment(np.zeros((3, 3, 3)), MODEL), "SimpleITK image, not ndarray"),  # type: ignore[arg-type]
    (lambda: segment(None, MODEL), "not NoneType"),  # type: ignore[arg-type]
    (lambda: segment({"T1": 7}, MODEL), "SimpleITK image, not int"),  # type: ignore[dict-item]
    (lambda: read_scan(3), r"The scan must be a path \(text or pathlib.Path\), not int \(3\)"),  # type: ignore[arg-type]
    (lambda: read_scan(""), "The scan is empty"),
    (lambda: FineTuneRequest(None), "The project of a fine-tuning must be a path"),  # type: ignore[arg-type]
    (lambda: FineTuneRequest("p", configuration=5), "must be a dictionary"),  # type: ignore[arg-type]
    (lambda: FineTuneRequest("p", configuration={"sed": 1}), "sed"),  # type: ignore[arg-type]
    (lambda: FineTuneRequest("p", cases="case-0001"), "must be a list of names"),  # type: ignore[arg-type]
    (lambda: BaseModelPlan("folder", "run", {}, "name"), "read_dataset"),  # type: ignore[arg-type]
    (lambda: FolderSource(1, "labels"), "The folder of images must be a path"),  # type: ignore[arg-type]
    (lambda: dataset_from_folders(FolderSource("a", "b"), None), "The folder of the dataset"),  # type: ignore[arg-type]
    (lambda: history("name", None), "The model library must be a path"),  # type: ignore[arg-type]
    (lambda: promote("name", 4, 1), "The model library must be a path"),  # type: ignore[arg-type]
    (lambda: import_model(None, "library"), "The model file must be a path"),  # type: ignore[arg-type]
    (lambda: Project(7), "must be a path"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "said"), MISTAKES)
def test_mistakes_are_one_sentence(call: Callable[[], object], said: str) -> None:
    with pytest.raises(TransferSegError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)
