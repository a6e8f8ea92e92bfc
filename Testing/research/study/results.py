"""The table of a study's results: one JSON object a line, written whole, read with care for a line cut short."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from Testing.research.study.runs import Run
from TransferSegLib import safe_json
from TransferSegLib.errors import StudyError
from TransferSegLib.evaluation.scores import Score

#: The numbers of a structure in a case, in the order of a line's lists.
_MEASURES = ("dice", "nsd", "hd95_mm")


@dataclass(frozen=True)
class Result:
    """What came of one run. ``scores``: test case -> structure -> (Dice, NSD, HD95 in mm; infinite: missed).

    ``patients`` gives the patient of a test case. Seconds are those of making the model: of the processor (all threads)
    and of wall-clock time; ``test_s`` of segmenting and measuring the test cases. ``base_weights`` is the hash of the
    base.
    """

    key: str
    hash: str
    base: str
    task: str
    size: int
    strategy: str
    seed: int
    training: tuple[str, ...]
    scores: Mapping[str, Mapping[str, tuple[float, float, float]]]
    patients: Mapping[str, str]
    tolerance_mm: float
    grid: str
    cpu_s: float
    wall_s: float
    test_s: float
    tail_steps: int
    steps: int
    base_weights: str
    device: str
    threads: int
    version: str
    finished: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description; an infinite distance is null."""
        values = {name: value for name, value in vars(self).items() if name != "extra"}
        values["scores"] = {
            case: {
                name: [round(one, 4) if one < float("inf") else None for one in triple] for name, triple in row.items()
            }
            for case, row in self.scores.items()
        }
        values["training"] = list(self.training)
        values["patients"] = {case: patient for case, patient in self.patients.items() if patient != case}
        return values | dict(self.extra)

    @staticmethod
    def from_json(entry: dict[str, Any]) -> Result:
        """Read what ``to_json`` returned; raises KeyError, TypeError and ValueError when it is something else."""
        names = [name for name in Result.__dataclass_fields__ if name != "extra"]
        values = {name: entry[name] for name in names}
        values["training"] = tuple(entry["training"])
        values["scores"] = {
            case: {name: _triple(numbers) for name, numbers in row.items()} for case, row in entry["scores"].items()
        }
        values["patients"] = {case: entry["patients"].get(case, case) for case in entry["scores"]}
        for name in ("tolerance_mm", "cpu_s", "wall_s", "test_s"):
            values[name] = float(entry[name])
        for name in ("size", "seed", "tail_steps", "steps", "threads"):
            values[name] = int(entry[name])
        if not all(isinstance(entry[name], str) for name in ("key", "base_weights", "device", "version")):
            raise TypeError("an entry that must be text is not")
        return Result(**values, extra={key: value for key, value in entry.items() if key not in names})


def _triple(numbers: list[float | None]) -> tuple[float, float, float]:
    """Return the numbers of a score; only a distance may be missing: it is infinite."""
    dice, nsd, distance = numbers
    return float(dice), float(nsd), float("inf") if distance is None else float(distance)  # type: ignore[arg-type]


def to_triple(score: Score) -> tuple[float, float, float]:
    """Return the measures of a score that are kept."""
    dice, nsd, distance = (float(getattr(score, name)) for name in _MEASURES)
    return dice, nsd, distance


class ResultsFile:
    """The results of a study on disk; the last line of a key counts."""

    def __init__(self, path: Path) -> None:
        """Name the file; it need not be there yet."""
        self.path = path

    def read(self) -> dict[str, Result]:
        """Return the results by key; a last line that was cut short is left out.

        Raises StudyError when the file cannot be read or another line is no result.
        """
        if not self.path.exists():
            return {}
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise StudyError(f"The results {self.path} cannot be read: {error.strerror or error}.") from error
        results = {}
        # What stands after the last line break was never finished: its writer was killed.
        for number, line in enumerate(lines[:-1], start=1):
            if not line.strip():
                continue
            try:
                result = Result.from_json(safe_json.parse(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise StudyError(
                    f"Line {number} of {self.path} is no result of a study ({error}): remove the line, and the run "
                    "will be made again."
                ) from error
            results[result.key] = result
        return results

    def append(self, result: Result) -> None:
        """Add a result as one line, which is on the disk when this returns; raises StudyError."""
        line = json.dumps(result.to_json(), ensure_ascii=False).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as stream:
                length = stream.seek(0, os.SEEK_END)
                if length:
                    stream.seek(length - 1)
                    if stream.read(1) != b"\n":
                        # A line cut short by a kill: it must not run into this one.
                        stream.truncate(_end_of_whole_lines(self.path))
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise StudyError(f"The results {self.path} cannot be written: {error.strerror or error}.") from error


def _end_of_whole_lines(path: Path) -> int:
    """Return the length of a file up to and with its last line break."""
    return path.read_bytes().rfind(b"\n") + 1


def finished_runs(runs: Iterable[Run], results: Mapping[str, Result]) -> dict[str, Result]:
    """Return the results, by key, that belong to these runs as they are configured now."""
    found = {}
    for run in runs:
        result = results.get(run.key)
        if result is not None and result.hash == run.hash:
            found[run.key] = result
    return found
