"""Keeping the largest connected part."""

from __future__ import annotations

import numpy as np

from TransferSegLib.inference.postprocessing import keep_largest_part


def test_islands_go_and_other_labels_stay() -> None:
    labels = np.zeros((6, 7, 8), np.uint8)
    labels[1:3, 1:3, 1:3] = 2  # 8 voxels
    labels[3, 3, 3] = 2  # touches by a corner: the same part
    labels[5, 5:7, 6] = 2  # an island
    labels[0, 0, 0] = labels[5, 0, 0] = 5
    expected = labels.copy()
    expected[5, 5:7, 6] = 0
    keep_largest_part(labels, [2, 3])
    assert np.array_equal(labels, expected)
    keep_largest_part(labels, [5, 200])
    assert labels[0, 0, 0] == 5 and labels[5, 0, 0] == 0


def test_another_label_within_the_box_is_untouched() -> None:
    labels = np.array([[[1, 1, 0, 2, 0, 1]]], np.uint8)
    keep_largest_part(labels, [1])
    assert labels.ravel().tolist() == [1, 1, 0, 2, 0, 0]


def test_nothing_there() -> None:
    labels = np.zeros((2, 2, 2), np.uint16)
    keep_largest_part(labels, [1])
    assert not labels.any()
