"""Headers of NIfTI-1 files (.nii, .nii.gz, and the pairs .hdr with .img).

Sources: nifti1.h of the NIfTI working group; ITK's NiftiImageIO for how it treats the two
orientations a header may carry.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.data_files import check_data_files
from TransferSegLib.images.formats.header_facts import (
    HeaderFacts,
    NumberKind,
    damaged_header,
    first_bytes,
    is_gzip,
    without_trailing_axes,
)
from TransferSegLib.images.geometry_checks import check_spacing, is_sheared, sheared_error, size_text

#: NIfTI data types: code -> (kind, bytes per number, numbers per voxel).
_TYPES: dict[int, tuple[NumberKind, int, int]] = {
    2: ("number", 1, 1),
    4: ("number", 2, 1),
    8: ("number", 4, 1),
    16: ("number", 4, 1),
    64: ("number", 8, 1),
    256: ("number", 1, 1),
    512: ("number", 2, 1),
    768: ("number", 4, 1),
    1024: ("number", 8, 1),
    1280: ("number", 8, 1),
    32: ("complex", 8, 1),
    1792: ("complex", 16, 1),
    2048: ("complex", 32, 1),
    128: ("colour", 1, 3),
    2304: ("colour", 1, 4),
}
#: Orientation codes that mean "in a template's space": an affine map, not where the scanner saw the voxels.
_TEMPLATE_CODES = (3, 4)
#: The sform's voxel size may differ from the header's voxel size by this part (rounding by other programs).
_SCALE_TOLERANCE = 0.01
#: Codes of the header's unit of length: not stated, or mm.
_MILLIMETRES = (0, 2)
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class _Fields:
    """The fields that matter here; ``quatern`` holds b, c, d and the three offsets."""

    dim: tuple[int, ...]
    datatype: int
    bitpix: int
    pixdim: tuple[float, ...]
    vox_offset: float
    scaling: tuple[float, ...]
    qform_code: int
    sform_code: int
    quatern: tuple[float, ...]
    srow: tuple[float, ...]
    length_unit: int
    pair: bool
    order: str
    extended: bool


def read_nifti_header(path: Path) -> HeaderFacts:
    """Return what a NIfTI header claims.

    Raises ScanError when it is no NIfTI header, or states an impossible, contradictory or sheared geometry.
    """
    header_path, data_path = _pair_of(path)
    _check_suffix(header_path, path)
    fields = _parse(first_bytes(header_path, 352), path)
    if fields.datatype not in _TYPES:
        raise ScanError(f"{path} stores an unknown type of voxels (NIfTI code {fields.datatype}). Save them as float.")
    kind, bytes_per_number, components = _TYPES[fields.datatype]
    if not 1 <= fields.dim[0] <= 7:
        raise damaged_header(path, "NIfTI", f"it claims {fields.dim[0]} axes")
    size = without_trailing_axes(fields.dim[1 : fields.dim[0] + 1])
    if len(size) == 5 and size[3] == 1:  # the fifth axis holds vectors
        components, size = size[4], size[:3]
    offset = int(fields.vox_offset) if 0 <= fields.vox_offset < 2**31 else 0
    plain_offset = 0 if fields.pair else 352
    vouched = (
        fields.vox_offset == plain_offset
        and not fields.extended
        and fields.pair == (header_path != data_path)
        and fields.bitpix == 8 * bytes_per_number * _TYPES[fields.datatype][2]
        and bool(np.all(np.isfinite(fields.scaling)))
    )
    compressed = data_path.is_file() and is_gzip(data_path)
    return HeaderFacts(
        image_io="NiftiImageIO",
        size=size,
        components=components,
        kind=kind,
        bytes_per_number=bytes_per_number,
        data_path=data_path,
        data_offset=offset,
        stream_offset=0 if compressed else None,
        vouched=vouched,
        affines_lps=_affines(fields, path) if len(size) == 3 and kind == "number" and components == 1 else (),
        check_floats={16: f"{fields.order}f4", 64: f"{fields.order}f8"}.get(fields.datatype),
    )


def _pair_of(path: Path) -> tuple[Path, Path]:
    """Return the files with the header and with the voxels (the same one for .nii)."""
    for suffix, other in ((".hdr", ".img"), (".img", ".hdr"), (".hdr.gz", ".img.gz"), (".img.gz", ".hdr.gz")):
        if path.name.lower().endswith(suffix):
            partner = path.with_name(path.name[: -len(suffix)] + other)
            if not partner.is_file():
                raise ScanError(f"{path} belongs to a pair of files, but {partner.name} is not beside it.")
            check_data_files(path, partner.name)
            return (path, partner) if suffix.startswith(".hdr") else (partner, path)
    return path, path


def _check_suffix(header_path: Path, path: Path) -> None:
    """Raise ScanError unless the name ends in .gz exactly when the content is compressed."""
    named = header_path.name.lower().endswith(".gz")
    if named != is_gzip(header_path):
        what, correct = ("not compressed", "without '.gz'") if named else ("compressed", "with '.gz' at the end")
        raise ScanError(f"{path} is {what} although its name differs, or no NIfTI file: rename it {correct}.")


def _parse(head: bytes, path: Path) -> _Fields:
    """Read the header in either byte order; raises ScanError when it is none."""
    for order in "<>":
        if len(head) >= 348 and struct.unpack_from(order + "i", head)[0] == 348:
            return _parse_version_1(head, order, path)
    if head[4:6] == b"n+" or head[4:6] == b"ni":
        raise ScanError(f"{path} is a NIfTI-2 file, which SimpleITK does not read. Convert it to NIfTI-1 (.nii.gz).")
    raise ScanError(f"{path} is not a NIfTI file, or cut off: it does not begin with a NIfTI header.")


def _parse_version_1(head: bytes, order: str, path: Path) -> _Fields:
    """Read a NIfTI-1 header (348 bytes)."""
    magic = head[344:348]
    if magic not in (b"n+1\0", b"ni1\0"):
        raise ScanError(
            f"{path} is in the old Analyze format (or damaged): it does not record where left and right are. "
            "Convert it to NIfTI with a program that knows its orientation."
        )
    codes = struct.unpack_from(order + "2h", head, 252)
    return _Fields(
        dim=struct.unpack_from(order + "8h", head, 40),
        datatype=struct.unpack_from(order + "h", head, 70)[0],
        bitpix=struct.unpack_from(order + "h", head, 72)[0],
        pixdim=struct.unpack_from(order + "8f", head, 76),
        vox_offset=struct.unpack_from(order + "f", head, 108)[0],
        scaling=struct.unpack_from(order + "2f", head, 112),
        qform_code=codes[0],
        sform_code=codes[1],
        quatern=struct.unpack_from(order + "6f", head, 256),
        srow=struct.unpack_from(order + "12f", head, 280),
        length_unit=head[123] & 7,
        pair=magic == b"ni1\0",
        order=order,
        extended=any(head[348:352]),
    )


def _affines(fields: _Fields, path: Path) -> tuple[np.ndarray, ...]:
    """Return the maps from voxel index to LPS mm that the header states: sform, qform, both or none.

    Raises ScanError for impossible voxel sizes, a sheared sform, or two maps that are mirror images of each other.
    """
    millimetres = {1: 1000.0, 3: 0.001}.get(fields.length_unit, 1.0)
    check_spacing([side * millimetres for side in fields.pixdim[1:4]], path)
    affines = []
    if fields.sform_code > 0:
        sform = np.vstack([np.array(fields.srow).reshape(3, 4), [0, 0, 0, 1]])
        if not np.all(np.isfinite(sform)) or np.any(np.linalg.norm(sform[:3, :3], axis=0) == 0):
            raise ScanError(f"{path} has a damaged orientation (sform): it is empty or not a number. Export it again.")
        template = fields.sform_code in _TEMPLATE_CODES and fields.qform_code > 0
        if is_sheared(sform[:3, :3]):
            # A template's affine map may be sheared: the scan's own grid is the qform then, which ITK takes.
            if not template:
                raise sheared_error(path)
        elif not template or _same_scale(sform, fields):
            if not _same_scale(sform, fields):
                sides = size_text([f"{side:.4g}" for side in np.linalg.norm(sform[:3, :3], axis=0)])
                stated = size_text([f"{side:.4g}" for side in fields.pixdim[1:4]])
                raise ScanError(
                    f"{path} contradicts itself: its voxels measure {stated} by the voxel size and {sides} by the "
                    "orientation (sform). Correct the header first."
                )
            affines.append(sform)
    if fields.qform_code > 0:
        affines.append(_qform(fields, path))
    if len(affines) == 2 and np.linalg.det(affines[0][:3, :3]) * np.linalg.det(affines[1][:3, :3]) < 0:
        raise ScanError(
            f"{path} contradicts itself: its two orientations (qform and sform) are mirror images, so left and right "
            "are not known. Correct the header first."
        )
    return tuple(_RAS_TO_LPS @ affine for affine in affines) if fields.length_unit in _MILLIMETRES else ()


def _same_scale(sform: np.ndarray, fields: _Fields) -> bool:
    """Return whether the sform's axes are as long as the voxel sides."""
    sides = np.linalg.norm(sform[:3, :3], axis=0)
    return bool(np.allclose(sides, fields.pixdim[1:4], rtol=_SCALE_TOLERANCE, atol=0))


def _qform(fields: _Fields, path: Path) -> np.ndarray:
    """Return the 4x4 map to RAS of the quaternion (nifti1.h, method 2); raises ScanError when it is not a number."""
    if not np.all(np.isfinite(fields.quatern)):
        raise ScanError(f"{path} has a damaged orientation (qform): it is not a number. Export it again.")
    b, c, d = fields.quatern[:3]
    rest = 1.0 - (b * b + c * c + d * d)
    if rest < 1e-7:  # as nifti1_io does: a half turn, normalised
        length = float(np.sqrt(b * b + c * c + d * d))
        a, b, c, d = 0.0, b / length, c / length, d / length
    else:
        a = float(np.sqrt(rest))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    sides = np.array(fields.pixdim[1:4]) * [1.0, 1.0, -1.0 if fields.pixdim[0] < 0 else 1.0]
    affine = np.eye(4)
    affine[:3, :3] = rotation * sides
    affine[:3, 3] = fields.quatern[3:]
    return affine
