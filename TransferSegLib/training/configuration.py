"""Every setting of training a base model, in one small object that is stored with the model it made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any

from TransferSegLib.errors import TrainingError

#: Families of networks that a base can be trained with (``NetworkSpec.kind``).
UNET_VALID, NNUNET = "unet3d-valid", "nnunet"
#: Settings that describe the network and its grid; a model that the training begins with has its own.
NETWORK_SETTINGS = ("network", "width", "levels", "spacing_mm", "spacing_z_mm")
#: Seeds are at most this: what is added to them on the way still fits into torch's 64 bits.
MOST_SEED = 2**62


def as_whole_number(value: object) -> int | None:
    """Return a number as an int, None when it is not whole or no number; JSON may say 1.0 or 2e2."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    if isinstance(value, Integral):
        return int(value)
    return int(float(value)) if float(value).is_integer() else None


def take_whole_numbers(settings: Any, what: str) -> None:
    """Make an int of every whole number of a frozen dataclass that is to be one; raises TrainingError for others."""
    for one in fields(settings):
        if str(one.type) != "int":
            continue
        value = getattr(settings, one.name)
        whole = as_whole_number(value)
        if whole is None:
            raise TrainingError(f"The setting {one.name} of {what} must be a whole number, not {value!r}.")
        object.__setattr__(settings, one.name, whole)


@dataclass(frozen=True)
class AugmentationConfiguration:
    """How patches are varied. Lengths are fractions or degrees; intensities are in units of the prepared scan."""

    #: Every patch is turned about each axis by up to so many degrees.
    rotation_degrees: float = 12.0
    #: Every patch is scaled by a factor between 1 / (1 + scaling) and 1 + scaling, a little differently per axis.
    scaling: float = 0.2
    #: Probability of exchanging left and right; structures whose names differ by side change places with the image.
    mirror: float = 0.0
    #: Probability of each intensity change: contrast and brightness, gamma, noise, low resolution.
    intensity: float = 0.25
    #: Largest relative change of contrast; brightness moves by up to half of it.
    contrast: float = 0.25
    #: Largest change of the exponent in gamma correction.
    gamma: float = 0.3
    #: Largest standard deviation of added noise.
    noise: float = 0.1
    #: Largest factor by which resolution is lowered along each axis.
    low_resolution: float = 1.8
    #: Probability of inverted contrast, and of a random rising curve of ``curve_points`` knots over the intensities:
    #: for models that must cross to another modality.
    inversion: float = 0.0
    intensity_curve: float = 0.0
    curve_points: int = 6

    def __post_init__(self) -> None:
        """Raise TrainingError, naming the setting, for values that cannot work."""
        take_whole_numbers(self, "the augmentation")
        wrong = [
            f"{name} must be between 0 and 1, not {getattr(self, name)}"
            for name in ("mirror", "intensity", "inversion", "intensity_curve")
            if not 0 <= getattr(self, name) <= 1
        ]
        if self.curve_points < 3:
            wrong.append(f"curve_points must be 3 or more, not {self.curve_points}")
        if wrong:
            raise TrainingError("The augmentation does not work: " + "; ".join(wrong) + ".")


