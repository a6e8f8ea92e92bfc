"""The network against an independent implementation, and what its geometry promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from TransferSegLib.errors import NetworkError
from TransferSegLib.networks.unet_valid.unet import UNet3D, channels_last, initialise


def narrow_network(seed: int = 3, classes: int = 3, width: int = 2) -> UNet3D:
    """Return a network with random weights and biases."""
    network = UNet3D(classes, width)
    initialise(network, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in network.named_parameters():
            if name.endswith("bias"):
                values.add_(0.1 * torch.randn(values.shape, generator=generator))
    return network.eval()


def random_scan(*sides_zyx: int, seed: int = 0) -> torch.Tensor:
    """Return a scan (1, 1, z, y, x) of normal noise."""
    return torch.randn(1, 1, *sides_zyx, generator=torch.Generator().manual_seed(seed))


def test_parameter_count_of_the_paper() -> None:
    with torch.device("meta"):
        network = UNet3D(classes=23, width=32)
    assert sum(values.numel() for values in network.parameters()) == 16_317_015
    last = [*network.up[-1].second.parameters(), *network.head.parameters()]
    assert sum(values.numel() for values in last) == 112_151


def test_layer_names_are_those_of_the_model_format() -> None:
    names = [
        f"{part}.{number}.{layer}"
        for part, count in (("down", 4), ("up", 3))
        for number in range(count)
        for layer in ("first", "second")
    ] + ["head"]
    assert list(UNet3D(2, 1).state_dict()) == [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]


def convolved(maps: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return the valid correlation of maps (C, D, H, W) with a weight (C', C, k, k, k), by shifting and adding."""
    size = weight.shape[2]
    depth, height, width = (side - size + 1 for side in maps.shape[1:])
    result = np.zeros((weight.shape[0], depth, height, width)) + bias[:, None, None, None]
    for z, y, x in np.ndindex(size, size, size):
        result += np.tensordot(
            weight[:, :, z, y, x], maps[:, z : z + depth, y : y + height, x : x + width], axes=(1, 0)
        )
    return result


