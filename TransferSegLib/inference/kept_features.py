"""What the head of a network makes its logits of, kept around the structures of one scan, for learning from it at once.

The features are computed when a scan is segmented and cost nothing then. Of the voxels of the model's grid only those
near a structure are kept, in half precision; where that does not fit into a budget, nearer ones. A file of them is a
cache of its own, never a part of a model: it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import io
import os
import uuid
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from TransferSegLib.durable_writing import replace_file
from TransferSegLib.errors import TransferSegError
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.inference.box_logits import BoxLogits
from TransferSegLib.models.store import Model
from TransferSegLib.networks.interface import Triple
from TransferSegLib.output_checks import why_no_folder
from TransferSegLib.progress import Task

#: Features are kept of voxels that are closer to a structure than this.
MARGIN_MM = 30.0
#: The most that the features of one scan take, on disk and while they are collected.
BUDGET_MB = 256.0
#: Margins that are tried, as shares of ``MARGIN_MM``, until the features fit.
_SHARES = (1.0, 0.75, 0.5, 0.25, 0.1)
#: While features are collected, those near a border of a tile wait for the next one: with them they may take so many
#: times the budget. At 1 mm most voxels of a scan are near such a border.
_WHILE_COLLECTING = 4.0
#: Side of the blocks of voxels in which it is seen, roughly, what waits.
_BLOCK = 8
#: The format of the file, and its entries.
_VERSION = 1
_ENTRIES = ("version", "scan", "model", "size_zyx", "voxels", "features")


@dataclass(frozen=True)
class KeptFeatures:
    """Features (n, channels; float16) of ``voxels`` (n; ascending flat indices) of a model's grid of ``size_zyx``.

    ``scan`` and ``model`` tell what they were computed of: see ``scan_key`` and ``model_key``.
    """

    scan: str
    model: str
    size_zyx: Triple
    voxels: np.ndarray
    features: np.ndarray

    def rows(self) -> np.ndarray:
        """Return for each voxel of the grid (int32, zyx) the row of its features, -1 where there is none."""
        rows = np.full(int(np.prod(self.size_zyx)), -1, np.int32)
        rows[self.voxels] = np.arange(len(self.voxels), dtype=np.int32)
        return rows.reshape(self.size_zyx)


def scan_key(image: sitk.Image) -> str:
    """Return what tells scans apart: a hash of voxels and grid."""
    content = hashlib.sha256(np.ascontiguousarray(sitk.GetArrayViewFromImage(image)).data)
    grid = (image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    content.update(repr(grid).encode())
    return content.hexdigest()


def model_key(model: Model) -> str:
    """Return what tells models and versions apart: a hash of the weights and of how scans are prepared."""
    content = hashlib.sha256(repr(model.description.preparation).encode())
    for name, values in sorted(model.state_dict.items()):
        content.update(name.encode())
        content.update(values.detach().cpu().contiguous().numpy().data)
    return content.hexdigest()


def bytes_of_a_voxel(model: Model) -> int:
    """Return what the features of one voxel take: those of each fold, and where the voxel lies."""
    weight = model.fold_weights(0)[f"{model.description.backbone.heads[-1]}.weight"]
    return model.description.folds * int(weight.shape[1]) * np.dtype(np.float16).itemsize + np.dtype(np.int64).itemsize


def joined(before: KeptFeatures | None, new: KeptFeatures, budget_mb: float) -> KeptFeatures:
    """Return new features of a scan and those that were kept before, or the new ones alone if both take too much."""
    if before is None or (before.scan, before.model, before.size_zyx) != (new.scan, new.model, new.size_zyx):
        return new
    others = ~np.isin(before.voxels, new.voxels)
    voxels = np.concatenate([new.voxels, before.voxels[others]])
    if len(voxels) * (new.features.itemsize * new.features.shape[1] + voxels.itemsize) > budget_mb * 1e6:
        return new
    order = np.argsort(voxels)
    features = np.concatenate([new.features, before.features[others]])
    return KeptFeatures(new.scan, new.model, new.size_zyx, voxels[order], features[order])


def grown_mm(mask_zyx: np.ndarray, margin_mm: float, grid: ModelGrid) -> np.ndarray:
    """Return a mask on a model's grid grown by a margin along each axis."""
    return _grown(mask_zyx, tuple(round(margin_mm / step) for step in grid.spacing_zyx_mm))


