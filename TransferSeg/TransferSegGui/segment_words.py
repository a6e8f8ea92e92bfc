"""The lines of the section "Segment": how far a run is, what it has found and what not, why it has failed."""

from __future__ import annotations

from slicer.i18n import tr as _

from TransferSegGui.command_process import LAST_LINES, lastLines
from TransferSegGui.duration import durationText, percentText
from TransferSegGui.nodes import NOT_FOUND_ATTRIBUTE, namesFrom, segmentedBy
from TransferSegGui.segment_process import SegmentProcess
from TransferSegLib.fit.reasons import Fit
from TransferSegLib.models.combined_parts import Described

#: A line names so many structures, and counts the others.
_NAMED = 8


def progressText(fraction: float, secondsLeft: float | None, message: str, name: str = "") -> str:
    """Return the status line of a run, e.g. 'Segmenting on CPU (float32): 40 %, 12 s left'.

    ``name`` is that of the volume where it is not the one that is shown.
    """
    percent = percentText(fraction)
    message = _("'{name}' {where}").format(name=name, where=message) if name else message
    if secondsLeft is None:
        return _("Segmenting {where}: {percent}").format(where=message, percent=percent)
    return _("Segmenting {where}: {percent}, {left} left").format(
        where=message, percent=percent, left=durationText(secondsLeft)
    )


def resultText(run: SegmentProcess, kept=None) -> str:
    """Return the status line of a run that went well: what was found, how long it took on what, what not to trust.

    ``kept`` is the segmentation that was to be replaced and was not, because it was changed by hand.
    """
    volumes = run.result["volumes_ml"]
    missing = [name for name, volume in volumes.items() if not volume]
    text = _("'{name}': {found} of {count} structures found in {time} on {device}.")
    text = _("'{name}': {found} of 1 structure found in {time} on {device}.") if len(volumes) == 1 else text
    text = text.format(
        name=run.segmentationNode.GetName(),
        found=len(volumes) - len(missing),
        count=len(volumes),
        time=durationText(run.result["seconds"]),
        device=run.result["device"],
    )
    if missing:
        text += " " + _("Not found: {names}.").format(names=firstOf(missing))
    for line in Fit.from_json(run.result.get("fit")).lines():
        text += " " + _("Warning: {line}").format(line=line)
    for notice in run.result.get("notices", []):
        text += " " + notice
    if kept is not None and kept.GetScene() is not None:
        text += " " + _("'{name}' contains your edits and was kept unchanged.").format(name=kept.GetName())
    if run.volumeIsGone:
        text += " " + _("Its volume was removed in the meantime.")
    return text


def notFoundText(segmentationNode) -> str:
    """Return which structures a model has not found, of a segmentation of an earlier day; empty where all were."""
    missing = list(namesFrom(segmentationNode.GetAttribute(NOT_FOUND_ATTRIBUTE)))
    text = _("'{name}': Not found: {names}.").format(name=segmentationNode.GetName(), names=firstOf(missing))
    return text if missing else ""


def otherModelText(segmentationNode, chosen: Described | None) -> str:
    """Return that another model or version than the chosen one made a segmentation; empty where that is not so."""
    by = segmentedBy(segmentationNode)
    if by is None or chosen is None or (by.model, by.version) == (chosen.name, chosen.version):
        return ""
    text = _(
        "Its segmentation is by '{model}', version {version}. The model in the section 'Model' is '{chosen}', version "
        "{number}: segment the scan again to use that one."
    )
    return text.format(model=by.model, version=by.version, chosen=chosen.name, number=chosen.version)


def firstOf(names: list[str]) -> str:
    """Return names for a line: all of a few, else the first ones and how many more there are."""
    if len(names) <= _NAMED:
        return ", ".join(names)
    return _("{names} and {count} more").format(names=", ".join(names[:_NAMED]), count=len(names) - _NAMED)


def notSegmented(name: str, reason: object) -> str:
    """Return why a volume was not segmented; it is named, because another one may be shown by the time this is read."""
    return _("Not segmented ('{name}'): {reason}").format(name=name, reason=reason)


def errorText(run: SegmentProcess, name: str) -> str:
    """Return the status line of a run that failed: the reason, and the last lines of the log where they say more.

    ``name`` is that of the volume.
    """
    lines = [line for line in lastLines(run.log, LAST_LINES) if run.error not in line]
    text = notSegmented(name, run.error)
    return "\n".join([text, _("The log ends with:"), *lines]) if lines and run.crashed else text
