"""The modality of a model of nnU-Net, which names only its input channels."""

from __future__ import annotations

import pytest

from TransferSegLib.models.importers.nnunet.plans import _modality


@pytest.mark.parametrize(
    ("channel", "modality"),
    [
        *(("CT", "CT"), ("ct", "CT"), ("MRI", "MR"), ("mr_t2", "MR"), ("T1", "MR"), ("T1ce", "MR"), ("t2w", "MR")),
        *(("FLAIR", "MR"), ("T2-FLAIR", "MR"), ("ADC", "MR"), ("DWI", "MR"), ("PET", "PET"), ("US", "US")),
        *(("noNorm", "noNorm"), ("CBCT1", "CBCT1"), ("shift1", "shift1")),
    ],
)
def test_names_of_sequences_mean_mr(channel: str, modality: str) -> None:
    assert _modality((channel, "other")) == modality
