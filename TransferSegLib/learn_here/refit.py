"""The last layer of one structure, fitted to the corrected part of a scan.

The log-odds of a voxel are ``trust * z + weight * d + w . f + b``: ``z`` is what the model said, ``d`` the signed
distance that judged slices interpolate, ``f`` the features in front of the last layer. Only ``w`` and ``b`` are
fitted: a logistic regression with a known offset, convex, solved by Newton's method in float64. Corrected voxels are
its labels; the others count little and lean on ``trust * z + weight * d``; a ridge holds ``w`` at zero, which is the
model's own layer. ``weight`` is the one of a few that says most of judged slices whose own contour is left out. It is
lowered where the interpolation differs from the model by more than the model errs (``plausibility``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from TransferSegLib.progress import Task


@dataclass(frozen=True)
class Recipe:
    """How the layer is fitted; the values come from ``Testing/research/benchmarks/learn_here.py``.

    ``untouched``: weight of all voxels without a label, in that of all labels. ``ridge``: strength on standardised
    features. ``weights``: those of the interpolated distance that are tried, the first for a structure that the model
    does not know where nothing can be tried. ``trust``: of the model's log-odds beside an interpolation.
    ``allowance`` and ``steepness``: see ``plausibility``. Of labels and of others ``most_voxels`` are drawn.
    """

    untouched: float = 0.3
    ridge: float = 3e-3
    weights: tuple[float, ...] = (1.0, 0.5, 1.5, 0.0)
    trust: float = 0.25
    allowance: float = 1.3
    steepness: float = 8.0
    most_voxels: int = 10_000
    seed: int = 1


@dataclass(frozen=True)
class Mix:
    """How much the model's log-odds (``trust``) and the interpolated distances (``weight``) count."""

    trust: float
    weight: float

    @staticmethod
    def of(weight: float, recipe: Recipe, plausible: float = 1.0) -> Mix:
        """Return the mix for a weight of the interpolation; the less ``plausible`` it is, the more the model counts."""
        return Mix(1.0 - plausible * (1.0 - recipe.trust), plausible * weight) if weight else Mix(1.0, 0.0)

    def log_odds(self, voxels: Voxels) -> np.ndarray:
        """Return what the two say of voxels (n)."""
        return np.asarray(self.trust * voxels.z + self.weight * voxels.d)


@dataclass(frozen=True)
class Voxels:
    """Voxels: features (n, C), the model's log-odds ``z`` (n), interpolated distances ``d`` (n)."""

    features: np.ndarray
    z: np.ndarray
    d: np.ndarray

    def only(self, some: np.ndarray) -> Voxels:
        """Return some of the voxels, by a mask (n)."""
        return Voxels(self.features[some], self.z[some], self.d[some])


@dataclass(frozen=True)
class FittedLayer:
    """What is added to ``trust * z + weight * d``: ``features @ w + b``."""

    w: np.ndarray
    b: float


def best_weight(left_out: Voxels, is_structure: np.ndarray, recipe: Recipe, knows: bool) -> float:
    """Return the weight of the interpolation with the smallest cross-entropy in judged slices that were left out.

    ``left_out.d`` holds what the other slices say. Without voxels, as with two slices, there is no reason to trust the
    interpolation more than a model that knows the structure. Where it does not (``knows`` false), it is all there is:
    the first weight is returned.
    """
    tried = [weight for weight in recipe.weights if weight or knows]
    if not len(left_out.z):
        return 0.0 if knows else tried[0]

    def loss(weight: float) -> float:
        return float(np.mean(_cross_entropy(Mix.of(weight, recipe).log_odds(left_out), is_structure)))

    return min(tried, key=loss)


def plausibility(judged: Voxels, is_structure: np.ndarray, between: Voxels, recipe: Recipe) -> float:
    """Return how far an interpolation can be believed beside what the model says, from 0 to 1.

    In the ``judged`` slices of a structure it shows how much the model errs, ``between`` them how much it differs from
    the interpolation: both as 1 - Dice. Where it differs by more than it errs, the interpolation must be wrong. So it
    is for a mandible: in the slices between a branch and the chin the structure has another form than in either, which
    slices that are left out do not tell.
    """
    errs = _unlike(judged.z > 0, is_structure)
    differs = _unlike(between.z > 0, between.d > 0)
    return min(1.0, (recipe.allowance * errs / differs) ** recipe.steepness) if differs else 1.0


def _unlike(some: np.ndarray, others: np.ndarray) -> float:
    """Return 1 - Dice of two masks, 0 where both are empty."""
    different, sizes = (int(np.count_nonzero(one)) for one in (some != others, np.stack([some, others])))
    return different / max(1, sizes)


def fit_layer(labelled: Voxels, is_structure: np.ndarray, others: Voxels, mix: Mix, recipe: Recipe) -> FittedLayer:
    """Fit the layer beside a mix: ``is_structure`` (n) are the labels; ``labelled.d`` must not know them."""
    features = np.concatenate([labelled.features, others.features]).astype(np.float64)
    means, spreads = features.mean(axis=0), features.std(axis=0)
    spreads = spreads + 0.1 * max(float(spreads.mean()), 1e-6)  # what hardly varies is no evidence
    design = np.column_stack([(features - means) / spreads, np.ones(len(features))])
    offset = np.concatenate([mix.log_odds(one) for one in (labelled, others)]).astype(np.float64)
    target = np.concatenate([is_structure.astype(np.float64), special.expit(offset[len(labelled.z) :])])
    shares = np.concatenate(
        [
            np.full(len(labelled.z), 1 / len(labelled.z)),
            np.full(len(others.z), recipe.untouched / max(1, len(others.z))),
        ]
    )
    ridge = np.append(np.full(features.shape[1], recipe.ridge), 0.1 * recipe.ridge)
    solution = _newton(design, target, shares, offset, ridge)
    w = solution[:-1] / spreads
    return FittedLayer(w, float(solution[-1] - w @ means))


def _newton(
    design: np.ndarray, target: np.ndarray, shares: np.ndarray, offset: np.ndarray, ridge: np.ndarray
) -> np.ndarray:
    """Minimise a weighted cross-entropy with a ridge; steps are halved until it falls."""

    def loss(x: np.ndarray) -> float:
        return float(shares @ _cross_entropy(design @ x + offset, target) + 0.5 * ridge @ np.square(x))

    solution = np.zeros(design.shape[1])
    current = loss(solution)
    for _ in range(50):
        probability = special.expit(design @ solution + offset)
        gradient = design.T @ (shares * (probability - target)) + ridge * solution
        curvature = (design * (shares * probability * (1 - probability))[:, None]).T @ design
        step = np.linalg.solve(curvature + np.diag(ridge + 1e-9), gradient)
        for halving in range(30):
            value = loss(solution - step / 2**halving)
            if value < current:
                break
        else:
            break
        solution = solution - step / 2**halving
        improved, current = current - value, value
        if improved < 1e-7:
            break
    return solution


def _cross_entropy(log_odds: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the cross-entropy of each voxel; targets are from 0 to 1."""
    return np.asarray(np.logaddexp(0.0, log_odds) - target * log_odds)


def drawn(places: np.ndarray, recipe: Recipe, task: Task | None = None) -> np.ndarray:
    """Return at most ``recipe.most_voxels`` of some places, at random but always the same."""
    (task or Task()).check()
    if len(places) <= recipe.most_voxels:
        return places
    return np.sort(np.random.default_rng(recipe.seed).choice(places, recipe.most_voxels, replace=False))
