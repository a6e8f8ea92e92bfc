"""What a user hands in as a corrected case: read, checked against the image, and tied to structures by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk

from TransferSegLib.anatomy import readable_name
from TransferSegLib.corrections.dicom_patient import PATIENT_ID, read_patient_id
from TransferSegLib.datasets.structure_names import label_set_of, read_label_set
from TransferSegLib.errors import DatasetError, ScanError
from TransferSegLib.images.formats.segments import is_segmentation
from TransferSegLib.images.formats.slicer_segmentation import read_segmentation_names
from TransferSegLib.images.geometry_checks import check_intensities, check_volume
from TransferSegLib.images.label_values import as_label_map, count_values, image_like, renumbered
from TransferSegLib.images.lattice import to_scan_lattice
from TransferSegLib.images.read import read_label_map, read_scan
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet, Structure

#: A file, a DICOM folder (images only), or an image in memory.
ImageSource = Path | str | sitk.Image
#: What the label values mean: a label set, names by value, or a JSON file as ``transferseg dataset make`` reads it.
Structures = LabelSet | Mapping[int, str] | Path | str

_AXES = ("x", "y", "z")


@dataclass(frozen=True)
class JudgedSlices:
    """The annotated slices: voxel indices from 0 along one axis of the image's own grid (x, y or z)."""

    axis: Literal["x", "y", "z"]
    indices: tuple[int, ...]

    @staticmethod
    def parse(text: str) -> JudgedSlices:
        """Read e.g. 'z:10-20,25' or '10-20' (axis z); raises DatasetError."""
        found = re.fullmatch(r"(?:([xyz]):)?(\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)", re.sub(r"\s+", "", text.lower()))
        if found is None:
            raise DatasetError(f"'{text}' does not name slices: write for example z:10-20,25 (they count from 0).")
        indices: set[int] = set()
        for part in found.group(2).split(","):
            first, _, last = part.partition("-")
            if int(last or first) > 1_000_000:
                raise DatasetError(f"'{text}' does not name slices: no scan has as many.")
            indices.update(range(int(first), int(last or first) + 1))
        axis: Literal["x", "y", "z"] = "x" if found.group(1) == "x" else "y" if found.group(1) == "y" else "z"
        return JudgedSlices(axis, tuple(sorted(indices)))

    def mask(self, image: sitk.Image) -> sitk.Image:
        """Return the mask (1 where reviewed) on the grid of an image; raises DatasetError for slices it has not."""
        axis = _AXES.index(self.axis)
        count = image.GetSize()[axis]
        outside = [index for index in self.indices if not 0 <= index < count]
        if outside:
            raise DatasetError(
                f"The image has no slice {outside[0]} along {self.axis}: they count from 0 to {count - 1}."
            )
        mask_zyx = np.zeros(image.GetSize()[::-1], np.uint8)
        np.moveaxis(mask_zyx, 2 - axis, 0)[list(self.indices)] = 1
        return image_like(mask_zyx, image)


@dataclass(frozen=True)
class NamedLabels:
    """A label map and what its values mean; the label set may name more structures than have voxels."""

    image: sitk.Image
    label_set: LabelSet
    present: tuple[int, ...]

    def renumbered(self, label_set: LabelSet) -> sitk.Image:
        """Return the label map with the values that ``label_set`` has for the same names."""
        present = [structure for structure in self.label_set if structure.label in self.present]
        found = {structure.label: label_set.find(structure.name) for structure in present}
        return renumbered(self.image, {old: 0 if new is None else new.label for old, new in found.items()})


def read_image(source: ImageSource, series: str | None = None, task: Task | None = None) -> sitk.Image:
    """Return a scan from a file, a DICOM folder or memory, checked like any scan; raises ScanError, Cancelled."""
    if not isinstance(source, sitk.Image):
        return read_scan(source, series, task=task)
    name = Path("the image given")
    check_volume(source, name)
    check_intensities(source, name)
    return source


def patient_id_of(source: ImageSource, series: str | None = None) -> str:
    """Return the PatientID of a DICOM scan, '' when there is none."""
    if isinstance(source, sitk.Image):
        return source.GetMetaData(PATIENT_ID).strip(" \0") if source.HasMetaDataKey(PATIENT_ID) else ""
    return read_patient_id(Path(source), series)


