"""Candidates of one fine-tuning: each is trained once, kept on the disk, and gone on with after an interruption."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from TransferSegLib.finetuning.adapt import Adapted, adapt
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.feature_cache import FeatureCache, cache_features
from TransferSegLib.finetuning.plan import FineTuningPlan
from TransferSegLib.finetuning.run_folder import RunFolder
from TransferSegLib.finetuning.run_parts import FEATURES
from TransferSegLib.finetuning.whole_progress import WholeProgress
from TransferSegLib.inference.devices import Device
from TransferSegLib.progress import CancelToken, Task
from TransferSegLib.training.cases import PreparedCase

Cases = dict[str, PreparedCase]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A trained candidate as it is kept on the disk."""

    state_dict: dict[str, torch.Tensor]
    history: list[dict[str, Any]]
    fates: list[dict[str, Any]]
    starts: list[dict[str, Any]]
    tail_steps: int
    steps: int

    @staticmethod
    def of(adapted: Adapted) -> Candidate:
        """Keep what is needed of an adaptation."""
        fates = [fate.to_json() for fate in adapted.fates]
        starts = [asdict(start) for start in adapted.starts]
        return Candidate(adapted.state_dict, adapted.history, fates, starts, adapted.tail_steps, adapted.steps)


class CandidateTrainer:
    """Trains the candidates of one fine-tuning on one device; they share the features of the frozen part."""

    def __init__(
        self,
        work: FineTuningPlan,
        folder: RunFolder,
        device: Device,
        whole: WholeProgress,
        cancel: CancelToken | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare for candidates; nothing is computed yet. ``rounds`` is known when features were computed before."""
        self._work, self._folder, self._device = work, folder, device
        self._whole, self._cancel, self._clock = whole, cancel, clock
        self._cache: FeatureCache | None = None
        self.rounds: int | None = None

    def use(self, work: FineTuningPlan) -> None:
        """Train by what was decided meanwhile: another strategy, or the last layers alone."""
        self._work = work

    def close(self) -> None:
        """Forget the features."""
        if self._cache is not None:
            self._cache.close()

    def shares_features(self, strategy: str | None = None) -> bool:
        """Whether all candidates of a strategy (None: the configuration's) learn from the same cached features."""
        knobs = self._work.configuration
        knobs = replace(knobs, strategy=strategy or knobs.strategy)
        starts = bool(self._work.change.fresh_channels) and knobs.inits_from_data and knobs.strategy != "scratch"
        # Slabs are judged otherwise in every fold, so their patches are others.
        return (starts or knobs.has_tail_stage) and self._work.patients > 1

    def compute_features(self, cases: Cases, limit_s: float | None = None) -> None:
        """Compute the features of all cases once, as many as before or as the time allows."""
        learnable = learnable_cases(cases)
        report = self._whole.begin(FEATURES, "Computing features")
        began = self._clock()
        enough = None if limit_s is None or self.rounds is not None else lambda: self._clock() - began >= limit_s
        work = self._work
        self._cache = cache_features(
            work.parent.network(),
            learnable,
            work.change,
            work.configuration,
            self._device,
            patches_per_case=self.rounds,
            enough=enough,
            task=Task("", report, self._cancel),
        )
        self._whole.end()
        self.rounds = len(self._cache) // len(learnable)

    def train(
        self,
        name: str,
        training: list[PreparedCase],
        knobs: FineTuningConfiguration,
        part: str,
        title: str,
        cases: Cases,
    ) -> Candidate:
        """Train the candidate of this name, go on with it, or return it when it is on the disk.

        ``part`` and ``title`` are the progress's; ``cases`` are all there are, for shared features.
        """
        kept = self._folder.read_state(_trained_file(name))
        if kept is not None:
            self._whole.skip(part)
            kept.pop("checkpoint_version", None)
            return Candidate(**kept)
        shares = self.shares_features(knobs.strategy)
        if shares and self._cache is None:
            self.compute_features(cases)
        reached = self._folder.read_state(_state_file(name))
        report = self._whole.begin(part, title)
        adapted = adapt(
            self._work.parent,
            training,
            self._work.change,
            knobs,
            device=self._device,
            cache=self._cache if shares else None,
            task=Task("", report, self._cancel),
            save=lambda state: self._folder.write_state(_state_file(name), state),
            resume=reached,
            clock=self._clock,
        )
        candidate = Candidate.of(adapted)
        self._folder.write_state(_trained_file(name), dict(vars(candidate)))
        self._folder.forget(_state_file(name))
        self._whole.end(tells=reached is None)
        return candidate

    def forget(self, name: str) -> None:
        """Remove a candidate from the disk."""
        self._folder.forget(_state_file(name))
        self._folder.forget(_trained_file(name))


def learnable_cases(cases: Cases) -> list[PreparedCase]:
    """Return the cases with a voxel of something to learn."""
    return [case for case in cases.values() if case.voxels]


def _state_file(name: str) -> str:
    return f"{name}.pt"


def _trained_file(name: str) -> str:
    return f"{name}-trained.pt"
