"""Notices about how a scan was read: lines for the user, kept in the image's metadata.

>>> image = read_scan("tilted_ct")
>>> notices_of(image)
("tilted_ct: the gantry was tilted by 12 degrees; the slices were resampled to a rectangular grid.",)
"""

from __future__ import annotations

import json

import SimpleITK as sitk

#: The metadata key of the notices, a JSON list of lines.
NOTICES = "transferseg.notices"
#: DICOM's tag of the modality, as SimpleITK writes it: 'CT', 'MR' ...
MODALITY = "0008|0060"


def add_notice(image: sitk.Image, text: str) -> None:
    """Add one line to an image's notices; a line that is there already is not repeated."""
    lines = notices_of(image)
    if text not in lines:
        image.SetMetaData(NOTICES, json.dumps([*lines, " ".join(text.split())]))


def notices_of(image: sitk.Image) -> tuple[str, ...]:
    """Return an image's notices in the order they were added, none for an image that was not read here."""
    if not image.HasMetaDataKey(NOTICES):
        return ()
    try:
        lines = json.loads(image.GetMetaData(NOTICES))
    except ValueError:
        return ()
    return tuple(str(line) for line in lines) if isinstance(lines, list) else ()


def copy_notices(source: sitk.Image, target: sitk.Image) -> None:
    """Add the notices of an image to those of another one: filters of SimpleITK lose them."""
    for line in notices_of(source):
        add_notice(target, line)


def forget_notices(image: sitk.Image) -> None:
    """Remove notices, e.g. those that a file's own header claims."""
    if image.HasMetaDataKey(NOTICES):
        image.EraseMetaData(NOTICES)


def modality_of(image: sitk.Image) -> str:
    """Return the modality that a DICOM scan names ('CT', 'MR', 'PT' ...), '' for other formats."""
    return image.GetMetaData(MODALITY).strip(" \0") if image.HasMetaDataKey(MODALITY) else ""