def read_named_labels(
    source: ImageSource,
    what: str,
    image: sitk.Image,
    structures: Structures | None,
    known: LabelSet | None,
    first: Sequence[str] = (),
) -> NamedLabels:
    """Return a label map on the image's grid with the names of its values.

    Where segments of a file overlap, those named in ``first`` win, else the later ones.

    The names are those given, else those in the header of a .seg.nrrd file, else those ``known`` (the project's).
    ``what`` is what a message calls it. Raises ScanError when it cannot be read, DatasetError when it does not lie on
    the image's grid or holds values without a name.
    """
    labels = _on_scan(_read_labels(source, what, first), image, _name(source, what))
    label_set = _label_set(source, structures) or known
    if label_set is None:
        raise DatasetError(
            f"What the label values of {_name(source, what)} mean is not known: name the structures "
            "(--structures FILE), or give a .seg.nrrd file of 3D Slicer, which names them itself."
        )
    voxels = count_values(labels)
    unknown = sorted(set(voxels) - set(label_set.label_values))
    if unknown:
        listed = ", ".join(f"{value} ({voxels[value]:,} voxels)" for value in unknown[:5])
        raise DatasetError(
            f"{_name(source, what)} holds label values that belong to no structure: {listed}. Known are "
            f"{', '.join(f'{structure.label} {structure.name}' for structure in label_set)}."
        )
    present = tuple(value for value in voxels if value != 0)
    return NamedLabels(labels, label_set, present)


def read_judged(source: ImageSource | JudgedSlices | None, image: sitk.Image) -> sitk.Image | None:
    """Return the mask (0 or 1) of the annotated region on the image's grid, None for the whole image.

    Raises ScanError when it cannot be read, DatasetError when it is empty or on another grid.
    """
    if source is None:
        return None
    if isinstance(source, JudgedSlices):
        mask = source.mask(image)
    else:
        mask = _read_labels(source, "the mask of the annotated region")
        mask = _on_scan(mask, image, _name(source, "the mask of the annotated region"), may_drop=True)
    judged_zyx = sitk.GetArrayViewFromImage(mask) != 0
    if not judged_zyx.any():
        raise DatasetError("The mask of the annotated region is empty: nothing could be learned from this case.")
    return None if judged_zyx.all() else image_like(judged_zyx.astype(np.uint8), image)


def reviewed_structures(
    names: Iterable[str] | Literal["all"], own: LabelSet, known: LabelSet | None
) -> tuple[Structure, ...]:
    """Return the reviewed structures, as the label map or else the project describes them.

    'all' are those of the label map's own names, unless a structure is called so: then only that one was named, for
    what was not reviewed must not be learned from. Raises DatasetError for no names and for names neither knows.
    """
    is_every = names == "all" and all(one is None or one.find("all") is None for one in (own, known))
    wanted = own.names if is_every else (names,) if isinstance(names, str) else tuple(names)
    if not wanted:
        raise DatasetError("Say which structures were reviewed: only from these is anything learned.")
    sets = [own] if known is None else [own, known]
    found: dict[str, Structure] = {}
    for name in wanted:
        spellings = (name, readable_name(name))
        candidates = (label_set.find(spelling) for label_set in sets for spelling in spellings)
        structure = next((one for one in candidates if one is not None), None)
        if structure is None:
            every = {one.key: one.name for label_set in sets for one in label_set}
            raise DatasetError(
                f"'{name}' was reviewed, but neither the label map nor the project has such a structure. Known are: "
                f"{', '.join(every.values())}."
            )
        found.setdefault(structure.key, structure)
    return tuple(found.values())


def names_itself(source: ImageSource) -> bool:
    """Tell whether a label map's own header says what its values mean."""
    return _label_set(source, None) is not None


def _label_set(source: ImageSource, structures: Structures | None) -> LabelSet | None:
    """Return the names given for a label map, else those in its own header, else None."""
    if isinstance(structures, LabelSet):
        return structures
    if isinstance(structures, Mapping):
        return label_set_of(structures)
    if structures is not None:
        return read_label_set(Path(structures))
    if not isinstance(source, sitk.Image) and is_segmentation(Path(source)):
        names = read_segmentation_names(source)
        return label_set_of(names) if names else None
    return None


def _on_scan(labels: sitk.Image, scan: sitk.Image, name: str, may_drop: bool = False) -> sitk.Image:
    """Return a label map or mask on its scan's grid; raises DatasetError when it does not fit."""
    try:
        return to_scan_lattice(labels, scan, name, may_drop=may_drop)
    except ScanError as error:
        raise DatasetError(str(error)) from error


def _read_labels(source: ImageSource, what: str, first: Sequence[str] = ()) -> sitk.Image:
    """Return a label map from a file or from memory; raises ScanError."""
    if not isinstance(source, sitk.Image):
        return read_label_map(source, first=first)
    check_volume(source, Path(what))
    if sitk.GetArrayViewFromImage(source).size == 0:
        raise ScanError(f"{what} is empty.")
    return as_label_map(source, Path(what))


def _name(source: ImageSource, what: str) -> str:
    """Return what a message calls a file or an image in memory."""
    return what if isinstance(source, sitk.Image) else str(source)
