"""Fine-tuning from a model of nnU-Net: one that the real package trained, on a real scan of the hippocampus."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from Testing.nnunet_fixtures import RESIDUAL, TRAINED, NnUNetFixture, imported
from TransferSegLib.corrections.project import Project
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.datasets.prepared import PreparedCase, prepare_cases
from TransferSegLib.errors import Cancelled
from TransferSegLib.finetuning.adapt import adapt
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.feature_cache import cache_features
from TransferSegLib.finetuning.finetune import finetune
from TransferSegLib.finetuning.label_change import plan_label_change
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.inference.devices import Device
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.store import Model, load_model, save_model
from TransferSegLib.models.versions.history import history
from TransferSegLib.models.versions.versions import promote, rollback
from TransferSegLib.progress import CancelToken, Progress, Task
from TransferSegLib.structures import LabelSet, Structure
from TransferSegLib.training.checkpoint import read_checkpoint, write_checkpoint

FLOAT32 = Device("cpu", "CPU", torch.float32)
HEAD_NECK = Path(__file__).resolve().parents[1] / "Data" / "head_neck_ct"
QUICK = FineTuningConfiguration(
    minutes=0,
    tail_steps=4,
    steps=3,
    patches_per_case=2,
    patch=32,
    warm_up=1,
    report_cases=0,
    checkpoint_every=1,
    seed=5,
)
FRONT, END = Structure("front", 1, (200, 0, 0)), Structure("end", 2, (0, 0, 200))


def base(name: str) -> Model:
    description, state = imported(name)
    return Model(replace(description, name="base"), state, NnUNetFixture(name).model)


@pytest.fixture(scope="module")
def anisotropic() -> tuple[Model, list[PreparedCase], Any]:
    """Return a residual encoder with random weights and a coarse axis, two real CTs, and a change of structures."""
    parent, data = base(RESIDUAL), read_dataset(HEAD_NECK)
    wanted = LabelSet(tuple(structure for structure in data.label_set if structure.name == "brainstem"))
    change = plan_label_change(parent.description.label_set, wanted)
    cases = prepare_cases(data.select(list(data.ids[:2])), change.label_set, parent.description.preparation)
    return parent, cases, change


@pytest.mark.parametrize("strategy", ["finetune", "vanilla", "scratch"])
def test_all_strategies_also_when_stopped_and_resumed(anisotropic: Any, tmp_path: Path, strategy: str) -> None:
    (parent, cases, change), settings = anisotropic, replace(QUICK, strategy=strategy, deep_supervision=0.5)
    whole = adapt(parent, cases, change, settings, device=FLOAT32)
    classes = change.label_set.classes
    assert whole.network == replace(parent.description.network, classes=classes)
    for head in parent.description.backbone.heads:
        assert whole.state_dict[f"{head}.weight"].shape[0] == classes
    assert all(bool(torch.isfinite(values).all()) for values in whole.state_dict.values())
    for stop_at in [("last-layers", 2)] * (strategy == "finetune") + [("all-layers", 1)]:
        token = CancelToken()

        def watch(report: Progress, stop_at: tuple[str, int] = stop_at, token: CancelToken = token) -> None:
            if (report.key, report.step) == stop_at:
                token.cancel()

        file, task = tmp_path / "checkpoint.pt", Task("", watch, token)
        with pytest.raises(Cancelled):
            adapt(parent, cases, change, settings, device=FLOAT32, task=task, save=partial(write_checkpoint, file))
        resumed = adapt(parent, cases, change, settings, device=FLOAT32, resume=read_checkpoint(file))
        assert all(torch.equal(value, resumed.state_dict[name]) for name, value in whole.state_dict.items())


@pytest.mark.parametrize("point", ["head", "last stage"])
def test_cached_features_are_the_networks(anisotropic: Any, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """From the cache, the parent's last layers make the logits that its whole network makes of the same patch."""
    parent, cases, change = anisotropic
    settings, backbone, network = replace(QUICK, tail=point), parent.description.backbone, parent.network()
    seen: list[torch.Tensor] = []
    kind = type(backbone.frozen_layers(network, point))
    forward = kind.forward

    def watched(self: Any, scans: torch.Tensor) -> torch.Tensor:
        seen.append(scans)
        return forward(self, scans)

    monkeypatch.setattr(kind, "forward", watched)
    cache = cache_features(parent, cases, change, settings, FLOAT32)
    assert len(seen) == len(cache)
    with cache, torch.no_grad():
        for number, scan in enumerate(seen):
            found = backbone.last_layers(network, point)(cache.patch(number).maps[None].float())
            expected = network(scan)
            assert (found - expected).abs().max() < 0.02 * expected.abs().max()  # kept as bfloat16