def computed_by_hand(scan: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Return the network's logits in numpy and float64: the paper's layers as facts, not the code under test."""

    def pair(maps: np.ndarray, name: str) -> np.ndarray:
        for layer in ("first", "second"):
            maps = convolved(maps, weights[f"{name}.{layer}.weight"], weights[f"{name}.{layer}.bias"]).clip(min=0)
        return maps

    maps, skips = scan[None], []
    for level in range(3):
        maps = pair(maps, f"down.{level}")
        skips.append(maps)
        channels, depth, height, width = maps.shape
        blocks = maps.reshape(channels, depth // 2, 2, height // 2, 2, width // 2, 2)
        maps = blocks.max(axis=(2, 4, 6))
    maps = pair(maps, "down.3")
    for number in range(3):
        high = maps.repeat(2, axis=1).repeat(2, axis=2).repeat(2, axis=3)
        skip = skips.pop()
        windows = [
            slice((have - want) // 2, (have - want) // 2 + want)
            for have, want in zip(skip.shape[1:], high.shape[1:], strict=True)
        ]
        maps = pair(np.concatenate([high, skip[:, windows[0], windows[1], windows[2]]]), f"up.{number}")
    return convolved(maps, weights["head.weight"], weights["head.bias"])


def test_output_is_that_of_an_independent_implementation() -> None:
    network = narrow_network()
    scan = random_scan(108, 116, 108)
    weights = {name: values.double().numpy() for name, values in network.state_dict().items()}
    with torch.no_grad():
        logits = network(scan)[0].numpy()
    expected = computed_by_hand(scan[0, 0].double().numpy(), weights)
    assert logits.shape == (3, 20, 28, 20)
    assert expected.std() > 0.01
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_cases_of_a_batch_do_not_mix() -> None:
    network = narrow_network()
    scans = torch.cat([random_scan(108, 108, 108, seed=seed) for seed in (1, 2)])
    with torch.no_grad():
        both = network(scans)
        for number in range(2):
            torch.testing.assert_close(both[number], network(scans[number : number + 1])[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_tiles_agree_where_they_overlap_when_their_origins_differ_by_eight(axis: int) -> None:
    network = narrow_network()
    scan = random_scan(*(116 if number == axis else 108 for number in range(3)))
    with torch.no_grad():
        first = network(scan.narrow(axis + 2, 0, 108)).narrow(axis + 2, 8, 12)
        shifted = network(scan.narrow(axis + 2, 8, 108)).narrow(axis + 2, 0, 12)
    assert float(first.std()) > 0.05
    assert float((first - shifted).abs().max()) < 1e-5


@pytest.mark.parametrize("offset", [1, 4])
def test_tiles_do_not_agree_at_other_offsets(offset: int) -> None:
    network = narrow_network()
    scan = random_scan(108 + offset, 108, 108)
    with torch.no_grad():
        first = network(scan[:, :, :108])[:, :, offset:]
        shifted = network(scan[:, :, offset:])[:, :, : 20 - offset]
    assert float((first - shifted).abs().mean()) > 0.01 * float(first.std())


def test_output_sees_what_the_arithmetic_allows_and_no_more() -> None:
    """Followed up and down by hand, the output planes 12 to 15 see exactly the input planes 8 to 107."""
    network = narrow_network()
    scan = random_scan(116, 108, 108)
    outside, edges = scan.clone(), scan.clone()
    outside[:, :, [*range(8), *range(108, 116)]] += 5
    edges[:, :, [*range(8, 20), *range(96, 108)]] += 5
    with torch.no_grad():
        planes = [network(changed)[0, :, 12:16] for changed in (scan, outside, edges)]
    torch.testing.assert_close(planes[1], planes[0], atol=1e-5, rtol=0)
    assert float((planes[2] - planes[0]).abs().max()) > 0.01


@pytest.mark.parametrize("sides_zyx", [(100, 108, 108), (108, 110, 108), (108, 108, 131)])
def test_illegal_tile_is_a_network_error(sides_zyx: tuple[int, int, int]) -> None:
    network = narrow_network()
    for run in (network, network.features, network.features_before_last_pair):
        with pytest.raises(NetworkError, match="does not pass through the network"):
            run(torch.zeros(1, 1, *sides_zyx))


def test_padded_output_has_the_size_of_the_patch() -> None:
    network = narrow_network()
    with torch.no_grad():
        assert network(random_scan(8, 16, 24), padded=True).shape == (1, 3, 8, 16, 24)
    with pytest.raises(NetworkError, match="padded patch"):
        network(random_scan(8, 8, 12), padded=True)


def test_padded_output_is_the_valid_one_far_from_the_border() -> None:
    """Valid convolutions shift what is pooled, so a tile's poolings fall on a patch's for origins 2, 10, 18 ..."""
    network = narrow_network()
    scan = random_scan(112, 112, 112)
    with torch.no_grad():
        padded = network(scan, padded=True)
        valid = network(scan[:, :, 2:110, 2:110, 2:110])
    assert float(valid.std()) > 1e-3
    torch.testing.assert_close(padded[:, :, 46:66, 46:66, 46:66], valid, atol=1e-5, rtol=0)


def test_a_scan_with_strides_of_channels_last_maps_is_the_same_scan() -> None:
    scans = torch.cat([random_scan(8, 16, 24, seed=seed) for seed in (1, 2)])
    strided = channels_last(scans[1:])
    assert strided.stride()[1] == 1 and strided.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(strided, scans[1:]) and strided.data_ptr() == scans[1:].data_ptr()


def test_gradients_reach_every_weight() -> None:
    network = narrow_network()
    network(random_scan(108, 108, 108)).square().mean().backward()
    for name, values in network.named_parameters():
        assert values.grad is not None and float(values.grad.abs().sum()) > 0, name


def test_initialisation_is_drawn_from_the_seed_alone() -> None:
    networks = [UNet3D(3, 4) for _ in range(3)]
    before = torch.get_rng_state()
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        initialise(network, seed)
    assert torch.equal(before, torch.get_rng_state())
    first, again, other = (network.down[1].first.weight for network in networks)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    biases = [values.detach() for name, values in networks[0].named_parameters() if name.endswith("bias")]
    assert len(biases) == 15
    assert all(int(values.count_nonzero()) == 0 for values in biases)


def test_initialisation_keeps_the_scale_and_starts_near_even_probabilities() -> None:
    network = UNet3D(classes=4, width=8)
    initialise(network, seed=0)
    weight = network.down[2].first.weight.detach()
    assert float(weight.std()) == pytest.approx((2 / (27 * weight.shape[1])) ** 0.5, rel=0.02)
    with torch.no_grad():
        features = network.features(random_scan(108, 108, 108))
        probabilities = torch.softmax(network.head(features), dim=1).mean(dim=(0, 2, 3, 4))
    assert 0.05 < float(features.std()) < 5
    np.testing.assert_allclose(probabilities.numpy(), 0.25, atol=0.1)
