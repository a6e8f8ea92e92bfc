"""How a model wants a scan: on which grid, and with which intensities in each input channel."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from TransferSegLib.errors import ModelError
from TransferSegLib.images.intensity import IntensityRule

#: The axes of most models: x to the left, y to the back, z to the head.
LPS = "LPS"
_SMALLEST_SPACING_MM, _LARGEST_SPACING_MM = 0.1, 20.0
#: A whole number of a JSON file may be too large to be formatted as a float.
_LARGEST_NUMBER = 1e300
_OPPOSITES = ("LR", "PA", "SI")


Resampling = Literal["average", "nnunet", "totalsegmentator"]


@dataclass(frozen=True)
class Preparation:
    """The grid of a model and the rule that makes each input channel of a scan.

    ``axes`` says in which directions the grid's x, y and z axes run, by the letters of L(eft), R(ight), P(osterior),
    A(nterior), S(uperior), I(nferior), or which stored axis of the image (i, j, k) each is: models of nnU-Net ignore
    how a scan is oriented. ``resampling`` "average" is this product's own, "nnunet" does what nnU-Net does, in its
    order: crop to what is not 0, normalise, resample by cubic splines. "totalsegmentator" does what TotalSegmentator
    does before that: resample linearly, to whole numbers. ``images`` holds the number of the input image of each
    channel; empty: all channels are made of one scan. ``image_names`` are what several input images are called, in
    their order.
    """

    spacing_zyx_mm: tuple[float, float, float]
    channels: tuple[IntensityRule, ...]
    axes: str = LPS
    resampling: Resampling = "average"
    images: tuple[int, ...] = ()
    image_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ModelError for a grid or channels that no scan can be brought to."""
        if len(self.spacing_zyx_mm) != 3:
            raise ModelError(f"A model's grid has three spacings, not {len(self.spacing_zyx_mm)}.")
        for spacing_mm in self.spacing_zyx_mm:
            check_spacing(spacing_mm)
        if not self.channels:
            raise ModelError("A model needs an intensity rule for at least one input channel.")
        for rule in self.channels:
            if rule.output is not None and not all(math.isfinite(end) for end in rule.output):
                raise ModelError(f"The model's intensities are mapped to {rule.output}, which is not finite.")
        if sorted(self.axes.translate(_TO_PAIRS)) != ["0", "1", "2"] and sorted(self.axes) != ["i", "j", "k"]:
            raise ModelError(
                f"The model's axes are '{self.axes}'; expected are three letters such as LPS: one of L and R, one of P "
                "and A, one of S and I."
            )
        if self.resampling not in get_args(Resampling):
            raise ModelError(
                f"The model's scans are resampled by '{self.resampling}', which this version does not know."
            )
        if any(rule.is_of_nnunet != self.is_of_nnunet for rule in self.channels):
            raise ModelError("The model's intensity rules do not belong to its way of resampling.")
        if self.axes.islower() and not self.is_of_nnunet:
            raise ModelError("Only models of nnU-Net take the axes of a scan as they are stored.")
        wanted = set(range(self.image_count))
        if self.images and (len(self.images) != len(self.channels) or set(self.images) != wanted):
            raise ModelError("The model's entry 'images' must name an input image for each channel, from 0 on.")
        if self.image_count > 1 or self.image_names:
            self._check_image_names()

    def _check_image_names(self) -> None:
        """Raise ModelError unless every input image has a name of its own."""
        if self.image_count > 1 and not self.is_of_nnunet:
            raise ModelError("Only models that prepare scans as nnU-Net does can take several images of each scan.")
        different = {name.casefold() for name in self.image_names}
        proper = all(name == name.strip() and name and "=" not in name and name.isprintable() for name in different)
        if len(self.image_names) != self.image_count or len(different) != self.image_count or not proper:
            raise ModelError(
                f"The model takes {self.image_count} images of each scan; its entry 'image_names' must give each a "
                f"name of its own, without '=': {self.image_names!r:.100}."
            )

    @staticmethod
    def isotropic(spacing_mm: float, *channels: IntensityRule) -> Preparation:
        """Return the preparation for a grid with LPS axes and one spacing."""
        return Preparation((spacing_mm, spacing_mm, spacing_mm), channels)

    @property
    def spacing_mm(self) -> float | tuple[float, float, float]:
        """The spacing as lists of models show it: one number where it is the same along all axes, else x, y, z."""
        z, y, x = self.spacing_zyx_mm
        return z if z == y == x else (x, y, z)

    @property
    def is_of_nnunet(self) -> bool:
        """Whether nnU-Net's rules prepare the intensities, with its own resampling or TotalSegmentator's."""
        return self.resampling != "average"

    @property
    def image_count(self) -> int:
        """How many images a scan consists of."""
        return max(self.images, default=0) + 1

    @property
    def voxel_mm3(self) -> float:
        """The volume of a voxel of the grid."""
        return math.prod(self.spacing_zyx_mm)

    @property
    def spacing_text(self) -> str:
        """The spacing for a person, in the order x, y, z: ``3 mm`` or ``1 x 1 x 3 mm``."""
        return spacing_text(self.spacing_zyx_mm)

    def with_spacing(self, spacing_mm: float | tuple[float, float, float]) -> Preparation:
        """Return the same preparation for a grid of another spacing: the same along all axes, or x, y, z."""
        x, y, z = spacing_mm if isinstance(spacing_mm, tuple) else (spacing_mm, spacing_mm, spacing_mm)
        return replace(self, spacing_zyx_mm=(z, y, x))

    def with_rule(self, rule: IntensityRule) -> Preparation:
        """Return the same preparation with one rule for the intensities of every channel.

        As nnU-Net prepares scans, another modality than a model's is normalised by each scan's own mean and deviation.
        """
        if self.is_of_nnunet and not rule.is_of_nnunet:
            rule = IntensityRule("zscore", output=None)
        return replace(self, channels=(rule,) * len(self.channels))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        entry: dict[str, Any] = {
            "axes": self.axes,
            "spacing_zyx_mm": list(self.spacing_zyx_mm),
            "channels": [rule.to_json() for rule in self.channels],
            "resampling": self.resampling,
        }
        if self.images:
            entry["images"] = list(self.images)
        return entry | {"image_names": list(self.image_names)} if self.image_names else entry

    @staticmethod
    def from_json(entry: Any) -> Preparation:
        """Read a description written by ``to_json``; raises ModelError when it is not one."""
        try:
            z, y, x = entry["spacing_zyx_mm"]
            channels = tuple(IntensityRule.from_json(rule) for rule in entry["channels"])
            axes, resampling = entry["axes"], entry.get("resampling", "average")
            images = tuple(int(number) for number in entry.get("images", []))
            names = tuple(str(name) for name in entry.get("image_names", []))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"The model's preparation cannot be read: {entry!r:.80} ({error}).") from error
        if not isinstance(axes, str):
            raise ModelError(f"The model's axes must be three letters, not {axes!r:.60}.")
        return Preparation((z, y, x), channels, axes, resampling, images, names)


