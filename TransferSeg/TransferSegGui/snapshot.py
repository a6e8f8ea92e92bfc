"""What was copied out of the scene to be saved as a case, and the program that makes files and then a case of it.

The copies are made in the window's thread, as only that one may touch the scene, and are written to a folder. All
else is done in a process of its own: ``python snapshot.py FOLDER`` merges the segments into a label map, writes the
scan and the label map as images, and calls ``transferseg cases add``. Neither slicer nor qt is imported here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from TransferSegLib.errors import TransferSegError
from TransferSegLib.structures import LabelSet

#: Files in the folder: what was copied, then what the program makes of it.
DESCRIPTION, VOXELS = "snapshot.json", "volume.raw"
VOLUME, LABELS, JUDGED = "volume.nrrd", "labels.seg.nrrd", "judged.nrrd"


class Overlap(Exception):
    """Two segments that both must win share voxels; ``args`` are their two label values and the number of voxels."""


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

    ijkToObject: np.ndarray
    half_mm: tuple[float, float, float]

    def mask(self, shape_zyx: tuple[int, ...]) -> np.ndarray:
        """Return 1 (z, y, x) for the voxels of a grid whose centres are in the box."""
        mask_zyx = np.zeros(shape_zyx, np.uint8)
        k, j, i = (np.arange(count, dtype=np.float32) for count in shape_zyx)
        for index, each in enumerate(k):
            inside_yx = np.ones(shape_zyx[1:], bool)
            for axis in range(3):
                along_i, along_j, along_k, offset = self.ijkToObject[axis].astype(np.float32)
                along_yx = along_i * i[None, :] + along_j * j[:, None] + along_k * each + offset
                inside_yx &= np.abs(along_yx) <= self.half_mm[axis]
            mask_zyx[index] = inside_yx
        return mask_zyx


@dataclass(frozen=True)
class Snapshot:
    """Copies of all that a case is made of: scan, segments and, if only a box of the scan was looked at, that box."""

    voxels_zyx: np.ndarray
    grid: Grid
    labelSet: LabelSet
    layers: tuple[Layer, ...]
    box: Box | None = None

    def arrays(self) -> list[tuple[str, np.ndarray]]:
        """Return what is large, with the names of its files, which hold nothing but the values."""
        layers = [(_layerFile(number), layer.values_zyx) for number, layer in enumerate(self.layers)]
        return [(VOXELS, self.voxels_zyx), *layers]

    def description(self, words: Sequence[str]) -> str:
        """Return the rest as JSON, with the command line after ``transferseg`` that adds the case."""
        layers = [
            {"array": _arrayJson(one.values_zyx), "begin_zyx": one.begin_zyx, "segments": one.segments}
            for one in self.layers
        ]
        grid, box = self.grid, self.box
        content = {
            "words": list(words),
            "voxels": _arrayJson(self.voxels_zyx),
            "grid": [grid.spacing_mm, grid.origin_mm, grid.direction],
            "structures": self.labelSet.to_json(),
            "layers": layers,
            "box": None if box is None else [box.ijkToObject.tolist(), box.half_mm],
        }
        return json.dumps(content)

    @staticmethod
    def read(folder: Path) -> tuple[Snapshot, list[str]]:
        """Return what was written to a folder, and the command line."""
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        layers = []
        for number, entry in enumerate(content["layers"]):
            values_zyx = _readArray(folder / _layerFile(number), entry["array"])
            segments = tuple((int(stored), int(label), bool(wins)) for stored, label, wins in entry["segments"])
            layers.append(Layer(tuple(entry["begin_zyx"]), values_zyx, segments))
        box = content["box"]
        snapshot = Snapshot(
            _readArray(folder / VOXELS, content["voxels"]),
            Grid(*(tuple(numbers) for numbers in content["grid"])),
            LabelSet.from_json(content["structures"]),
            tuple(layers),
            None if box is None else Box(np.array(box[0]), tuple(box[1])),
        )
        return snapshot, content["words"]


def mergedLayers(layers: Sequence[Layer], shape_zyx: tuple[int, ...]) -> np.ndarray:
    """Return the label map of layers on a volume's grid; raises Overlap when two winning segments share voxels."""
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
        _merge(labels_zyx[place], won_zyx[place], values[layer.values_zyx], winning[layer.values_zyx])
    return labels_zyx


def _merge(labels_zyx: np.ndarray, won_zyx: np.ndarray, new_zyx: np.ndarray, wins_zyx: np.ndarray) -> None:
    """Write a layer's label values over others, in place; where a winning segment is already, others do not go."""
    both_zyx = won_zyx & wins_zyx
    if both_zyx.any():
        place = tuple(index[0] for index in np.nonzero(both_zyx))
        raise Overlap(int(labels_zyx[place]), int(new_zyx[place]), int(both_zyx.sum()))
    goes_zyx = wins_zyx | ((new_zyx > 0) & ~won_zyx)
    labels_zyx[goes_zyx] = new_zyx[goes_zyx]
    won_zyx |= wins_zyx


def writeImages(snapshot: Snapshot, folder: Path) -> None:
    """Write the scan, the label map and the mask of a box; raises Overlap, TransferSegError, OSError, RuntimeError."""
    from TransferSegLib.images.write import write_label_map

    shape_zyx = snapshot.voxels_zyx.shape[:3]
    sitk.WriteImage(snapshot.grid.image(snapshot.voxels_zyx), str(folder / VOLUME), useCompression=False)
    labels = snapshot.grid.image(mergedLayers(snapshot.layers, shape_zyx))
    write_label_map(labels, folder / LABELS, snapshot.labelSet, compress=False)
    if snapshot.box is not None:
        sitk.WriteImage(snapshot.grid.image(snapshot.box.mask(shape_zyx)), str(folder / JUDGED))


def main(folder: Path) -> int:
    """Make a case of what is in a folder; what is told, and the exit code, are those of ``transferseg cases add``.

    Segments that overlap are told as one more kind of JSON line, so that the window can say it in its own words.
    """
    from TransferSegLib.cli.main import main as transferseg

    try:
        snapshot, words = Snapshot.read(folder)
        writeImages(snapshot, folder)
    except Overlap as overlap:
        sys.stdout.write(json.dumps({"overlap": overlap.args}) + "\n")
        return 2
    except (TransferSegError, OSError, RuntimeError) as error:
        sys.stderr.write(f"transferseg: {error}\n")
        return 2
    return transferseg(words)


def _layerFile(number: int) -> str:
    return f"layer-{number}.raw"


def _arrayJson(array: np.ndarray) -> dict[str, Any]:
    return {"type": array.dtype.str, "shape": array.shape}


def _readArray(file: Path, entry: dict[str, Any]) -> np.ndarray:
    return np.memmap(file, np.dtype(entry["type"]), "r", shape=tuple(entry["shape"]))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
