"""Losses for cases in which only some structures are annotated.

Marginal loss (Shi et al., "Marginal loss and exclusion loss for partially supervised multi-organ segmentation",
Medical Image Analysis 2021): where a structure is not annotated its voxels were labelled background, so its
probability is added to the background's before cross-entropy and Dice. Nothing is said against it, and nothing is
learned about it from that case. Voxels outside the annotated region weigh nothing: weights apply inside the sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from TransferSegLib.training.drawing_ahead import moved


def marginal_log_probabilities(logits: torch.Tensor, annotated: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities in which the unannotated channels have joined the background.

    ``logits`` (N, classes, D, H, W); ``annotated`` (N, classes) booleans, channel 0 always true. The result has the
    same shape: channel 0 is log(p_background + sum of unannotated p), unannotated channels are -inf.
    """
    log_probabilities = torch.log_softmax(logits.float(), dim=1)
    known = moved(annotated, logits.device)[:, :, None, None, None]
    joins = ~known
    joins[:, 0] = True
    background = torch.logsumexp(log_probabilities.masked_fill(~joins, -torch.inf), dim=1, keepdim=True)
    others = log_probabilities[:, 1:].masked_fill(~known[:, 1:], -torch.inf)
    return torch.cat([background, others], dim=1)


def marginal_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    annotated: torch.Tensor,
    weights: torch.Tensor,
    occurring: Sequence[torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (cross-entropy, Dice loss) of a batch, each a scalar.

    ``logits`` (N, classes, D, H, W); ``labels`` (N, D, H, W) channel numbers, unannotated structures as 0;
    ``annotated`` (N, classes) booleans, on the CPU or not; ``weights`` (N, D, H, W) 1 in the annotated region, 0
    elsewhere. ``occurring`` is what ``occurring_channels`` finds, if that is known already.
    """
    log_probabilities = marginal_log_probabilities(logits, annotated)
    chosen = log_probabilities.gather(1, labels[:, None].long())[:, 0]
    # A weight of 0 times -inf would be nan: voxels without weight are replaced before the product.
    cross_entropy = -(torch.where(weights > 0, chosen, 0.0) * weights).sum() / weights.sum().clamp(min=1.0)
    if occurring is None:
        occurring = occurring_channels(labels, annotated, weights)
    return cross_entropy, _dice_loss(log_probabilities, labels, weights, occurring)


def occurring_channels(
    labels: torch.Tensor, annotated: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return, for each case of a batch, the annotated channels but the background that have a voxel with a weight."""
    found = []
    for case in range(len(labels)):
        known = annotated[case].to(labels.device)
        sizes = torch.bincount(labels[case].flatten().int(), weights[case].flatten(), minlength=len(known))
        found.append(torch.nonzero((sizes > 0)[1 : len(known)] & known[1:])[:, 0] + 1)
    return tuple(found)


def _dice_loss(
    log_probabilities: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, occurring: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Return 1 - soft Dice, averaged over the structures that occur in each case's patch; sums in float32.

    A structure that does not occur is left to the cross-entropy: its Dice would be 1 - 1 / (claimed voxels + 1), whose
    slope near zero is hundreds of times that of a structure that is there, and would drown it.
    """
    losses: list[torch.Tensor] = []
    for case, channels in enumerate(occurring):
        if not len(channels):
            continue
        # All channels at once: one slice a channel would cost a whole gradient of the logits each.
        targets = (labels[case][None] == channels[:, None, None, None]) * weights[case]
        probabilities = log_probabilities[case].index_select(0, channels).exp() * weights[case]
        both = (probabilities * targets).sum(dim=(1, 2, 3))
        sizes = probabilities.sum(dim=(1, 2, 3)) + targets.sum(dim=(1, 2, 3))
        losses.extend(1.0 - 2.0 * both / sizes)
    if not losses:
        return log_probabilities.new_zeros(())
    return torch.stack(losses).mean()
