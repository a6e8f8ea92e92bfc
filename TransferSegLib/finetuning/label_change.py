"""What becomes of a model's structures in the model made from it: kept, renamed, merged, split, dropped, added.

The published code cuts or inserts the *last* channels, whatever organ they stand for. Here a head's channels follow
the structures' names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from TransferSegLib.errors import TrainingError
from TransferSegLib.structures import LabelSet, Structure, structure_key
from TransferSegLib.wording import did_you_mean

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of the parent and of the new model that mean the same region together, the background's group first."""

    new: tuple[int, ...]
    parent: tuple[int, ...]


@dataclass(frozen=True)
class LabelChange:
    """From the parent's structures to the new ones.

    ``sources`` holds, per structure of ``label_set``, the names of the parent's structures it is made of: one for a
    structure that is kept, renamed or split off, several for a merged one, none for a new one.
    """

    parent: LabelSet
    label_set: LabelSet
    sources: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        """Raise TrainingError unless there are sources, known to the parent, for every structure."""
        if len(self.sources) != len(self.label_set):
            raise TrainingError("A change of structures needs the sources of every new structure.")
        for name in (name for sources in self.sources for name in sources):
            _find(self.parent, name)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Names of the parent's structures that no new structure is made of."""
        used = {structure_key(name) for sources in self.sources for name in sources}
        return tuple(structure.name for structure in self.parent if structure.key not in used)

    @property
    def fresh_channels(self) -> tuple[int, ...]:
        """Channels whose weights cannot be taken over from the parent: of new, merged and split structures."""
        return tuple(channel for channel, fate in enumerate(self.fates, start=1) if fate in ("new", "merged", "split"))

    @property
    def fates(self) -> tuple[str, ...]:
        """What happened to each structure of the new label set: kept, renamed, merged, split or new."""
        used = [structure_key(name) for sources in self.sources for name in sources]
        fates = []
        for structure, sources in zip(self.label_set, self.sources, strict=True):
            if not sources:
                fates.append("new")
            elif len(sources) > 1:
                fates.append("merged")
            elif used.count(structure_key(sources[0])) > 1:
                fates.append("split")
            else:
                fates.append("kept" if structure.key == structure_key(sources[0]) else "renamed")
        return tuple(fates)

    @property
    def known(self) -> tuple[str, ...]:
        """Names of the new structures that the parent marks, too: kept, renamed and merged ones."""
        fates = zip(self.label_set.names, self.fates, strict=True)
        return tuple(name for name, fate in fates if fate in ("kept", "renamed", "merged"))

    def groups(self) -> tuple[ChannelGroup, ...]:
        """Return the groups of channels that mean the same region; what only one side knows is its background."""
        background_new = [0]
        background_parent = [0, *(self.parent.channel(name) for name in self.dropped)]
        groups: list[tuple[set[int], set[int]]] = []
        for channel, sources in enumerate(self.sources, start=1):
            if not sources:
                background_new.append(channel)
                continue
            new, old = {channel}, {self.parent.channel(name) for name in sources}
            for group in [group for group in groups if group[1] & old]:
                groups.remove(group)
                new, old = new | group[0], old | group[1]
            groups.append((new, old))
        known = sorted((tuple(sorted(new)), tuple(sorted(old))) for new, old in groups)
        first = ChannelGroup(tuple(background_new), tuple(background_parent))
        return (first, *(ChannelGroup(new, old) for new, old in known))

    def describe(self) -> str:
        """Return the change in words, e.g. ``kept: liver; new: mandible``."""
        words: dict[str, list[str]] = {}
        for structure, sources, fate in zip(self.label_set, self.sources, self.fates, strict=True):
            came = f" (from {' + '.join(sources)})" if fate in ("renamed", "merged", "split") else ""
            words.setdefault(fate, []).append(structure.name + came)
        if self.dropped:
            words["dropped"] = list(self.dropped)
        return "; ".join(f"{fate}: {', '.join(names)}" for fate, names in words.items())


def unchanged(label_set: LabelSet) -> LabelChange:
    """Return the change that keeps every structure."""
    return LabelChange(label_set, label_set, tuple((structure.name,) for structure in label_set))


