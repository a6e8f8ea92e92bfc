"""A model of nnU-Net v2 as a model of this library.

>>> source = find_source(Path("nnUNet_results/Dataset004/nnUNetTrainer__nnUNetPlans__3d_fullres"))
>>> description, state = model_from_nnunet(source, "hippocampus")
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from TransferSegLib.anatomy import describe_structure, readable_name
from TransferSegLib.errors import ModelError, TransferSegError
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.images.stored_axes import named_axes
from TransferSegLib.models.description import ModelDescription, Provenance
from TransferSegLib.models.folds import joined_folds
from TransferSegLib.models.importers.nnunet.isolated import read_checkpoint_isolated
from TransferSegLib.models.importers.nnunet.plans import NnUNetModel, read_plans
from TransferSegLib.models.importers.nnunet.source import NnUNetSource
from TransferSegLib.models.leaving import told_command
from TransferSegLib.networks.nnunet.backbone import nnunet_spec
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet
from TransferSegLib.version import code_version

if TYPE_CHECKING:
    import torch

    from TransferSegLib.models.importers.nnunet.checkpoint import NnUNetCheckpoint

_NOT_STATED = "not stated"
_CITATION = (
    "Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, "
    "Nature Methods 18 (2021), and whoever trained the model"
)


def model_from_nnunet(
    source: NnUNetSource, name: str, fold: str | None = None, task: Task | None = None, axes: str | None = None
) -> tuple[ModelDescription, dict[str, torch.Tensor]]:
    """Return the description and the float32 weights of one fold (None: of all folds), ready for ``save_model``.

    ``axes`` says in which directions the axes of the training files ran as stored ('RAS'), None: it is not known and
    scans are taken as they are stored. Raises ModelError for what cannot be used here, naming the file and the reason;
    Cancelled from the task.
    """
    from TransferSegLib.models.importers.nnunet.checkpoint import state_of

    chosen = _folds(source, fold)
    states: list[dict[str, torch.Tensor]] = []
    files: list[dict[str, Any]] = []
    for part, name_of_fold in zip((task or Task()).split(*(1.0 for _ in chosen)), chosen, strict=True):
        read = read_checkpoint_isolated(source, name_of_fold, part)
        if not states:
            first = read.content
            model = read_plans(source.json(source.plans), source.json(source.dataset), first.configuration)
            plan = replace(model.plan, mirror_axes_zyx=first.mirror_axes_zyx)
            spec = nnunet_spec(plan, len(model.preparation.channels), model.outputs)
        states.append(state_of(read.content, spec, f"{source.path}: {source.folds[name_of_fold]}"))
        files.append({"fold": name_of_fold, "sha256": read.sha256, "bytes": read.size})
        if source.is_unfinished(name_of_fold):
            files[-1]["unfinished"] = True
    names = [readable_name(" ".join(label.replace("_", " ").split())) for label in model.labels]
    try:
        label_set = LabelSet(tuple(map(describe_structure, names, model.values)))
    except TransferSegError as error:
        raise ModelError(
            f"The structures of {source.path} cannot be used. {error} Rename them in its dataset.json."
        ) from error
    description = ModelDescription(
        name=name,
        version="0",  # as it is called once versions made from it are there
        label_set=label_set,
        preparation=_with_axes(model, axes, source),
        network=spec,
        modality=model.modality,
        summary=f"{', '.join(names[:6])}{' ...' if len(names) > 6 else ''} ({model.modality}); trained by nnU-Net",
        license=_NOT_STATED,
        training_data=_NOT_STATED,
        citation=_CITATION,
        metrics={},
        provenance=_provenance(files, first),
        folds=len(states),
        regions=model.regions,
    )
    return description, joined_folds(states)


def _with_axes(model: NnUNetModel, axes: str | None, source: NnUNetSource) -> Preparation:
    """Return how scans are prepared, with the axes of the training files where they are told."""
    if axes is None:
        return model.preparation
    if model.axes_are_known:
        raise ModelError(
            f"The plans of {source.path} say themselves that it takes {model.preparation.axes} axes: leave out --axes."
        )
    if len(axes) != 3:
        raise ModelError(f"'{axes}' does not name three axes: give letters such as RAS or LPS.")
    return replace(model.preparation, axes=named_axes(model.preparation.axes, axes.upper()))


def _folds(source: NnUNetSource, fold: str | None) -> tuple[str, ...]:
    """Return the folds that are imported."""
    if fold is None:
        return source.usual_folds
    if fold not in source.folds:
        raise ModelError(f"{source.path} has no fold {fold}, only {', '.join(source.folds)}.")
    return (fold,)


def _provenance(files: list[dict[str, Any]], first: NnUNetCheckpoint) -> Provenance:
    """Return where the weights come from."""
    return Provenance(
        command=told_command("models import", {}),
        seed=None,
        code_version=code_version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        configuration={
            "imported_from": {"checkpoints": files},
            "trained_by": {"trainer": first.trainer, "configuration": first.configuration},
        },
    )
