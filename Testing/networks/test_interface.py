"""The seam between networks and the rest: every family keeps the interface, and nothing else knows a family."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from Testing.documented_family import documented_backbone
from Testing.tiny_family import TinyBackbone, tiny_spec
from TransferSegLib.networks.interface import Backbone, NetworkSpec, TiledBackbone
from TransferSegLib.networks.nnunet.backbone import NnUNetBackbone, nnunet_spec
from TransferSegLib.networks.nnunet.plan import UNetPlan
from TransferSegLib.networks.unet_valid.backbone import ValidUNetBackbone, unet_valid_spec

LIBRARY = Path(__file__).resolve().parents[2] / "TransferSegLib"
PLAN = UNetPlan(
    is_residual=True,
    features=(4, 6, 8),
    kernels_zyx=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    strides_zyx=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    encoder_blocks=(1, 2, 1),
    decoder_convolutions=(1, 2),
    patch_zyx=(8, 24, 16),
)
FAMILIES = [
    ValidUNetBackbone(unet_valid_spec(2, 4)),
    TinyBackbone(tiny_spec(4, low_head=True)),
    NnUNetBackbone(nnunet_spec(PLAN, channels=2, classes=4)),
    documented_backbone(NetworkSpec(kind="plain", classes=4, arguments={"width": 3})),
]


def imports(file: Path) -> Iterator[str]:
    """Yield what of the library a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("TransferSegLib."):
            yield str(node.module)


def test_of_a_family_only_its_specs_are_known_outside() -> None:
    for file in LIBRARY.rglob("*.py"):
        if LIBRARY / "networks" not in file.parents:
            known = {name for name in imports(file) if name.startswith("TransferSegLib.networks.unet_valid")}
            assert known <= {"TransferSegLib.networks.unet_valid.backbone"}, file


def test_families_know_nothing_of_what_uses_them() -> None:
    for file in (LIBRARY / "networks").rglob("*.py"):
        used = {name for name in imports(file) if not name.startswith("TransferSegLib.networks")}
        assert used <= {"TransferSegLib.errors"}, file


@pytest.mark.parametrize("backbone", FAMILIES, ids=lambda backbone: backbone.spec.kind)
def test_a_family_keeps_the_interface(backbone: Backbone) -> None:
    protocol = TiledBackbone if backbone.tiling.blend == "exact" else Backbone
    for name in (name for name in dir(protocol) if not name.startswith("_")):
        assert hasattr(backbone, name), name
    backbone.check()
    assert backbone.split_points, "a network can be cut at one place at least"
    assert backbone.tiling.blend == "exact" or backbone.tiling.patch_zyx, "windows have a size"
    with torch.device("meta"):
        backbone.build()
    network = backbone.build()
    assert sum(weights.numel() for weights in network.parameters()) == backbone.parameters
    assert backbone.first_layer(network) is next(network.parameters())
    for head in backbone.heads:
        assert network.get_parameter(f"{head}.weight").shape[0] == len(network.get_parameter(f"{head}.bias")) == 4
    backbone.initialise(network, 1)
    other = backbone.build()
    backbone.initialise(other, 1)
    for weights, same in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(weights, same)


@pytest.mark.parametrize("backbone", FAMILIES, ids=lambda backbone: backbone.spec.kind)
def test_training_logits_have_the_size_of_the_patch(backbone: Backbone) -> None:
    patch = backbone.training_patch(32, 2)
    sides = patch.sides_zyx
    for side, multiple, smallest in zip(sides, backbone.tiling.multiple_zyx, backbone.tiling.smallest_zyx, strict=True):
        assert side % multiple == 0 and side >= smallest
    logits = backbone.training_logits(backbone.build(), torch.zeros(2, backbone.spec.channels, *sides))
    assert logits.shape == (2, 4, *sides)


@pytest.mark.parametrize(("side", "expected"), [(8, (4, 8, 8)), (12, (4, 12, 8)), (24, (8, 24, 16)), (64, (8, 24, 16))])
def test_patches_of_nnunet_are_its_own_or_smaller_ones_of_their_shape(side: int, expected: tuple[int, ...]) -> None:
    backbone = NnUNetBackbone(nnunet_spec(PLAN, channels=2, classes=4))
    assert backbone.training_patch(side, 4).sides_zyx == backbone.feature_patch(side) == expected
    assert backbone.training_patch(side, 4).frame_zyx == (0, 0, 0)
    # Its own patch is a single voxel deep at the bottom: there is no smaller one.
    flat = NnUNetBackbone(nnunet_spec(replace(PLAN, patch_zyx=(2, 24, 16)), channels=2, classes=4))
    assert flat.training_patch(side, 4).sides_zyx[0] == 2


