"""Scans prepared for models of nnU-Net, against the arrays of the real package: identical to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from Testing.nnunet_fixtures import OLD, RESIDUAL, TRAINED, NnUNetFixture, every_second
from TransferSegLib.images.preprocess import preprocess
from TransferSegLib.images.read import read_scan
from TransferSegLib.models.importers.nnunet.convert import model_from_nnunet
from TransferSegLib.models.importers.nnunet.source import find_source


@pytest.mark.parametrize("name", [RESIDUAL, OLD, TRAINED])
def test_arrays_are_nnunets(name: str) -> None:
    fixture = NnUNetFixture(name)
    source = find_source(fixture.model)
    assert source is not None
    description, _ = model_from_nnunet(source, "model")
    scan = preprocess(read_scan(fixture.images[0]), description.preparation)
    assert scan.intensities_czyx.shape == fixture.preprocessed_shape
    np.testing.assert_array_equal(every_second(scan.intensities_czyx), fixture.preprocessed)
