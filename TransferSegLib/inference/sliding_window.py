"""Predict a scan in overlapping windows whose logits are averaged with Gaussian weights, as nnU-Net does.

The logits of a whole scan never exist: sums are kept for the rows along z that the current windows reach, and a slab
of rows is handed on as soon as no later window reaches it. Sums and weights are float32; nnU-Net's are float16,
which rounds the logits at the corners of a scan.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import ceil
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from TransferSegLib.errors import DeviceError
from TransferSegLib.inference.box_logits import BoxLogits
from TransferSegLib.inference.devices import Device, free_memory_bytes, is_out_of_memory
from TransferSegLib.inference.fallback import CannotCompute, FallbackDevice, finite_logits
from TransferSegLib.networks.interface import DeepestMapsObserver, PieceDone, Tiling, Triple
from TransferSegLib.progress import Task

#: Standard deviation of the weights, in sides of a window.
_SIGMA = 1 / 8
#: Windows that are computed together where there is enough memory.
_BATCH = {"cuda": 4}
#: Share of a GPU's free memory that the sums may take; else they are kept in the computer's memory.
_SHARE_OF_GPU = 0.4

#: Where windows begin along one axis; the first may begin before the scan, if that is smaller than a window.
Starts = list[int]


class WindowPredictor:
    """A network on a device, ready for many scans; the network given is never changed.

    When memory runs out it continues with fewer windows at once, then on the CPU; when half precision overflows, in
    float32. It stays there for later scans.
    """

    deepest_lattice = None

    def __init__(
        self, networks: Sequence[nn.Module], classes: int, tiling: Tiling, device: Device | None = None
    ) -> None:
        """Take networks, of which the mean counts, that give logits of a window's size; ``device`` None: the best."""
        assert tiling.patch_zyx is not None
        self.patch_zyx: Triple = tiling.patch_zyx
        self.overlap, self.classes, self.as_logits = tiling.overlap, classes, tiling.interpolate == "logits"
        self._networks = tuple(networks)
        self._fallback = FallbackDevice(device)
        self._fallback.device = in_window_precision(self._fallback.device)
        self._runners: list[nn.Module] = []
        self._layers, self._layers_done = 1, 0
        self._layer_done: PieceDone | None = None
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
        """Return the logits (N, classes, z, y, x; float32) of windows (N, channels, z, y, x; float32).

        ``layer_done`` is called after each layer with the share (0 to 1) that is done; what it raises ends the work.
        """
        device = torch.device(self.device.torch_name)
        self._layer_done, self._layers_done = layer_done, 0

        def compute() -> torch.Tensor:
            if not self._runners:
                self._runners = self._copies_on(device)
            scans = torch.from_numpy(windows).to(device).contiguous(memory_format=self.device.memory_format)
            is_half = self.device.dtype != torch.float32
            with torch.inference_mode(), torch.autocast(device.type, self.device.dtype, enabled=is_half):
                logits: torch.Tensor = self._runners[0](scans).float()
                for runner in self._runners[1:]:
                    logits += runner(scans)
                return logits if len(self._runners) == 1 else logits.div_(len(self._runners))

        return finite_logits(compute)

    def _copies_on(self, device: torch.device) -> list[nn.Module]:
        """Return copies of the networks that report after each layer: a window may take half a minute on a CPU."""
        runners = [copy.deepcopy(network).float().eval().to(device) for network in self._networks]
        layers = [part for each in runners for part in each.modules() if not any(True for _ in part.children())]
        self._layers = len(layers)
        for layer in layers:
            layer.register_forward_hook(self._after_layer)
        return runners

    def _after_layer(self, *_: Any) -> None:
        self._layers_done += 1
        if self._layer_done is not None:
            self._layer_done(min(1.0, self._layers_done / self._layers))

    def step_back(self, failure: CannotCompute) -> str:
        """Choose how to continue after windows failed; return a message, or raise when no way is left."""
        if failure.reason == "range":
            return self._fallback.use_float32()
        if self.batch > 1:
            self.batch //= 2
            return f"Not enough memory on {self.device.name}: continuing with fewer windows at once"
        message = self._fallback.use_cpu(f"a window of {_times(self.patch_zyx)} voxels")
        self._fallback.device = in_window_precision(self.device)
        self._runners = []
        return message


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
        self._starts = [
            window_starts(size, side, predictor.overlap)
            for size, side in zip(self.size_zyx, predictor.patch_zyx, strict=True)
        ]
        task.check()
        needed = _Sums.bytes_for(predictor.classes, self.size_zyx, predictor.patch_zyx)
        if predictor.device.kind == "cpu" and needed > tile_bytes:
            raise DeviceError(
                f"The logits of a slab of this scan need {needed / 1e9:.2f} GB, but the memory limit leaves "
                f"{max(0.0, tile_bytes) / 1e9:.2f} GB for them: raise the limit."
            )

    def __iter__(self) -> Iterator[BoxLogits]:
        """Compute slab by slab; raises Cancelled, DeviceError, ModelError."""
        sums = _Sums(self._predictor, self.size_zyx)
        weights = gaussian_weights(self._predictor.patch_zyx)
        along_z, depth = self._starts[0], self.size_zyx[0]
        _, height, width = self.size_zyx
        for number, first in enumerate(along_z):
            computing, using = self._task.share(number, len(along_z)).split(1 - self._share_of_use, self._share_of_use)
            corners = [(first, y, x) for y, x in product(self._starts[1], self._starts[2])]
            for corner, logits in self._computed(corners, computing):
                sums.add(corner, logits, weights)
                del logits
            stop = along_z[number + 1] if number + 1 < len(along_z) else depth
            start, values = sums.finished(stop)
            yield BoxLogits((start, 0, 0), (stop, height, width), values, using, self._predictor.as_logits)
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
                yield from zip(batch, logits, strict=True)
                del logits
                done += len(batch)
                continue
            message = predictor.step_back(failure)
        task.at(1.0, f"on {predictor.device}")

    def _window(self, corner_zyx: Triple) -> np.ndarray:
        """Return the intensities (channels, z, y, x) of a window, padded beyond the scan."""
        inside, in_window = _common(corner_zyx, self._predictor.patch_zyx, self.size_zyx)
        window = np.empty((len(self._intensities), *self._predictor.patch_zyx), np.float32)
        for channel, intensities, padding in zip(window, self._intensities, self._padding, strict=True):
            channel[:] = padding
            channel[in_window] = intensities[inside]
        return window


