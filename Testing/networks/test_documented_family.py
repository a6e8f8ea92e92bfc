"""The example of docs/adding-a-network-family.md is trained, segments and is fine-tuned by every strategy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from Testing.documented_family import documented_backbone, examples
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.datasets.prepared import prepare_cases
from TransferSegLib.finetuning.adapt import adapt
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.label_change import plan_label_change
from TransferSegLib.finetuning.strategies import STRATEGIES
from TransferSegLib.inference.devices import Device
from TransferSegLib.models.store import Model, load_model
from TransferSegLib.networks.families import register_family

DATA = Path(__file__).resolve().parents[1] / "Data" / "head_neck_ct"
QUICK = FineTuningConfiguration(
    minutes=0, tail_steps=1, steps=1, patches_per_case=1, tail_patch=16, patch=16, frame=2, report_cases=0
)
#: What would take long, and the test's own files.
SHORTER = {
    '"width": 16': '"width": 2',
    "isotropic(3.0,": "isotropic(8.0,",
    "steps=2000, patch=48": "steps=2, patch=16, frame=2",
    'Path("dataset")': "DATA",
    'print(segment("scan.nii.gz", model)': "found = (segment(SCAN, model, device='cpu')",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, dict[str, float]]:
    """Train and segment as the page says; return the model and the volumes that it finds."""
    register_family("plain", documented_backbone)
    code = examples()[2]
    for long, short in SHORTER.items():
        assert long in code, long
        code = code.replace(long, short)
    names = {"DATA": DATA, "SCAN": next(iter(read_dataset(DATA).cases)).image}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("documented"))
        exec(compile(code, "adding-a-network-family.md", "exec"), names)
        model = load_model(Path("run", "model"))
    return model, names["found"]


def test_it_is_short() -> None:
    assert sum(len(code.splitlines()) for code in examples()[:2]) < 120


def test_a_base_model_is_trained_and_segments(trained: tuple[Model, dict[str, float]]) -> None:
    model, volumes = trained
    assert model.description.network.kind == "plain"
    assert tuple(volumes) == model.description.label_set.names


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_takes_a_step(trained: tuple[Model, dict[str, float]], strategy: str) -> None:
    assert moved_layers(trained[0], replace(QUICK, strategy=strategy)) == {"first", "middle", "last", "head"}


@pytest.mark.parametrize(("tail", "layers"), [("head", {"head"}), ("last convolution", {"last", "head"})])
def test_the_last_layers_alone_take_a_step(
    trained: tuple[Model, dict[str, float]], tail: str, layers: set[str]
) -> None:
    assert moved_layers(trained[0], replace(QUICK, tail=tail, steps=0)) == layers


def moved_layers(parent: Model, settings: FineTuningConfiguration) -> set[str]:
    """Return the layers whose weights differ after fine-tuning on two cases."""
    data = read_dataset(DATA)
    change = plan_label_change(parent.description.label_set, data.label_set)
    cases = prepare_cases(data.select(list(data.ids[:2])), change.label_set, parent.description.preparation)
    adapted = adapt(parent, cases, change, settings, device=Device("cpu", "CPU", torch.float32))
    before = parent.state_dict
    return {name.split(".")[0] for name, after in adapted.state_dict.items() if not torch.equal(after, before[name])}
