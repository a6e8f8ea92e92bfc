"""A Keras weights file as a model: the file holds numbers only, the rest has to be said here or by the user.

>>> description, state_dict = model_from_keras(Path("unet3d_Isomulti1v810.h5"), PUBLISHED)
>>> save_model(library_folder() / description.name, description, state_dict)

What is known of the published network, and what is inferred, is in ``docs/published-model.md``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from TransferSegLib.anatomy import describe_structure, readable_name
from TransferSegLib.errors import ModelError, TransferSegError
from TransferSegLib.images.intensity import IntensityRule
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.models.description import ModelDescription, Provenance
from TransferSegLib.models.importers.keras.isolated import read_arrays_isolated
from TransferSegLib.models.importers.keras.network import Background, KerasArrays
from TransferSegLib.models.leaving import published_name, told_command
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet, structure_key
from TransferSegLib.version import code_version

if TYPE_CHECKING:
    import torch

#: The published network's structures in the order of its channels 0 to 21; channel 22 is the background. Its own table
#: calls channel 16 "Right psoas muscle" and channel 9 "Left psoas major".
PUBLISHED_STRUCTURES = (
    "aorta",
    "bladder",
    "duodenum",
    "gallbladder",
    "heart",
    "inferior vena cava",
    "left adrenal gland",
    "left kidney",
    "left lung",
    "left psoas major",
    "liver",
    "pancreas",
    "portal vein and splenic vein",
    "right adrenal gland",
    "right kidney",
    "right lung",
    "right psoas major",
    "spinal cord",
    "spleen",
    "sternum",
    "stomach",
    "trachea",
)
#: The published network takes Hounsfield units, clipped and not rescaled.
HOUNSFIELD_CLIPPED = IntensityRule("window", -500.0, 400.0, output=None)

_CITATION = (
    "Humpire-Mamani et al., Transfer learning from a sparsely annotated dataset of 3D medical images, "
    "arXiv 2311.05032 (2023)"
)
_NOT_STATED = "not stated"


@dataclass(frozen=True)
class KerasImport:
    """What a weights file does not say of its model.

    ``structures`` are the names in the file's channel order without the background; None means the published 22 when
    the file has 23 classes, else "structure 1", "structure 2" ... ``background`` is the file's first or last channel.
    ``spacing_mm`` is the isotropic spacing the network was trained at, ``spacing_inferred`` that it is a guess.
    """

    name: str
    structures: tuple[str, ...] | None = None
    background: Background = "last"
    spacing_mm: float = 1.0
    spacing_inferred: bool = True
    modality: str = "CT"
    intensity: IntensityRule = HOUNSFIELD_CLIPPED
    version: str = "1"
    summary: str | None = None
    license: str = _NOT_STATED
    training_data: str = _NOT_STATED
    citation: str = _CITATION


#: The paper's thorax-abdomen CT base model, as published on GitHub in DIAGNijmegen/MedicalTransferLearning3D-UNet.
PUBLISHED = KerasImport(
    name="thorax-abdomen-ct",
    structures=PUBLISHED_STRUCTURES,
    version="v810",
    summary="Organs of thorax and abdomen in CT; the base model that was published with the paper.",
    license="Apache-2.0",
    training_data=(
        "A large collection of thorax-abdomen CT scans, each annotated for some of the 22 structures only. Its makers "
        "name as sources, among others, 3D-IRCADb, TASC, CSI, Cranial Vault, Pancreas-CT, MARSS, KiTS19, LiTS, "
        "SLIVER07, StructSeg2019, VerSe19, VISCERAL and COPDGene; each has terms of its own. Which scans served the "
        "base model is not stated."
    ),
)


def model_from_keras(
    path: Path, options: KerasImport, source: str = "", task: Task | None = None
) -> tuple[ModelDescription, dict[str, torch.Tensor]]:
    """Return the description and the float32 weights of a legacy Keras HDF5 file's model, ready for ``save_model``.

    ``source`` is where the file comes from, e.g. its address; it goes into the provenance with the file's name
    there (not here), SHA-256 and size. Raises ModelError when the file is not the paper's kind of network or the
    options do not fit it; Cancelled.
    """
    path = Path(path)
    if not options.modality.strip() or not options.modality.isprintable():
        raise ModelError(f"{options.modality!r} is no modality for {path}: give CT or MR, for example.")
    arrays = read_arrays_isolated(path, task=task)
    label_set, assumed = _label_set(options, arrays.network.classes, path)
    description = ModelDescription(
        name=options.name,
        version=options.version,
        label_set=label_set,
        preparation=Preparation.isotropic(options.spacing_mm, options.intensity),
        network=arrays.network,
        modality=options.modality,
        summary=_summary(options, label_set),
        license=options.license,
        training_data=options.training_data,
        citation=options.citation,
        metrics={},
        provenance=_provenance(path, options, source, arrays, assumed),
        spacing_inferred=options.spacing_inferred,
    )
    return description, arrays.state_dict(options.background)


def _label_set(options: KerasImport, classes: int, path: Path) -> tuple[LabelSet, bool]:
    """Return the structures with readable names, codes and colours, and whether their names were assumed."""
    assumed = options.structures is None
    if options.structures is not None:
        names = options.structures
    elif classes == len(PUBLISHED_STRUCTURES) + 1:
        names = PUBLISHED_STRUCTURES
    else:
        names = tuple(f"structure {number}" for number in range(1, classes))
    if len(names) != classes - 1:
        raise ModelError(
            f"{path} has {classes} channels: the background and {classes - 1} structures. {len(names)} structures are "
            "named: name each of them, in the order of the channels, without the background."
        )
    _check_names(names, path)
    readable = [readable_name(name) for name in names]
    try:
        label_set = LabelSet(tuple(describe_structure(name, label) for label, name in enumerate(readable, start=1)))
    except TransferSegError as error:
        raise ModelError(f"The structures for {path} cannot be used. {error}") from error
    return label_set, assumed


def _check_names(names: tuple[str, ...], path: Path) -> None:
    """Raise ModelError naming the first structure whose name is empty, not printable, the background's, or taken."""
    seen: dict[str, str] = {}
    for number, name in enumerate(names, start=1):
        key = structure_key(readable_name(name))
        if not key or not name.isprintable():
            what = "is empty" if not key else "holds what cannot be printed"
            raise ModelError(f"The name {name!r} of structure {number} for {path} {what}: give another.")
        if key == "background":
            raise ModelError(f"'{name}' is no structure for {path}: name them without the background.")
        if key in seen:
            raise ModelError(f"Two structures for {path} share the name {key}: '{seen[key]}' and '{name}'.")
        seen[key] = name


def _summary(options: KerasImport, label_set: LabelSet) -> str:
    return options.summary or f"{', '.join(label_set.names)} ({options.modality})"


def _provenance(path: Path, options: KerasImport, source: str, arrays: KerasArrays, names_assumed: bool) -> Provenance:
    """Return where the weights come from and what was assumed of them."""
    digest, size = _digest(path)
    return Provenance(
        command=told_command(
            "models import", {"background": options.background, "spacing_mm": float(options.spacing_mm)}
        ),
        seed=None,
        code_version=code_version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        configuration={
            # The file's name at its source: what it is called on this computer may name a patient.
            "imported_from": {"file": published_name(source), "sha256": digest, "bytes": size, "source": source},
            "written_by": {"keras": arrays.keras_version, "backend": arrays.backend},
            "background_channel": options.background,
            "structure_names_assumed": names_assumed,
            "layers_checked": arrays.layers_checked,
        },
    )


def _digest(path: Path) -> tuple[str, int]:
    """Return a file's SHA-256 in hexadecimal and its size in bytes; raises ModelError when it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
