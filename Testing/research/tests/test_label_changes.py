"""The changes of labels that the experiments with the verdict use."""

from __future__ import annotations

import numpy as np

from Testing.research.common.label_changes import eroded, fitted, moved, tighter, wider


def block() -> np.ndarray:
    """Return a block of 3 x 3 x 3 voxels of structure 2, with a voxel of structure 1 beside it."""
    labels = np.zeros((7, 7, 7), np.uint8)
    labels[2:5, 2:5, 2:5] = 2
    labels[3, 3, 5] = 1
    return labels


def test_wider_grows_into_the_background_within_the_slices_only() -> None:
    changed = wider(block())
    assert np.array_equal(changed[block() > 0], block()[block() > 0])
    assert np.count_nonzero(changed[2] == 2) == 9 + 12
    assert not changed[1].any() and not changed[5].any()


def test_tighter_and_eroded_take_the_rim_away_and_keep_what_would_vanish() -> None:
    within_slices, in_all = tighter(block()), eroded(block())
    assert np.argwhere(within_slices == 2).tolist() == [[z, 3, 3] for z in (2, 3, 4)]
    assert np.argwhere(in_all == 2).tolist() == [[3, 3, 3]]
    assert (within_slices[3, 3, 5], in_all[3, 3, 5]) == (1, 1)


def test_moved_and_fitted_keep_the_voxels() -> None:
    assert np.argwhere(moved(block(), (1, 0, -1)) == 1).tolist() == [[4, 3, 4]]
    larger = fitted(block(), (9, 7, 5))
    assert larger.shape == (9, 7, 5)
    assert np.array_equal(larger[1:8], block()[:, :, 1:6])
