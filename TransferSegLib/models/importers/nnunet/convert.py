"""A model of nnU-Net v2 as a model of this library.

>>> source = find_source(Path("nnUNet_results/Dataset004/nnUNetTrainer__nnUNetPlans__3d_fullres"))
>>> description, state = model_from_nnunet(source, "hippocampus")
"""

from __future__ import annotations

import hashlib
import io
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from TransferSegLib.anatomy import describe_structure, readable_name
from TransferSegLib.errors import ModelError, TransferSegError
from TransferSegLib.models.description import ModelDescription, Provenance
from TransferSegLib.models.importers.nnunet.plans import read_plans
from TransferSegLib.models.importers.nnunet.source import NnUNetSource
from TransferSegLib.models.leaving import told_command
from TransferSegLib.networks.nnunet.backbone import nnunet_spec
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet
from TransferSegLib.version import code_version

if TYPE_CHECKING:
    import torch

_NOT_STATED = "not stated"
_CITATION = (
    "Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, "
    "Nature Methods 18 (2021), and whoever trained the model"
)


def model_from_nnunet(
    source: NnUNetSource, name: str, fold: str | None = None, task: Task | None = None
) -> tuple[ModelDescription, dict[str, torch.Tensor]]:
    """Return the description and the float32 weights of one fold (None: the first one), ready for ``save_model``.

    Raises ModelError for what cannot be used here, naming the file and the reason; Cancelled from the task.
    """
    from TransferSegLib.models.importers.nnunet.checkpoint import read_checkpoint, state_of

    chosen = _fold(source, fold)
    reading, converting = (task or Task()).split(3, 1)
    content = reading.wait(lambda: source.checkpoint(chosen))
    where = f"{source.path}: {source.folds[chosen]}"
    checkpoint = converting.wait(lambda: read_checkpoint(io.BytesIO(content), where))
    model = read_plans(source.json(source.plans), source.json(source.dataset), checkpoint.configuration)
    spec = nnunet_spec(model.plan, len(model.preparation.channels), len(model.labels) + 1)
    names = [readable_name(label.replace("_", " ")) for label in model.labels]
    try:
        label_set = LabelSet(tuple(describe_structure(label, number) for number, label in enumerate(names, start=1)))
    except TransferSegError as error:
        raise ModelError(f"The structures of {source.path} cannot be used. {error}") from error
    description = ModelDescription(
        name=name,
        version="1",
        label_set=label_set,
        preparation=model.preparation,
        network=spec,
        modality=model.modality,
        summary=f"{', '.join(names[:6])}{' ...' if len(names) > 6 else ''} ({model.modality}); trained by nnU-Net",
        license=_NOT_STATED,
        training_data=_NOT_STATED,
        citation=_CITATION,
        metrics={},
        provenance=_provenance(content, chosen, len(source.folds), checkpoint.trainer, checkpoint.configuration),
    )
    return description, state_of(checkpoint, spec, where)


def _fold(source: NnUNetSource, fold: str | None) -> str:
    """Return the fold that is imported."""
    if fold is None:
        return next(iter(source.folds))
    if fold not in source.folds:
        raise ModelError(f"{source.path} has no fold {fold}, only {', '.join(source.folds)}.")
    return fold


def _provenance(content: bytes, fold: str, folds: int, trainer: str, configuration: str) -> Provenance:
    """Return where the weights come from."""
    imported: dict[str, Any] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return Provenance(
        command=told_command("models import", {}),
        seed=None,
        code_version=code_version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        configuration={
            "imported_from": imported | {"fold": fold, "folds": folds},
            "trained_by": {"trainer": trainer, "configuration": configuration},
        },
    )
