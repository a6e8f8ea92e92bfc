"""Cached features: what the frozen layers make of augmented patches, computed once and used for many steps.

Features are not equivariant to turns and mirrors, so several varied copies of each case are cached. A patch belongs to
one case and is a function of seed, case and number: leaving a case out leaves the others' patches as they are, so that
the folds of a cross-validation share one cache (``FeatureCache.select``).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from zlib import crc32

import numpy as np
import torch
from torch import nn

from TransferSegLib.datasets.prepared import PreparedCase
from TransferSegLib.errors import TrainingError
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.distillation import Distillation
from TransferSegLib.finetuning.label_change import LabelChange
from TransferSegLib.inference.devices import Device
from TransferSegLib.models.store import Model
from TransferSegLib.networks.interface import Backbone, SplitSizes, TrainingPatch, Triple
from TransferSegLib.pace import Pace
from TransferSegLib.progress import CancelToken, Task
from TransferSegLib.training.interruption import interruptible
from TransferSegLib.training.patches import Patch, PatchSampler


@dataclass(frozen=True)
class CachedPatch:
    """A patch as the last layers see it.

    ``maps`` (C, z, y, x), larger than the labels by the split's halo, in half precision; ``labels`` uint8 and
    ``weights`` float32 (zyx); ``annotated`` booleans per channel; ``teacher`` the parent's probabilities by group
    (groups, z, y, x; float16), None where every structure it knows is annotated.
    """

    maps: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    annotated: torch.Tensor
    teacher: torch.Tensor | None


@dataclass(frozen=True)
class _Entry:
    """What is kept of a patch beside its maps; ``row`` says where these are."""

    case_id: str
    row: int
    labels: np.ndarray
    is_counted: np.ndarray
    annotated: np.ndarray
    teacher: np.ndarray | None


class _Maps:
    """Half-precision maps (z, y, x, C) one after another, in memory or in a temporary file."""

    def __init__(self, shape_zyxc: tuple[int, int, int, int], dtype: torch.dtype, folder: Path | None) -> None:
        self._shape, self._dtype = shape_zyxc, dtype
        self._rows: list[np.ndarray] = []
        self._count = 0
        self._temporary = None
        if folder is not None:
            try:
                self._temporary = tempfile.TemporaryDirectory(
                    prefix="transferseg-features-", dir=folder, ignore_cleanup_errors=True
                )
            except OSError as error:
                raise TrainingError(f"No temporary folder for features can be made in {folder}: {error}.") from error
            self._file = Path(self._temporary.name) / "maps"

    def append(self, maps: torch.Tensor) -> int:
        """Add maps (C, z, y, x) and return their row; raises TrainingError when the disk is full."""
        # numpy has no bfloat16: the two bytes are kept as they are.
        row = maps.to(self._dtype).permute(1, 2, 3, 0).contiguous().cpu().view(torch.int16).numpy()
        if self._temporary is None:
            self._rows.append(row.copy())
        else:
            # Written, not mapped: a full disk is an error of a write, but ends a process that maps the file.
            try:
                with self._file.open("ab") as stream:
                    stream.write(row.data)
            except OSError as error:
                raise TrainingError(
                    f"The features cannot be written to {self._file.parent} ({error}): free some disk space, or lower "
                    "cache_bytes or patches_per_case."
                ) from error
        self._count += 1
        return self._count - 1

    def read(self, row: int) -> torch.Tensor:
        """Return the maps (C, z, y, x) of a row."""
        if self._temporary is None:
            values = self._rows[row]
        else:
            length = int(np.prod(self._shape))
            values = np.fromfile(self._file, np.int16, length, offset=2 * length * row).reshape(self._shape)
        return torch.from_numpy(values).view(self._dtype).permute(3, 0, 1, 2)

    def close(self) -> None:
        """Free the memory or remove the file."""
        self._rows.clear()
        if self._temporary is not None:
            self._temporary.cleanup()


class FeatureCache:
    """Cached patches of some cases; use it in a ``with`` statement, which removes what lies on the disk."""

    def __init__(self, maps: _Maps, entries: Sequence[_Entry]) -> None:
        """Hold entries over maps; made by ``cache_features`` and ``select``."""
        self._maps = maps
        self._entries = tuple(entries)
        self.case_ids = tuple(dict.fromkeys(entry.case_id for entry in self._entries))
        self._by_case = [[e for e in self._entries if e.case_id == case_id] for case_id in self.case_ids]

    def __len__(self) -> int:
        """Return the number of patches."""
        return len(self._entries)

    def __enter__(self) -> FeatureCache:
        """Return the cache itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the cache."""
        self.close()

    def close(self) -> None:
        """Forget everything; caches selected from this one are closed with it."""
        self._maps.close()

    def select(self, case_ids: Iterable[str]) -> FeatureCache:
        """Return the cache of only these cases, sharing the features; raises TrainingError when one is not there."""
        wanted = set(case_ids)
        missing = sorted(wanted - set(self.case_ids))
        if missing:
            raise TrainingError(f"There are no cached features of {', '.join(missing)}.")
        return FeatureCache(self._maps, [entry for entry in self._entries if entry.case_id in wanted])

    def patch(self, number: int) -> CachedPatch:
        """Return a patch by its number."""
        return self._load(self._entries[number])

    def draw(self, random: np.random.Generator) -> CachedPatch:
        """Return a patch at random, every case equally often."""
        entries = self._by_case[random.integers(len(self._by_case))]
        return self._load(entries[random.integers(len(entries))])

    def _load(self, entry: _Entry) -> CachedPatch:
        return CachedPatch(
            self._maps.read(entry.row),
            torch.from_numpy(entry.labels),
            torch.from_numpy(entry.is_counted.astype(np.float32)),
            torch.from_numpy(entry.annotated),
            None if entry.teacher is None else torch.from_numpy(entry.teacher),
        )


def cache_features(
    parent: Model,
    cases: Sequence[PreparedCase],
    change: LabelChange,
    configuration: FineTuningConfiguration,
    device: Device,
    *,
    patches_per_case: int | None = None,
    spent: Callable[[], float] | None = None,
    folder: Path | None = None,
    task: Task | None = None,
) -> FeatureCache:
    """Run the parent's frozen layers over augmented patches of every case and return their cache.

    As many patches a case as fit into ``cache_bytes``, at most ``patches_per_case`` (None: the configuration's).
    ``spent`` is the share of the time for it that has passed: at 1 the work ends early, after a round of one patch a
    case. Beyond ``memory_bytes`` the features
    go to a temporary file in ``folder`` (None: the system's). Raises TrainingError when not even one patch a case
    fits, Cancelled between two layers of the network.
    """
    sizes = FeatureSizes.of(parent.description.backbone, configuration)
    patch_bytes = bytes_of_patch(sizes, change, configuration)
    rounds = min(patches_per_case or configuration.patches_per_case, _rounds(patch_bytes, cases, configuration))
    on_disk = rounds * len(cases) * patch_bytes > configuration.memory_bytes
    dtype = torch.float16 if device.dtype == torch.float16 else torch.bfloat16
    maps = _Maps(
        (*sizes.maps_zyx, sizes.split.channels), dtype, (folder or Path(tempfile.gettempdir())) if on_disk else None
    )
    task = (task or Task()).named("Computing features", "features").counting(rounds * len(cases))
    pace, count = Pace(), rounds * len(cases)

    def done(patches: float) -> float:
        return max(patches / count, 0.0 if spent is None else min(1.0, spent()))

    def moved() -> None:
        if pace.is_long():
            task.at(done(len(entries) + pace.share()), look=False)

    maker = _EntryMaker(parent, change, configuration, device, maps, task.cancel, moved)
    samplers = [patch_sampler(case, change, sizes, configuration) for case in cases]
    entries: list[_Entry] = []
    try:
        for number in range(rounds):
            for case, sampler in zip(cases, samplers, strict=True):
                task.check()
                task.say(case.id)
                pace.begin()
                patch = sampler.draw(patch_random(configuration.seed, case.id, number))
                entries.append(maker.make(case.id, patch))
                pace.end()
                task.step(case.id, fraction=done(len(entries)))
            if spent is not None and spent() >= 1.0:
                break
    except BaseException:
        maps.close()
        raise
    return FeatureCache(maps, entries)


def patch_sampler(
    case: PreparedCase, change: LabelChange, sizes: FeatureSizes, configuration: FineTuningConfiguration
) -> PatchSampler:
    """Return the sampler of a case's patches with all their context, which has no weight."""
    patch = TrainingPatch(sizes.scan_zyx, sizes.split.context_zyx)
    return PatchSampler([case], change.label_set.mirrored_channels(), patch, configuration)


def patch_random(seed: int, case_id: str, number: int) -> np.random.Generator:
    """Return the generator of a case's patch: the same in every run, whichever the other cases are."""
    return np.random.default_rng([seed, crc32(case_id.encode("utf-8")), number])


class _EntryMaker:
    """Takes patches through the frozen layers and, where it has something to say, the parent's own last layers."""

    def __init__(
        self,
        parent: Model,
        change: LabelChange,
        configuration: FineTuningConfiguration,
        device: Device,
        maps: _Maps,
        cancel: CancelToken | None,
        moved: Callable[[], None],
    ) -> None:
        backbone, network = parent.description.backbone, parent.network()
        self._frozen = frozen_features(network, backbone, configuration.tail, device, cancel, moved)
        self._last_layers = backbone.last_layers(network, configuration.tail).to(torch.device(device.torch_name))
        self._context = backbone.split_sizes(configuration.tail).context_zyx
        self._distillation = Distillation(change) if configuration.distillation > 0 else None
        self._device = device
        self._maps = maps

    @torch.no_grad()
    def make(self, case_id: str, patch: Patch) -> _Entry:
        """Store the maps of a patch and return the rest."""
        maps = self._frozen(torch.from_numpy(patch.intensities)[None])
        if not bool(torch.isfinite(maps.sum(dtype=torch.float32))):
            raise TrainingError(
                f"The model's features of case {case_id} are not finite: {self._device} cannot be used."
            )
        teacher = None
        if self._distillation is not None and self._distillation.holds(patch.annotated.tolist()):
            with torch.autocast(maps.device.type, self._device.dtype, enabled=self._device.dtype != torch.float32):
                logits = self._last_layers(maps)
            teacher = self._distillation.teacher(logits)[0].half().cpu().numpy()
        sides = zip(self._context, patch.labels.shape, strict=True)
        inner = tuple(slice(context, side - context) for context, side in sides)
        return _Entry(
            case_id,
            self._maps.append(maps[0]),
            patch.labels[inner].copy(),
            patch.weights[inner] > 0,
            patch.annotated.copy(),
            teacher,
        )


def frozen_features(
    network: nn.Module,
    backbone: Backbone,
    point: str,
    device: Device,
    cancel: CancelToken | None = None,
    moved: Callable[[], None] | None = None,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function from scans (N, channels, z, y, x) to features at a split point, in the device's precision.

    It has a copy of the weights, and raises Cancelled between two layers once ``cancel`` asks for it; there ``moved``
    is called, too.
    """
    place = torch.device(device.torch_name)
    frozen = backbone.frozen_layers(network, point).to(place, device.dtype).eval()
    for parameter in frozen.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=device.memory_format)

    @torch.no_grad()
    def run(scans: torch.Tensor) -> torch.Tensor:
        with interruptible(frozen, cancel, moved):
            features: torch.Tensor = frozen(
                scans.to(place, device.dtype).contiguous(memory_format=device.memory_format)
            )
            return features

    return run


@dataclass(frozen=True)
class FeatureSizes:
    """The sizes of a cached patch in voxels: of its logits, and of how the network is cut."""

    logits_zyx: Triple
    split: SplitSizes

    @staticmethod
    def of(backbone: Backbone, configuration: FineTuningConfiguration) -> FeatureSizes:
        """Return the sizes that a network and the settings make."""
        logits = backbone.feature_patch(configuration.tail_patch)
        return FeatureSizes(logits, backbone.split_sizes(configuration.tail))

    @property
    def maps_zyx(self) -> Triple:
        """The size of the features."""
        return _grown(self.logits_zyx, self.split.halo_zyx)

    @property
    def scan_zyx(self) -> Triple:
        """The size of the scan patch that is needed for them."""
        return _grown(self.logits_zyx, self.split.context_zyx)


def _grown(size: Triple, by: Triple) -> Triple:
    z, y, x = (side + 2 * more for side, more in zip(size, by, strict=True))
    return z, y, x


def rounds_that_fit(
    parent: Model, cases: Sequence[PreparedCase], change: LabelChange, configuration: FineTuningConfiguration
) -> int:
    """Return how many patches of each case are cached where time does not matter; raises TrainingError as above."""
    sizes = FeatureSizes.of(parent.description.backbone, configuration)
    fitting = _rounds(bytes_of_patch(sizes, change, configuration), cases, configuration)
    return min(configuration.patches_per_case, fitting)


def bytes_of_patch(sizes: FeatureSizes, change: LabelChange, configuration: FineTuningConfiguration) -> int:
    """Return the bytes of one cached patch: maps, labels, annotated voxels, the parent's probabilities."""
    inner = math.prod(sizes.logits_zyx)
    teacher = 2 * inner * len(change.groups()) if configuration.distillation > 0 else 0
    return 2 * math.prod(sizes.maps_zyx) * sizes.split.channels + 2 * inner + teacher


def _rounds(patch_bytes: int, cases: Sequence[PreparedCase], configuration: FineTuningConfiguration) -> int:
    """Return how many patches a case fit into the budget; raises TrainingError when there is not room for one."""
    needed = patch_bytes * len(cases)
    if not cases:
        raise TrainingError("There is no case to learn from.")
    if needed > configuration.cache_bytes:
        raise TrainingError(
            f"One patch of each of {len(cases)} cases takes {needed / 1e6:.0f} MB of features, but cache_bytes allows "
            f"{configuration.cache_bytes / 1e6:.0f} MB: raise it, or lower tail_patch."
        )
    return int(configuration.cache_bytes // needed)
