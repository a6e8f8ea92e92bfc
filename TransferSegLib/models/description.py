"""What ``model.json`` says of a model: everything needed to use it without guessing, and where it came from.

Nothing here needs torch, so that models can be listed and described without it. The format, field by field, is in
``docs/model-format.md``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from TransferSegLib import safe_json
from TransferSegLib.doubt.calibration import DoubtCalibration
from TransferSegLib.errors import ModelError, TransferSegError
from TransferSegLib.fit.profile import FitProfile
from TransferSegLib.images.intensity import IntensityRule
from TransferSegLib.images.preparation import LPS, Preparation
from TransferSegLib.json_fields import checked, names, whole
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.interface import Backbone, NetworkSpec
from TransferSegLib.structures import LARGEST_LABEL, LabelSet

#: The entry ``format`` of every model.json.
FORMAT = "transferseg-model"
#: The version written here; older ones are read, newer ones refused.
FORMAT_VERSION = 2
_MOST_FOLDS = 20
_NAME = re.compile(r"[^\W_][^/\\:*?\"<>|\x00-\x1f\x7f]{0,99}")


@dataclass(frozen=True)
class Provenance:
    """How a model was made: the command, its seed and configuration, the code, the date and the model it started from.

    ``created`` is an ISO date, with or without a time. ``parent`` names a model and its version, None for one trained
    from random weights.
    """

    command: str
    seed: int | None
    code_version: str
    created: str
    parent: str | None = None
    configuration: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ModelError for a field of the wrong kind."""
        _text("command", self.command)
        _text("code version", self.code_version)
        if self.seed is not None:
            whole(self.seed, "The model's seed", 0, 2**64 - 1, error=ModelError)
        if self.parent is not None:
            _text("parent", self.parent)
        _object("configuration", self.configuration)
        try:
            datetime.fromisoformat(_text("date of creation", self.created))
        except ValueError as error:
            raise ModelError(f"The model's date of creation '{self.created}' is not an ISO date.") from error

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "command": self.command,
            "seed": self.seed,
            "code_version": self.code_version,
            "created": self.created,
            "parent": self.parent,
            "configuration": finite(self.configuration),
        }

    @staticmethod
    def from_json(entry: Any) -> Provenance:
        """Read a description written by ``to_json``; raises ModelError when it is not one."""
        entry = _object("provenance", entry)
        return Provenance(
            command=_required(entry, "command"),
            seed=_required(entry, "seed"),
            code_version=_required(entry, "code_version"),
            created=_required(entry, "created"),
            parent=entry.get("parent"),
            configuration=_object("configuration", entry.get("configuration", {})),
        )


