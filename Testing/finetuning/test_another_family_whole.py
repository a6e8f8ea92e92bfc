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
from TransferSegLib.models.store import Model, load_model
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


def parent_of(projects: Any, folds: int = 1) -> Model:
    """Return a model of one structure with random weights, the first fold's the same for any number of folds.

    Its windows are as large as the scan: normalised over a window without a ball, noise looks like one.
    """
    parent = tiny_family.tiny_model(projects.LabelSet((projects.BRIGHT,)), spacing_zyx_mm=(2.0, 1.0, 1.0))
    arguments = dict(parent.description.network.arguments) | {"window": [16, 32, 32]}
    spec = replace(parent.description.network, arguments=arguments)
    others = [tiny_family.tiny_network(spec, 9).state_dict() for _ in range(folds - 1)]
    description = replace(parent.description, network=spec, folds=folds)
    return replace(parent, description=description, state_dict=joined_folds([parent.state_dict, *others]))


def test_fine_tuning_makes_a_version_and_goes_back(projects: Any, tmp_path: Path) -> None:
    parent = parent_of(projects)
    library = projects.put_parent(tmp_path / "library", parent)
    project = projects.add_cases(tmp_path / "project", [1, 2])
    settings = replace(
        projects.UNBROKEN,
        tail="auto",
        tail_patch=32,
        patch=32,
        tail_steps=160,
        steps=160,
        new_rate=0.04,
        full_rate=0.04,
    )
    result = finetune(projects.request(project, library, configuration=settings, promote=False))
    assert result.version.description.network == parent.description.network
    assert result.version.description.preparation == parent.description.preparation
    assert {row.structure for row in result.evidence.rows} >= {"bright"} and result.evidence.cases
    promote("tiny", library, 1)
    image, truth = projects.ball_scan(7)
    labels = Segmenter(load_model(library / "tiny"), "cpu").segment(image).label_map
    found = sitk.GetArrayFromImage(labels) == 1
    overlap = 2 * (found & (truth == 1)).sum() / (found.sum() + (truth == 1).sum())
    assert overlap > 0.5, "it has learned to see the bright ball"
    rollback("tiny", library)
    assert history("tiny", library).current == 0


def test_a_new_version_goes_on_from_the_first_fold(projects: Any, tmp_path: Path) -> None:
    """The other folds segment with it, and are not trained: the version is the one that the first alone would make."""
    project = projects.add_cases(tmp_path / "project", [1, 2])
    settings = replace(projects.KNOBS, tail="auto", tail_patch=32, patch=32, tail_steps=4, steps=4)
    made = {}
    for folds in (1, 2):
        library = projects.put_parent(tmp_path / f"library {folds}", parent_of(projects, folds))
        result = finetune(projects.request(project, library, configuration=settings, promote=False))
        assert result.version.description.folds == 1
        assert {row.structure for row in result.evidence.rows} >= {"bright"} and result.evidence.cases
        promote("tiny", library, 1)
        made[folds] = load_model(library / "tiny").state_dict
        rollback("tiny", library)
        before = load_model(library / "tiny")
        assert history("tiny", library).current == 0 and before.description.folds == folds
    first = parent_of(projects).state_dict
    assert made[1].keys() == made[2].keys() == first.keys()
    assert all(torch.equal(value, made[2][name]) for name, value in made[1].items())
    assert not all(torch.equal(value, first[name]) for name, value in made[1].items()), "it was trained"
