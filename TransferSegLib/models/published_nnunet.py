"""Published models of nnU-Net, such as TotalSegmentator's: what the catalogue knows and their files do not say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from TransferSegLib.anatomy import describe_structure
from TransferSegLib.errors import ModelError
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.models.catalogue import CatalogueEntry
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.structures import LabelSet


def as_published(
    description: ModelDescription, entry: CatalogueEntry, source: str, sha256: str | None = None
) -> ModelDescription:
    """Return a description with the entry's structures, axes, licence, citation and summary.

    The structures are those of the entry in the order of the label values: TotalSegmentator names them outside its
    files. ``sha256`` is the checksum of the verified file. Raises ModelError, naming ``source``, for another model.
    """
    assert entry.download is not None and entry.profile is not None
    if len(description.label_set) != len(entry.structures):
        raise ModelError(
            f"{source} has {len(description.label_set)} structures, the catalogue's model '{entry.name}' has "
            f"{len(entry.structures)}: it is another one. Give its folder another name to import it."
        )
    structures = (describe_structure(name, label) for label, name in enumerate(entry.structures, start=1))
    profile = entry.profile
    imported: dict[str, Any] = {"source": entry.download.address}
    if sha256 is not None:
        imported["file_sha256"] = sha256
    configuration = description.provenance.configuration
    imported = dict(configuration.get("imported_from", {})) | imported
    return replace(
        description,
        label_set=LabelSet(tuple(structures)),
        preparation=_as_published(description.preparation, entry),
        network=replace(description.network, arguments=description.network.arguments | {"overlap": profile.overlap}),
        modality=entry.modality,
        summary=entry.summary,
        license=entry.license,
        citation=entry.citation,
        provenance=replace(description.provenance, configuration=configuration | {"imported_from": imported}),
    )


def _as_published(preparation: Preparation, entry: CatalogueEntry) -> Preparation:
    """Return a preparation with the entry's axes and way of resampling.

    nnU-Net may have put the axes of the stored scans, which the entry's axes name, in another order.
    """
    assert entry.profile is not None
    names = dict(zip("ijk", entry.profile.axes, strict=True))
    stored = preparation.axes.translate({ord(name): axis for axis, name in names.items()})
    axes, spacing = "".join(names[axis] for axis in stored), preparation.spacing_zyx_mm
    if entry.profile.resampling == "totalsegmentator" and entry.spacing_mm is not None:
        given = entry.spacing_mm
        sides = dict(zip("ijk", given if isinstance(given, tuple) else (given,) * 3, strict=True))
        spacing = (sides[stored[2]], sides[stored[1]], sides[stored[0]])
    return replace(preparation, axes=axes, resampling=entry.profile.resampling, spacing_zyx_mm=spacing)
