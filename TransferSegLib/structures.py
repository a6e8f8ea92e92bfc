"""Anatomical structures, and the label set that ties names to network channels and label values.

The one order that matters is the order of a ``LabelSet``: structure number ``i`` (from 0) is network
channel ``i + 1``; channel 0 is the background. Label values on disk may differ and are kept per structure.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from TransferSegLib.errors import TransferSegError
from TransferSegLib.json_fields import short
from TransferSegLib.wording import did_you_mean

_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)

#: The largest value of a structure in a label map: what 16 bits hold.
LARGEST_LABEL = 65_535


@dataclass(frozen=True)
class Structure:
    """An anatomical structure: its name, label value, display colour and SNOMED CT codes.

    ``terminology`` and ``modifier`` are (code value, code meaning) pairs in the SCT scheme; the modifier names a side.
    """

    name: str
    label: int
    color: tuple[int, int, int]
    terminology: tuple[str, str] | None = None
    modifier: tuple[str, str] | None = None

    @property
    def key(self) -> str:
        """The name as used to compare structures: lower case, single spaces."""
        return structure_key(self.name)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        entry: dict[str, Any] = {"name": self.name, "label": self.label, "color": list(self.color)}
        for field in ("terminology", "modifier"):
            code = getattr(self, field)
            if code is not None:
                entry[field] = {"scheme": "SCT", "code": code[0], "meaning": code[1]}
        return entry

    @staticmethod
    def from_json(entry: Any) -> Structure:
        """Read a description written by ``to_json``; raises TransferSegError when it is not one."""
        try:
            codes = {
                field: (str(entry[field]["code"]), str(entry[field]["meaning"]))
                for field in ("terminology", "modifier")
                if entry.get(field) is not None
            }
            color = entry.get("color") or default_color(int(entry["label"]))
            red, green, blue = (int(value) for value in color)
            structure = Structure(str(entry["name"]).strip(), int(entry["label"]), (red, green, blue), **codes)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise TransferSegError(
                f"This is not the description of a structure: {short(entry, 200)} ({short(error, 200)})."
            ) from error
        if (
            not structure.name
            or not 1 <= structure.label <= LARGEST_LABEL
            or not all(0 <= value <= 255 for value in structure.color)
        ):
            raise TransferSegError(
                f"Structure {short(entry, 200)} needs a name, a label value from 1 to {LARGEST_LABEL:,} and a colour "
                "of three numbers 0 to 255."
            )
        return structure


@dataclass(frozen=True)
class LabelSet:
    """An ordered set of structures with distinct names and label values."""

    structures: tuple[Structure, ...]

    def __post_init__(self) -> None:
        """Raise TransferSegError when names or label values repeat, one is too large, or there are none."""
        if not self.structures:
            raise TransferSegError("A label set needs at least one structure.")
        largest = max(self.structures, key=lambda structure: structure.label)
        if largest.label > LARGEST_LABEL:
            raise TransferSegError(
                f"'{largest.name}' has the label value {largest.label:,}; they may be up to {LARGEST_LABEL:,}."
            )
        for what, values in (
            ("name", [structure.key for structure in self.structures]),
            ("label value", [str(structure.label) for structure in self.structures]),
        ):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise TransferSegError(f"Two structures share the {what} {', '.join(twice)}.")

    def __iter__(self) -> Iterator[Structure]:
        """Iterate over the structures in channel order."""
        return iter(self.structures)

    def __len__(self) -> int:
        """Return the number of structures, without the background."""
        return len(self.structures)

    @property
    def names(self) -> tuple[str, ...]:
        """The structures' names in channel order."""
        return tuple(structure.name for structure in self.structures)

    @property
    def classes(self) -> int:
        """The number of network channels: the structures and the background."""
        return len(self.structures) + 1

    @property
    def label_values(self) -> tuple[int, ...]:
        """Label value of every channel, the background's 0 first."""
        return (0, *(structure.label for structure in self.structures))

    def find(self, name: str) -> Structure | None:
        """Return the structure of that name (case and spacing do not matter), or None."""
        key = structure_key(name)
        return next((structure for structure in self.structures if structure.key == key), None)

    def channel(self, name: str) -> int:
        """Return the network channel of a structure; raises TransferSegError with the known names."""
        structure = self.find(name)
        if structure is None:
            raise TransferSegError(
                f"There is no structure '{name}' here. Known are: {', '.join(self.names)}."
                f"{did_you_mean(name, self.names)}"
            )
        return self.structures.index(structure) + 1

    def select(self, names: Iterable[str]) -> LabelSet:
        """Return the label set with only these structures, in this set's order."""
        channels = {self.channel(name) for name in names}
        return LabelSet(tuple(s for number, s in enumerate(self.structures, start=1) if number in channels))

    def mirrored_channels(self) -> tuple[int, ...]:
        """Return, per channel, the channel it becomes when left and right change places."""
        mirrored = [0]
        for number, structure in enumerate(self.structures, start=1):
            partner = self.find(swap_side(structure.name))
            mirrored.append(number if partner is None else self.structures.index(partner) + 1)
        return tuple(mirrored)

    def exchanged_sides(self, centre_x_mm: Callable[[Structure], float | None]) -> list[tuple[Structure, Structure]]:
        """Return the left structures that lie to the right of their right partner, each with that.

        ``centre_x_mm`` returns the mean x in the world, growing to the patient's left, None for an absent structure.
        """
        found = []
        for structure in self.structures:
            partner = self.find(swap_side(structure.name))
            if partner is not None and "left" in structure.key.split():
                left, right = centre_x_mm(structure), centre_x_mm(partner)
                if left is not None and right is not None and left <= right:
                    found.append((structure, partner))
        return found

    def with_labels_numbered(self) -> LabelSet:
        """Return the same structures with label values 1, 2, 3 in channel order."""
        return LabelSet(tuple(replace(s, label=number) for number, s in enumerate(self.structures, start=1)))

    def to_json(self) -> list[dict[str, Any]]:
        """Return a JSON-ready list in channel order."""
        return [structure.to_json() for structure in self.structures]

    @staticmethod
    def from_json(entries: Any) -> LabelSet:
        """Read a list written by ``to_json``; raises TransferSegError when it is not one."""
        if not isinstance(entries, list):
            raise TransferSegError("The structures must be a list.")
        return LabelSet(tuple(Structure.from_json(entry) for entry in entries))


def structure_key(name: str) -> str:
    """Return the form of a name that is compared: lower case, single spaces, underscores as spaces."""
    return " ".join(name.replace("_", " ").lower().split())


def swap_side(name: str) -> str:
    """Return the name with left and right exchanged, e.g. 'right parotid gland' -> 'left parotid gland'."""
    return _SIDE.sub(lambda found: "right" if found.group(1).lower() == "left" else "left", structure_key(name))


def default_color(label: int) -> tuple[int, int, int]:
    """Return a distinct, stable colour for a label value (golden-angle hues, so neighbours differ)."""
    hue = (0.02 + 0.618033988749895 * (label - 1)) % 1.0
    lightness = 0.55 + 0.12 * ((label // 3) % 2)
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.65)
    return round(255 * red), round(255 * green), round(255 * blue)
