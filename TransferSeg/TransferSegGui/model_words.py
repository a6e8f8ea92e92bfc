"""What a model is, in the user's words: the lines below the choice of a model, and the tooltip with the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slicer.i18n import tr as _

from TransferSegLib.images.preparation import spacing_text
from TransferSegLib.models.catalogue import CatalogueEntry, megabytes
from TransferSegLib.models.combination import Combination
from TransferSegLib.models.combined_parts import Part
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.versions.record import VersionRecord
from TransferSegLib.structures import LabelSet

#: So many structures are named below the choice; the tooltip names all.
_FIRST = 7


def modelDetails(model: ModelDescription, record: VersionRecord | None, path: Path) -> str:
    """Return in lines what a model segments, how it works, where it comes from and how good it is."""
    working = _("{modality}, works at {spacing}, {size}, licence {licence}").format(
        modality=model.modality,
        spacing=model.preparation.spacing_text + (_(" (inferred)") if model.spacing_inferred else ""),
        size=megabytes(_bytesOf(path)),
        licence=model.license,
    )
    lines = [structuresText(model.label_set.names), working, originText(model)]
    return "\n".join([*lines, evidenceText(model, record)])


def modelToolTip(model: ModelDescription) -> str:
    """Return what does not fit below the choice: all structures, the training data and what to cite."""
    return "\n".join(
        (
            _("Structures: {names}").format(names=", ".join(model.label_set.names)),
            _("Trained on: {data}").format(data=model.training_data),
            _("Cite: {citation}").format(citation=model.citation),
        )
    )


def combinationDetails(combination: Combination, labelSet: LabelSet, parts: Sequence[Part]) -> str:
    """Return in lines what a combination segments, how its models work, and what it is not for."""
    spacings = dict.fromkeys(part.description.preparation.spacing_text for part in parts)
    working = _("{modality}, works at {spacing}, {size}, licence {licence}").format(
        modality=combination.modality,
        spacing=_(" and ").join(spacings),
        size=megabytes(sum(_bytesOf(part.path) for part in parts)),
        licence=combination.license,
    )
    names = ", ".join(combination.parts)
    purpose = _("{count} models, one after another. To fine-tune, choose one of them: {names}.")
    return "\n".join([structuresText(labelSet.names), working, purpose.format(count=len(parts), names=names)])


def combinationToolTip(combination: Combination, labelSet: LabelSet) -> str:
    """Return what does not fit below the choice of a combination."""
    structures = _("Structures: {names}").format(names=", ".join(labelSet.names))
    return "\n".join((combination.summary, structures, _("Cite: {citation}").format(citation=combination.citation)))


def entryDetails(entry: CatalogueEntry, isSizeKnown: bool) -> str:
    """Return in lines what a model of the catalogue segments, how it works, and how much is downloaded."""
    size = _("about {count} MB").format(count=round(entry.about_bytes / 1e6)) if isSizeKnown else _("of unknown size")
    sides = entry.spacing_mm if isinstance(entry.spacing_mm, tuple) else (entry.spacing_mm,)
    working = _("{modality}, works at {spacing}, download {size}, licence {licence}").format(
        modality=entry.modality,
        spacing=_("a spacing that is known only after the download") if None in sides else spacing_text(sides[::-1]),
        size=size,
        licence=entry.license,
    )
    lines = [structuresText(entry.structures), working]
    if entry.parts:
        text = _("{count} models that segment one after another: {names}")
        lines.append(text.format(count=len(entry.parts), names=", ".join(entry.parts)))
    return "\n".join(lines)


def entryToolTip(entry: CatalogueEntry) -> str:
    """Return what does not fit below the choice of a model to fetch."""
    return "\n".join(
        (
            entry.summary,
            _("Structures: {names}").format(names=", ".join(entry.structures)),
            _("Cite: {citation}").format(citation=entry.citation),
            _("More: {address}").format(address=entry.homepage),
        )
    )


def structuresText(names: Sequence[str]) -> str:
    """Return how many structures a model segments, and the first ones."""
    shown = ", ".join(names[:_FIRST])
    if len(names) > _FIRST:
        text = _("{count} structures: {names} and {more} more")
        return text.format(count=len(names), names=shown, more=len(names) - _FIRST)
    text = _("1 structure: {names}") if len(names) == 1 else _("{count} structures: {names}")
    return text.format(count=len(names), names=shown)


def originText(model: ModelDescription) -> str:
    """Return in a sentence where a model comes from."""
    made = model.provenance.configuration
    if model.provenance.parent:
        return _("Fine-tuned from {parent}.").format(parent=model.provenance.parent)
    trained = made.get("trained_by")
    if isinstance(trained, dict) and trained.get("trainer"):
        text = _("Trained with nnU-Net ({trainer}, {configuration})")
        text = text.format(trainer=trained["trainer"], configuration=trained.get("configuration", "?"))
        if model.folds > 1:
            return _("{trained}; the mean of {count} folds is used.").format(trained=text, count=model.folds)
        return f"{text}."
    if "imported_from" in made:
        return _("Imported from Keras weights.")
    return _("Trained from scratch with TransferSeg.")


def inputObstacle(model: ModelDescription) -> str:
    """Return why the panel cannot run a model, empty when it can: it gives a model one volume."""
    count = model.preparation.image_count
    if count == 1:
        return ""
    return _(
        "This model needs {count} images of each patient ({names}), but the panel takes only one volume. Use the "
        "command line: transferseg segment"
    ).format(count=count, names=", ".join(model.preparation.image_names))


def evidenceText(model: ModelDescription, record: VersionRecord | None) -> str:
    """Return in a sentence what is known of how good a model is."""
    if record is not None and record.verdict:
        before, after = record.mean_dice
        text = _("Evidence: {verdict}, against {parent}").format(verdict=record.verdict, parent=record.parent)
        if before is not None and after is not None:
            text += ", " + _("mean Dice {before} to {after} on cases left out of training").format(
                before=f"{before:.3f}", after=f"{after:.3f}"
            )
        return text + "."
    measured = model.metrics.get("validation") or model.metrics.get("held out") or {}
    mean, cases = measured.get("mean_dice"), measured.get("cases")
    if isinstance(mean, int | float) and isinstance(cases, int):
        text = _("Evidence: mean Dice {mean} on {cases} validation cases")
        text = _("Evidence: mean Dice {mean} on 1 validation case") if cases == 1 else text
        return text.format(mean=f"{mean:.3f}", cases=cases)
    return _("Evidence: none is recorded.")


def _bytesOf(path: Path) -> int:
    """Return the size of a model's folder or zip file; what vanishes meanwhile counts nothing."""
    total = 0
    for file in [path] if path.is_file() else path.iterdir():
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total
