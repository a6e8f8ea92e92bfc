"""The arithmetic of valid convolutions: which tile sides are legal, and how tiles must align.

The network of the paper has four levels and no padding. Each level loses voxels at its borders, so a
tile of side ``s`` gives an output of side ``s - 88``, centred. It pools three times, so it commutes only
with shifts of 8 voxels: two tiles agree where they overlap exactly when their origins differ by
multiples of 8 along every axis.
"""

from __future__ import annotations

from TransferSegLib.errors import NetworkError
from TransferSegLib.networks.interface import DeepestLattice

#: Voxels lost on each side of a tile, at full resolution: 2 * (1 + 2 + 4 + 8) going down, 2 * (4 + 2 + 1) going up.
MARGIN = 44
#: Tile origins must differ by multiples of this many voxels (three poolings by two).
ALIGNMENT = 8
#: The smallest legal input side; the others follow in steps of ALIGNMENT. Sides of 92 and 100 would pass evenly too,
#: but their outputs of 4 and 12 voxels are not worth their margin.
SMALLEST_INPUT_SIDE = 92 + 2 * ALIGNMENT
#: The lowest level's voxels are ALIGNMENT voxels wide; the first one of a tile is centred on this voxel of its input.
#: 16 voxels are lost at the lowest level, 8, 4 and 2 above; each pooling moves centres by half a voxel of its level.
_FIRST_DEEP_CENTRE = 33.5


def deep_centre(position: int) -> float:
    """Return the voxel, along one axis of a volume, on which a position of its deep lattice is centred.

    The lattice is that of the lowest level of the tile whose output begins at the volume's first voxel; tiles that
    begin at other multiples of ALIGNMENT share it.

    >>> deep_centre(2)
    5.5
    """
    return ALIGNMENT * position + _FIRST_DEEP_CENTRE - MARGIN


def _deepest_lattice() -> DeepestLattice:
    first = next(position for position in range(10) if deep_centre(position) >= ALIGNMENT / 2 - 0.5)
    return DeepestLattice(ALIGNMENT, first, round(deep_centre(first) - (ALIGNMENT - 1) / 2))


DEEPEST_LATTICE = _deepest_lattice()


def output_side(input_side: int) -> int:
    """Return the output side of a tile in voxels.

    Raises NetworkError when the side is not legal.
    """
    check_input_side(input_side)
    return input_side - 2 * MARGIN


def is_legal_input_side(input_side: int) -> bool:
    """Tell whether a tile side is large enough and pools evenly at every level: 108, 116, 124, 132 and so on."""
    return input_side >= SMALLEST_INPUT_SIDE and (input_side - SMALLEST_INPUT_SIDE) % ALIGNMENT == 0


def check_input_side(input_side: int) -> None:
    """Raise NetworkError, naming the nearest legal sides, when a tile side is not legal."""
    if is_legal_input_side(input_side):
        return
    larger = legal_input_side_for_output(max(1, input_side - 2 * MARGIN))
    smaller = larger - ALIGNMENT
    nearest = f"{larger}" if smaller < SMALLEST_INPUT_SIDE else f"{smaller} or {larger}"
    reason = "it is too small" if input_side < SMALLEST_INPUT_SIDE else "its maps would not halve evenly"
    raise NetworkError(
        f"A tile of side {input_side} does not pass through the network: {reason}. "
        f"Use {nearest} voxels (legal sides are {SMALLEST_INPUT_SIDE} + {ALIGNMENT}k)."
    )


def check_padded_side(side: int) -> None:
    """Raise NetworkError when a padded patch (training only) would not halve evenly three times."""
    if side < ALIGNMENT or side % ALIGNMENT:
        raise NetworkError(
            f"A padded patch of side {side} does not halve evenly: use a multiple of {ALIGNMENT} voxels."
        )


def legal_input_side_for_output(wanted_output_side: int) -> int:
    """Return the smallest legal input side whose output covers the wanted number of voxels."""
    steps = -(-(wanted_output_side + 2 * MARGIN - SMALLEST_INPUT_SIDE) // ALIGNMENT)
    return SMALLEST_INPUT_SIDE + ALIGNMENT * max(0, steps)