@dataclass(frozen=True)
class TrainingConfiguration:
    """The settings of ``train-base``. The defaults train a small, good model on a CPU within some hours."""

    #: Family of the network: ``unet3d-valid`` is the paper's, ``nnunet`` nnU-Net's plain U-Net (normalised).
    network: str = UNET_VALID
    #: Filters of the first convolution; 32 is the paper's network (16.3 M weights), 16 a quarter of it.
    width: int = 16
    #: Resolutions of nnU-Net's network, each half of the one before; the paper's always has 4.
    levels: int = 5
    #: Voxel spacing of the canonical grid in mm, and along z where that is another one (0: the same).
    spacing_mm: float = 3.0
    spacing_z_mm: float = 0.0
    #: Optimisation steps, and patches in each.
    steps: int = 4000
    batch: int = 1
    #: Side of a training patch in voxels, a multiple of 8.
    patch: int = 64
    #: Frame of every patch, in voxels, in which the loss is not counted: there the network sees zeros for context.
    frame: int = 4
    #: Networks with several heads learn at coarser resolutions, too: each weighs so much of the next finer one
    #: (nnU-Net: 0.5). 0: at full resolution only.
    deep_supervision: float = 0.0
    #: Share of patches drawn anywhere; the others hold a voxel of a structure, every structure equally often.
    background_share: float = 0.1
    #: Highest learning rate (Muon's), reached after ``warm_up`` steps.
    learning_rate: float = 0.02
    warm_up: int = 50
    #: The rate falls as a cosine to zero over this share of the steps, the last ones. With a small share a run can be
    #: resumed with more steps as often as wanted.
    decay_share: float = 1.0
    #: How far steps follow the size of a layer's weights: 0 not at all, 1 in proportion (``optimiser.relative_sizes``).
    size_share: float = 0.0
    #: AdamW's learning rate (of heads, biases and the first convolution) as a share of Muon's. 0: a twentieth, or a
    #: quarter for networks with normalisation.
    adam_share: float = 0.0
    #: Far more than usual: without normalisation the weights grow to several times their fresh size otherwise, and
    #: such a base reaches a lower Dice and is worse to fine-tune (docs/training.md).
    weight_decay: float = 0.3
    #: Gradients are scaled down to this norm.
    gradient_norm: float = 1.0
    #: The model that is kept is a running average of the weights over about 1 / (1 - average) steps.
    average: float = 0.995
    #: Share of the cases kept for validation, at least one; they are never trained on.
    validation_share: float = 0.12
    #: Validate and write a checkpoint every so many steps.
    validate_every: int = 500
    checkpoint_every: int = 100
    seed: int = 1
    augmentation: AugmentationConfiguration = AugmentationConfiguration()

    def __post_init__(self) -> None:
        """Raise TrainingError, naming the setting, for values that cannot work."""
        take_whole_numbers(self, "training")
        wrong = [
            f"{name} must be {rule}, not {getattr(self, name)}"
            for name, rule, holds in (
                ("width", "1 or more", self.width >= 1),
                ("network", f"{UNET_VALID} or {NNUNET}", self.network in (UNET_VALID, NNUNET)),
                ("levels", "between 2 and 8", 2 <= self.levels <= 8),
                ("spacing_mm", "above 0", self.spacing_mm > 0),
                ("spacing_z_mm", "0 or more", self.spacing_z_mm >= 0),
                ("decay_share", "above 0 and at most 1", 0 < self.decay_share <= 1),
                ("steps", "1 or more", self.steps >= 1),
                ("batch", "1 or more", self.batch >= 1),
                ("patch", "1 or more", self.patch >= 1),
                ("frame", "between 0 and a quarter of the patch", 0 <= self.frame <= self.patch // 4),
                ("background_share", "between 0 and 1", 0 <= self.background_share <= 1),
                ("learning_rate", "above 0", self.learning_rate > 0),
                ("size_share", "between 0 and 1", 0 <= self.size_share <= 1),
                ("adam_share", "between 0 and 1", 0 <= self.adam_share <= 1),
                ("deep_supervision", "between 0 and 1", 0 <= self.deep_supervision <= 1),
                ("average", "between 0 and 1", 0 <= self.average < 1),
                ("validation_share", "between 0 and 0.9", 0 <= self.validation_share <= 0.9),
                ("validate_every", "1 or more", self.validate_every >= 1),
                ("checkpoint_every", "1 or more", self.checkpoint_every >= 1),
                ("seed", f"between 0 and {MOST_SEED}", 0 <= self.seed <= MOST_SEED),
            )
            if not holds
        ]
        if wrong:
            raise TrainingError("The training configuration does not work: " + "; ".join(wrong) + ".")

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        """The voxel spacing along z, y and x."""
        return self.spacing_z_mm or self.spacing_mm, self.spacing_mm, self.spacing_mm

    @property
    def decay_from(self) -> int:
        """The step from which on the learning rate falls."""
        return max(self.warm_up, round((1 - self.decay_share) * self.steps))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary of every setting."""
        return asdict(self)

    @staticmethod
    def from_json(entry: dict[str, Any]) -> TrainingConfiguration:
        """Read a dictionary of settings; those left out keep their defaults, unknown ones raise TrainingError."""
        return TrainingConfiguration(**read_settings(entry, TrainingConfiguration, "training"))


def read_settings(entry: dict[str, Any], kind: type, what: str) -> dict[str, Any]:
    """Return a dictionary's settings as arguments of a configuration, ``augmentation`` as an object.

    Raises TrainingError for a setting that is not there, or a value of the wrong kind; ``what`` names the training.
    """
    values = dict(entry)
    augmentation = values.pop("augmentation", {})
    if not isinstance(augmentation, AugmentationConfiguration):
        _check_kinds(augmentation, AugmentationConfiguration, what)
        augmentation = AugmentationConfiguration(**augmentation)
    _check_kinds(values, kind, what)
    return values | {"augmentation": augmentation}


def _check_kinds(values: dict[str, Any], kind: type, what: str) -> None:
    """Raise TrainingError for a setting that is not there, or a value of the wrong kind."""
    known = {one.name: str(one.type) for one in fields(kind)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise TrainingError(f"Unknown setting of {what}: {', '.join(unknown)}. Known are: {', '.join(known)}.")
    for name, value in values.items():
        wanted = known[name]
        if value is None and wanted.endswith("None"):
            continue
        wanted = wanted.removesuffix(" | None")
        if wanted == "str":
            kind_text = None if isinstance(value, str) else "a word"
        elif wanted == "bool":
            kind_text = None if isinstance(value, bool) else "true or false"
        elif wanted.startswith("IntensityRule"):
            continue
        elif isinstance(value, bool) or not isinstance(value, Real):
            kind_text = "a number"
        else:
            kind_text = "a whole number" if wanted == "int" and as_whole_number(value) is None else None
        if kind_text is not None:
            raise TrainingError(f"The setting {name} of {what} must be {kind_text}, not {value!r}.")
