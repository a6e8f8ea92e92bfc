"""Words of the panel: durations without a precision that they do not have, and names in place of temporary files."""

from __future__ import annotations

import pytest
from correcting_world import add_volume


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.4, "10 s"),
        (44.0, "40 s"),
        (89.0, "90 s"),
        (136.0, "2 min"),
        (1790.0, "30 min"),
        (3599.0, "1 h 0 min"),
        (8100.0, "2 h 20 min"),
    ],
)
def test_estimated_durations(host, seconds: float, expected: str) -> None:
    from TransferSegGui.duration import roundText

    assert roundText(seconds) == expected


def test_messages_name_scans_and_not_temporary_files(host) -> None:
    from TransferSegGui.segment_process import SegmentProcess

    run = SegmentProcess(add_volume("CT of today"))
    assert run.withoutPaths("/tmp/other is full") == "/tmp/other is full", "there are no files yet"
    scan, result = run.file("volume.nrrd"), run.file("result.seg.nrrd")
    text = run.withoutPaths(f"{scan}: the scan has no contrast. {result} cannot be written: {scan.parent}/part")
    assert text == "'CT of today': the scan has no contrast. the segmentation cannot be written: part"
    run.removeFiles()
