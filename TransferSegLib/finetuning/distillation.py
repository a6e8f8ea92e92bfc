"""Distillation: structures without annotation in the new cases follow the parent model's own predictions.

Learning without forgetting (Li and Hoiem 2016) for cases in which some structures are annotated. An annotated voxel is
never touched by it: where a label was drawn the label counts, and structures that were reviewed follow their labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.label_change import ChannelGroup, LabelChange
from TransferSegLib.inference.devices import Device
from TransferSegLib.networks.interface import Backbone
from TransferSegLib.progress import CancelToken
from TransferSegLib.training.drawing_ahead import moved
from TransferSegLib.training.interruption import interruptible
from TransferSegLib.training.patch_objective import Batch, FurtherLoss


class Distillation:
    """Compares the adapted network with its parent where nothing is annotated."""

    def __init__(self, change: LabelChange) -> None:
        """Find out which channels of the two networks mean the same."""
        self._groups = change.groups()

    @property
    def groups(self) -> int:
        """How many groups of channels are compared, the background's included."""
        return len(self._groups)

    def holds(self, annotated: list[bool]) -> list[int]:
        """Return the numbers of the groups held in a case with these annotated channels."""
        return [
            number
            for number, group in enumerate(self._groups)
            if number > 0 and not any(annotated[channel] for channel in group.new)
        ]

    def teacher(self, parent_logits: torch.Tensor) -> torch.Tensor:
        """Return the parent's probabilities by group (N, groups, z, y, x; float32) from its logits."""
        probabilities = torch.softmax(parent_logits.float(), dim=1)
        place = probabilities.device
        parts = [probabilities.index_select(1, _index(group.parent, place)) for group in self._groups]
        return torch.stack([part.sum(dim=1) for part in parts], dim=1)

    def loss(
        self,
        logits: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor,
        annotated: torch.Tensor,
        weights: torch.Tensor,
        counted: torch.Tensor,
    ) -> torch.Tensor:
        """Return the mean over the batch of what is lost of the structures held, 0 where the parent is matched.

        ``logits`` (N, classes, z, y, x); ``teacher`` (N, groups, z, y, x); ``labels``, ``weights`` and ``annotated``
        as in ``marginal_loss``; ``counted`` (z, y, x) booleans, false in the frame of a padded patch. Divergence of
        the probabilities among background and held structures, plus a squared Dice that has its zero at equality.
        """
        losses = []
        for case in range(logits.shape[0]):
            known = [bool(flag) for flag in annotated[case].tolist()]
            held = self.holds(known)
            if held:
                free = counted & ((labels[case] == 0) | (weights[case] == 0))
                losses.append(self._case_loss(logits[case], teacher[case], known, held, free))
        return torch.stack(losses).mean() if losses else logits.new_zeros((), dtype=torch.float32)

    def _case_loss(
        self, logits: torch.Tensor, teacher: torch.Tensor, known: list[bool], held: list[int], free: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss of one case: ``held`` groups, ``free`` voxels (z, y, x) that no label speaks for."""
        log_probabilities = torch.log_softmax(logits.float(), dim=0)
        groups = [self._background(known, held), *(self._groups[number] for number in held)]
        student = _grouped(log_probabilities, groups)
        wanted = teacher.index_select(0, _index((0, *held), teacher.device)).float()
        # Where the parent sees an annotated structure it has nothing to say here: the voxel counts by what is left.
        mass = wanted.sum(dim=0)
        among = student - torch.logsumexp(student, dim=0)
        wanted_among = (wanted / mass.clamp(min=1e-6)).clamp(min=1e-6).log()
        divergence = (wanted * (wanted_among - among)).sum(dim=0)
        divergence = torch.where(free, divergence, 0.0).sum() / free.sum().clamp(min=1)
        here, there = student[1:].exp() * free, wanted[1:] * free
        both = (here * there).sum(dim=(1, 2, 3))
        sizes = here.square().sum(dim=(1, 2, 3)) + there.square().sum(dim=(1, 2, 3))
        # As in the marginal loss, a structure that does not occur is left to the other term.
        occurring = torch.nonzero(there.square().sum(dim=(1, 2, 3)) > 1.0)[:, 0]
        if not len(occurring):
            return divergence
        return divergence + (1.0 - 2.0 * both[occurring] / sizes[occurring]).mean()

    def _background(self, known: list[bool], held: list[int]) -> ChannelGroup:
        """Return the background of a case: the channel itself and whatever is neither annotated nor held."""
        among_held = {channel for number in held for channel in self._groups[number].new}
        rest = [channel for channel in range(1, len(known)) if not known[channel] and channel not in among_held]
        return ChannelGroup((0, *rest), self._groups[0].parent)


def _grouped(log_probabilities: torch.Tensor, groups: Sequence[ChannelGroup]) -> torch.Tensor:
    """Return the log-probabilities (groups, z, y, x) of groups of channels of (classes, z, y, x).

    Those of one channel, nearly all, are taken at once: on the way back a slice costs a gradient of all classes.
    """
    single = [number for number, group in enumerate(groups) if len(group.new) == 1]
    several = [number for number, group in enumerate(groups) if len(group.new) > 1]
    place = log_probabilities.device
    channels = [log_probabilities.index_select(0, _index(groups[number].new, place)) for number in several]
    stacked = [torch.stack([torch.logsumexp(part, dim=0) for part in channels])] if channels else []
    if single:
        of_single = _index([groups[number].new[0] for number in single], place)
        stacked.insert(0, log_probabilities.index_select(0, of_single))
    order = np.argsort([*single, *several])
    return torch.cat(stacked).index_select(0, _index(order.tolist(), place))


def _index(channels: Sequence[int], place: torch.device) -> torch.Tensor:
    """Return channels for ``index_select``; indexing with a list would wait for a GPU."""
    return moved(torch.tensor(channels, dtype=torch.int64), place)


def distillation_loss(
    parent: nn.Module,
    backbone: Backbone,
    distillation: Distillation,
    settings: FineTuningConfiguration,
    device: Device,
    cancel: CancelToken | None = None,
) -> FurtherLoss:
    """Return the loss that holds unannotated structures to the parent's predictions on the same training patches.

    ``backbone`` is the parent's.
    """
    return _HeldToParent(parent, backbone, distillation, settings, device, cancel)


class _HeldToParent:
    """Distillation from a parent that predicts the patches that are learned from."""

    def __init__(
        self,
        parent: nn.Module,
        backbone: Backbone,
        distillation: Distillation,
        settings: FineTuningConfiguration,
        device: Device,
        cancel: CancelToken | None,
    ) -> None:
        self._place = torch.device(device.torch_name)
        self._parent = parent.to(self._place).eval().requires_grad_(False)
        self._backbone, self._distillation, self._device, self._cancel = backbone, distillation, device, cancel
        self._weight = settings.distillation
        patch = backbone.training_patch(settings.patch, settings.frame)
        self._counted = torch.zeros(patch.sides_zyx, dtype=torch.bool, device=self._place)
        inner = [slice(frame, side - frame) for frame, side in zip(patch.frame_zyx, patch.sides_zyx, strict=True)]
        self._counted[inner[0], inner[1], inner[2]] = True

    def __call__(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the loss of a batch."""
        if not self.count(batch):
            return logits.new_zeros((), dtype=torch.float32)
        half = self._device.dtype != torch.float32
        with torch.no_grad(), torch.autocast(self._place.type, self._device.dtype, enabled=half):
            scans = batch.scans.contiguous(memory_format=self._device.memory_format)
            with interruptible(self._parent, self._cancel):
                teacher = self._distillation.teacher(self._backbone.training_logits(self._parent, scans))
        return self._weight * self._distillation.loss(
            logits, teacher, batch.labels, batch.annotated, batch.weights, self._counted
        )

    def count(self, batch: Batch) -> int:
        """Return in how many patches structures are held."""
        return sum(bool(self._distillation.holds(flags)) for flags in batch.annotated.tolist())
