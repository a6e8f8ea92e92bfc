"""Small networks and models with random weights for the tests of predicting."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from Testing import random_models
from TransferSegLib.models.store import Model
from TransferSegLib.networks.unet_valid.unet import UNet3D


@pytest.fixture(scope="session")
def network() -> UNet3D:
    """Four classes, width 2."""
    return random_models.random_network()


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Model]:
    """Return a function that makes a model with random weights, labels 10, 20, 30 ... for a spacing."""
    return random_models.random_model
