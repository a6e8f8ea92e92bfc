"""The whole cycle with the tests' own family of networks: base training, segmenting, fine-tuning, versions, going back.

That no step knows the bundled family is what makes a further one an addition.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from TransferSegLib.cli.main import main
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.errors import Cancelled
from TransferSegLib.finetuning.finetune import finetune
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.folds import joined_folds
from TransferSegLib.models.store import load_model
from TransferSegLib.models.versions.history import history
from TransferSegLib.models.versions.versions import promote, rollback
from TransferSegLib.progress import CancelToken, Progress
from TransferSegLib.training.base import BaseModelPlan, train_base
from TransferSegLib.training.configuration import AugmentationConfiguration, TrainingConfiguration

TESTING = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTING))
import tiny_family  # noqa: E402

STILL = AugmentationConfiguration(rotation_degrees=5, scaling=0.1, intensity=0)
SETTINGS = TrainingConfiguration(
    steps=6, patch=16, frame=2, validate_every=3, checkpoint_every=2, warm_up=2, seed=5, augmentation=STILL
)


@pytest.fixture(scope="module")
def projects() -> Any:
    specification = importlib.util.spec_from_file_location("balls", Path(__file__).with_name("projects.py"))
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def plan(output: Path) -> BaseModelPlan:
    tiny_family.register_tiny_family()
    data = read_dataset(TESTING / "Data" / "head_neck_ct")
    preparation = Preparation((12.0, 6.0, 6.0), tiny_family.TWO_WINDOWS, "RAS")
    return BaseModelPlan(
        data.select(list(data.ids[:3])),
        output,
        SETTINGS,
        "tiny",
        device="cpu",
        network=tiny_family.tiny_spec(classes=2),  # as many as the data have
        prepared_as=preparation,
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_base(plan(tmp_path_factory.mktemp("base") / "run"))


def test_base_training_is_resumed_to_the_same_weights(base: Path, tmp_path: Path) -> None:
    token = CancelToken()

    def watch(progress: Progress) -> None:
        if progress.key == "training" and progress.step == 3:
            token.cancel()

    with pytest.raises(Cancelled):
        train_base(plan(tmp_path / "run"), progress=watch, cancel=token)
    resumed = load_model(train_base(plan(tmp_path / "run"), resume=True))
    whole = load_model(base)
    assert whole.description.network.kind == tiny_family.KIND and whole.description.network.channels == 2
    assert whole.description.preparation.spacing_mm == (6.0, 6.0, 12.0)
    assert all(torch.equal(value, resumed.state_dict[name]) for name, value in whole.state_dict.items())


def test_a_trained_base_segments_a_real_scan(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    scan = next(iter(read_dataset(TESTING / "Data" / "head_neck_ct").cases)).image
    assert (
        main(["segment", str(scan), "--model", str(base), "--device", "cpu", "--output", str(tmp_path / "o.nrrd")]) == 0
    )
    image, labels = sitk.ReadImage(str(scan)), sitk.ReadImage(str(tmp_path / "o.nrrd"))
    assert labels.GetSize() == image.GetSize()
    found = Segmenter(load_model(base), "cpu").segment(image).label_map
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(labels))
    assert main(["models", "show", str(base)]) == 0
    assert "works at 6 x 6 x 12 mm" in capsys.readouterr().out


@pytest.mark.parametrize("folds", [1, 2])
def test_fine_tuning_makes_a_version_and_goes_back(projects: Any, tmp_path: Path, folds: int) -> None:
    structures = projects.LabelSet((projects.BRIGHT,))
    parent = tiny_family.tiny_model(structures, spacing_zyx_mm=(2.0, 1.0, 1.0))
    # Windows as large as the scan: normalised over a window without a ball, noise looks like one.
    spec = replace(
        parent.description.network, arguments=dict(parent.description.network.arguments) | {"window": [16, 32, 32]}
    )
    parent = replace(parent, description=replace(parent.description, network=spec))
    others = [tiny_family.tiny_network(parent.description.network, 9).state_dict() for _ in range(folds - 1)]
    state = joined_folds([parent.state_dict, *others])
    parent = replace(parent, description=replace(parent.description, folds=folds), state_dict=state)
    library = projects.put_parent(tmp_path / "library", parent)
    project = projects.add_cases(tmp_path / "project", [1, 2, 3])
    settings = replace(
        projects.KNOBS, tail="auto", tail_patch=32, patch=32, tail_steps=160, steps=160, new_rate=0.04, full_rate=0.04
    )
    result = finetune(projects.request(project, library, configuration=settings, promote=False))
    assert result.version.description.network == parent.description.network
    assert result.version.description.preparation == parent.description.preparation
    assert result.version.description.folds == 1, "a new version goes on from the first fold"
    assert {row.structure for row in result.evidence.rows} >= {"bright"} and result.evidence.cases
    promote("tiny", library, 1)
    image, truth = projects.ball_scan(7)
    labels = Segmenter(load_model(library / "tiny"), "cpu").segment(image).label_map
    found = sitk.GetArrayFromImage(labels) == 1
    overlap = 2 * (found & (truth == 1)).sum() / (found.sum() + (truth == 1).sum())
    assert overlap > 0.5, "it has learned to see the bright ball"
    rollback("tiny", library)
    assert history("tiny", library).current == 0
