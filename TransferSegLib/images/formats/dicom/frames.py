"""The description of one DICOM image file: its series, how its pixels are stored, where every frame lies.

A file of a classic series has one frame, described in its data set; an enhanced multi-frame file describes frames in
functional groups: those of the frame itself, else those shared by all (PS3.3, C.7.6.16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from TransferSegLib.images.formats.dicom.elements import PIXEL_DATA, DataSet, DicomHeader, open_dicom
from TransferSegLib.images.formats.dicom.intensities import LookupTable, Rescale, read_lookup_table, read_rescale

_FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)
_SHARED, _PER_FRAME = 0x52009229, 0x52009230
_POSITION, _ORIENTATION, _MEASURES, _INTENSITIES = 0x00209113, 0x00209116, 0x00289110, 0x00289145
_CONTENT, _ECHO, _DIFFUSION, _CT_TYPE, _MR_TYPE = 0x00209111, 0x00189114, 0x00189117, 0x00189329, 0x00189226
_MOST_FRAMES = 100_000
#: Classes of objects that hold many slices in one file and state where each lies.
VOLUME_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT",
    "1.2.840.10008.5.1.4.1.1.4.1": "Enhanced MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "Legacy Converted Enhanced MR",
    "1.2.840.10008.5.1.4.1.1.130": "Enhanced PET",
    "1.2.840.10008.5.1.4.1.1.128.1": "Legacy Converted Enhanced PET",
    "1.2.840.10008.5.1.4.1.1.13.1.1": "X-Ray 3D Angiographic",
    "1.2.840.10008.5.1.4.1.1.13.1.2": "X-Ray 3D Craniofacial",
}
#: Those, and CT, MR and PET of one slice a file.
SCAN_CLASSES = {*VOLUME_CLASSES, *(f"1.2.840.10008.5.1.4.1.1.{number}" for number in (2, 4, 128))}


@dataclass(frozen=True)
class PixelStorage:
    """How the pixels of a file are stored: numbers per axis, bits, transfer syntax, place in the file."""

    rows: int
    columns: int
    frames: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    syntax: str
    start: int
    length: int
    padding: tuple[int, int] | None

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Frames, rows and columns."""
        return self.frames, self.rows, self.columns

    @property
    def is_grey(self) -> bool:
        """Whether a pixel is one number and no index of a colour."""
        return self.samples == 1 and self.photometric in ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class Frame:
    """Where a frame lies, in mm; ``orientation`` holds the directions of a row and of a column.

    ``attributes`` distinguish the volumes of a series: echo, point in time, kind of image ...
    """

    position_mm: np.ndarray | None
    orientation: np.ndarray | None
    spacing_xy_mm: tuple[float, float]
    thickness_mm: float
    rescale: Rescale
    attributes: tuple[tuple[str, str], ...]

    @property
    def is_placed(self) -> bool:
        """Whether the file states where the frame lies and in which directions."""
        return self.position_mm is not None and self.orientation is not None


@dataclass(frozen=True)
class DicomFile:
    """One image file; ``damaged`` when it ends before its pixels or cannot be parsed."""

    path: Path
    instance: str
    series: str
    description: str
    patient_id: str
    sop_class: str
    modality: str
    image_type: tuple[str, ...]
    pixels: PixelStorage | None
    lookup_table: LookupTable | None
    frames: tuple[Frame, ...]
    damaged: bool = False

    @property
    def frame_count(self) -> int:
        """How many frames the pixels make, 1 where there are none."""
        return 1 if self.pixels is None else self.pixels.frames

    @property
    def size_text(self) -> str:
        """Columns and rows, e.g. '512 x 512'."""
        return "no pixels" if self.pixels is None else f"{self.pixels.columns} x {self.pixels.rows}"


@dataclass(frozen=True)
class Slice:
    """One frame of one file."""

    file: DicomFile
    number: int

    @property
    def frame(self) -> Frame:
        """What the file states about the frame."""
        return self.file.frames[self.number]

    @property
    def position_mm(self) -> np.ndarray:
        """Where its first pixel lies; for slices that are placed only."""
        assert self.frame.position_mm is not None
        return self.frame.position_mm

    @property
    def directions(self) -> np.ndarray:
        """The directions of a row and of a column (2, 3); for slices that are placed only."""
        assert self.frame.orientation is not None
        return self.frame.orientation.reshape(2, 3)

    @property
    def normal(self) -> np.ndarray:
        """The direction at right angles to both; for slices that are placed only."""
        row, column = self.directions
        return np.cross(row, column)

    @property
    def storage(self) -> PixelStorage:
        """How its pixels are stored."""
        assert self.file.pixels is not None
        return self.file.pixels


def read_dicom_file(path: Path) -> DicomFile | None:
    """Return the description of a DICOM image file, None for anything else. Raises OSError."""
    with open_dicom(path) as header:
        if header is None:
            return None
        data = header.data
        has_pixels = PIXEL_DATA in data or any(tag in data for tag in _FLOAT_PIXELS)
        # A scan that ends before its pixels is no other object: left out, it would be a slice too few.
        is_cut_off = data.damaged or header.sop_class in SCAN_CLASSES or not (header.sop_class or data.elements)
        if not has_pixels and not is_cut_off:
            return None
        pixels = _pixel_storage(header)
        return DicomFile(
            path=path,
            instance=data.text(0x00080018),
            series=data.text(0x0020000E),
            description=data.text(0x0008103E),
            patient_id=data.text(0x00100020),
            sop_class=header.sop_class,
            modality=data.text(0x00080060),
            image_type=data.texts(0x00080008),
            pixels=pixels,
            lookup_table=read_lookup_table(data, pixels is not None and pixels.signed),
            frames=() if pixels is None else _read_frames(data, pixels.frames),
            damaged=data.damaged or pixels is None,
        )


