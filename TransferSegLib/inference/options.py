"""How carefully overlapping windows are computed: nnU-Net's own choices, for models like its own; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from TransferSegLib.errors import TransferSegError
from TransferSegLib.networks.interface import Tiling


@dataclass(frozen=True)
class PredictionOptions:
    """Options for models that are computed in overlapping windows, as nnU-Net's are; others know none of them.

    ``exact`` computes the network in float32 and adds in float16, as nnU-Net does on a CPU, so that every voxel gets
    the label that nnU-Net gives it; without it sums are more precise. ``mirror`` takes the mean over mirrored inputs,
    along the axes that the network was trained with: better by a little, but two to eight times as slow. ``step`` is
    by which share of a window the next one begins later (nnU-Net's tile_step_size), None: the model's own.
    """

    exact: bool = False
    mirror: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        """Raise TransferSegError for a step that is no share of a window."""
        if self.step is not None and not 0.05 <= self.step <= 1:
            raise TransferSegError(f"A step of {self.step:g} is not possible: give a share of a window, 0.05 to 1.")

    def check(self, tiling: Tiling) -> None:
        """Raise TransferSegError where a model has no use for the options that were chosen."""
        if tiling.blend == "exact" and self != USUAL:
            raise TransferSegError(
                "exact, mirror and step are for models that are computed in overlapping windows, such as nnU-Net's. "
                "This model's tiles agree with each other to rounding: leave these options out."
            )


#: What is done where nothing is asked for.
USUAL = PredictionOptions()
