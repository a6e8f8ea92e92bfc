"""The profile of a new version: its parent's, joined with what the corrected cases tell of their structures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from TransferSegLib.finetuning.plan import FineTuningPlan
from TransferSegLib.fit.profile import FitProfile

if TYPE_CHECKING:
    import torch


def profile_of_version(work: FineTuningPlan, state_dict: Mapping[str, torch.Tensor]) -> FitProfile | None:
    """Return the new version's profile, None where neither the parent's nor the cases tell anything.

    Sizes and positions of structures that were kept as they are come from the parent and from the cases, those of
    other ones from the cases only: tolerances are wide where these are few. What the network's deepest maps hold is
    taken over where those layers, and how scans are prepared, are the parent's; a few cases cannot tell it anew.
    """
    own = FitProfile.of([work.survey[case.id].shapes for case in work.dataset.cases])
    known = work.parent.description.fit or FitProfile(0, {}, {})
    kept = {
        name
        for name, sources, fate in zip(work.change.label_set.names, work.change.sources, work.change.fates, strict=True)
        if fate == "kept" and tuple(sources) == (name,)
    }
    if work.configuration.strategy == "scratch":
        kept = set()
    parent = FitProfile(
        known.cases if kept else 0,
        {name: one for name, one in known.structures.items() if name in kept},
        {pair: spread for pair, spread in known.pairs.items() if set(pair) <= kept},
    )
    same = known.features if _sees_the_same(work, state_dict) else None
    profile = parent.derived(work.change.label_set.names, own, same)
    return profile if profile.structures else None


def _sees_the_same(work: FineTuningPlan, state_dict: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether the layers on the way down, and how scans are prepared for them, are the parent's."""
    import torch

    parent = work.parent
    if work.configuration.preparation(parent.description) != parent.description.preparation:
        return False
    down = [name for name in parent.state_dict if name.startswith("down.")]
    # Models are often stored in half precision.
    return all(
        name in state_dict
        and state_dict[name].shape == parent.state_dict[name].shape
        and torch.equal(state_dict[name].cpu().to(torch.float16), parent.state_dict[name].to(torch.float16))
        for name in down
    )
