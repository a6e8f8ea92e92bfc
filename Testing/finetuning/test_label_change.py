"""Label changes worked out by hand."""

from __future__ import annotations

import pytest
import torch

from TransferSegLib.errors import TrainingError
from TransferSegLib.finetuning.label_change import ChannelGroup, adapted_state, plan_label_change, unchanged
from TransferSegLib.structures import LabelSet, Structure


def label_set(*names: str) -> LabelSet:
    return LabelSet(tuple(Structure(name, label, (label, 0, 0)) for label, name in enumerate(names, start=1)))


PARENT = label_set("liver", "left kidney", "right kidney", "spleen")


def head(classes: int) -> dict[str, torch.Tensor]:
    """Channel k has the weights k and the bias 10 k."""
    rows = torch.arange(classes, dtype=torch.float32)
    return {"head.weight": rows[:, None, None, None, None].expand(classes, 2, 1, 1, 1), "head.bias": 10 * rows}


def test_kept_added_and_unmentioned() -> None:
    change = plan_label_change(PARENT, label_set("mandible", "Left_Kidney"))
    assert change.label_set.names == ("liver", "Left_Kidney", "right kidney", "spleen", "mandible")
    assert change.label_set.label_values == (0, 1, 2, 3, 4, 5)
    assert change.sources == (("liver",), ("left kidney",), ("right kidney",), ("spleen",), ())
    assert change.fates == ("kept", "kept", "kept", "kept", "new")
    assert change.fresh_channels == (5,) and change.dropped == ()
    assert change.groups()[0] == ChannelGroup((0, 5), (0,))


def test_renamed_merged_split_and_dropped_at_once() -> None:
    change = plan_label_change(
        PARENT,
        label_set("hepar", "kidneys", "upper spleen", "lower spleen"),
        renamed={"hepar": "LIVER"},
        merged={"kidneys": ("left kidney", "right  kidney")},
        split={"upper spleen": "spleen", "lower spleen": "spleen"},
    )
    assert change.label_set.names == ("hepar", "kidneys", "upper spleen", "lower spleen")
    assert change.fates == ("renamed", "merged", "split", "split")
    assert change.fresh_channels == (2, 3, 4)
    assert change.groups() == (
        ChannelGroup((0,), (0,)),
        ChannelGroup((1,), (1,)),
        ChannelGroup((2,), (2, 3)),
        ChannelGroup((3, 4), (4,)),
    )
    assert change.describe() == (
        "renamed: hepar (from liver); merged: kidneys (from left kidney + right kidney); "
        "split: upper spleen (from spleen), lower spleen (from spleen)"
    )


def test_dropped_structures_join_the_background() -> None:
    change = plan_label_change(PARENT, label_set("aorta"), dropped=["liver", "Spleen"])
    assert change.label_set.names == ("left kidney", "right kidney", "aorta")
    assert change.dropped == ("liver", "spleen")
    assert change.groups()[0] == ChannelGroup((0, 3), (0, 1, 4))


def test_a_dropped_name_is_free_for_another() -> None:
    change = plan_label_change(PARENT, label_set("liver"), renamed={"liver": "spleen"}, dropped=["liver"])
    assert change.label_set.names == ("left kidney", "right kidney", "liver")
    assert change.sources[2] == ("spleen",)


def test_a_split_may_keep_the_old_name_for_a_part() -> None:
    split = {"spleen": "spleen", "accessory spleen": "spleen"}
    change = plan_label_change(PARENT, label_set("spleen", "accessory spleen"), split=split)
    assert change.fates[-2:] == ("split", "split")


def test_weights_follow_the_names() -> None:
    change = plan_label_change(
        PARENT,
        label_set("milt", "mandible", "kidneys"),
        {"milt": "spleen"},
        {"kidneys": ("left kidney", "right kidney")},
    )
    assert change.label_set.names == ("liver", "kidneys", "milt", "mandible")
    state, fresh = adapted_state(head(5) | {"up.0.first.bias": torch.ones(3)}, ("head",), change)
    assert fresh == (2, 4)
    assert state["head.bias"].tolist() == [0, 10, 0, 40, 0]
    assert state["head.weight"][:, 1, 0, 0, 0].tolist() == [0, 1, 0, 4, 0]
    assert torch.equal(state["up.0.first.bias"], torch.ones(3))


def test_nothing_changes() -> None:
    change = unchanged(PARENT)
    state, fresh = adapted_state(head(5), ("head",), change)
    assert fresh == () and torch.equal(state["head.weight"], head(5)["head.weight"])
    assert plan_label_change(PARENT, PARENT).sources == change.sources


@pytest.mark.parametrize(
    ("wanted", "arguments", "message"),
    [
        (("a",), {"renamed": {"a": "heart"}}, "no structure 'heart'. It knows: liver"),
        (("a",), {"renamed": {"b": "liver"}}, "'b' is to be renamed from 'liver', but the new cases have no 'b'"),
        (("a", "liver"), {"renamed": {"a": "liver"}}, "the new cases still have it"),
        (("a",), {"merged": {"a": ("liver", "Liver")}}, "two or more"),
        (("a", "b"), {"renamed": {"a": "liver", "b": "liver"}}, "'liver' cannot become several things"),
        (("a",), {"renamed": {"a": "liver"}, "split": {"a": "spleen"}}, "two origins"),
        (("liver",), {"dropped": ["liver"]}, "dropped, but"),
        (("liver",), {"renamed": {"liver": "spleen"}}, "another structure liver: drop it"),
        (("a",), {"dropped": ["heart"]}, "no structure 'heart'"),
    ],
)
def test_contradictions_are_named(wanted: tuple[str, ...], arguments: dict, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        plan_label_change(PARENT, label_set(*wanted), **arguments)


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(TrainingError, match="head has 4 channels"):
        adapted_state(head(4), ("head",), unchanged(PARENT))