@pytest.mark.parametrize("backbone", FAMILIES, ids=lambda backbone: backbone.spec.kind)
def test_the_finest_supervised_logits_are_those_that_predict(backbone: Backbone) -> None:
    network, sides = backbone.build(), backbone.training_patch(32, 2).sides_zyx
    scans = torch.randn(2, backbone.spec.channels, *sides)
    finest, *coarser = backbone.supervised_logits(network, scans)
    torch.testing.assert_close(finest, backbone.training_logits(network, scans), atol=1e-5, rtol=0)
    for logits in coarser:
        assert all(side % small == 0 for side, small in zip(sides, logits.shape[2:], strict=True))


def test_supervised_logits_have_all_digits_in_half_precision() -> None:
    backbone = NnUNetBackbone(nnunet_spec(PLAN, channels=2, classes=4))
    network, scans = backbone.build(), torch.randn(1, 2, 8, 24, 16)
    with torch.autocast("cpu", torch.bfloat16):
        logits = backbone.supervised_logits(network, scans)
        torch.testing.assert_close(logits[0], backbone.training_logits(network, scans), atol=1e-5, rtol=0)
    assert all(one.dtype == torch.float32 for one in logits)


@pytest.mark.parametrize("backbone", FAMILIES, ids=lambda backbone: backbone.spec.kind)
def test_frozen_and_last_layers_are_the_network(backbone: Backbone) -> None:
    network, patch = backbone.build().eval(), backbone.feature_patch(20)
    for point in backbone.split_points:
        sizes = backbone.split_sizes(point)
        seen = tuple(side + 2 * context for side, context in zip(patch, sizes.context_zyx, strict=True))
        scan = torch.randn(1, backbone.spec.channels, *seen)
        features = backbone.frozen_layers(network, point)(scan)
        expected = tuple(side + 2 * halo for side, halo in zip(patch, sizes.halo_zyx, strict=True))
        assert features.shape == (1, sizes.channels, *expected)
        with torch.no_grad():
            logits = backbone.last_layers(network, point)(features)
            assert logits.shape == (1, 4, *patch)
            torch.testing.assert_close(logits, network(scan), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backbone", FAMILIES, ids=lambda backbone: backbone.spec.kind)
def test_last_layers_share_their_weights_and_frozen_layers_are_a_copy(backbone: Backbone) -> None:
    network = backbone.build()
    own = {id(weights) for weights in network.parameters()}
    for point in backbone.split_points:
        last = {id(weights) for weights in backbone.last_layers(network, point).parameters()}
        assert last and last <= own, "stage 1 of fine-tuning would train a copy"
        frozen = {id(weights) for weights in backbone.frozen_layers(network, point).parameters()}
        assert not frozen & own, "training would change the layers whose features are cached"


@pytest.mark.parametrize("backbone", FAMILIES, ids=lambda backbone: backbone.spec.kind)
def test_the_head_classifies_the_features_of_the_last_layers(backbone: Backbone) -> None:
    network, patch = backbone.build().eval(), backbone.feature_patch(20)
    head = network.get_submodule(backbone.heads[-1])
    for point in backbone.split_points:
        sizes, last = backbone.split_sizes(point), backbone.last_layers(network, point)
        maps = torch.randn(
            1, sizes.channels, *(side + 2 * halo for side, halo in zip(patch, sizes.halo_zyx, strict=True))
        )
        with torch.no_grad():
            torch.testing.assert_close(head(last.features(maps)), last(maps), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backbone", FAMILIES, ids=lambda backbone: backbone.spec.kind)
def test_a_linear_head_is_linear_in_each_voxel(backbone: Backbone) -> None:
    point = backbone.tiling.linear_head
    if point is None:
        pytest.skip("the family names no linear head")
    last = backbone.last_layers(backbone.build().eval(), point)
    one, other = torch.randn(2, 1, backbone.split_sizes(point).channels, *backbone.feature_patch(20))
    with torch.no_grad():
        bias = last(torch.zeros_like(one))
        torch.testing.assert_close(last(one + other) + bias, last(one) + last(other), atol=1e-5, rtol=0)
        torch.testing.assert_close(last(one.flip(2, 3, 4)), last(one).flip(2, 3, 4), atol=1e-5, rtol=0)
