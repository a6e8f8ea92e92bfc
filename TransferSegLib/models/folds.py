"""The weights of several folds in one model: networks that are alike but for their weights, and are averaged.

In a model's state dict the names of the first fold's layers begin with ``0.``, those of the second with ``1.``
and so on; of a single fold they are plain.

>>> save_model(folder, replace(description, folds=2), joined_folds([first, second]))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

Value = TypeVar("Value")


def joined_folds(folds: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
    """Return the entries of all folds, by layer name, as one dictionary."""
    if len(folds) == 1:
        return dict(folds[0])
    return {f"{number}.{name}": value for number, fold in enumerate(folds) for name, value in fold.items()}


def fold_of(state_dict: Mapping[str, Value], number: int, folds: int) -> dict[str, Value]:
    """Return the entries of one fold, from 0 on, by plain layer name."""
    if folds == 1:
        return dict(state_dict)
    prefix = f"{number}."
    return {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
