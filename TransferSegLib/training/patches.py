"""Training patches: where they are drawn, and how they are turned, scaled and mirrored in the world.

Everything random comes from the generator handed in, so step 1234 of a seed is the same patch in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import ndimage

from TransferSegLib.datasets.prepared import PreparedCase
from TransferSegLib.errors import TrainingError
from TransferSegLib.networks.interface import TrainingPatch
from TransferSegLib.training.augmentation import vary_intensities
from TransferSegLib.training.configuration import AugmentationConfiguration


class PatchRules(Protocol):
    """How patches are drawn: the settings of those names in TrainingConfiguration and FineTuningConfiguration."""

    @property
    def background_share(self) -> float:
        """Share of patches drawn anywhere."""

    @property
    def augmentation(self) -> AugmentationConfiguration:
        """How patches are varied."""


@dataclass(frozen=True)
class Patch:
    """A box of a case: intensities (channels, z, y, x), labels (uint8 channel numbers) and weights (zyx), annotated."""

    intensities: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    annotated: np.ndarray


class PatchSampler:
    """Draws patches so that every annotated structure is seen equally often, however rare it is."""

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        mirrored_channels: tuple[int, ...],
        patch: TrainingPatch,
        rules: PatchRules,
    ) -> None:
        """Index the cases by structure; raises TrainingError when no case has an annotated voxel.

        What a patch is drawn for lies within its frame, whose voxels have no weight.
        """
        self._cases = list(cases)
        self._sides, self._frame = np.array(patch.sides_zyx), np.array(patch.frame_zyx)
        self._rules = rules
        self._mirrored = np.array(mirrored_channels, np.uint8)
        channels = sorted({channel for case in cases for channel in case.voxels})
        self._holders = [[case for case in cases if channel in case.voxels] for channel in channels]
        self._channels = channels
        if not channels:
            raise TrainingError(
                "No training case has a voxel of an annotated structure: there is nothing to learn from."
            )

    def draw(self, random: np.random.Generator) -> Patch:
        """Draw one augmented patch."""
        case, anchor = self._place(random)
        reach = np.maximum(0, self._sides // 2 - self._frame - 1)
        # A wide frame (all the context of a patch) may lie outside the scan as a whole.
        overhang = np.maximum(12, self._frame + 8)
        centre = _kept_near(anchor + random.uniform(-reach, reach), case.labels.shape, self._sides, overhang)
        augmentation = self._rules.augmentation
        turn = in_voxels(_random_turn(random, augmentation), case.grid.spacing_zyx_mm)
        mirror = random.random() < augmentation.mirror
        if mirror:
            turn = turn @ np.diag([1.0, 1.0, -1.0])
        patch = _cut(case, centre, turn, self._sides)
        if mirror:
            inverse = np.argsort(self._mirrored)
            patch = Patch(patch.intensities, self._mirrored[patch.labels], patch.weights, patch.annotated[inverse])
        weights = np.zeros_like(patch.weights)
        inner = tuple(slice(frame, side - frame) for frame, side in zip(self._frame, self._sides, strict=True))
        weights[inner] = patch.weights[inner]
        varied = np.stack([vary_intensities(channel, augmentation, random) for channel in patch.intensities])
        return Patch(varied, patch.labels, weights, patch.annotated)

    def _place(self, random: np.random.Generator) -> tuple[PreparedCase, np.ndarray]:
        """Choose a case and the voxel (zyx) that the patch must hold."""
        if random.random() < self._rules.background_share:
            case = self._cases[random.integers(len(self._cases))]
            return case, np.array([random.uniform(0, size - 1) for size in case.labels.shape])
        number = int(random.integers(len(self._channels)))
        holders = self._holders[number]
        case = holders[random.integers(len(holders))]
        voxels = case.voxels[self._channels[number]]
        index = voxels[random.integers(voxels.size)]
        return case, np.array(np.unravel_index(index, case.labels.shape), np.float64)


def in_voxels(turn: np.ndarray, spacing_zyx_mm: tuple[float, float, float]) -> np.ndarray:
    """Return a turn of the world (3x3, zyx, mm) as one of voxels: on an anisotropic grid it is not a rotation."""
    if len(set(spacing_zyx_mm)) == 1:
        return turn
    spacing = np.array(spacing_zyx_mm)
    return turn * spacing[None, :] / spacing[:, None]


def _kept_near(centre: np.ndarray, shape: tuple[int, ...], sides: np.ndarray, overhang: np.ndarray) -> np.ndarray:
    """Move a patch's centre so that the patch leaves a larger scan by at most ``overhang`` voxels."""
    kept = []
    for position, size, side, over in zip(centre, shape, sides, overhang, strict=True):
        low, high = side / 2 - over, size - side / 2 + over
        # A scan shorter than the patch lies anywhere within it: the two limits change places.
        kept.append(np.clip(position, min(low, high), max(low, high)))
    return np.array(kept)


def _random_turn(random: np.random.Generator, augmentation: AugmentationConfiguration) -> np.ndarray:
    """Return a 3x3 matrix (zyx) from patch to scan voxels: a small rotation and a scaling."""
    turn = np.eye(3)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        angle = np.deg2rad(random.uniform(-1, 1) * augmentation.rotation_degrees)
        rotation = np.eye(3)
        rotation[first, first] = rotation[second, second] = np.cos(angle)
        rotation[first, second], rotation[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ rotation
    largest = np.log1p(augmentation.scaling)
    common = random.uniform(-1, 1) * largest
    single = random.uniform(-1, 1, 3) * largest / 3
    return turn @ np.diag(np.exp(common + single))


def _cut(case: PreparedCase, centre: np.ndarray, turn: np.ndarray, sides: np.ndarray) -> Patch:
    """Sample a box of the case about a centre: intensities linearly, labels and the annotated region by the nearest."""
    offset = centre - turn @ ((sides - 1) / 2)
    # Only the box the patch touches is converted to float32 and handed on.
    corners = (
        np.stack(np.meshgrid(*([0, side - 1] for side in sides), indexing="ij"), -1).reshape(-1, 3) @ turn.T + offset
    )
    low = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, np.array(case.labels.shape) - 1)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 2, low + 1, case.labels.shape)
    box = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
    shape = tuple(int(side) for side in sides)

    def sample(array: np.ndarray, order: int, outside: float) -> np.ndarray:
        return ndimage.affine_transform(array, turn, offset - low, shape, order=order, mode="constant", cval=outside)

    intensities = np.stack(
        [
            sample(channel[box].astype(np.float32), 1, padding)
            for channel, padding in zip(case.intensities, case.padding_values, strict=True)
        ]
    )
    labels = sample(case.labels[box], 0, 0)
    if case.region is None:
        weights = np.ones(shape, np.float32)
    else:
        weights = sample(case.region[box].astype(np.uint8), 0, 0).astype(np.float32)
    return Patch(intensities, labels, weights, case.annotated)