def _pixel_storage(header: DicomHeader) -> PixelStorage | None:
    """Return how the pixels are stored, None when something needed is missing."""
    data = header.data
    element = data.elements.get(PIXEL_DATA)
    numbers = [data.whole(tag) for tag in (0x00280010, 0x00280011, 0x00280100, 0x00280101)]
    rows, columns, allocated, stored = (0 if number is None else number for number in numbers)
    frames = data.number(0x00280008)
    frames = 1.0 if frames is None else frames
    if element is None or not (rows and columns and allocated) or not 1 <= frames <= _MOST_FRAMES:
        return None
    signed = data.whole(0x00280103) == 1
    stored = stored or allocated
    high_bit = data.whole(0x00280102)
    return PixelStorage(
        rows=rows,
        columns=columns,
        frames=int(frames),
        samples=1 if (samples := data.whole(0x00280002)) is None else samples,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=stored - 1 if high_bit is None else high_bit,
        signed=signed,
        photometric=data.text(0x00280004) or "MONOCHROME2",
        syntax=header.syntax,
        start=element.start,
        length=element.length,
        padding=_padding(data, signed),
    )


def _padding(data: DataSet, signed: bool) -> tuple[int, int] | None:
    """Return the lowest and highest stored value that means 'nothing was measured here', None when there is none."""
    first = data.whole(0x00280120, signed)
    last = data.whole(0x00280121, signed)
    if first is None:
        return None
    return (first, first) if last is None else (min(first, last), max(first, last))


def _read_frames(data: DataSet, count: int) -> tuple[Frame, ...]:
    """Return every frame of a file; none unless there is one functional group per frame."""
    shared, own, nothing = data.items(_SHARED), data.items(_PER_FRAME), DataSet(b"", data.order)
    if not shared and not own:
        # The place of each of several frames is unknown without functional groups.
        return (_classic_frame(data),) if count == 1 else ()
    if count == 1 and not own:
        own = (nothing,)
    if len(own) != count or len(shared) > 1:
        return ()
    return tuple(_grouped_frame(each, shared[0] if shared else nothing, data) for each in own)


def _classic_frame(data: DataSet) -> Frame:
    """Return the frame of a file without functional groups."""
    attributes = [
        ("image type", "\\".join(data.texts(0x00080008)[:4])),
        ("echo time", _number_text(data.number(0x00180081))),
        ("echo number", data.text(0x00180086)),
        ("temporal position", data.text(0x00200100)),
        ("acquisition number", data.text(0x00200012)),
        ("b-value", _number_text(data.double(0x00189087))),
        ("trigger time", _number_text(data.number(0x00181060))),
        ("acquisition time", data.text(0x00080032)),
    ]
    return _frame(data, data, data, read_rescale(data), attributes)


def _grouped_frame(own: DataSet, shared: DataSet, data: DataSet) -> Frame:
    """Return a frame described by functional groups."""

    def group(tag: int) -> DataSet:
        return (own.items(tag) or shared.items(tag) or (DataSet(b"", data.order),))[0]

    content = group(_CONTENT)
    kind = group(_CT_TYPE).texts(0x00089007) or group(_MR_TYPE).texts(0x00089007)
    time = content.whole(0x00209128)
    attributes = [
        ("frame type", "\\".join(kind[:4])),
        ("echo time", _number_text(group(_ECHO).double(0x00189082))),
        ("temporal position", "" if time is None else str(time)),
        ("b-value", _number_text(group(_DIFFUSION).double(0x00189087))),
        ("stack", content.text(0x00209056)),
    ]
    # Some converters leave the rescale in the data set, where classic files have it.
    rescale = read_rescale(group(_INTENSITIES))
    rescale = read_rescale(data) if rescale.is_missing else rescale
    return _frame(group(_POSITION), group(_ORIENTATION), group(_MEASURES), rescale, attributes)


def _frame(
    position: DataSet, orientation: DataSet, measures: DataSet, rescale: Rescale, attributes: list[tuple[str, str]]
) -> Frame:
    """Return a frame from the data sets that hold its place, its directions and its voxel size."""
    spacing = _vector(measures.numbers(0x00280030), 2)
    thickness = measures.number(0x00180050) or 0.0
    return Frame(
        position_mm=_vector(position.numbers(0x00200032), 3),
        orientation=_vector(orientation.numbers(0x00200037), 6),
        # PixelSpacing states the distance between rows first, which is the spacing along y.
        spacing_xy_mm=(0.0, 0.0) if spacing is None else (float(spacing[1]), float(spacing[0])),
        thickness_mm=max(thickness, 0.0),
        rescale=rescale,
        attributes=tuple((name, value) for name, value in attributes if value),
    )


def _vector(numbers: Sequence[float], count: int) -> np.ndarray | None:
    """Return numbers as an array, None unless there are ``count``."""
    return np.array(numbers) if len(numbers) == count else None


def _number_text(number: float | None) -> str:
    """Return a number as text, '' when there is none."""
    return "" if number is None else f"{number:g}"
