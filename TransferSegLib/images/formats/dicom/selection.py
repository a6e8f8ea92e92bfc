"""From the image files of a folder to the slices of one volume: series, copies, localisers, several volumes in one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.dicom.frames import DicomFile, Slice
from TransferSegLib.images.formats.dicom.pixels import content_digest
from TransferSegLib.images.formats.dicom.placement import sort_by_height

#: Directions that differ by more than this (1 degree) belong to another stack; smaller differences are measured in mm.
_OTHER_STACK = float(np.cos(np.radians(1.0)))
#: Other stacks are left out if each has at most ``_FEW`` slices and the volume ``_TIMES_MORE`` times as many as all.
_FEW, _TIMES_MORE = 3, 4
#: Slices closer than this, or than this part of the usual distance, lie at the same place.
_SAME_PLACE_MM, _SAME_PLACE = 0.002, 0.1


def choose_series(place: Path, files: Sequence[DicomFile], wanted: str | None) -> list[DicomFile]:
    """Return the files of the wanted series, or of the only one; raises ScanError with the list of series."""
    series: dict[str, list[DicomFile]] = {}
    for one in files:
        if not one.damaged or one.series:
            series.setdefault(one.series, []).append(one)
    matching = [uid for uid in series if wanted is None or uid == wanted]
    if not matching and wanted:
        matching = [uid for uid in series if uid.endswith(wanted)]
    if len(matching) == 1:
        chosen = series[matching[0]]
        # A damaged file without a series may be one of its slices.
        broken = [one for one in files if one.damaged and one.series in ("", matching[0])]
        if broken:
            raise ScanError(f"{broken[0].path} is damaged or cut off. Copy it again, or remove it if it is not needed.")
        return chosen
    if not series:
        raise ScanError(f"{files[0].path} is damaged or cut off. Copy it again.")
    listed = "; ".join(
        _series_text(uid, group) for uid, group in sorted(series.items(), key=lambda item: -len(item[1]))
    )
    if wanted:
        raise ScanError(f"{place} has {len(matching) or 'no'} series ending in '{wanted}'. It holds: {listed}.")
    raise ScanError(f"{place} holds {len(series)} series. Choose one by the end of its UID (series=...): {listed}.")


def _series_text(uid: str, group: Sequence[DicomFile]) -> str:
    """Return one series for the list to choose from: end of UID, description, number of slices, size."""
    slices = sum(one.frame_count for one in group)
    return f"...{uid[-12:]} '{group[0].description}' {slices} slices of {group[0].size_text}"


def without_copies(files: Sequence[DicomFile], name: str) -> tuple[list[DicomFile], list[str]]:
    """Return the files without those that repeat an image, and a notice about how many there were.

    An export may give copies new UIDs, so images at the same place are compared as well. Raises ScanError for two
    different files that claim to be the same instance.
    """
    instances = Counter(one.instance for one in files if one.instance)
    places = Counter(_place_key(one) for one in files)
    kept: list[DicomFile] = []
    seen: set[str] = set()
    of_instance: dict[str, DicomFile] = {}
    for one in files:
        if one.pixels is not None and (instances[one.instance] > 1 or places[_place_key(one)] > 1):
            digest = content_digest(one)
            if digest in seen:
                continue
            seen.add(digest)
            other = of_instance.setdefault(one.instance, one)
            if one.instance and other is not one:
                raise ScanError(
                    f"{other.path} and {one.path} claim to be the same image (SOPInstanceUID), but differ. Keep the "
                    "right one."
                )
        kept.append(one)
    dropped = len(files) - len(kept)
    copies = "a copy of an image, which was" if dropped == 1 else f"{dropped} copies of the same images, which were"
    return kept, [f"{name} holds {copies} left out."] if dropped else []


def _place_key(one: DicomFile) -> bytes:
    """Return what two images at exactly the same place share."""
    parts = [part for frame in one.frames for part in (frame.position_mm, frame.orientation) if part is not None]
    return np.concatenate([np.zeros(0), *parts]).tobytes()


def slices_of_volume(files: Sequence[DicomFile], name: str) -> tuple[list[Slice], list[str]]:
    """Return the slices that make the volume, sorted by height, and a notice about localisers left out.

    Raises ScanError when it is not clear which slices they are.
    """
    every = [Slice(one, number) for one in files for number in range(len(one.frames))]
    if len(every) < len(files):
        raise ScanError(f"{name}: a slice contradicts itself about where it lies. Export the series again.")
    stacks = _stacks(every)
    main = stacks[0]
    others = [one for stack in stacks[1:] for one in stack]
    if others and not _are_left_out(main, stacks[1:]):
        raise _mixed_error(main, others, name)
    if unusable := _unusable_error(main[:1], name):
        raise unusable
    if min(main[0].frame.spacing_xy_mm) <= 0:
        raise ScanError(f"{name}: its slices have no pixel size. Export the scan again.")
    if len(main) < 2:
        raise ScanError(f"{name} has only one slice, which is no 3D scan. Give the folder with all its slices.")
    ordered = sort_by_height(main)
    _check_one_volume(ordered, name)
    if not others:
        return ordered, []
    files_left = ", ".join(sorted({one.file.path.name for one in others})[:3]) + (" ..." if len(others) > 3 else "")
    return ordered, [
        f"{name}: {len(others)} of {len(every)} slices have another orientation, size or no place (localisers?) and "
        f"were left out: {files_left}."
    ]


def _stacks(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Return slices grouped by size, pixel size and direction, localisers separately, the largest group first."""
    stacks: list[list[Slice]] = []
    for one in slices:
        fitting = next((stack for stack in stacks if _fits(stack[0], one)), None)
        if fitting is None:
            stacks.append([one])
        else:
            fitting.append(one)
    return sorted(stacks, key=lambda stack: (-len(stack), _is_localiser(stack)))


