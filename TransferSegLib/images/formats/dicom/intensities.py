"""From the numbers stored in DICOM files to intensities: rescale slope and intercept of every slice, lookup tables.

ITK's conversion is not used: it takes the first frame's slope for all, and real-world values for MR. Here only the
modality transformation counts (PS3.3, C.11.1; per frame C.7.6.16.2.9):
Hounsfield units in CT, arbitrary units in MR. Real-world value mappings, windows and private scales are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.dicom.elements import DataSet

_HOUNSFIELD = ("HU", "US", "")
_WHOLE_TYPES = (np.uint8, np.int16, np.uint16, np.int32)


@dataclass(frozen=True)
class Rescale:
    """Intensity = slope * stored value + intercept; a missing one is None, one that is no number NaN."""

    slope: float | None = None
    intercept: float | None = None
    kind: str = ""

    @property
    def is_missing(self) -> bool:
        """Whether the file states neither slope nor intercept."""
        return self.slope is None and self.intercept is None

    def factors(self) -> tuple[float, float]:
        """Return slope and intercept, 1 and 0 where they are missing."""
        return (1.0 if self.slope is None else self.slope), (0.0 if self.intercept is None else self.intercept)


@dataclass(frozen=True)
class LookupTable:
    """Intensities of the stored values ``first``, ``first + 1`` ...; lower and higher ones take the ends."""

    first: int
    values: tuple[int, ...]

    def apply(self, stored: np.ndarray) -> np.ndarray:
        """Return the intensities (int32) of stored values."""
        index = np.clip(stored.astype(np.int64) - self.first, 0, len(self.values) - 1)
        return np.array(self.values, np.int32)[index]


def read_rescale(data: DataSet) -> Rescale:
    """Return the rescale that a data set or functional group states."""

    def number(tag: int) -> float | None:
        values = data.numbers(tag)
        return None if not data.text(tag) else values[0] if len(values) == 1 else float("nan")

    return Rescale(number(0x00281053), number(0x00281052), data.text(0x00281054).upper())


def read_lookup_table(data: DataSet, signed: bool) -> LookupTable | None:
    """Return the modality lookup table of a file, None when there is none; an empty one when it is damaged."""
    items = data.items(0x00283000)
    if not items:
        return None
    descriptor, content = items[0].value(0x00283002), items[0].value(0x00283006)
    if len(descriptor) < 6:
        return LookupTable(0, ())
    count, first, bits = np.frombuffer(descriptor[:6], data.order + "u2").tolist()
    first = first - 65536 if signed and first >= 32768 else first
    count = count or 65536
    if bits == 8 and len(content) < 2 * count:
        values = np.frombuffer(content, np.uint8)
    else:
        values = np.frombuffer(content[: len(content) // 2 * 2], data.order + "u2")
    return LookupTable(first, tuple(values[:count].tolist()) if len(values) >= count else ())


def check_rescales(rescales: Sequence[Rescale], modality: str, name: str) -> list[str]:
    """Return notices about how the slices of one scan become intensities.

    Raises ScanError when they contradict each other or are no numbers.
    """
    if any(np.isnan(value) for one in rescales for value in one.factors()):
        raise ScanError(f"{name}: the rescale slope or intercept of a slice is no number. Export the scan again.")
    for what in ("slope", "intercept"):
        missing = sum(getattr(one, what) is None for one in rescales)
        if 0 < missing < len(rescales):
            raise ScanError(
                f"{name}: {missing} of {len(rescales)} slices have no rescale {what}, so their intensities cannot be "
                "compared with those of the others. Export the scan again."
            )
    kinds = sorted({one.kind for one in rescales if one.kind})
    if len(kinds) > 1:
        raise ScanError(f"{name} mixes slices with intensities in {' and '.join(kinds)}. Separate them first.")
    return _notices_on(rescales[0], kinds[0] if kinds else "", modality, name)


def _notices_on(rescale: Rescale, kind: str, modality: str, name: str) -> list[str]:
    """Return notices about a rescale that all slices share."""
    if modality == "CT" and rescale.is_missing:
        return [f"{name} states no rescale intercept and slope: its intensities may not be Hounsfield units."]
    notices = []
    if modality == "CT" and kind not in _HOUNSFIELD:
        notices.append(f"{name} is a CT with intensities in {kind}, not in Hounsfield units.")
    if not rescale.is_missing and (rescale.slope is None or rescale.intercept is None):
        missing, taken = ("slope", 1) if rescale.slope is None else ("intercept", 0)
        notices.append(f"{name} states no rescale {missing}; {taken} was taken.")
    return notices


def intensity_type(
    stored_ranges: Iterable[tuple[int, int]], rescales: Iterable[Rescale], tables: Iterable[LookupTable | None]
) -> np.dtype:
    """Return the voxel type of a scan: the smallest that holds all whole intensities there can be, else floats."""
    lowest, highest = 0.0, 0.0
    for (low, high), rescale, table in zip(stored_ranges, rescales, tables, strict=True):
        slope, intercept = rescale.factors()
        ends: list[float] = [slope * low + intercept, slope * high + intercept]
        if table is not None:
            ends = [float(min(table.values)), float(max(table.values))]
        elif not (slope.is_integer() and intercept.is_integer()):
            return np.dtype(np.float32 if high - low < 2**24 else np.float64)
        lowest, highest = min(lowest, *ends), max(highest, *ends)
    for kind in _WHOLE_TYPES:
        if np.iinfo(kind).min <= lowest and highest <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.float64)


def intensities(
    stored: np.ndarray, rescale: Rescale, table: LookupTable | None, kind: np.dtype, name: str
) -> np.ndarray:
    """Return the intensities of one slice's stored values, as the scan's voxel type; raises ScanError."""
    if table is not None:
        if not table.values or not rescale.is_missing:
            raise ScanError(f"{name}: its lookup table is damaged, or contradicts its rescale. Export the scan again.")
        return table.apply(stored).astype(kind)
    slope, intercept = rescale.factors()
    if slope == 0 and stored.any():
        raise ScanError(
            f"{name} has a slice with a rescale slope of 0, which would make all its intensities equal. Export the "
            "scan again."
        )
    if slope == 1 and kind.kind in "iu":
        return (stored.astype(np.int64) + int(intercept)).astype(kind) if intercept else stored.astype(kind)
    return (stored.astype(np.float64) * slope + intercept).astype(kind)
