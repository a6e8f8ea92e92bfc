"""Changes of contrast keep the anatomy and the range."""

from __future__ import annotations

import numpy as np

from TransferSegLib.training.contrasts import curved, inverted


def test_inversion_exchanges_bright_and_dark_and_leaves_air() -> None:
    patch = np.array([[-1.0, -0.99, -0.5, 0.0, 1.0]], np.float32)
    assert np.allclose(inverted(patch), [[-1.0, -0.99, 0.5, 0.0, -1.0]])
    assert inverted(patch).dtype == np.float32


def test_a_curve_keeps_order_and_ends() -> None:
    values = np.linspace(-1, 1, 50, dtype=np.float32)
    changed = curved(values, 6, np.random.default_rng(1))
    assert changed[0] == -1 and changed[-1] == 1 and (np.diff(changed) >= 0).all()
    assert np.abs(changed - values).max() > 0.05