@dataclass(frozen=True)
class ModelDescription:
    """A model in words and numbers; see ``docs/model-format.md``.

    ``preparation`` is the grid and the intensities that the network works on, ``spacing_inferred`` tells that the
    spacing was concluded from other things than the model's makers' word. ``single_part`` names the structures
    of which only the largest connected part is kept. ``metrics`` holds results by data set, e.g.
    ``{"validation": {"cases": 20, "dice": {"brainstem": 0.81}}}``; a Dice that was not measured is null. ``fit`` is
    what a scan's fit is checked against, None for a model without it. ``folds`` counts the networks, alike but for
    their weights, whose logits are averaged. ``regions`` holds, for structures that overlap (as in BraTS), the label
    values that each consists of: each then has an output of the network, the background has none, and a voxel gets the
    label of the last structure that it belongs to. ``doubt`` is how often the model is wrong by its margin, None where
    that was not counted.
    """

    name: str
    version: str
    label_set: LabelSet
    preparation: Preparation
    network: NetworkSpec
    modality: str
    summary: str
    license: str
    training_data: str
    citation: str
    metrics: dict[str, Any]
    provenance: Provenance
    spacing_inferred: bool = False
    single_part: tuple[str, ...] = ()
    fit: FitProfile | None = None
    folds: int = 1
    regions: tuple[tuple[int, ...], ...] = ()
    doubt: DoubtCalibration | None = None

    def __post_init__(self) -> None:
        """Raise ModelError for a field that is out of range or contradicts another."""
        if not is_model_name(_text("name", self.name)):
            raise ModelError(
                f"'{self.name}' cannot be a model's name: use up to 100 letters, digits, spaces and dashes, "
                "beginning with a letter or digit."
            )
        if not _text("version", self.version).strip():
            raise ModelError(f"The model '{self.name}' has no version.")
        for what in ("modality", "summary", "license", "training_data", "citation"):
            _text(what, getattr(self, what))
        checked(self.spacing_inferred, "The model's entry 'spacing_inferred'", bool, error=ModelError)
        unknown = [name for name in self.single_part if self.label_set.find(name) is None]
        if unknown:
            raise ModelError(f"The model's entry 'single_part' names unknown structures: {', '.join(unknown)}.")
        _check_metrics(self.metrics)
        whole(self.folds, "The model's number of folds", 1, _MOST_FOLDS, error=ModelError)
        tiling = backbone_of(self.network).tiling  # raises for a network that cannot be built
        if self.folds > 1 and tiling.blend == "exact":
            raise ModelError(f"A network of the kind '{self.network.kind}' cannot have several folds.")
        if self.network.channels != len(self.preparation.channels):
            raise ModelError(
                f"The model's network has {self.network.channels} input channels, its preparation makes "
                f"{len(self.preparation.channels)}."
            )
        if self.regions:
            self._check_regions()
        elif self.network.classes != self.label_set.classes:
            raise ModelError(
                f"The model's network has {self.network.classes} classes, but {len(self.label_set)} structures and "
                f"the background make {self.label_set.classes}."
            )

    def _check_regions(self) -> None:
        """Raise ModelError unless there are regions for all structures and outputs for all regions."""
        if self.backbone.tiling.blend == "exact":
            raise ModelError(f"A network of the kind '{self.network.kind}' cannot have regions.")
        if len(self.regions) != len(self.label_set) or self.network.classes != len(self.regions):
            raise ModelError(
                f"The model has {len(self.label_set)} structures, {len(self.regions)} regions and "
                f"{self.network.classes} outputs; the numbers must be the same."
            )
        for structure, values in zip(self.label_set, self.regions, strict=True):
            if not values:
                raise ModelError(f"The model's region '{structure.name}' has no label values.")
            for value in values:
                whole(value, f"A label value of the region '{structure.name}'", 1, LARGEST_LABEL, error=ModelError)

    @property
    def own_labels(self) -> dict[str, tuple[int, ...]]:
        """The values in label maps that each structure consists of."""
        values = self.regions or tuple((structure.label,) for structure in self.label_set)
        return dict(zip(self.label_set.names, values, strict=True))

    def check_single_structures(self, what: str) -> None:
        """Raise ModelError, saying what cannot be done, for a model of regions or of several images of a scan."""
        if self.regions:
            raise ModelError(f"{what} is not possible yet with '{self.name}', whose structures overlap (regions).")
        self.check_one_image(what)

    def check_one_image(self, what: str) -> None:
        """Raise ModelError, saying what cannot be done, for a model of several images of a scan."""
        if self.preparation.image_count > 1:
            images = ", ".join(self.preparation.image_names)
            raise ModelError(f"{what} is not possible yet with '{self.name}', which takes several images: {images}.")

    @property
    def backbone(self) -> Backbone:
        """The model's network behind the interface of its family."""
        return backbone_of(self.network)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description; numbers in ``metrics`` that are not finite become null."""
        entry = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "version": self.version,
            "summary": self.summary,
            "modality": self.modality,
            "structures": self.label_set.to_json(),
            "preparation": self.preparation.to_json(),
            "spacing_inferred": self.spacing_inferred,
            "network": _network_to_json(self.network),
            "license": self.license,
            "training_data": self.training_data,
            "citation": self.citation,
            "single_part": list(self.single_part),
            "metrics": finite(self.metrics),
            "provenance": self.provenance.to_json(),
        }
        if self.folds > 1:
            entry["folds"] = self.folds
        if self.regions:
            entry["regions"] = [list(values) for values in self.regions]
        if self.doubt is not None:
            entry["doubt"] = self.doubt.to_json()
        return entry if self.fit is None else entry | {"fit": self.fit.to_json()}

    @staticmethod
    def from_json(entry: Any) -> ModelDescription:
        """Read a description written by ``to_json``, ignoring entries this version does not know.

        Raises ModelError saying which entry is missing, wrong or newer than this version.
        """
        entry = _object("description", entry)
        if entry.get("format") != FORMAT:
            raise ModelError(
                f"This is not the description of a TransferSeg model: its entry 'format' is not '{FORMAT}'."
            )
        version = _format_version(entry)
        try:
            label_set = LabelSet.from_json(_required(entry, "structures"))
        except ModelError:
            raise
        except (TransferSegError, OverflowError) as error:
            raise ModelError(f"The model's structures cannot be read. {error}") from error
        return ModelDescription(
            name=_required(entry, "name"),
            version=_required(entry, "version"),
            label_set=label_set,
            preparation=_preparation_of_format_1(entry)
            if version == 1
            else Preparation.from_json(_required(entry, "preparation")),
            network=_network_from_json(_required(entry, "network"), version),
            modality=_required(entry, "modality"),
            summary=_required(entry, "summary"),
            license=_required(entry, "license"),
            training_data=_required(entry, "training_data"),
            citation=_required(entry, "citation"),
            single_part=names(entry.get("single_part", []), "The model's entry 'single_part'", error=ModelError),
            metrics=_object("metrics", entry.get("metrics", {})),
            provenance=Provenance.from_json(_required(entry, "provenance")),
            spacing_inferred=entry.get("spacing_inferred", False),
            fit=FitProfile.from_json(entry.get("fit")),
            folds=entry.get("folds", 1),
            regions=_regions(entry.get("regions", [])),
            doubt=DoubtCalibration.from_json(entry.get("doubt")),
        )


def is_model_name(name: str) -> bool:
    """Tell whether a model can have this name: it must do as a folder's name on every system."""
    return _NAME.fullmatch(name) is not None and name == name.strip(" .")


