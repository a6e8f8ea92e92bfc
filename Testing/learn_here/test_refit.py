"""The last layer that is fitted to labels, against a general optimiser and in cases whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize, special

from TransferSegLib.learn_here.refit import Mix, Recipe, Voxels, best_weight, drawn, fit_layer, plausibility

RECIPE = Recipe()


def some_voxels(count: int, seed: int) -> tuple[Voxels, np.ndarray]:
    """Return voxels whose labels follow one feature against what the model says."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, 4)).astype(np.float32) * np.array([1, 3, 0.1, 0], np.float32)
    z = random.normal(size=count).astype(np.float32)
    d = random.normal(size=count).astype(np.float32)
    return Voxels(features, z, d), features[:, 1] + 0.3 * random.normal(size=count) > 0


def saying(z: np.ndarray, d: np.ndarray) -> Voxels:
    """Return voxels without features of which the model and the interpolation say something."""
    return Voxels(np.zeros((len(z), 0), np.float32), z, d)


def test_the_fit_minimises_what_the_page_says() -> None:
    (labelled, truth), (others, _) = some_voxels(300, 1), some_voxels(200, 2)
    mix = Mix(0.25, 1.0)
    layer = fit_layer(labelled, truth, others, mix, RECIPE)
    together = np.concatenate([labelled.features, others.features]).astype(float)
    spreads = together.std(axis=0) + 0.1 * together.std(axis=0).mean()
    means = together.mean(axis=0)

    def objective(x: np.ndarray) -> float:
        """Cross-entropy of labels, a little of that of the others towards what was said before, and the ridge."""
        total = 0.5 * RECIPE.ridge * (x[:4] ** 2).sum() + 0.05 * RECIPE.ridge * x[4] ** 2
        for voxels, target, share in ((labelled, truth, 1.0), (others, None, RECIPE.untouched)):
            offset = 0.25 * voxels.z.astype(float) + voxels.d
            wanted = special.expit(offset) if target is None else target.astype(float)
            odds = offset + (voxels.features - means) / spreads @ x[:4] + x[4]
            total += share * float(np.mean(np.logaddexp(0, odds) - wanted * odds))
        return total

    best = optimize.minimize(objective, np.zeros(5), method="BFGS", options={"gtol": 1e-9})
    found = np.append(layer.w * spreads, layer.b + layer.w @ means)
    assert objective(found) == pytest.approx(best.fun, abs=1e-7)
    assert np.allclose(found, best.x, atol=2e-3)
    assert layer.w[3] == 0  # a feature that is the same everywhere tells nothing


def test_a_strong_ridge_leaves_the_model_as_it_is() -> None:
    (labelled, truth), (others, _) = some_voxels(300, 1), some_voxels(200, 2)
    layer = fit_layer(labelled, truth, others, Mix(1.0, 0.0), replace(RECIPE, ridge=1e9))
    assert np.abs(layer.w).max() < 1e-6 and abs(layer.b) < 1e-6


def test_the_weight_follows_the_slices_that_were_left_out() -> None:
    random = np.random.default_rng(3)
    truth = random.random(500) > 0.5
    right, noise = np.where(truth, 2.0, -2.0), random.normal(size=500) * 3
    assert best_weight(saying(noise, right), truth, RECIPE, True) == max(RECIPE.weights)
    assert best_weight(saying(2 * right, -right), truth, RECIPE, True) == 0.0
    # A structure that the model does not know has nothing but the interpolation.
    least = min(weight for weight in RECIPE.weights if weight)
    assert best_weight(saying(0 * noise, -right), truth, RECIPE, False) == least
    nothing = np.zeros(0)
    assert best_weight(saying(nothing, nothing), nothing > 0, RECIPE, False) == RECIPE.weights[0]


def test_a_model_is_not_given_up_for_an_interpolation_that_cannot_be_tried() -> None:
    """With two slices, or one on either side of where a structure begins, none can be left out."""
    nothing = np.zeros(0)
    assert best_weight(saying(nothing, nothing), nothing > 0, RECIPE, True) == 0.0


def test_an_interpolation_that_is_unlike_a_good_model_counts_little() -> None:
    truth = np.arange(100) < 50
    inside = np.where(truth, 1.0, -1.0)
    half = np.where(np.arange(100) < 25, 1.0, -1.0)  # 1 - Dice is a third
    model_right, model_errs = saying(inside, 0 * inside), saying(half, 0 * inside)
    alike, unlike = saying(inside, inside), saying(inside, half)
    assert plausibility(model_right, truth, alike, RECIPE) == 1.0
    assert plausibility(model_errs, truth, unlike, RECIPE) == 1.0, "it differs no more than the model errs"
    assert plausibility(model_right, truth, unlike, RECIPE) == 0.0
    slightly_wrong = saying(np.where(np.arange(100) < 40, 1.0, -1.0), 0 * inside)  # 1 - Dice is a ninth
    share = plausibility(slightly_wrong, truth, unlike, RECIPE)
    assert share == pytest.approx((RECIPE.allowance * 3 / 9) ** RECIPE.steepness)
    mix = Mix.of(1.5, RECIPE, share)
    assert mix.weight == pytest.approx(1.5 * share) and mix.trust == pytest.approx(1 - share * (1 - RECIPE.trust))
    assert Mix.of(1.5, RECIPE) == Mix(RECIPE.trust, 1.5) and Mix.of(0.0, RECIPE, 0.5) == Mix(1.0, 0.0)


def test_voxels_are_drawn_without_repeats_and_always_the_same() -> None:
    places, recipe = np.arange(1000) * 3, replace(RECIPE, most_voxels=100)
    chosen = drawn(places, recipe)
    assert len(set(chosen)) == 100 and set(chosen) <= set(places)
    assert np.array_equal(chosen, drawn(places, recipe))
    assert np.array_equal(drawn(places, RECIPE), places)
