"""The images of one scan for models that take several, such as T1 and T2: by the names that the model gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import SimpleITK as sitk

from TransferSegLib.errors import ScanError
from TransferSegLib.images.geometry_checks import same_geometry
from TransferSegLib.images.preparation import Preparation


def in_order(given: Mapping[str, Any] | Any, preparation: Preparation) -> tuple[Any, ...]:
    """Return the images of a scan, or whatever stands for them, in the model's order.

    ``given`` has one for each name (upper or lower case), or is the only one. Raises ScanError naming those that are
    missing, unknown or given twice.
    """
    names = preparation.image_names
    if not isinstance(given, Mapping):
        if preparation.image_count == 1:
            return (given,)
        raise ScanError(f"The model takes {len(names)} images of each scan, not one: {_listed(names)}.")
    if preparation.image_count == 1:
        raise ScanError("The model takes one image of each scan: give it without a name.")
    by_key = {name.casefold(): value for name, value in given.items()}
    unknown = [name for name in given if name.casefold() not in {known.casefold() for known in names}]
    missing = [name for name in names if name.casefold() not in by_key]
    if unknown or missing or len(by_key) < len(given):
        problem = (
            f"has no image '{unknown[0]}'"
            if unknown
            else f"also needs {_listed(missing)}"
            if missing
            else "got an image twice"
        )
        raise ScanError(f"The model {problem}: it takes {_listed(names)} of each scan.")
    return tuple(by_key[name.casefold()] for name in names)


def check_one_grid(images: Sequence[sitk.Image], names: Sequence[str]) -> None:
    """Raise ScanError unless all images lie where the first lies; ``names`` are what the error calls them."""
    for image, name in zip(images[1:], names[1:], strict=True):
        difference = same_geometry(images[0], image)
        if difference is not None:
            raise ScanError(
                f"The images {names[0]} and {name} of the scan do not have the same grid: {difference}. Resample them "
                "to one grid first, e.g. in 3D Slicer with 'Resample Scalar/Vector/DWI Volume'."
            )


def _listed(names: Iterable[str]) -> str:
    """Return names as in ``T1, T2 and FLAIR``."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