def _fits(first: Slice, other: Slice) -> bool:
    """Return whether two slices may belong to one stack."""
    if (first.storage.rows, first.storage.columns) != (other.storage.rows, other.storage.columns):
        return False
    if first.storage.is_grey != other.storage.is_grey or _is_localiser([first]) != _is_localiser([other]):
        return False
    if not (first.frame.is_placed and other.frame.is_placed):
        return first.frame.is_placed == other.frame.is_placed
    turned = min(one @ two for one, two in zip(first.directions, other.directions, strict=True))
    return bool(turned > _OTHER_STACK) and np.allclose(first.frame.spacing_xy_mm, other.frame.spacing_xy_mm, rtol=0.01)


def _is_localiser(stack: Sequence[Slice]) -> bool:
    """Return whether a stack calls itself a localiser."""
    return all("LOCALIZER" in one.file.image_type for one in stack)


def _are_left_out(main: Sequence[Slice], others: Sequence[Sequence[Slice]]) -> bool:
    """Return whether the other stacks clearly are not what the series is about."""
    placed = main[0].storage.is_grey and main[0].frame.position_mm is not None
    unnamed = [stack for stack in others if not _is_localiser(stack) or _is_localiser(main)]
    few = all(len(stack) <= _FEW for stack in unnamed)
    return few and placed and len(main) >= _TIMES_MORE * sum(len(stack) for stack in unnamed)


def _unusable_error(slices: Sequence[Slice], name: str) -> ScanError | None:
    """Return the error for slices in colour or without a place, None when there are none of these."""
    if any(not one.storage.is_grey for one in slices):
        return ScanError(f"{name} holds colour images, which are no scan. Choose the original series.")
    if any(not one.frame.is_placed for one in slices):
        return ScanError(
            f"{name}: some slices do not state where they lie (ImagePositionPatient), so they make no volume."
        )
    return None


def _mixed_error(main: Sequence[Slice], others: Sequence[Slice], name: str) -> ScanError:
    """Return the error for a series of several stacks."""
    every = [*main, *others]
    if unusable := _unusable_error(every, name):
        return unusable
    sizes = sorted({one.file.size_text for one in every})
    if len(sizes) > 1:
        return ScanError(f"{name} mixes slices of different sizes ({', '.join(sizes)}). Separate them first.")
    spacings = {tuple(round(side, 3) for side in one.frame.spacing_xy_mm) for one in every}
    if len(spacings) > 1:
        return ScanError(f"{name}: its slices have no pixel size, or not the same. Separate them first.")
    return ScanError(f"{name} mixes slices of different orientations (a localiser?). Separate them first.")


def _check_one_volume(ordered: Sequence[Slice], name: str) -> None:
    """Raise ScanError when slices lie at the same place, or belong to interleaved volumes."""
    gaps = np.diff([float(one.position_mm @ ordered[0].normal) for one in ordered])
    same = int(np.count_nonzero(gaps < max(_SAME_PLACE * float(np.median(gaps)), _SAME_PLACE_MM)))
    if same:
        raise ScanError(
            f"{name} has {same} slices at the place of another one: {_difference(ordered)}. Separate them first, e.g. "
            "with dcm2niix."
        )
    for what in ("image type", "frame type", "echo time", "b-value"):
        values = [dict(one.frame.attributes).get(what, "") for one in ordered]
        changes = sum(first != second for first, second in pairwise(values))
        if changes > len(set(values)) - 1 and min(Counter(values).values()) > 1:
            raise ScanError(
                f"{name} mixes slices of different {what} ({', '.join(sorted(set(values)))}). Separate them first, "
                "e.g. with dcm2niix."
            )


def _difference(ordered: Sequence[Slice]) -> str:
    """Return what distinguishes slices at the same place, e.g. 'echo time 2.46 and 4.92'."""
    names = dict.fromkeys(name for one in ordered for name, _ in one.frame.attributes)
    for name in names:
        values = [dict(one.frame.attributes).get(name, "none") for one in ordered]
        kinds = list(dict.fromkeys(values))
        places = Counter(
            (value, np.round(one.position_mm, 2).tobytes()) for value, one in zip(values, ordered, strict=True)
        )
        if 1 < len(kinds) < len(ordered) and max(places.values()) == 1:
            shown = ", ".join(kinds[:4]) + (" ..." if len(kinds) > 4 else "")
            return f"{len(kinds)} volumes in one series, of different {name} ({shown})"
    return "several phases, echoes or copies in one series"