class _Sums:
    """Weighted sums of logits, and of the weights, for the rows along z that the current windows reach.

    The first row is the last one of the slab before, finished already, which the next slab shares.
    """

    def __init__(self, predictor: WindowPredictor, size_zyx: Triple) -> None:
        """Begin at the first row of a scan; raises DeviceError when there is not enough memory."""
        self._size = size_zyx
        depth = min(predictor.patch_zyx[0], size_zyx[0]) + 1
        needed = self.bytes_for(predictor.classes, size_zyx, predictor.patch_zyx)
        free = free_memory_bytes(predictor.device)
        on_gpu = free is not None and needed < _SHARE_OF_GPU * free
        self._device = torch.device(predictor.device.torch_name if on_gpu else "cpu")
        try:
            self._logits = torch.zeros((predictor.classes, depth, *size_zyx[1:]), device=self._device)
            self._weights = torch.zeros((depth, *size_zyx[1:]), device=self._device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceError(
                f"There is not enough memory for the logits of a slab of this scan ({needed / 1e9:.1f} GB): close "
                "other programs."
            ) from None
        #: The row of the scan behind the finished ones; it is row 1 of the sums.
        self._first = 0

    @staticmethod
    def bytes_for(classes: int, size_zyx: Triple, patch_zyx: Triple) -> float:
        """Return the memory that the sums take."""
        return 4.0 * (classes + 1) * (min(patch_zyx[0], size_zyx[0]) + 1) * size_zyx[1] * size_zyx[2]

    def add(self, corner_zyx: Triple, logits: torch.Tensor, weights: torch.Tensor) -> None:
        """Add the logits (classes, z, y, x) of a window whose first voxel is given; they are changed."""
        inside, in_window = _common(corner_zyx, (weights.shape[0], weights.shape[1], weights.shape[2]), self._size)
        z, y, x = inside
        here = (slice(z.start - self._first + 1, z.stop - self._first + 1), y, x)
        own = weights[in_window].to(logits.device)
        with torch.inference_mode():  # so that the logits can be weighted in place
            self._logits[(slice(None), *here)] += logits[(slice(None), *in_window)].mul_(own).to(self._device)
            self._weights[here] += own.to(self._device)

    def finished(self, stop: int) -> tuple[int, torch.Tensor]:
        """Return the first row and the logits (classes, z, y, x) of the slab that ends before ``stop``."""
        count, shared = stop - self._first, min(1, self._first)
        self._logits[:, 1 : count + 1] /= self._weights[1 : count + 1]
        return self._first - shared, self._logits[:, 1 - shared : count + 1]

    def move_to(self, stop: int) -> None:
        """Make room for the rows from ``stop`` on, which overwrites the slab that ended there."""
        count, self._first = stop - self._first, stop
        depth = len(self._weights)
        for row in range(depth - count):
            self._logits[:, row] = self._logits[:, row + count]
            self._weights[row] = self._weights[row + count]
        self._logits[:, depth - count :] = 0
        self._weights[depth - count :] = 0


def in_window_precision(device: Device) -> Device:
    """Return a device in the precision that windows are computed in: on NVIDIA GPUs nnU-Net's half precision, float16.

    It has one more digit than bfloat16, which CPUs compute faster.
    """
    if device.kind != "cuda" or device.dtype == torch.float32:
        return device
    return replace(device, dtype=torch.float16)


def window_starts(size: int, side: int, overlap: float) -> Starts:
    """Return where windows begin along an axis, evenly spread; a scan smaller than a window lies in its middle.

    >>> window_starts(20, 8, 0.5)
    [0, 4, 8, 12]
    """
    if size <= side:
        return [-((side - size) // 2)]
    count = ceil((size - side) / (side * (1 - overlap))) + 1
    return [round(number * (size - side) / (count - 1)) for number in range(count)]


def gaussian_weights(patch_zyx: Triple) -> torch.Tensor:
    """Return the weights (z, y, x; float32, at most 1) of the voxels of a window."""
    impulse = np.zeros(patch_zyx, np.float64)
    impulse[tuple(side // 2 for side in patch_zyx)] = 1.0
    weights = ndimage.gaussian_filter(impulse, [side * _SIGMA for side in patch_zyx], mode="constant")
    weights = (weights / weights.max()).astype(np.float32)
    weights[weights == 0] = weights[weights > 0].min()
    return torch.from_numpy(weights)


def _common(corner_zyx: Triple, side_zyx: Triple, size_zyx: Triple) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the voxels of a scan that lie in a window, and where in the window they are."""
    inside, in_window = [], []
    for corner, side, size in zip(corner_zyx, side_zyx, size_zyx, strict=True):
        low, high = max(0, corner), min(size, corner + side)
        inside.append(slice(low, high))
        in_window.append(slice(low - corner, high - corner))
    return tuple(inside), tuple(in_window)


def _times(sides: Triple) -> str:
    """Return sides as in ``128 x 128 x 64``, in the order x, y, z."""
    return " x ".join(str(side) for side in reversed(sides))
