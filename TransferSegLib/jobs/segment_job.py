"""The job that segments scans one by one; those that cannot be used are reported and the others are done.

After each scan ``finished.json`` in the job's folder says which are done, so that a resumed job does only the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from TransferSegLib.errors import JobError, ScanError
from TransferSegLib.inference.extras import Extras
from TransferSegLib.inference.options import USUAL, PredictionOptions
from TransferSegLib.inference.segment_file import ScanToSegment, segment_file, segmented_entry
from TransferSegLib.jobs.files import read_json, write_json
from TransferSegLib.jobs.kinds import Kind, PartlyDone
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.json_fields import damage_as
from TransferSegLib.progress import CancelToken, ProgressCallback, Task

if TYPE_CHECKING:
    from TransferSegLib.inference.combined import CombinedSegmenter
    from TransferSegLib.inference.segment import Segmentation, Segmenter

FINISHED = "finished.json"


@dataclass(frozen=True)
class SegmentParameters:
    """What is segmented, with what; the job's request carries ``to_json()`` as its parameters.

    ``model`` is a name, folder or zip file (None: the bundled one), ``structures`` those to write (None: all),
    ``memory_gb`` the memory to stay within on a CPU (None: as ``Segmenter``), ``series`` the DICOM series where a
    folder holds several. With ``strict`` nothing is written of a scan that does not fit the model;
    ``modality`` is DICOM's word for the scans' where their files do not hold it, ``options`` how windows are computed.
    With ``places`` the result tells where each scan is doubtful, as it does of scans with a file for their doubt.
    ``each_structure`` writes also a file for each structure, ``statistics`` is the file of a table of measurements.
    With ``measures`` the entry of each scan has the ``rows`` of such a table, which the caller writes.
    """

    scans: tuple[ScanToSegment, ...]
    model: str | None = None
    structures: tuple[str, ...] | None = None
    memory_gb: float | None = None
    series: str | None = None
    strict: bool = False
    modality: str = ""
    options: PredictionOptions = USUAL
    places: bool = False
    each_structure: bool = False
    statistics: Path | None = None
    measures: bool = False

    def __post_init__(self) -> None:
        """Raise JobError for parameters that cannot work."""
        if not self.scans:
            raise JobError("There is no scan to segment.")
        if any(each.images for each in self.scans):
            raise JobError("Scans of several images cannot be segmented in the background yet.")
        if self.memory_gb is not None and not 0 < self.memory_gb < float("inf"):
            raise JobError(f"{self.memory_gb:g} GB is no amount of memory.")

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; paths become absolute, because a job runs in another folder."""
        scans = [
            {
                "scan": str(each.scan.absolute()),
                "output": str(each.output.absolute()),
                "preview": None if each.preview is None else str(each.preview.absolute()),
                "doubt": None if each.doubt is None else str(each.doubt.absolute()),
                "features": None if each.features is None else str(each.features.absolute()),
                **({} if each.series is None else {"series": each.series}),
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
            "each_structure": self.each_structure,
            "statistics": None if self.statistics is None else str(self.statistics.absolute()),
            "options": asdict(self.options),
            "places": self.places,
            **({"measures": True} if self.measures else {}),
        }

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> SegmentParameters:
        """Read a request's parameters; raises JobError for those that are not what ``to_json`` writes."""
        with damage_as(JobError, "The parameters of the segmentation are"):
            scans = tuple(
                ScanToSegment(
                    Path(each["scan"]),
                    Path(each["output"]),
                    Path(each["preview"]) if each.get("preview") else None,
                    doubt=Path(each["doubt"]) if each.get("doubt") else None,
                    series=each.get("series"),
                    features=Path(each["features"]) if each.get("features") else None,
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
                _options(entry.get("options") or {}),
                bool(entry.get("places", False)),
                each_structure=bool(entry.get("each_structure", False)),
                statistics=Path(entry["statistics"]) if entry.get("statistics") else None,
                measures=bool(entry.get("measures", False)),
            )


def _options(entry: Mapping[str, Any]) -> PredictionOptions:
    """Read options that ``to_json`` wrote."""
    step = entry.get("step")
    exact, mirror = bool(entry.get("exact", False)), bool(entry.get("mirror", False))
    return PredictionOptions(exact, mirror, None if step is None else float(step))


def run_segment(request: JobRequest, folder: Path, progress: ProgressCallback, cancel: CancelToken) -> dict[str, Any]:
    """Segment every scan that is not finished; the result is ``{"scans": [...], "failed": [{"scan", "error"}]}``.

    Raises PartlyDone when scans failed.
    """
    parameters = SegmentParameters.from_json(request.parameters)
    finished = _Finished(folder)
    count = len(parameters.scans)
    task = Task("", progress, cancel)
    segmenter: Segmenter | CombinedSegmenter | None = None
    extras = _extras(parameters)
    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for number, each in enumerate(parameters.scans, start=1):
        cancel.check()
        entry = finished.entry(each)
        if entry is None:
            which = f"scan {number} of {count}, {each.scan.name}" if count > 1 else ""
            of_scan = task.share(number - 1, count).about(which)
            segmenter = segmenter or _make_segmenter(parameters, request.device, of_scan)
            of_scan.named("Reading the scan", "reading").at(0.0)
            finished.begin(each)
            try:
                segmentation = segment_file(
                    segmenter,
                    each,
                    parameters.structures,
                    parameters.series,
                    of_scan.named("Segmenting", "segmenting"),
                    strict=parameters.strict,
                    modality=parameters.modality,
                    places=parameters.places,
                    before_writing=partial(finished.will_write, each),
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
        try:
            if extras is not None:
                rows = entry["rows"] if "rows" in entry else extras.of_files(each)
                extras.add(each, rows)
                if parameters.measures and "rows" not in entry:
                    entry = {**entry, "rows": rows}
                    finished.add(entry)
        except ScanError as error:
            failed.append({"scan": str(each.scan), "error": str(error)})
            continue
        done.append(entry)
    if extras is not None:
        extras.write_table()
    result = {"scans": done, "failed": failed}
    if failed:
        others = "" if len(failed) == 1 else f" (and {len(failed) - 1} more)"
        summary = "" if count == 1 else f"{len(done)} of {count} scans segmented. "
        raise PartlyDone(f"{summary}{failed[0]['error']}{others}", result)
    return result


#: The work looks several times a second whether to stop. Being killed costs the scan in work, and may leave a part of a
#: file.
SEGMENT = Kind(run_segment, grace_s=4.0)


def _make_segmenter(parameters: SegmentParameters, device: str, task: Task) -> Segmenter | CombinedSegmenter:
    """Load the model; an unknown structure is reported before any work."""
    from TransferSegLib.inference.combined import open_segmenter
    from TransferSegLib.models.combined_parts import parts_of
    from TransferSegLib.models.locate import find_model

    task.named("Loading the model", "loading").at(0.0)
    model = find_model(parameters.model)
    label_set, parts = parts_of(model)
    for part in parts:
        part.description.check_one_image("Segmenting in the background")
    keeps = any(each.features is not None for each in parameters.scans)
    segmenter = open_segmenter(model, device, parameters.memory_gb, parameters.options, keeps)
    if parameters.structures is not None:
        label_set.select(parameters.structures)
    return segmenter


def _extras(parameters: SegmentParameters) -> Extras | None:
    """Return what writes the files of structures and the table, None where neither was asked for."""
    from TransferSegLib.models.combined_parts import parts_of
    from TransferSegLib.models.locate import find_model

    if not parameters.each_structure and parameters.statistics is None and not parameters.measures:
        return None
    label_set, _ = parts_of(find_model(parameters.model))
    if parameters.structures is not None:
        label_set = label_set.select(parameters.structures)
    every = parameters.each_structure, parameters.statistics, parameters.series, parameters.measures
    return Extras(label_set, *every)


class _Finished:
    """Which scans of a job are done and which one is in work, on disk after each.

    What is to be told of a scan is written down before its files: where a worker ended between its result and its next
    line here, the result that has appeared since counts, and the scan is not segmented and written again.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FINISHED
        self._entries = finished_scans(read_json(self._path) if self._path.exists() else {})

    def entry(self, each: ScanToSegment) -> dict[str, Any] | None:
        """Return what was found in a scan that is done and whose output is still there, else None."""
        for entry in reversed(self._entries):
            if (entry.get("scan"), entry.get("output")) == (str(each.scan), str(each.output)) and each.output.exists():
                return entry
        return None

    def begin(self, each: ScanToSegment) -> None:
        """Write down that a scan is in work; raises OSError."""
        self._write({"scan": str(each.scan), "output": str(each.output)})

    def will_write(self, each: ScanToSegment, segmentation: Segmentation) -> None:
        """Write down what was found in a scan, before its files are written; raises OSError."""
        entry = segmented_entry(each, segmentation)
        files = [str(file) for file in (each.output, each.preview, each.doubt) if file is not None]
        before = {file: _state_of(file) for file in files}
        self._write({"scan": str(each.scan), "output": str(each.output), "entry": entry, "before": before})

    def add(self, entry: dict[str, Any]) -> None:
        """Write down that a scan is done, and what is known of it now; raises OSError."""
        places = entry["scan"], entry["output"]
        self._entries = [one for one in self._entries if (one.get("scan"), one.get("output")) != places]
        self._entries.append(entry)
        self._write(None)

    def _write(self, begun: dict[str, Any] | None) -> None:
        write_json(self._path, {"scans": self._entries, **({} if begun is None else {"begun": begun})})


def finished_scans(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what ``finished.json`` tells of the scans that are done, when its worker is at work no more.

    The scan in work is one of them if its files were written, though the worker ended before it could say so.
    """
    entries = [one for one in content.get("scans", []) if isinstance(one, dict)]
    begun = content.get("begun")
    if isinstance(begun, dict) and isinstance(begun.get("entry"), dict) and _has_landed(begun):
        entries.append(begun["entry"])
    return entries


def _has_landed(begun: Mapping[str, Any]) -> bool:
    """Tell whether all files of a scan that was in work have appeared since; each appears whole, by one renaming."""
    before = begun.get("before")
    return isinstance(before, dict) and all(_state_of(file) not in (None, old) for file, old in before.items())


def _state_of(file: str) -> list[int] | None:
    """Return what is another after a file was written; None: there is no such file."""
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return [found.st_ino, found.st_size, found.st_mtime_ns]
