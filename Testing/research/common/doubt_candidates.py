"""Ways to tell how doubtful a voxel is, on a model's grid, and how well they point at real errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from TransferSegLib.inference.predict import Predictor
from TransferSegLib.networks.interface import Triple

#: By how many voxels a scan is moved against the lattice of the network's pooling (8 voxels), for test-time shifts.
SHIFTS: tuple[Triple, ...] = ((4, 4, 4), (2, 6, 4), (6, 2, 6))
#: Errors deeper than so many voxel sides from the true surface are large.
LARGE_ERROR_SIDES = 1.5
#: The region of a structure ends so far from what is drawn or predicted.
REGION_MM = 10.0
_SMALLEST = 1e-7


def probabilities(predictor: Predictor, intensities_czyx: np.ndarray, padding: Sequence[float]) -> np.ndarray:
    """Return the probabilities (classes, z, y, x; float32) of a prepared scan."""
    prediction = predictor.predict(intensities_czyx, padding, 2.5e9)
    result: np.ndarray | None = None
    for box in prediction:
        found = torch.softmax(box.values.float(), dim=0).numpy()
        if result is None:
            result = np.zeros((len(found), *intensities_czyx.shape[1:]), np.float32)
            result[prediction.background_channel] = 1.0
        result[(slice(None), *box.window)] = found[(slice(None), *box.own)]
    assert result is not None
    return result


def shifted_probabilities(
    predictor: Predictor, intensities_czyx: np.ndarray, padding: Sequence[float], shift_zyx: Triple
) -> np.ndarray:
    """Return the probabilities of a scan that was moved by some voxels first, moved back."""
    moved = np.empty(
        (len(intensities_czyx), *np.add(intensities_czyx.shape[1:], shift_zyx)),
        np.float32,
    )
    moved[:] = np.array(padding, np.float32)[:, None, None, None]
    back = tuple(slice(by, None) for by in shift_zyx)
    moved[(slice(None), *back)] = intensities_czyx
    return probabilities(predictor, moved, padding)[(slice(None), *back)]


def logit_margin(probabilities_czyx: np.ndarray) -> np.ndarray:
    """Return the difference of the logarithms of the two largest probabilities (zyx), as the library uses it."""
    logs = np.log(np.partition(probabilities_czyx, -2, axis=0)[-2:] + _SMALLEST)
    return np.asarray(logs[1] - logs[0])


def probability_margin(probabilities_czyx: np.ndarray) -> np.ndarray:
    """Return the difference of the two largest probabilities (zyx)."""
    two = np.partition(probabilities_czyx, -2, axis=0)[-2:]
    return np.asarray(two[1] - two[0])


def disagreement(several: Sequence[np.ndarray]) -> np.ndarray:
    """Return the variance of the probabilities over several predictions, summed over classes (zyx)."""
    return np.asarray(np.var(np.stack(several), axis=0).sum(axis=0))


def surface_distance_mm(mask_zyx: np.ndarray, spacing_zyx_mm: Sequence[float]) -> np.ndarray:
    """Return the distance of every voxel to the surface of a mask, the size of the volume where it is empty."""
    if not mask_zyx.any():
        return np.full(mask_zyx.shape, 1e3)
    distances = [ndimage.distance_transform_edt(each, spacing_zyx_mm) for each in (mask_zyx, ~mask_zyx)]
    return np.where(mask_zyx, *distances)


def found_errors(doubt: np.ndarray, wrong: np.ndarray) -> tuple[float | None, float | None]:
    """Return the share of the wrong voxels (n) among the first 10 % by doubt (n), and the area under the whole curve.

    The curve is the share of wrong voxels found over the share of voxels looked at, the most doubtful first. None where
    nothing is wrong.
    """
    if not wrong.any():
        return None, None
    order = np.argsort(-doubt, kind="stable")
    found = np.cumsum(wrong[order]) / np.count_nonzero(wrong)
    return round(float(found[max(0, len(found) // 10 - 1)]), 4), round(float(found.mean()), 4)


def judge_structure(
    candidates: dict[str, np.ndarray], predicted: np.ndarray, true: np.ndarray, spacing_zyx_mm: Sequence[float]
) -> dict[str, Any] | None:
    """Return how well each candidate (zyx) points at the errors of one structure; None where there is nothing.

    Wrong voxels are those that are only predicted or only drawn. The region is what is within 10 mm of either.
    """
    if not (predicted | true).any():
        return None
    region = ndimage.distance_transform_edt(~(predicted | true), spacing_zyx_mm) <= REGION_MM
    wrong = predicted != true
    large = wrong & (surface_distance_mm(true, spacing_zyx_mm) > LARGE_ERROR_SIDES * max(spacing_zyx_mm))
    line: dict[str, Any] = {"voxels": int(region.sum()), "wrong": int(wrong.sum()), "large": int(large.sum())}
    by_distance = {"distance": -surface_distance_mm(predicted, spacing_zyx_mm)}
    for name, doubt in (by_distance | candidates).items():
        line[name] = [*found_errors(doubt[region], wrong[region]), *found_errors(doubt[region], large[region])]
    return line


def hits(places_zyx: Sequence[Triple], large_zyx: np.ndarray, spacing_zyx_mm: Sequence[float]) -> list[bool]:
    """Return of each place whether there is a large error within 6 mm of it."""
    if not large_zyx.any():
        return [False] * len(places_zyx)
    away = ndimage.distance_transform_edt(~large_zyx, spacing_zyx_mm)
    return [bool(away[place] <= 6.0) for place in places_zyx]