def spacing_text(spacing_zyx_mm: tuple[float, float, float]) -> str:
    """Return a spacing for a person, in the order x, y, z: ``3 mm`` or ``1 x 1 x 3 mm``."""
    sides = spacing_zyx_mm[:1] if len(set(spacing_zyx_mm)) == 1 else spacing_zyx_mm[::-1]
    return " x ".join(f"{side:g}" for side in sides) + " mm"


def check_spacing(spacing_mm: Any) -> None:
    """Raise ModelError unless a model can work at this spacing."""
    if isinstance(spacing_mm, bool) or not isinstance(spacing_mm, int | float) or not abs(spacing_mm) < _LARGEST_NUMBER:
        raise ModelError(f"The model's entry 'spacing_mm' must be a number, not {spacing_mm!r:.60}.")
    if not _SMALLEST_SPACING_MM <= spacing_mm <= _LARGEST_SPACING_MM:
        raise ModelError(
            f"The model's spacing of {spacing_mm:g} mm is outside {_SMALLEST_SPACING_MM:g} to "
            f"{_LARGEST_SPACING_MM:g} mm."
        )


#: From an axis letter to the number of its axis.
_TO_PAIRS = {ord(letter): str(number) for number, pair in enumerate(_OPPOSITES) for letter in pair}