def plan_label_change(
    parent: LabelSet,
    wanted: LabelSet,
    renamed: Mapping[str, str] | None = None,
    merged: Mapping[str, Sequence[str]] | None = None,
    split: Mapping[str, str] | None = None,
    dropped: Iterable[str] = (),
) -> LabelChange:
    """Return the change to the structures of the new cases (``wanted``), which need not name those they leave alone.

    ``renamed`` and ``split`` give the old name for a new one, ``merged`` the old names; ``dropped`` names structures
    of the parent that go (the rest stays). Case and spacing of names do not matter. The new label set keeps the
    parent's order, then come the added structures; label values count from 1. Raises TrainingError for names that are
    not there and for a structure with two fates.
    """
    sources = _named_sources(parent, wanted, renamed or {}, merged or {}, split or {})
    for structure in wanted:
        if structure.key not in sources and parent.find(structure.name) is not None:
            sources[structure.key] = (_find(parent, structure.name).name,)
    used = {structure_key(name) for names in sources.values() for name in names}
    gone = {_find(parent, name).key for name in dropped}
    if gone & used:
        raise TrainingError(f"{', '.join(sorted(gone & used))}: dropped, but the new cases or another change use it.")
    taken = {structure.key for structure in parent} - used - gone
    clash = sorted(structure.name for structure in wanted if structure.key in taken)
    if clash:
        raise TrainingError(f"The model has another structure {', '.join(clash)}: drop it or say what becomes of it.")
    structures: list[Structure] = []
    for old in parent:
        heirs = [one for one in wanted if old.name in sources.get(one.key, ())]
        structures += [one for one in heirs if one not in structures]
        if not heirs and old.key not in gone:
            structures.append(old)
            sources[old.key] = (old.name,)
    structures += [one for one in wanted if one not in structures]
    # The label values of two label sets may clash: they are counted anew.
    label_set = LabelSet(tuple(replace(one, label=number) for number, one in enumerate(structures, start=1)))
    return LabelChange(parent, label_set, tuple(sources.get(structure.key, ()) for structure in label_set))


def adapted_state(
    parent_state: Mapping[str, torch.Tensor], heads: Sequence[str], change: LabelChange
) -> tuple[dict[str, torch.Tensor], tuple[int, ...]]:
    """Return a copy of the parent's weights with the channels of its heads in their new places, by name.

    Also returns the channels whose weights say nothing yet (all zero): they must start from the data. Raises
    TrainingError when the weights are not those of the parent's label set.
    """
    fresh = change.fresh_channels
    state = {name: values.detach().clone() for name, values in parent_state.items()}
    places = [(0, 0)] + [
        (channel, change.parent.channel(sources[0]))
        for channel, sources in enumerate(change.sources, start=1)
        if channel not in fresh
    ]
    for head in heads:
        for name in (f"{head}.weight", f"{head}.bias"):
            values = parent_state[name]
            if values.shape[0] != change.parent.classes:
                raise TrainingError(
                    f"The model's head has {values.shape[0]} channels, its structures and the background make "
                    f"{change.parent.classes}."
                )
            state[name] = values.new_zeros((change.label_set.classes, *values.shape[1:]))
            for new, old in places:
                state[name][new] = values[old].detach()
    return state, fresh


def _named_sources(
    parent: LabelSet,
    wanted: LabelSet,
    renamed: Mapping[str, str],
    merged: Mapping[str, Sequence[str]],
    split: Mapping[str, str],
) -> dict[str, tuple[str, ...]]:
    """Return the sources of the structures that are said to be renamed, merged or split; raises TrainingError."""
    changes: list[tuple[str, str, tuple[str, ...]]] = [("renamed", new, (old,)) for new, old in renamed.items()]
    changes += [("merged", new, tuple(old)) for new, old in merged.items()]
    changes += [("split", new, (old,)) for new, old in split.items()]
    pieces = {structure_key(name) for name in split}
    sources: dict[str, tuple[str, ...]] = {}
    fates: dict[str, str] = {}
    for fate, new, old in changes:
        target = wanted.find(new)
        if target is None:
            sources_text = " and ".join(f"'{name}'" for name in old)
            raise TrainingError(f"'{new}' is to be {fate} from {sources_text}, but the new cases have no '{new}'.")
        if target.key in sources:
            raise TrainingError(f"'{new}' has two origins: {fate}, and another one.")
        names = tuple(dict.fromkeys(_find(parent, name).name for name in old))
        if fate == "merged" and len(names) < 2:
            raise TrainingError(f"'{new}' is to be merged: name two or more structures of the model.")
        for name in names:
            key = structure_key(name)
            if fates.get(key, fate) != fate or (fate != "split" and key in fates):
                raise TrainingError(f"'{name}' cannot become several things: it is {fates[key]}, and {fate}.")
            if key != target.key and wanted.find(name) is not None and not (fate == "split" and key in pieces):
                raise TrainingError(f"'{name}' is to be {fate} into '{new}', but the new cases still have it.")
            fates[key] = fate
        sources[target.key] = names
    return sources


def _find(label_set: LabelSet, name: str) -> Structure:
    """Return a structure of the parent; raises TrainingError with the known names."""
    structure = label_set.find(name)
    if structure is None:
        raise TrainingError(
            f"The model has no structure '{name}'. It knows: {', '.join(label_set.names)}."
            f"{did_you_mean(name, label_set.names)}"
        )
    return structure
