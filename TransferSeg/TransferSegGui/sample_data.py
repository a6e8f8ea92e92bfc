"""The sample scan that came with TransferSeg, in Slicer's Sample Data module: nothing is downloaded for it."""

from __future__ import annotations

import hashlib
import json

from slicer.i18n import tr as _

from TransferSegLib.errors import TransferSegError
from TransferSegLib.models.locate import bundled_sample

#: The name by which scripts load it: ``SampleData.downloadSample(SAMPLE_NAME)``.
SAMPLE_NAME = "TransferSegHeadNeckCT"


def registerSampleData(thumbnail: str) -> None:
    """Add the scan to Sample Data's category "TransferSeg"; without Sample Data or the scan nothing happens.

    Sample Data fetches by address: a file's address makes it copy the file into its cache, with the checksum that it
    compares a copy of an earlier version with. ``thumbnail`` is the path of the picture on its button.
    """
    try:
        import SampleData

        folder = bundled_sample()
        # Not by the library's reader, whose imports would make each start of Slicer longer.
        image = folder / json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["cases"][0]["image"]
        checksum = hashlib.sha256(image.read_bytes()).hexdigest()
    except (ImportError, OSError, ValueError, LookupError, TransferSegError):
        return
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="TransferSeg",
        sampleName=SAMPLE_NAME,
        uris=image.resolve().as_uri(),
        fileNames=f"TransferSeg-{image.name}",
        nodeNames=_("CT head and neck"),
        checksums=f"SHA256:{checksum}",
        thumbnailFileName=thumbnail,
        loadFileTypes="VolumeFile",
    )