class FeatureKeeper:
    """Collects the features of one scan while it is segmented; hand it to ``Segmenter.segment_within``.

    Near a border of a tile features wait for what the next tile finds. Where those that wait take too much memory, they
    go as soon as it is clear that they are near no structure; if that is not enough, fewer wait, or none are kept.
    """

    def __init__(self, budget_mb: float = BUDGET_MB, also: sitk.Image | None = None) -> None:
        """Begin; ``also`` is a label map on the scan's grid whose structures are kept like those that are found."""
        self._budget_bytes, self._also = budget_mb * 1e6, also
        self._margin: Triple = (1, 1, 1)
        self._waiting: Triple = (1, 1, 1)
        self._structures = self._seen = np.zeros((0, 0, 0), bool)
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._bytes, self._is_full = 0, False
        #: What was kept, once the scan is segmented; None where not even the structures fit into the budget.
        self.kept: KeptFeatures | None = None

    def begin(self, grid: ModelGrid) -> None:
        """Begin a scan, or begin it again."""
        z, y, x = (max(1, round(MARGIN_MM / step)) for step in grid.spacing_zyx_mm)
        self._margin, self._parts, self._bytes, self.kept = (z, y, x), [], 0, None
        self._waiting, self._is_full = self._margin, False
        self._structures, self._seen = np.zeros(grid.size_zyx, bool), np.zeros(grid.size_zyx, bool)
        if self._also is not None:
            places = np.argwhere(grid.oriented(sitk.GetArrayViewFromImage(self._also)) != 0)
            on_grid = places[:, ::-1] @ grid.matrix.T + grid.offset_xyz
            nearest = np.clip(np.rint(on_grid[:, ::-1]), 0, np.array(grid.size_zyx) - 1).astype(np.int64)
            self._structures[tuple(nearest.T)] = True

    def add(self, box: BoxLogits) -> None:
        """Take what was computed of a box of the grid."""
        if box.features is None or self._is_full:
            return
        start, values = box.features.start_zyx, box.features.values
        size = values.shape[1:]
        found = box.most_probable() != 0
        z, y, x = (slice(at, at + length) for at, length in zip(box.start_zyx, found.shape, strict=True))
        self._structures[z, y, x] |= found
        self._seen[z, y, x] = True
        here = tuple(slice(at, at + length) for at, length in zip(start, size, strict=True))
        near = _grown(self._structures[here], self._margin) | self._border(start, size)
        places = np.flatnonzero(near)
        features = values.flatten(1)[:, torch.from_numpy(places)].T.contiguous().numpy()
        flat = np.ravel_multi_index(
            tuple(index + at for index, at in zip(np.unravel_index(places, size), start, strict=True)),
            self._structures.shape,
        )
        self._parts.append((flat, features))
        self._bytes += features.nbytes + flat.nbytes
        if self._bytes > _WHILE_COLLECTING * self._budget_bytes:
            self._drop(box.task)

    def finish(self, image: sitk.Image, model: Model, task: Task | None = None) -> None:
        """Choose what is kept: all near the structures, or as near as the budget allows."""
        parts, self._parts = self._parts, []
        if not parts:
            return
        voxels, order = np.unique(np.concatenate([flat for flat, _ in parts]), return_index=True)
        features = np.concatenate([values for _, values in parts])
        most = int(self._budget_bytes // (features.itemsize * features.shape[1] + voxels.itemsize))
        for share in _SHARES:
            (task or Task()).check()
            chosen = _grown(self._structures, _part_of(self._margin, share)).reshape(-1)[voxels]
            if np.count_nonzero(chosen) <= most:
                size = (self._structures.shape[0], self._structures.shape[1], self._structures.shape[2])
                kept = np.ascontiguousarray(features[order[chosen]])
                self.kept = KeptFeatures(scan_key(image), model_key(model), size, voxels[chosen], kept)
                return

    def _drop(self, task: Task) -> None:
        """Keep what is near a structure, or near what was not computed yet, as far as the memory allows.

        Structures only grow, so what does not fit into the budget now will not fit in the end.
        """
        a_voxel = self._bytes / max(1, sum(len(flat) for flat, _ in self._parts))

        def fit(chosen: list[np.ndarray], times: float) -> bool:
            return sum(np.count_nonzero(part) for part in chosen) * a_voxel <= times * self._budget_bytes

        for share in _SHARES:
            task.check()
            near = _grown(self._structures, _part_of(self._margin, share)).reshape(-1)
            kept = [near[flat] for flat, _ in self._parts]
            if fit(kept, 1.0):
                break
        else:
            self._parts, self._bytes, self._is_full = [], 0, True
            return
        # Of what waits as much as leaves room for the next tiles, or nothing.
        unseen, size = _blocks(~self._seen), self._seen.shape
        blocks = [_block_of(flat, size, unseen.shape) for flat, _ in self._parts]
        for share in _SHARES:
            task.check()
            self._waiting = _part_of(self._margin, share)
            beside = _grown(unseen, tuple(-(-voxels // _BLOCK) for voxels in self._waiting)).reshape(-1)
            waiting = [near_it | beside[block] for near_it, block in zip(kept, blocks, strict=True)]
            if fit(waiting, 0.5 * _WHILE_COLLECTING):
                kept = waiting
                break
        self._parts = [(flat[one], features[one]) for (flat, features), one in zip(self._parts, kept, strict=True)]
        self._bytes = sum(flat.nbytes + features.nbytes for flat, features in self._parts)

    def _border(self, start: Triple, size: tuple[int, ...]) -> np.ndarray:
        """Return the voxels of a box that a structure in the next one may be near to."""
        border = np.zeros(size, bool)
        for axis, (first, length, margin) in enumerate(zip(start, size, self._waiting, strict=True)):
            along = np.moveaxis(border, axis, 0)
            if first > 0:
                along[:margin] = True
            if first + length < self._structures.shape[axis]:
                along[max(0, length - margin) :] = True
        return border


def save_features(kept: KeptFeatures, path: Path) -> None:
    """Write features to a file, completely or not at all; raises TransferSegError."""
    content = io.BytesIO()
    np.savez(
        content,
        version=np.array(_VERSION),
        scan=np.array(kept.scan),
        model=np.array(kept.model),
        size_zyx=np.array(kept.size_zyx),
        voxels=kept.voxels,
        features=kept.features,
    )
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as stream:
            stream.write(content.getbuffer())
            stream.flush()
            os.fsync(stream.fileno())
        replace_file(partial, path)
    except OSError as error:
        raise TransferSegError(
            f"The features cannot be written to {path} ({why_no_folder(path.parent, error)}): free some disk space, or "
            "name another file."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def load_features(path: Path, scan: str, model: str) -> KeptFeatures | None:
    """Return the features in a file, None where there is none, or it is damaged, of another scan or of another model.

    Raises TransferSegError for a file of another kind, which must not be written over.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            if set(file.files) != set(_ENTRIES):
                raise TransferSegError(f"{path} holds no features of a scan: name another file.")
            if int(file["version"]) != _VERSION or str(file["scan"]) != scan or str(file["model"]) != model:
                return None
            z, y, x = (int(side) for side in file["size_zyx"])
            kept = KeptFeatures(scan, model, (z, y, x), file["voxels"], file["features"])
    except zipfile.BadZipFile:
        return None  # written to the end, and damaged since
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise TransferSegError(f"{path} holds no features of a scan: name another file.") from error
    return kept if _is_sound(kept) else None


def _is_sound(kept: KeptFeatures) -> bool:
    """Tell whether what a file holds fits together."""
    voxels, features = kept.voxels, kept.features
    if voxels.ndim != 1 or voxels.dtype.kind not in "iu" or features.dtype != np.float16 or features.ndim != 2:
        return False
    within = not len(voxels) or (
        voxels[0] >= 0 and voxels[-1] < np.prod(kept.size_zyx) and bool((np.diff(voxels) > 0).all())
    )
    return len(voxels) == len(features) and bool(within) and bool(np.isfinite(features).all())


def _part_of(margin: Triple, share: float) -> Triple:
    """Return a share of a margin in voxels, at least one."""
    z, y, x = (max(1, round(share * voxels)) for voxels in margin)
    return z, y, x


def _grown(mask: np.ndarray, by: tuple[int, ...]) -> np.ndarray:
    """Return a mask grown by so many voxels along each axis: a box around each voxel."""
    grown = np.zeros_like(mask)
    axes = [np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)]
    if len(axes[0]):
        box = tuple(slice(max(0, at[0] - more), at[-1] + more + 1) for at, more in zip(axes, by, strict=True))
        size = tuple(2 * more + 1 for more in by)
        grown[box] = ndimage.maximum_filter(mask[box].view(np.uint8), size, mode="constant") != 0
    return grown


def _blocks(mask: np.ndarray) -> np.ndarray:
    """Return for each block of voxels whether it holds one of a mask."""
    for axis, size in enumerate(mask.shape):
        mask = np.logical_or.reduceat(mask, np.arange(0, size, _BLOCK), axis=axis)
    return mask


def _block_of(flat: np.ndarray, size: tuple[int, ...], blocks: tuple[int, ...]) -> np.ndarray:
    """Return the flat indices of the blocks that voxels (flat indices) lie in."""
    places = tuple(index // _BLOCK for index in np.unravel_index(flat, size))
    return np.ravel_multi_index(places, blocks)
