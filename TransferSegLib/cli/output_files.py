"""Which files ``transferseg segment`` writes: the label map, the picture and the doubt of each scan."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from TransferSegLib.errors import TransferSegError

FORMATS = (".nii.gz", ".nrrd", ".seg.nrrd")


def stem(scan: Path) -> str:
    """Return a scan's name without its image extension: 'head.nii.gz' -> 'head', a DICOM folder's name as it is."""
    if scan.is_dir():
        return scan.resolve().name
    extension = _written_extension(scan)
    if extension is not None:
        return scan.name[: -len(extension)]
    # A DICOM file's name is often numbers and dots (an UID), of which the last is no extension.
    return scan.name if scan.suffix[1:].isdigit() else scan.stem


def _written_extension(path: Path) -> str | None:
    """Return the known label map extension a file name ends with, None when it has none."""
    from TransferSegLib.images.write import LABEL_MAP_SUFFIXES

    return next((suffix for suffix in LABEL_MAP_SUFFIXES if path.name.lower().endswith(suffix)), None)


def output_files(scans: list[Path], output: Path, extension: str, others: list[Path]) -> list[Path]:
    """Return one output file per scan; raises TransferSegError when two would be one, or one is an input.

    ``others`` are further inputs.
    """
    if len(scans) == 1 and not output.is_dir() and _written_extension(output) is not None:
        files = [output]
    else:
        if _written_extension(output) is not None and not output.is_dir():
            raise TransferSegError(f"--output {output} is one file, but there are {len(scans)} scans: give a folder.")
        if len(scans) == 1 and output.suffix and not output.is_dir():
            raise TransferSegError(
                f"--output {output}: the extension '{output.suffix}' is not known. Use {', '.join(FORMATS)}, "
                "or the name of a folder."
            )
        files = [output / f"{stem(scan)}_segmentation{extension}" for scan in scans]
    twice = sorted(str(file) for file, count in Counter(files).items() if count > 1)
    if twice:
        raise TransferSegError(
            f"Several scans would be written to {', '.join(twice)}: rename them, or use several folders."
        )
    inputs = {scan.resolve() for scan in (*scans, *others)}
    for file in files:
        if file.resolve() in inputs:
            raise TransferSegError(
                f"--output {file} is one of the scans: it would be overwritten. Choose another name."
            )
    return files


def listed_outputs(scans: list[Path], output: Path, extension: str, beside: bool) -> list[Path]:
    """Return one output file for each scan of a list: below ``output`` as the scans lie, or beside each scan.

    Raises TransferSegError when two would be one.
    """
    names = [f"{stem(scan)}_segmentation{extension}" for scan in scans]
    folders = [scan.absolute().parent for scan in scans]
    if not beside:
        try:
            root = Path(os.path.commonpath(folders))
        except ValueError:  # several disks of Windows
            root = None
        folders = [output if root is None else output / folder.relative_to(root) for folder in folders]
    files = [folder / name for folder, name in zip(folders, names, strict=True)]
    twice = [str(file) for file, count in Counter(files).items() if count > 1]
    if twice:
        raise TransferSegError(
            f"Several scans would be written to {', '.join(twice[:5])}: rename them, or use several lists."
        )
    return files


def preview_files(scans: list[Path], preview: Path | None) -> list[Path | None]:
    """Return one picture file per scan, or None for each when no preview was asked for."""
    if preview is None:
        return [None] * len(scans)
    if len(scans) == 1 and preview.suffix.lower() == ".png" and not preview.is_dir():
        return [preview]
    if preview.suffix and not preview.is_dir():
        raise TransferSegError(
            f"--preview {preview}: for one scan give a name ending in .png, for several the name of a folder."
        )
    return [preview / f"{stem(scan)}.png" for scan in scans]


def doubt_files(scans: list[Path], doubt: Path | None) -> list[Path | None]:
    """Return one file for the doubt per scan, or None for each when it was not asked for."""
    from TransferSegLib.images.write import volume_file_suffix

    if doubt is None:
        return [None] * len(scans)
    if len(scans) == 1 and _written_extension(doubt) is not None and not doubt.is_dir():
        volume_file_suffix(doubt)
        return [doubt]
    if doubt.suffix and not doubt.is_dir():
        raise TransferSegError(
            f"--doubt {doubt}: for one scan give a name ending in .nii.gz, .nii, .nrrd or .mha, for several the "
            "name of a folder."
        )
    return [doubt / f"{stem(scan)}_doubt.nii.gz" for scan in scans]
