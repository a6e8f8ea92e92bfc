"""What a front end copies of a scan and its segmentation at once, to be made a case of while the user works on.

The front end writes ``description()`` and ``arrays()`` to a folder, in portions if it likes; the job that saves the
case reads them there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from TransferSegLib.errors import DatasetError
from TransferSegLib.structures import LabelSet
from TransferSegLib.wording import counted

#: Files in the folder.
DESCRIPTION, VOXELS = "snapshot.json", "volume.raw"


@dataclass(frozen=True)
class Grid:
    """Where voxels lie: spacing and origin in mm, direction in rows, in LPS as files have it."""

    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...]
    direction: tuple[float, ...]

    def image(self, voxels_zyx: np.ndarray) -> sitk.Image:
        """Return an array, which may have a fourth axis of components, as an image on this grid."""
        image = sitk.GetImageFromArray(voxels_zyx, isVector=voxels_zyx.ndim == 4)
        image.SetSpacing(self.spacing_mm)
        image.SetOrigin(self.origin_mm)
        image.SetDirection(self.direction)
        return image


@dataclass(frozen=True)
class Layer:
    """Segments that do not overlap, in a box of the volume's grid.

    ``begin_zyx`` is the box' first voxel; ``segments`` holds for each segment its value in ``values_zyx``, its value
    in the label map, and whether it wins over segments of other layers.
    """

    begin_zyx: tuple[int, int, int]
    values_zyx: np.ndarray
    segments: tuple[tuple[int, int, bool], ...]


@dataclass(frozen=True)
class Box:
    """A box in any position: the 4 x 4 matrix from voxel indices (i, j, k) to mm along its axes, half its sizes."""

    ijk_to_object: np.ndarray
    half_mm: tuple[float, float, float]

    def mask(self, shape_zyx: tuple[int, ...]) -> np.ndarray:
        """Return 1 (z, y, x) for the voxels of a grid whose centres are in the box."""
        mask_zyx = np.zeros(shape_zyx, np.uint8)
        k, j, i = (np.arange(count, dtype=np.float32) for count in shape_zyx)
        for index, each in enumerate(k):
            inside_yx = np.ones(shape_zyx[1:], bool)
            for axis in range(3):
                along_i, along_j, along_k, offset = self.ijk_to_object[axis].astype(np.float32)
                along_yx = along_i * i[None, :] + along_j * j[:, None] + along_k * each + offset
                inside_yx &= np.abs(along_yx) <= self.half_mm[axis]
            mask_zyx[index] = inside_yx
        return mask_zyx


@dataclass(frozen=True)
class Snapshot:
    """Copies of all that a case is made of: scan, segments and, if only a box of the scan was reviewed, that box."""

    voxels_zyx: np.ndarray
    grid: Grid
    label_set: LabelSet
    layers: tuple[Layer, ...]
    box: Box | None = None

    def scan(self) -> sitk.Image:
        """Return the scan."""
        return self.grid.image(self.voxels_zyx)

    def label_map(self) -> sitk.Image:
        """Return the label map of all segments; raises DatasetError when two winning segments share voxels."""
        return self.grid.image(merge_layers(self.layers, self.voxels_zyx.shape[:3], self.label_set))

    def annotated_region(self) -> sitk.Image | None:
        """Return the mask of the box, None when there is none."""
        return None if self.box is None else self.grid.image(self.box.mask(self.voxels_zyx.shape[:3]))

    def arrays(self) -> list[tuple[str, np.ndarray]]:
        """Return what is large, with the names of its files, which hold nothing but the values."""
        layers = [(_layer_file(number), layer.values_zyx) for number, layer in enumerate(self.layers)]
        return [(VOXELS, self.voxels_zyx), *layers]

    def description(self) -> str:
        """Return the rest as JSON."""
        layers = [
            {"array": _array_json(one.values_zyx), "begin_zyx": one.begin_zyx, "segments": one.segments}
            for one in self.layers
        ]
        grid, box = self.grid, self.box
        content = {
            "voxels": _array_json(self.voxels_zyx),
            "grid": [grid.spacing_mm, grid.origin_mm, grid.direction],
            "structures": self.label_set.to_json(),
            "layers": layers,
            "box": None if box is None else [box.ijk_to_object.tolist(), box.half_mm],
        }
        return json.dumps(content)

    @staticmethod
    def read(folder: Path) -> Snapshot:
        """Return what was written to a folder."""
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        layers = []
        for number, entry in enumerate(content["layers"]):
            values_zyx = _read_array(folder / _layer_file(number), entry["array"])
            segments = tuple((int(stored), int(label), bool(wins)) for stored, label, wins in entry["segments"])
            layers.append(Layer(tuple(entry["begin_zyx"]), values_zyx, segments))
        box = content["box"]
        return Snapshot(
            _read_array(folder / VOXELS, content["voxels"]),
            Grid(*(tuple(numbers) for numbers in content["grid"])),
            LabelSet.from_json(content["structures"]),
            tuple(layers),
            None if box is None else Box(np.array(box[0]), tuple(box[1])),
        )


def merge_layers(layers: Sequence[Layer], shape_zyx: tuple[int, ...], label_set: LabelSet) -> np.ndarray:
    """Return the label map (z, y, x) of layers on a volume's grid; raises DatasetError as ``label_map``."""
    most = max((label for layer in layers for _stored, label, _wins in layer.segments), default=0)
    labels_zyx = np.zeros(shape_zyx, np.uint8 if most < 256 else np.uint16)
    won_zyx = np.zeros(shape_zyx, bool)
    for layer in layers:
        size = int(layer.values_zyx.max(initial=0)) + 1
        values, winning = np.zeros(size, labels_zyx.dtype), np.zeros(size, bool)
        for stored, label, wins in layer.segments:
            if stored < size:
                values[stored], winning[stored] = label, wins
        ends = np.add(layer.begin_zyx, layer.values_zyx.shape)
        place = tuple(slice(begin, int(end)) for begin, end in zip(layer.begin_zyx, ends, strict=True))
        new_zyx, wins_zyx = values[layer.values_zyx], winning[layer.values_zyx]
        both_zyx = wins_zyx & won_zyx[place]
        if both_zyx.any():
            raise DatasetError(_overlap_text(label_set, labels_zyx[place][both_zyx], new_zyx[both_zyx]))
        goes_zyx = wins_zyx | ((new_zyx > 0) & ~won_zyx[place])
        labels_zyx[place][goes_zyx] = new_zyx[goes_zyx]
        won_zyx[place] |= wins_zyx
    return labels_zyx


def _overlap_text(label_set: LabelSet, one: np.ndarray, other: np.ndarray) -> str:
    """Return why segments cannot be saved, given the two label values of each voxel that they share."""
    names = {structure.label: structure.name for structure in label_set}
    return (
        f"'{names[int(one[0])]}' and '{names[int(other[0])]}' share {counted(len(one), 'voxel')}, and a voxel can "
        "belong to one of them only: erase them from one of the two, or tick only one."
    )


def _layer_file(number: int) -> str:
    return f"layer-{number}.raw"


def _array_json(array: np.ndarray) -> dict[str, Any]:
    return {"type": array.dtype.str, "shape": array.shape}


def _read_array(file: Path, entry: dict[str, Any]) -> np.ndarray:
    return np.memmap(file, np.dtype(entry["type"]), "r", shape=tuple(entry["shape"]))
