"""Small networks and models with random weights for the tests of predicting."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from TransferSegLib.models.store import Model
from TransferSegLib.networks.unet_valid.unet import UNet3D

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import random_models


@pytest.fixture(scope="session")
def network() -> UNet3D:
    """Four classes, width 2."""
    return random_models.random_network()


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Model]:
    """Return a function that makes a model with random weights, labels 10, 20, 30 ... for a spacing."""
    return random_models.random_model
