"""Predict a scan in overlapping windows whose logits are averaged with Gaussian weights, as nnU-Net does.

The logits of a whole scan never exist: sums are kept for the rows along z that the current windows reach, and a slab
of rows is handed on as soon as no later window reaches it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import nn

from TransferSegLib.errors import DeviceError
from TransferSegLib.freed_memory import keep_freed_memory, return_freed_memory
from TransferSegLib.images.label_resampling import LabelRule
from TransferSegLib.inference.box_logits import BoxFeatures, BoxLogits, holds_any
from TransferSegLib.inference.devices import Device
from TransferSegLib.inference.fallback import CannotCompute, FallbackDevice, finite_logits
from TransferSegLib.inference.feature_sums import FeatureSums
from TransferSegLib.inference.options import USUAL, PredictionOptions
from TransferSegLib.inference.window_networks import WindowNetworks
from TransferSegLib.inference.window_sums import BlendedSums, NnUNetSums, WindowSums, common, window_starts
from TransferSegLib.networks.interface import DeepestMapsObserver, PieceDone, Tiling, Triple
from TransferSegLib.progress import Task

#: Windows that are computed together where there is enough memory.
_BATCH = {"cuda": 4}


@dataclass(frozen=True)
class LinearHead:
    """What makes logits of so many features of a voxel, one for each fold."""

    folds: tuple[nn.Module, ...]
    features: int


class WindowPredictor:
    """A network on a device, ready for many scans; the network given is never changed.

    When memory runs out it continues with fewer windows at once, then on the CPU; when half precision overflows, in
    float32. It stays there for later scans.
    """

    deepest_lattice = None

    def __init__(
        self,
        networks: Sequence[nn.Module],
        outputs: int,
        tiling: Tiling,
        device: Device | None = None,
        options: PredictionOptions = USUAL,
        regions: bool = False,
        head: LinearHead | None = None,
    ) -> None:
        """Take networks, of which the mean counts, that give ``outputs`` logits for each voxel of a window.

        ``device`` None: the best. With ``regions`` each output is a region, and the background has none. With a
        ``head`` the networks give features instead, are the predictor's own, and the head makes logits of them.
        """
        assert tiling.patch_zyx is not None, "a family with windows must name their size: Tiling.patch_zyx"
        self.patch_zyx: Triple = tiling.patch_zyx
        self.outputs, self.folds, self.is_exact = outputs, len(networks), options.exact
        self.step = 1 - tiling.overlap if options.step is None else options.step
        self.rule = LabelRule(regions, as_nnunet=options.exact)
        self.as_logits = regions or tiling.interpolate == "logits"
        self._networks, self._head = tuple(networks), head
        self._mirror_axes_zyx = tiling.mirror_axes_zyx if options.mirror else ()
        self._fallback = FallbackDevice(device)
        self._fallback.device = self._in_precision(self._fallback.device)
        self._runner: WindowNetworks | None = None
        #: How many windows are computed together.
        self.batch = _BATCH.get(self.device.kind, 1)

    @property
    def device(self) -> Device:
        """The device in use."""
        return self._fallback.device

    def predict(
        self,
        intensities_czyx: np.ndarray,
        padding_values: Sequence[float],
        tile_bytes: float,
        task: Task | None = None,
        observer: DeepestMapsObserver | None = None,
        share_of_use: float = 0.02,
        features: bool = False,
        within: np.ndarray | None = None,
    ) -> WindowPrediction:
        """Return the prediction of a scan; see ``Predictor.predict``. There are no deepest maps to observe."""
        return WindowPrediction(
            self, intensities_czyx, padding_values, tile_bytes, task or Task(), share_of_use, features, within
        )

    def window_outputs(self, windows: np.ndarray, layer_done: PieceDone | None = None) -> torch.Tensor:
        """Return what sums take (folds, N, outputs, z, y, x; float32) of windows (N, channels, z, y, x; float32).

        Unless each fold is added up on its own, their mean is returned as one. ``layer_done`` is called after each
        layer with the share (0 to 1) that is done; what it raises ends the work.
        """

        def compute() -> torch.Tensor:
            if self._runner is None:
                self._runner = WindowNetworks(self._networks, self.device, self._mirror_axes_zyx, self._head is None)
            each_fold = self.is_exact or self._head is not None
            return self._runner.outputs(torch.from_numpy(windows), each_fold, layer_done)

        return finite_logits(compute)

    def sums(self, size_zyx: Triple) -> WindowSums:
        """Return sums for a scan; raises DeviceError when there is not enough memory."""
        if self.is_exact:
            return NnUNetSums(self.folds, self.outputs, size_zyx, self.patch_zyx, self.device)
        starts = self.starts(size_zyx)
        if self._head is not None:
            head = self._head
            return FeatureSums(head.folds, head.features, self.outputs, size_zyx, self.patch_zyx, starts, self.device)
        relative = not self.rule.regions
        return BlendedSums(self.outputs, size_zyx, self.patch_zyx, starts, self.device, relative)

    def sums_bytes(self, size_zyx: Triple) -> float:
        """Return the memory that the sums for a scan take."""
        if self.is_exact:
            return NnUNetSums.bytes_for(self.folds, self.outputs, size_zyx, self.patch_zyx)
        if self._head is not None:
            return FeatureSums.bytes_for(self.folds, self._head.features, size_zyx, self.patch_zyx)
        return BlendedSums.bytes_for(1, self.outputs, size_zyx, self.patch_zyx)

    def starts(self, size_zyx: Triple) -> list[list[int]]:
        """Return where windows begin along z, y and x."""
        return [window_starts(size, side, self.step) for size, side in zip(size_zyx, self.patch_zyx, strict=True)]

    def step_back(self, failure: CannotCompute) -> str:
        """Choose how to continue after windows failed; return a message, or raise when no way is left."""
        if failure.reason == "range":
            self._runner = None
            message = self._fallback.use_float32()
            self._fallback.device = self._in_precision(self.device)
            return message
        if self.batch > 1:
            self.batch //= 2
            return f"Not enough memory on {self.device.name}: continuing with fewer windows at once"
        message = self._fallback.use_cpu(f"a window of {_times(self.patch_zyx)} voxels")
        self._fallback.device = self._in_precision(self.device)
        self._runner = None
        return message

    def _in_precision(self, device: Device) -> Device:
        return in_window_precision(device.in_float32() if self.is_exact else device)


class WindowPrediction:
    """The logits of one scan: iterate over its slabs along z, which share a row with their neighbours."""

    background_channel = 0

    def __init__(
        self,
        predictor: WindowPredictor,
        intensities_czyx: np.ndarray,
        padding_values: Sequence[float],
        tile_bytes: float,
        task: Task,
        share_of_use: float,
        features: bool = False,
        within: np.ndarray | None = None,
    ) -> None:
        """Plan the windows; raises DeviceError when the sums alone take more than ``tile_bytes`` on a CPU."""
        self._predictor = predictor
        self._intensities, self._padding = intensities_czyx, padding_values
        self._task, self._share_of_use, self._features = task, share_of_use, features
        self._within = within
        self.size_zyx: Triple = (intensities_czyx.shape[1], intensities_czyx.shape[2], intensities_czyx.shape[3])
        self._starts = predictor.starts(self.size_zyx)
        task.check()
        needed = predictor.sums_bytes(self.size_zyx)
        if predictor.device.kind == "cpu" and needed > tile_bytes:
            raise DeviceError(
                f"The logits of a slab of this scan need {needed / 1e9:.2f} GB, but the memory limit leaves "
                f"{max(0.0, tile_bytes) / 1e9:.2f} GB for them: raise the limit."
            )

    def __iter__(self) -> Iterator[BoxLogits]:
        """Compute slab by slab; raises Cancelled, DeviceError, ModelError."""
        keep_freed_memory()  # for the next window
        try:
            yield from self._slabs()
        finally:
            return_freed_memory()

    def _slabs(self) -> Iterator[BoxLogits]:
        predictor = self._predictor
        sums = predictor.sums(self.size_zyx)
        along_z, depth = self._starts[0], self.size_zyx[0]
        _, height, width = self.size_zyx
        each_slab = [
            [(first, y, x) for y, x in product(self._starts[1], self._starts[2]) if self._is_wanted((first, y, x))]
            for first in along_z
        ]
        since = 0
        for number, (corners, task) in enumerate(zip(each_slab, self._task.split(*map(len, each_slab)), strict=True)):
            computing, using = task.split(1 - self._share_of_use, self._share_of_use)
            for corner, outputs in self._computed(corners, computing):
                sums.add(corner, outputs)
                del outputs
            stop = along_z[number + 1] if number + 1 < len(along_z) else depth
            is_wanted = self._within is None or holds_any(self._within, (since - 1, 0, 0), (stop, height, width))
            for begin, end, values in sums.finished(stop) if is_wanted else ():
                part, using = using.split(end - begin, stop - end)
                found = None
                if self._features and isinstance(sums, FeatureSums):
                    found = BoxFeatures((begin, 0, 0), sums.features(begin, end))
                box = (begin, 0, 0), (end, height, width)
                yield BoxLogits(*box, values, part, predictor.as_logits, predictor.rule, found)
                del values, found
            sums.move_to(stop)
            since = stop
            using.done()

    def _is_wanted(self, corner_zyx: Triple) -> bool:
        """Tell whether a window counts for any voxel that is asked for."""
        ends = [start + side for start, side in zip(corner_zyx, self._predictor.patch_zyx, strict=True)]
        return self._within is None or holds_any(self._within, corner_zyx, ends)

    def _computed(self, corners: list[Triple], task: Task) -> Iterator[tuple[Triple, torch.Tensor]]:
        """Compute windows in batches and return each with its first voxel."""
        predictor, done, message = self._predictor, 0, ""
        while done < len(corners):
            batch = corners[done : done + predictor.batch]
            _, here, _ = task.split(done, len(batch), len(corners) - done - len(batch))
            here.at(0.0, message or f"on {predictor.device}")
            try:
                outputs = predictor.window_outputs(np.stack([self._window(corner) for corner in batch]), here.at)
            except CannotCompute as error:
                failure = error
            else:
                message = ""
                yield from zip(batch, outputs.unbind(dim=1), strict=True)
                del outputs
                done += len(batch)
                continue
            message = predictor.step_back(failure)
        task.at(1.0, f"on {predictor.device}")

    def _window(self, corner_zyx: Triple) -> np.ndarray:
        """Return the intensities (channels, z, y, x) of a window, padded beyond the scan."""
        inside, in_window = common(corner_zyx, self._predictor.patch_zyx, self.size_zyx)
        window = np.empty((len(self._intensities), *self._predictor.patch_zyx), np.float32)
        for channel, intensities, padding in zip(window, self._intensities, self._padding, strict=True):
            channel[:] = padding
            channel[in_window] = intensities[inside]
        return window


def in_window_precision(device: Device) -> Device:
    """Return a device with the precision and memory format that windows are computed in.

    On NVIDIA GPUs that is nnU-Net's half precision, float16, which has one more digit than bfloat16. On CPUs
    normalised networks are faster in float32 when maps are not channels last.
    """
    if device.dtype == torch.float32:
        return replace(device, channels_last=False) if device.kind == "cpu" else device
    return replace(device, dtype=torch.float16) if device.kind == "cuda" else device


def _times(sides: Triple) -> str:
    """Return sides as in ``128 x 128 x 64``, in the order x, y, z."""
    return " x ".join(str(side) for side in reversed(sides))
