"""What ``transferseg segment`` prints of a scan, and of those that failed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from TransferSegLib.cli.reporting import duration
from TransferSegLib.wording import table

if TYPE_CHECKING:
    from TransferSegLib.inference.segment import Segmentation

#: So many doubtful places are listed.
_PLACES_SHOWN = 8
#: So many failures are printed; a run of a list has all of them in a file.
_MOST_PRINTED = 20


def report(scan: Path, output: Path, segmentation: Segmentation) -> str:
    """Return the lines printed for a segmented scan: structures with volumes, doubts, where they are, what computed."""
    volumes, doubtful = segmentation.volumes_ml(), segmentation.fit.doubtful
    rows = [
        (name, (f"{volume:.1f}" if volume else "not found") + (" (do not trust)" if name in doubtful else ""))
        for name, volume in volumes.items()
    ]
    if not any(volumes.values()):
        rows.append(("(nothing found: is this the kind of scan the model is for? see transferseg models show)", ""))
    doubts = "".join(f"warning: {line}\n" for line in segmentation.fit.lines())
    return (
        f"{scan.name}\n{table(('structure', 'ml'), rows)}\n{doubts}{places_text(segmentation)}"
        f"written to {output} ({duration(segmentation.seconds)} on {segmentation.device})"
    )


def places_text(segmentation: Segmentation) -> str:
    """Return the table of the most doubtful places, and what the doubt means; empty where it was not asked for."""
    if not segmentation.doubts:
        return ""
    meaning = (
        "Doubt is the expected share of wrong voxels."
        if segmentation.doubt_is_calibrated
        else "Doubt is not calibrated for this model: it ranks places, and is no share of wrong voxels."
    )
    if not segmentation.places:
        return f"no doubtful place. {meaning}\n"
    rows = [
        (
            place.structure,
            " ".join(f"{value:.0f}" for value in place.position_ras_mm),
            f"{place.doubt:.2f}",
            f"{place.volume_ml:.2f}",
        )
        for place in segmentation.places[:_PLACES_SHOWN]
    ]
    return f"\n{table(('look first at', 'R A S, mm', 'doubt', 'ml'), rows)}\n{meaning}\n\n"


def failures_table(failures: Sequence[tuple[str, str]], file: Path | None = None) -> str:
    """Return the table of the scans that were not segmented, with the reasons; ``file`` has them all."""
    rows = [
        (Path(scan).name, " ".join(why.removeprefix(f"{scan}: ").split())) for scan, why in failures[:_MOST_PRINTED]
    ]
    lines = [table(("not segmented", "why"), rows)]
    if len(failures) > _MOST_PRINTED:
        lines.append(f"and {len(failures) - _MOST_PRINTED} more")
    if file is not None:
        lines.append(f"all of them are in {file}")
    return "\n".join(lines)
