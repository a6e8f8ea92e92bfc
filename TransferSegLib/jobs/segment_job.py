"""The job that segments scans: one by one, those that cannot be used are told and the others are done.

After each scan ``finished.json`` in the job's folder says which are done, so that a resumed job does only the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from TransferSegLib.errors import JobError, ScanError
from TransferSegLib.jobs.files import read_json, write_json
from TransferSegLib.jobs.kinds import Kind, PartlyDone
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.progress import CancelToken, Progress, ProgressCallback, Task

if TYPE_CHECKING:
    from TransferSegLib.inference.segment import Segmentation, Segmenter

FINISHED = "finished.json"


@dataclass(frozen=True)
class ScanToSegment:
    """A scan, the file its label map goes to, and the picture that is drawn of it (None: no picture)."""

    scan: Path
    output: Path
    preview: Path | None = None


@dataclass(frozen=True)
class SegmentParameters:
    """What is segmented, with what; the job's request carries ``to_json()`` as its parameters.

    ``model`` is a name, folder or zip file (None: the bundled one), ``structures`` those to write (None: all),
    ``memory_gb`` the memory to stay within on a CPU (None: as ``Segmenter``), ``series`` the DICOM series where a
    folder holds several. With ``strict`` nothing is written of a scan that does not fit the model;
    ``modality`` is DICOM's word for the scans' where their files do not hold it.
    """

    scans: tuple[ScanToSegment, ...]
    model: str | None = None
    structures: tuple[str, ...] | None = None
    memory_gb: float | None = None
    series: str | None = None
    strict: bool = False
    modality: str = ""

    def __post_init__(self) -> None:
        """Raise JobError for parameters that cannot work."""
        if not self.scans:
            raise JobError("There is no scan to segment.")
        if self.memory_gb is not None and not 0 < self.memory_gb < float("inf"):
            raise JobError(f"{self.memory_gb:g} GB is no amount of memory.")

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; paths become absolute, because a job runs in another folder."""
        scans = [
            {
                "scan": str(each.scan.absolute()),
                "output": str(each.output.absolute()),
                "preview": None if each.preview is None else str(each.preview.absolute()),
            }
            for each in self.scans
        ]
        return {
            "scans": scans,
            "model": self.model,
            "structures": None if self.structures is None else list(self.structures),
            "memory_gb": self.memory_gb,
            "series": self.series,
            "strict": self.strict,
            "modality": self.modality,
        }

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> SegmentParameters:
        """Read a request's parameters; raises JobError for those that are not what ``to_json`` writes."""
        try:
            scans = tuple(
                ScanToSegment(
                    Path(each["scan"]), Path(each["output"]), Path(each["preview"]) if each.get("preview") else None
                )
                for each in entry["scans"]
            )
            structures, memory = entry.get("structures"), entry.get("memory_gb")
            return SegmentParameters(
                scans,
                entry.get("model"),
                None if structures is None else tuple(structures),
                None if memory is None else float(memory),
                entry.get("series"),
                bool(entry.get("strict", False)),
                str(entry.get("modality") or ""),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise JobError(
                f"The parameters of the segmentation are damaged ({type(error).__name__}: {error})."
            ) from error


def segment_file(
    segmenter: Segmenter,
    each: ScanToSegment,
    structures: Iterable[str] | None = None,
    series: str | None = None,
    task: Task | None = None,
    *,
    strict: bool = False,
    modality: str = "",
) -> Segmentation:
    """Read, segment and write one scan; raises ScanError naming the file, and whatever ``Segmenter.segment`` raises.

    ``modality`` is DICOM's word for the scan's modality where the file does not hold it. With ``strict`` a scan that
    does not fit the model is a ScanError, and nothing is written. Where the task is cancelled nothing is written
    either: all that takes long comes before the first file has its name.
    """
    from TransferSegLib.images.read import read_scan
    from TransferSegLib.images.write import write_label_map
    from TransferSegLib.pictures.drawing import check_png_path, write_png
    from TransferSegLib.pictures.preview import preview

    task = task or Task()
    reading, segmenting, drawing, writing = task.split(*(8, 82, 5 if each.preview is not None else 0, 5))
    task.say("(reading the scan)")
    image = read_scan(each.scan, series, task=reading)
    try:
        segmentation = segmenter.segment_within(segmenting, image, structures, modality)
    except ScanError as error:
        raise ScanError(f"{each.scan}: {error}") from error
    if strict and not segmentation.fit.fits:
        raise ScanError(f"{each.scan}: {' '.join(segmentation.fit.lines())} Nothing was written.")
    canvas = None
    if each.preview is not None:
        check_png_path(each.preview)
        label_map, label_set, title = segmentation.label_map, segmentation.label_set, each.scan.name
        canvas = drawing.wait(lambda: preview(image, label_map, label_set, title=title), 2.0)
    write_label_map(segmentation.label_map, each.output, segmentation.label_set, task=writing)
    if each.preview is not None and canvas is not None:
        write_png(canvas, each.preview)
    task.done(look=False)
    return segmentation


def segmented_entry(each: ScanToSegment, segmentation: Segmentation) -> dict[str, Any]:
    """Return JSON values of a segmented scan: files, device, seconds, volumes in ml by structure, notices, fit."""
    return {
        "scan": str(each.scan),
        "output": str(each.output),
        "device": segmentation.device,
        "seconds": round(segmentation.seconds, 2),
        "volumes_ml": {name: round(volume, 3) for name, volume in segmentation.volumes_ml().items()},
        "notices": list(segmentation.notices),
        "fit": segmentation.fit.to_json(),
    }


def run_segment(request: JobRequest, folder: Path, progress: ProgressCallback, cancel: CancelToken) -> dict[str, Any]:
    """Segment every scan that is not finished; the result is ``{"scans": [...], "failed": [{"scan", "error"}]}``.

    Raises PartlyDone when scans failed.
    """
    parameters = SegmentParameters.from_json(request.parameters)
    finished = _Finished(folder)
    count = len(parameters.scans)
    say = _Numbered(progress, count)
    task = Task("Segmenting", say, cancel)
    segmenter: Segmenter | None = None
    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for number, each in enumerate(parameters.scans, start=1):
        cancel.check()
        entry = finished.entry(each)
        if entry is None:
            say.begin(number, each.scan.name)
            segmenter = segmenter or _make_segmenter(parameters, request.device, progress)
            say(Progress("Reading the scan", (number - 1) / count))
            try:
                segmentation = segment_file(
                    segmenter,
                    each,
                    parameters.structures,
                    parameters.series,
                    task.share(number - 1, count),
                    strict=parameters.strict,
                    modality=parameters.modality,
                )
            except (ScanError, MemoryError) as error:
                message = str(error) or f"{each.scan}: not enough memory."
                print(message)
                failed.append({"scan": str(each.scan), "error": message})
                continue
            for line in (*segmentation.notices, *(f"warning: {line}" for line in segmentation.fit.lines())):
                print(line)  # into the log
            entry = segmented_entry(each, segmentation)
            finished.add(entry)
        done.append(entry)
    result = {"scans": done, "failed": failed}
    if failed:
        others = "" if len(failed) == 1 else f" (and {len(failed) - 1} more)"
        told = "" if count == 1 else f"{len(done)} of {count} scans segmented. "
        raise PartlyDone(f"{told}{failed[0]['error']}{others}", result)
    return result


#: The work looks several times a second whether to stop. A hard end costs the scan in work, and may leave a part of a
#: file.
SEGMENT = Kind(run_segment, grace_s=4.0)


def _make_segmenter(parameters: SegmentParameters, device: str, progress: ProgressCallback) -> Segmenter:
    """Load the model; an unknown structure is told before any work."""
    from TransferSegLib.inference.segment import Segmenter
    from TransferSegLib.models.locate import find_model
    from TransferSegLib.models.store import load_model

    progress(Progress("Loading the model", 0.0))
    segmenter = Segmenter(load_model(find_model(parameters.model)), device, parameters.memory_gb)
    if parameters.structures is not None:
        segmenter.model.description.label_set.select(parameters.structures)
    return segmenter


class _Numbered:
    """A callback that says which of several scans it is."""

    def __init__(self, progress: ProgressCallback, count: int) -> None:
        self._progress, self._count, self._which = progress, count, ""

    def begin(self, number: int, name: str) -> None:
        """Say that this scan is the next one."""
        self._which = f"scan {number} of {self._count}, {name}" if self._count > 1 else ""

    def __call__(self, report: Progress) -> None:
        """Hand on a report."""
        message = ": ".join(part for part in (self._which, report.message) if part)
        self._progress(replace(report, message=message))


class _Finished:
    """Which scans of a job are done, on disk after each."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FINISHED
        entries = read_json(self._path).get("scans", []) if self._path.exists() else []
        self._entries: list[dict[str, Any]] = [entry for entry in entries if isinstance(entry, dict)]

    def entry(self, each: ScanToSegment) -> dict[str, Any] | None:
        """Return what was found in a scan that is done and whose output is still there, else None."""
        for entry in self._entries:
            if (entry.get("scan"), entry.get("output")) == (str(each.scan), str(each.output)) and each.output.exists():
                return entry
        return None

    def add(self, entry: dict[str, Any]) -> None:
        """Write down that a scan is done; raises OSError."""
        self._entries.append(entry)
        write_json(self._path, {"scans": self._entries})
