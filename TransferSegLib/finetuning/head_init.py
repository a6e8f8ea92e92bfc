"""A new structure's channel starts from the data: fitted to the frozen features of annotated voxels.

The other channels' logits are there already and are not touched. With L(x) the logarithm of the sum of their
exponentials, the softmax gives the new channel the probability sigmoid(w . f(x) + b - L(x)): a logistic regression with
a known offset. It is convex, and Newton's method solves it as a few weighted ridge regressions (float64), so the new
channel is calibrated against the others from the first step on. Beside it every channel of the parent is tried as a
start, with its best bias; the smaller loss on the same voxels wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage, special

from TransferSegLib.finetuning.feature_cache import CachedPatch, FeatureCache
from TransferSegLib.finetuning.label_change import LabelChange
from TransferSegLib.inference.devices import Device
from TransferSegLib.networks.interface import LastLayers
from TransferSegLib.progress import CancelToken, Task

#: Strength of the ridge on standardised features; the losses are means over the voxels.
_RIDGE = 1e-3
_NEWTON_STEPS = 50
#: Voxels taken of a patch and channel: of the structure, of the background close to it, of the rest.
_VOXELS_OF_EACH = 800
#: The background within so many voxels of the structure is where its border is decided.
_NEAR_VOXELS = 4


@dataclass(frozen=True)
class ChannelInit:
    """How a channel starts: ``origin`` is "fit", or the name of the parent's structure it is a copy of.

    ``loss`` is the mean cross-entropy (natural logarithm) of structure against everything else on the sampled voxels,
    ``copy_loss`` that of the parent's best channel. ``origin`` "none": no cached voxel had the structure.
    """

    structure: str
    origin: str
    loss: float
    copy_loss: float


@dataclass(frozen=True)
class VoxelSample:
    """Voxels: features (n, K), whether each is of the structure, and how many voxels each stands for (sum 1)."""

    features: np.ndarray
    is_structure: np.ndarray
    shares: np.ndarray


def init_fresh_channels(
    state: dict[str, torch.Tensor],
    parent_state: dict[str, torch.Tensor],
    change: LabelChange,
    cache: FeatureCache,
    last_layers: LastLayers,
    head: str,
    device: Device,
    seed: int,
    cancel: CancelToken | None = None,
) -> tuple[ChannelInit, ...]:
    """Give the fresh channels of ``state`` their weights, in place, and return how each starts.

    ``last_layers`` are the parent's, ``head`` is the name of the layer that predicts. A structure without a voxel in
    the cache gets a channel that stays silent (zero weights, a bias below all others). Deterministic: voxels are drawn
    by ``seed``. Raises Cancelled; then ``state`` is as it was.
    """
    fresh = change.fresh_channels
    task = Task("", None, cancel)
    samples = _sample(cache, fresh, last_layers, device, seed, task)
    weights = state[f"{head}.weight"].flatten(1).double().numpy()
    biases = state[f"{head}.bias"].double().numpy()
    parents = parent_state[f"{head}.weight"].flatten(1).double().numpy(), parent_state[f"{head}.bias"].double().numpy()
    starts: dict[int, ChannelInit] = {}
    # The fresh channels know of one another from the second round on.
    for _ in range(1 if len(fresh) == 1 else 3):
        for channel in fresh:
            sample = samples.get(channel)
            name = change.label_set.names[channel - 1]
            if sample is None:
                weights[channel], biases[channel] = 0.0, -20.0
                starts[channel] = ChannelInit(name, "none", float("nan"), float("nan"))
                continue
            others = [c for c in range(change.label_set.classes) if c != channel and (c not in fresh or c in starts)]
            offset = special.logsumexp(sample.features @ weights[others].T + biases[others], axis=1)
            weights[channel], biases[channel], start = _best_start(sample, offset, parents, change, name, task)
            starts[channel] = start
    shape = state[f"{head}.weight"].shape
    state[f"{head}.weight"] = torch.from_numpy(weights).to(state[f"{head}.weight"].dtype).reshape(shape)
    state[f"{head}.bias"] = torch.from_numpy(biases).to(state[f"{head}.bias"].dtype)
    return tuple(starts[channel] for channel in fresh)


def init_at_random(state: dict[str, torch.Tensor], heads: Sequence[str], fresh: Sequence[int], seed: int) -> None:
    """Give fresh channels of the heads small random weights (a tenth of He's) and no bias, in place: as published."""
    generator = torch.Generator().manual_seed(seed)
    for head in heads:
        for channel in fresh:
            row = state[f"{head}.weight"][channel]
            deviation = 0.1 * (2.0 / row.shape[0]) ** 0.5
            row.copy_(torch.randn(row.shape, generator=generator) * deviation)
            state[f"{head}.bias"][channel] = 0.0


def fit_channel(
    sample: VoxelSample, offset: np.ndarray, ridge: float = _RIDGE, task: Task | None = None
) -> tuple[np.ndarray, float]:
    """Return weights (K) and bias that minimise cross-entropy against the other channels, plus a ridge.

    ``offset`` (n): logarithm of the summed exponentials of the other channels' logits. Raises Cancelled from the task.
    """
    means = sample.shares @ sample.features
    spreads = np.sqrt(sample.shares @ np.square(sample.features - means))
    alive = spreads > 1e-9 * max(1.0, float(np.abs(means).max(initial=0.0)))
    scaled = (sample.features[:, alive] - means[alive]) / spreads[alive]
    design = np.column_stack([scaled, np.ones(len(scaled))])
    penalty = np.append(np.full(scaled.shape[1], ridge), 0.0)
    solution = _newton(design, sample, offset, penalty, task)
    weights = np.zeros(sample.features.shape[1])
    weights[alive] = solution[:-1] / spreads[alive]
    return weights, float(solution[-1] - weights @ means)


def fit_bias(sample: VoxelSample, logits: np.ndarray, offset: np.ndarray, task: Task | None = None) -> float:
    """Return the bias that, added to given logits (n), minimises cross-entropy against the other channels."""
    return float(_newton(np.ones((len(logits), 1)), sample, offset - logits, np.zeros(1), task)[0])


def cross_entropy(sample: VoxelSample, logits: np.ndarray, offset: np.ndarray) -> float:
    """Return the mean cross-entropy of structure against everything else, other channels at ``offset``."""
    margins = np.where(sample.is_structure, offset - logits, logits - offset)
    return float(sample.shares @ np.logaddexp(0.0, margins))


def _newton(
    design: np.ndarray, sample: VoxelSample, offset: np.ndarray, penalty: np.ndarray, task: Task | None
) -> np.ndarray:
    """Minimise a penalised logistic loss over linear logits ``design @ x``; steps are halved until it falls."""
    target = sample.is_structure.astype(np.float64)

    def loss(x: np.ndarray) -> float:
        return cross_entropy(sample, design @ x, offset) + 0.5 * float(penalty @ np.square(x))

    solution = np.zeros(design.shape[1])
    # The bias that gives the structure its share where the offsets are alike: far from saturation from the start.
    share = float(np.clip(sample.shares @ target, 1e-6, 1 - 1e-6))
    solution[-1] = float(sample.shares @ offset) + np.log(share / (1 - share))
    current = loss(solution)
    for _ in range(_NEWTON_STEPS):
        if task is not None:
            task.check()
        probability = special.expit(design @ solution - offset)
        gradient = design.T @ (sample.shares * (probability - target)) + penalty * solution
        curvature = (design * (sample.shares * probability * (1 - probability))[:, None]).T @ design
        # A little damping keeps saturated voxels (no curvature) from making the system singular.
        step = np.linalg.solve(curvature + np.diag(penalty + 1e-9), gradient)
        for halving in range(40):
            candidate = solution - step / 2**halving
            value = loss(candidate)
            if value < current:
                break
        else:
            break
        improved, solution, current = current - value, candidate, value
        if improved < 1e-10:
            break
    return solution


def _best_start(
    sample: VoxelSample,
    offset: np.ndarray,
    parents: tuple[np.ndarray, np.ndarray],
    change: LabelChange,
    name: str,
    task: Task,
) -> tuple[np.ndarray, float, ChannelInit]:
    """Return weights, bias and description of the better of the fit and the parent's best channel."""
    weights, bias = fit_channel(sample, offset, task=task)
    fit_loss = cross_entropy(sample, sample.features @ weights + bias, offset)
    copies = []
    for channel, parent_name in enumerate(change.parent.names, start=1):
        row, old_bias = parents[0][channel], parents[1][channel]
        logits = sample.features @ row + old_bias
        shift = fit_bias(sample, logits, offset, task)
        copies.append((cross_entropy(sample, logits + shift, offset), parent_name, row, float(old_bias + shift)))
    copy_loss, parent_name, row, copy_bias = min(copies, key=lambda copy: copy[0])
    if copy_loss < fit_loss:
        return row, copy_bias, ChannelInit(name, parent_name, copy_loss, copy_loss)
    return weights, bias, ChannelInit(name, "fit", fit_loss, copy_loss)


@torch.no_grad()
def _sample(
    cache: FeatureCache, channels: Sequence[int], last_layers: LastLayers, device: Device, seed: int, task: Task
) -> dict[int, VoxelSample]:
    """Draw voxels for every channel from all patches in which it is annotated."""
    drawn: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {channel: [] for channel in channels}
    place = torch.device(device.torch_name)
    last_layers = last_layers.to(place)
    for number in range(len(cache)):
        task.check()
        patch = cache.patch(number)
        chosen = {c: choose_voxels(patch, c, np.random.default_rng([seed, number, c])) for c in channels}
        if not any(part is not None for part in chosen.values()):
            continue
        with torch.autocast(place.type, device.dtype, enabled=device.dtype != torch.float32):
            maps = last_layers.features(patch.maps[None].to(place, device.dtype))[0].flatten(1)
        for channel, part in chosen.items():
            if part is not None:
                indices, shares = part
                features = maps[:, torch.from_numpy(indices).to(place)].T.double().cpu().numpy()
                drawn[channel].append((features, patch.labels.flatten().numpy()[indices] == channel, shares))
    samples = {}
    for channel, parts in drawn.items():
        if parts and any(is_structure.any() for _, is_structure, _ in parts):
            features, is_structure, shares = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            samples[channel] = VoxelSample(features, is_structure, shares / shares.sum())
    return samples


def choose_voxels(
    patch: CachedPatch, channel: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """Choose voxels of a structure, of the background close to it, and of the rest, as many of each where there are.

    Returns flat indices and how many voxels each stands for; None when the structure is not annotated in the patch or
    nothing is annotated.
    """
    if not bool(patch.annotated[channel]):
        return None
    is_structure = patch.labels.numpy() == channel
    is_counted = patch.weights.numpy() > 0
    near = ndimage.binary_dilation(is_structure, iterations=_NEAR_VOXELS) & ~is_structure
    indices, shares = [], []
    for part in (is_structure, near, ~is_structure & ~near):
        voxels = np.flatnonzero(part & is_counted)
        if voxels.size:
            taken = random.choice(voxels, min(voxels.size, _VOXELS_OF_EACH), replace=False)
            indices.append(taken)
            shares.append(np.full(taken.size, voxels.size / taken.size))
    return (np.concatenate(indices), np.concatenate(shares)) if indices else None