def finite(value: Any) -> Any:
    """Return JSON-like data with every number that is not finite as None: JSON has no word for it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


def parse_json(text: bytes, source: str) -> Any:
    """Return the content of a JSON file; raises ModelError naming ``source``.

    >>> parse_json(b'{"a": 1}', "model.json")
    {'a': 1}
    """
    try:
        return safe_json.parse(text)
    except ValueError as error:
        raise ModelError(f"{source} is not valid JSON ({error}): the model is damaged. Get it again.") from error


def _format_version(entry: Mapping[str, Any]) -> int:
    """Return the version of a description's format; raises ModelError when it is not one this version reads."""
    version = whole(_required(entry, "format_version"), "The model's format version", 1, error=ModelError)
    if version > FORMAT_VERSION:
        raise ModelError(
            f"The model was made by a newer TransferSeg (model format {version}; this version reads up to "
            f"{FORMAT_VERSION}). Update TransferSeg to use it."
        )
    return version


def _preparation_of_format_1(entry: Mapping[str, Any]) -> Preparation:
    """Return the preparation of a model of format 1: LPS axes, one spacing, one channel."""
    if _required(entry, "axes") != LPS:
        raise ModelError(f"The model's axes are {entry['axes']!r}; format 1 knows '{LPS}' only.")
    spacing_mm = _required(entry, "spacing_mm")
    try:
        rule = IntensityRule.from_json(_required(entry, "intensity"))
    except OverflowError as error:
        raise ModelError(f"The model's intensity rule cannot be read. {error}") from error
    return Preparation((spacing_mm, spacing_mm, spacing_mm), (rule,))


def _network_to_json(network: NetworkSpec) -> dict[str, Any]:
    return {
        "kind": network.kind,
        "channels": network.channels,
        "classes": network.classes,
        "arguments": network.arguments,
    }


def _network_from_json(entry: Any, version: int) -> NetworkSpec:
    """Read a network's description; in format 1 its one argument, ``width``, lies beside the others."""
    entry = _object("network", entry)
    kind, classes = _text("network kind", _required(entry, "kind")), _required(entry, "classes")
    if version == 1:
        return NetworkSpec(kind=kind, classes=classes, arguments={"width": _required(entry, "width")})
    arguments = _object("network arguments", _required(entry, "arguments"))
    return NetworkSpec(kind=kind, classes=classes, channels=_required(entry, "channels"), arguments=arguments)


def _regions(entry: Any) -> tuple[tuple[int, ...], ...]:
    """Return the label values of every region; raises ModelError for what is no list of lists."""
    if not isinstance(entry, list) or not all(isinstance(values, list) for values in entry):
        raise ModelError("The model's entry 'regions' must hold a list of label values for each structure.")
    return tuple(tuple(values) for values in entry)


def _required(entry: Mapping[str, Any], key: str) -> Any:
    """Return an entry of any kind; raises ModelError when it is missing."""
    if key not in entry:
        raise ModelError(f"The model's description lacks the entry '{key}'.")
    return entry[key]


def _object(what: str, value: Any) -> dict[str, Any]:
    """Return a set of named entries; raises ModelError for anything else."""
    return dict(checked(value, f"The model's {what}", dict, error=ModelError))


def _text(what: str, value: Any) -> str:
    """Return a text; raises ModelError for anything else."""
    return str(checked(value, f"The model's entry '{what}'", str, error=ModelError))


def _check_metrics(metrics: Any) -> None:
    """Raise ModelError unless metrics are results by data set, with ``dice`` by structure where there is one."""
    for data_set, results in _object("metrics", metrics).items():
        scores = _object(f"metrics of '{data_set}'", results).get("dice", {})
        for structure, score in _object(f"Dice of '{data_set}'", scores).items():
            checked(score, f"The model's Dice of '{structure}'", float, None, error=ModelError)