def hippocampus_project(folder: Path) -> Path:
    """Add the real scan twice, cut and noisy, with the posterior part as a new structure, "end".

    The anterior part is "front"; it was reviewed in the first case only.
    """
    fixture, random = NnUNetFixture(TRAINED), np.random.default_rng(1)
    image, truth = sitk.ReadImage(str(fixture.images[0])), sitk.ReadImage(str(fixture.path / "truth.nii.gz"))
    project = Project(folder, create=True)
    for number in range(2):
        voxels = sitk.GetArrayFromImage(image)[number:, number:, 2 * number :].astype(np.float32)
        voxels *= random.uniform(0.95, 1.05, voxels.shape).astype(np.float32)
        labels = sitk.GetArrayFromImage(truth)[number:, number:, 2 * number :]
        scan, drawn = sitk.GetImageFromArray(voxels), sitk.GetImageFromArray(labels)
        reviewed = ["front", "end"] if number == 0 else ["end"]
        project.add_case(scan, drawn, reviewed, structures=LabelSet((FRONT, END)), group=str(number))
    return folder


def test_from_a_trained_model_to_a_version_and_back(tmp_path: Path) -> None:
    parent = base(TRAINED)
    names = parent.description.label_set.names
    library = tmp_path / "library"
    library.mkdir()
    save_model(library / "base", parent.description, parent.state_dict)
    settings = replace(
        QUICK, tail_steps=40, steps=16, patches_per_case=3, new_rate=0.01, new_tail_rate=0.05, report_cases=1
    )
    request = FineTuneRequest(
        project=hippocampus_project(tmp_path / "project"),
        library=library,
        model="base",
        minutes=0,
        configuration=settings,
        device="cpu",
        renamed={"front": "anterior"},
        dropped=("posterior",),
    )
    result = finetune(request)
    made = load_model(result.version.path)
    assert names == ("anterior", "posterior")
    assert set(made.description.label_set.names) == {"front", "end"}
    assert made.description.preparation == parent.description.preparation
    rows = {row.structure: row for row in result.evidence.rows}
    assert rows["end"].parent is None and (rows["end"].candidate or 0) > 0.6, "it has learned what is new"
    assert (rows["front"].candidate or 0) > 0.6, "it goes on finding what it knew by another name"
    assert rows["front"].unannotated_cases == 1 and (rows["front"].agreement or 0) > 0.7
    fixture = NnUNetFixture(TRAINED)
    scan = sitk.ReadImage(str(fixture.images[0]))
    before = sitk.GetArrayFromImage(Segmenter(load_model(library / "base"), "cpu").segment(scan).label_map)
    promote("base", library, 1)
    after = sitk.GetArrayFromImage(Segmenter(load_model(library / "base"), "cpu").segment(scan).label_map)
    assert not np.array_equal(before, after)
    rollback("base", library)
    assert history("base", library).current == 0
    again = sitk.GetArrayFromImage(Segmenter(load_model(library / "base"), "cpu").segment(scan).label_map)
    np.testing.assert_array_equal(before, again)
