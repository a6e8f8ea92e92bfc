"""Predict a scan in overlapping windows whose logits are averaged with Gaussian weights, as nnU-Net does.

The logits of a whole scan never exist: sums are kept for the rows along z that the current windows reach, and a slab
of rows is handed on as soon as no later window reaches it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from torch import nn

from TransferSegLib.errors import DeviceError
from TransferSegLib.images.label_resampling import LabelRule
from TransferSegLib.inference.box_logits import BoxLogits
from TransferSegLib.inference.devices import Device
from TransferSegLib.inference.fallback import CannotCompute, FallbackDevice, finite_logits
from TransferSegLib.inference.options import USUAL, PredictionOptions
from TransferSegLib.inference.window_networks import WindowNetworks
from TransferSegLib.inference.window_sums import BlendedSums, NnUNetSums, WindowSums, common, window_starts
from TransferSegLib.networks.interface import DeepestMapsObserver, PieceDone, Tiling, Triple
from TransferSegLib.progress import Task

#: Windows that are computed together where there is enough memory.
_BATCH = {"cuda": 4}


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
    ) -> None:
        """Take networks, of which the mean counts, that give ``outputs`` logits for each voxel of a window.

        ``device`` None: the best. With ``regions`` each output is a region, and the background has none.
        """
        assert tiling.patch_zyx is not None
        self.patch_zyx: Triple = tiling.patch_zyx
        self.outputs, self.folds, self.is_exact = outputs, len(networks), options.exact
        self.step = 1 - tiling.overlap if options.step is None else options.step
        self.rule = LabelRule(regions, as_nnunet=options.exact)
        self.as_logits = regions or tiling.interpolate == "logits"
        self._networks = tuple(networks)
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
    ) -> WindowPrediction:
        """Return the prediction of a scan; see ``Predictor.predict``. There are no deepest maps to observe."""
        return WindowPrediction(self, intensities_czyx, padding_values, tile_bytes, task or Task(), share_of_use)

    def logits(self, windows: np.ndarray, layer_done: PieceDone | None = None) -> torch.Tensor:
        """Return the logits (folds, N, classes, z, y, x; float32) of windows (N, channels, z, y, x; float32).

        Unless they are exact, the folds' mean is returned as one. ``layer_done`` is called after each layer with the
        share (0 to 1) that is done; what it raises ends the work.
        """

        def compute() -> torch.Tensor:
            if self._runner is None:
                self._runner = WindowNetworks(self._networks, self.device, self._mirror_axes_zyx)
            return self._runner.logits(torch.from_numpy(windows), self.is_exact, layer_done)

        return finite_logits(compute)

    def sums(self, size_zyx: Triple) -> WindowSums:
        """Return sums for a scan; raises DeviceError when there is not enough memory."""
        if self.is_exact:
            return NnUNetSums(self.folds, self.outputs, size_zyx, self.patch_zyx, self.device)
        relative = not self.rule.regions
        return BlendedSums(self.outputs, size_zyx, self.patch_zyx, self.starts(size_zyx), self.device, relative)

    def sums_bytes(self, size_zyx: Triple) -> float:
        """Return the memory that the sums for a scan take."""
        if self.is_exact:
            return NnUNetSums.bytes_for(self.folds, self.outputs, size_zyx, self.patch_zyx)
        return BlendedSums.bytes_for(1, self.outputs, size_zyx, self.patch_zyx)

    def starts(self, size_zyx: Triple) -> list[list[int]]:
        """Return where windows begin along z, y and x."""
        return [window_starts(size, side, self.step) for size, side in zip(size_zyx, self.patch_zyx, strict=True)]

    def step_back(self, failure: CannotCompute) -> str:
        """Choose how to continue after windows failed; return a message, or raise when no way is left."""
        if failure.reason == "range":
            self._runner = None
            return self._fallback.use_float32()
        if self.batch > 1:
            self.batch //= 2
            return f"Not enough memory on {self.device.name}: continuing with fewer windows at once"
        message = self._fallback.use_cpu(f"a window of {_times(self.patch_zyx)} voxels")
        self._fallback.device = self._in_precision(self.device)
        self._runner = None
        return message

    def _in_precision(self, device: Device) -> Device:
        return device.in_float32() if self.is_exact else in_window_precision(device)


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
    ) -> None:
        """Plan the windows; raises DeviceError when the sums alone take more than ``tile_bytes`` on a CPU."""
        self._predictor = predictor
        self._intensities, self._padding = intensities_czyx, padding_values
        self._task, self._share_of_use = task, share_of_use
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
        predictor = self._predictor
        sums = predictor.sums(self.size_zyx)
        along_z, depth = self._starts[0], self.size_zyx[0]
        _, height, width = self.size_zyx
        for number, first in enumerate(along_z):
            computing, using = self._task.share(number, len(along_z)).split(1 - self._share_of_use, self._share_of_use)
            corners = [(first, y, x) for y, x in product(self._starts[1], self._starts[2])]
            for corner, logits in self._computed(corners, computing):
                sums.add(corner, logits)
                del logits
            stop = along_z[number + 1] if number + 1 < len(along_z) else depth
            start, values = sums.finished(stop)
            box = (start, 0, 0), (stop, height, width)
            yield BoxLogits(*box, values, using, predictor.as_logits, predictor.rule)
            del values
            sums.move_to(stop)
            using.done()

    def _computed(self, corners: list[Triple], task: Task) -> Iterator[tuple[Triple, torch.Tensor]]:
        """Compute windows in batches and return each with its first voxel."""
        predictor, done, message = self._predictor, 0, ""
        while done < len(corners):
            batch = corners[done : done + predictor.batch]
            _, here, _ = task.split(done, len(batch), len(corners) - done - len(batch))
            here.at(0.0, message or f"on {predictor.device}")
            try:
                logits = predictor.logits(np.stack([self._window(corner) for corner in batch]), here.at)
            except CannotCompute as error:
                failure = error
            else:
                message = ""
                yield from zip(batch, logits.unbind(dim=1), strict=True)
                del logits
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
    """Return a device in the precision that windows are computed in: on NVIDIA GPUs nnU-Net's half precision, float16.

    It has one more digit than bfloat16, which CPUs compute faster.
    """
    if device.kind != "cuda" or device.dtype == torch.float32:
        return device
    return replace(device, dtype=torch.float16)


def _times(sides: Triple) -> str:
    """Return sides as in ``128 x 128 x 64``, in the order x, y, z."""
    return " x ".join(str(side) for side in reversed(sides))
