"""Scans whose axes are stored otherwise than those of the first scan that a model segmented on this computer.

A model that takes the axes of a scan as they are stored, as most of nnU-Net's do, silently fails with scans that are
stored in another way. What the first scan was like is kept in the cache folder; it proves nothing, but a difference is
worth a line.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING

from TransferSegLib import safe_json
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.images.stored_axes import stored_axes
from TransferSegLib.user_folders import cache_folder

if TYPE_CHECKING:
    from SimpleITK import Image

    from TransferSegLib.models.description import ModelDescription

_FILE = "first-scans.json"
_MOST_MODELS = 1000


def first_axes(model: ModelDescription) -> str:
    """Return how the axes of the model's first scan were stored, such as 'LPS'.

    Empty where that is not known, or no matter because the model turns scans.
    """
    return "" if turns_scans(model) else _known().get(_key(model), "")


def turns_scans(model: ModelDescription) -> bool:
    """Tell whether a model takes scans by the directions of their axes, and not as they are stored."""
    return not model.preparation.axes.islower()


def other_axes_notices(model: ModelDescription, scan: Image) -> tuple[str, ...]:
    """Return a notice for a scan whose axes are stored otherwise than those of the model's first scan, or none."""
    first, here = first_axes(model), stored_axes(scan)
    if first in ("", here):
        return ()
    return (
        f"The axes of this scan are stored as {here}, those of the first scan that '{model.name}' segmented here "
        f"as {first}. The model does not turn scans, so only one of them can be right: check the results, and "
        "import the model with --axes when you know how its training files were stored.",
    )


def remember_axes(model: ModelDescription, scan: Image) -> None:
    """Keep how the axes of a model's first scan were stored; a cache folder that cannot be written is no matter."""
    if turns_scans(model):
        return
    known, key = _known(), _key(model)
    if key in known or len(known) >= _MOST_MODELS:
        return
    with suppress(OSError):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        write_text_durably(folder / _FILE, json.dumps(known | {key: stored_axes(scan)}))


def _key(model: ModelDescription) -> str:
    """Return what tells a model from others: the same for all its versions."""
    told = json.dumps([model.name, model.preparation.to_json()], sort_keys=True)
    return hashlib.sha256(told.encode("utf-8")).hexdigest()[:16]


def _known() -> dict[str, str]:
    """Return the stored axes by model; nothing where the file is missing or damaged."""
    try:
        content = safe_json.read(cache_folder() / _FILE)
    except (OSError, ValueError):
        return {}
    return {str(key): str(axes) for key, axes in content.items()} if isinstance(content, dict) else {}
