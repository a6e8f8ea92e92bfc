"""Every setting of adapting a model to corrected cases, in one small object that is stored with the model it made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from TransferSegLib.errors import ModelError, TrainingError
from TransferSegLib.finetuning.strategies import AUTO, STRATEGIES, Strategy, strategy_of
from TransferSegLib.images.intensity import IntensityRule
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.networks.interface import NetworkSpec
from TransferSegLib.training.configuration import (
    MOST_SEED,
    AugmentationConfiguration,
    read_settings,
    take_whole_numbers,
)

#: More steps than any run makes.
UNLIMITED_STEPS = 10_000_000
HEAD_STARTS = ("auto", "data", "random")
#: A ``spacing_mm`` that keeps the parent's grid also where the cases ask for another one.
PARENT_SPACING = "parent"
#: A spacing in mm: the same along all axes, or x, y, z.
Spacing = float | tuple[float, float, float]


@dataclass(frozen=True)
class FineTuningConfiguration:
    """The settings of ``adapt``. A stage ends at its number of steps or when its minutes are up, whichever is first.

    With ``minutes`` 0 a run depends on nothing but its cases, its seed and the machine's arithmetic; the same numbers
    of ``steps``, or the same ``minutes``, give every strategy the same to spend.
    """

    #: ``finetune`` (last layers first, then all), ``vanilla`` (all weights from the parent, all updated at once) or
    #: ``scratch`` (random weights): the paper's three ways. ``auto``: the one that does best on held-out cases, chosen
    #: by ``finetune``; ``adapt`` does not know it.
    strategy: str = "finetune"
    #: How the channels of new, merged and split structures start: fitted to the ``data``, ``random``, or ``auto``:
    #: data for finetune, random for vanilla, as published.
    head_start: str = "auto"
    #: Minutes for everything but the final report, 0 for no limit.
    minutes: float = 5.0
    #: Share of the minutes after which stage 1 ends, and the share of those that computing features may take.
    tail_minutes_share: float = 0.35
    cache_minutes_share: float = 0.6
    #: Stage 1: optimisation steps on cached features, patches in each, highest rate (Muon's).
    tail_steps: int = 300
    tail_batch: int = 1
    tail_rate: float = 0.005
    #: Which layers stage 1 trains: the ``last convolution`` and the head (the paper's) or the ``last pair`` and the
    #: head. ``auto``: the last pair where there is much to learn, as one convolution cannot make a new structure of
    #: the features of others; else the last convolution.
    tail: str = AUTO
    #: Stage 1 classifies cubes of so many voxels a side; each is computed with all its context, as in predicting.
    tail_patch: int = 36
    #: Augmented patches cached per training case at most, and bytes of features; beyond ``memory_bytes`` on disk.
    patches_per_case: int = 16
    cache_bytes: float = 1.5e9
    memory_bytes: float = 1.5e9
    #: Stage 2 (and vanilla and scratch): optimisation steps of all weights, and patches in each. The default is for
    #: runs without minutes: those with minutes make as many as they have time for (``ended_by``).
    steps: int = 400
    batch: int = 1
    #: Highest rate of stage 2, of vanilla and of scratch.
    full_rate: float = 0.004
    #: Instead of ``full_rate`` and ``tail_rate`` where there is much to learn: new structures, or another grid or
    #: intensity rule.
    new_rate: float = 0.02
    new_tail_rate: float = 0.02
    vanilla_rate: float = 0.01
    scratch_rate: float = 0.02
    #: Highest rate of all layers for a parent that is itself still learning (``continuation``).
    continued_rate: float = 0.01
    #: Weights that come from the parent are larger than fresh ones, so that steps of one size turn them less: 0 leaves
    #: it at that, 1 makes steps in proportion. Never for ``scratch``.
    size_share: float = 1.0
    #: AdamW's learning rate (of heads, biases and the first convolution) as a share of Muon's; 0: a twentieth, or a
    #: quarter for networks with normalisation (docs/measurements.md).
    adam_share: float = 0.05
    #: Side of a patch of stage 2 in voxels, a multiple of 8, and the frame in which its loss is not counted.
    patch: int = 64
    frame: int = 4
    #: Stage 2 learns at the coarser resolutions of networks with several heads, too: each weighs so much of the next
    #: finer one (nnU-Net: 0.5). 0: at full resolution only.
    deep_supervision: float = 0.0
    #: Share of patches drawn anywhere; the others hold a voxel of an annotated structure.
    background_share: float = 0.1
    #: Steps until the highest rate is reached; afterwards it falls as a cosine to zero.
    warm_up: int = 10
    weight_decay: float = 0.01
    gradient_norm: float = 1.0
    #: What is kept is a running average of the weights over about 1 / (1 - average) steps.
    average: float = 0.98
    #: Weight of the loss that holds structures without annotation to the parent's predictions; 0: they are let go.
    distillation: float = 1.0
    #: Where the parent knows every structure, ``finetune`` keeps the mean of its weights and the trained ones if
    #: held-out cases are better for it.
    blend: bool = True
    #: With validation cases: steps of stage 2 between validations; it ends after so many without a better one.
    validate_every: int = 100
    patience: int = 3
    checkpoint_every: int = 100
    #: Training cases on whose whole volumes forgetting is measured; 0: not at all.
    report_cases: int = 3
    #: The grid: one number of mm, or three (x, y, z). None: the parent's, but where all structures are new the plan
    #: chooses what they need, and a patch, if that is not another than usual; 'parent': the parent's there, too.
    spacing_mm: Spacing | str | None = None
    #: Intensities, where the new scans ask for other than the parent's (another modality).
    intensity: IntensityRule | None = None
    #: Filters of the first convolution for ``scratch``; 0: as many as the parent has.
    scratch_width: int = 0
    #: Whether structures, grid or intensity rule are new, or were when the parent was made. It is settled by
    #: ``for_change`` and ``continuation`` (None: not yet) and kept with the model for those who continue it. False: the
    #: parent is continued as one that was trained on many scans.
    much_to_learn: bool | None = None
    seed: int = 1
    augmentation: AugmentationConfiguration = field(default_factory=AugmentationConfiguration)

    def __post_init__(self) -> None:
        """Raise TrainingError, naming every setting whose value cannot work."""
        take_whole_numbers(self, "fine-tuning")
        wrong = [
            f"{name} must be {rule}, not {getattr(self, name)!r}" for name, rule, holds in self._rules if not holds
        ]
        if wrong:
            raise TrainingError("The fine-tuning configuration does not work: " + "; ".join(wrong) + ".")

    @property
    def _rules(self) -> list[tuple[str, str, bool]]:
        """Return (setting, rule in words, whether it holds) of every setting that is not checked elsewhere."""
        rules = [
            ("strategy", f"one of {', '.join((*STRATEGIES, AUTO))}", self.strategy in (*STRATEGIES, AUTO)),
            ("head_start", f"one of {', '.join(HEAD_STARTS)}", self.head_start in HEAD_STARTS),
            ("frame", "between 0 and a quarter of the patch", 0 <= self.frame <= self.patch // 4),
            ("background_share", "between 0 and 1", 0 <= self.background_share <= 1),
            ("average", "between 0 and 1", 0 <= self.average < 1),
            ("minutes", "0 (no limit) or more", self.minutes >= 0),
            ("seed", f"between 0 and {MOST_SEED}", 0 <= self.seed <= MOST_SEED),
            ("spacing_mm", f"above 0, three such numbers (x, y, z) or '{PARENT_SPACING}'", self._has_spacing),
        ]
        for name in ("tail_steps", "steps", "warm_up", "report_cases", "scratch_width", "distillation"):
            rules.append((name, "0 or more", getattr(self, name) >= 0))
        for name in (
            "batch",
            "patch",
            "tail_patch",
            "tail_batch",
            "patches_per_case",
            "validate_every",
            "patience",
            "checkpoint_every",
        ):
            rules.append((name, "1 or more", getattr(self, name) >= 1))
        rates = (
            "tail_rate",
            "full_rate",
            "new_rate",
            "new_tail_rate",
            "vanilla_rate",
            "scratch_rate",
            "continued_rate",
        )
        for name in (*rates, "gradient_norm", "cache_bytes"):
            rules.append((name, "above 0", getattr(self, name) > 0))
        for name in ("tail_minutes_share", "cache_minutes_share", "size_share", "adam_share", "deep_supervision"):
            rules.append((name, "between 0 and 1", 0 <= getattr(self, name) <= 1))
        return rules

    @property
    def _has_spacing(self) -> bool:
        """Whether the spacing is one, or none."""
        if isinstance(self.spacing_mm, str):
            return self.spacing_mm == PARENT_SPACING
        sides = self.spacing_mm if isinstance(self.spacing_mm, tuple) else (self.spacing_mm,) * 3
        return len(sides) == 3 and all(side is None or 0 < side < float("inf") for side in sides)

    @property
    def own_spacing_mm(self) -> Spacing | None:
        """The spacing that replaces the parent's, None for the parent's."""
        return None if isinstance(self.spacing_mm, str) else self.spacing_mm

    @property
    def way(self) -> Strategy:
        """What the strategy trains, from which weights and in which order."""
        return strategy_of(self.strategy)

    @property
    def has_tail_stage(self) -> bool:
        """Whether the last layers are trained first, on cached features."""
        return self.way.last_layers_first and self.tail_steps > 0

    @property
    def full_steps(self) -> int:
        """Steps of all layers: none where the strategy ends with the last ones."""
        return self.steps if self.way.all_layers else 0

    @property
    def tail_share(self) -> float:
        """Share of the minutes after which stage 1 ends: all of them where nothing follows it."""
        return self.tail_minutes_share if self.way.all_layers else 1.0

    @property
    def inits_from_data(self) -> bool:
        """Whether channels without a predecessor start from a fit to the data."""
        from_data = self.way.inits_from_data if self.head_start == "auto" else self.head_start == "data"
        return from_data and self.way.from_parent

    @property
    def rate(self) -> float:
        """The highest rate at which all weights are trained."""
        return float(getattr(self, self.way.rate))

    def for_change(self, parent: ModelDescription, any_new: bool) -> FineTuningConfiguration:
        """Return the settings for what is to be learned: tail and rates depend on whether that is much.

        It is where structures are new to the parent, or the grid or the intensities are others than the parent's.
        """
        backbone = parent.backbone
        points = backbone.split_points
        if self.tail not in (AUTO, *points):
            raise TrainingError(
                f"The last layers (tail) must be one of {AUTO}, {', '.join(points)}, not {self.tail!r}."
            )
        backbone.training_patch(self.patch, self.frame)  # raises for patches that the network does not take
        if self.has_tail_stage or self.inits_from_data:
            backbone.feature_patch(self.tail_patch)
        if any_new or self.preparation(parent) != parent.preparation:
            tail = points[-1] if self.tail == AUTO else self.tail
            much = replace(self, tail=tail, much_to_learn=True)
            return replace(much, full_rate=self.new_rate, tail_rate=self.new_tail_rate)
        settings = self if self.way.from_parent else replace(self, much_to_learn=True)
        return replace(settings, tail=points[0]) if self.tail == AUTO else settings

    def preparation(self, parent: ModelDescription) -> Preparation:
        """Return how the cases are prepared for the new model: as for the parent by default."""
        preparation = parent.preparation
        if self.own_spacing_mm is not None:
            preparation = preparation.with_spacing(self.own_spacing_mm)
        return preparation if self.intensity is None else preparation.with_rule(self.intensity)

    def network(self, parent: NetworkSpec, classes: int) -> NetworkSpec:
        """Return the network that is trained: the parent's for so many classes, from scratch perhaps a narrower one."""
        if not self.way.from_parent and self.scratch_width:
            if "width" not in parent.arguments:
                raise TrainingError(f"scratch_width has no meaning for a network of the kind '{parent.kind}'.")
            return replace(parent, classes=classes, arguments=parent.arguments | {"width": self.scratch_width})
        return parent.with_classes(classes)

    def ended_by(self, minutes: float) -> FineTuningConfiguration:
        """Return the settings for a run of so many minutes (0: no limit), over which its plan divides them."""
        has_own_steps = minutes <= 0 or self.steps != FineTuningConfiguration.steps
        return replace(self, minutes=0.0, steps=self.steps if has_own_steps else UNLIMITED_STEPS)

    def with_steps(self, tail_steps: int, steps: int) -> FineTuningConfiguration:
        """Return the same settings with a budget of steps and no clock."""
        return replace(self, minutes=0.0, tail_steps=tail_steps, steps=steps)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary of every setting."""
        spacing = list(self.spacing_mm) if isinstance(self.spacing_mm, tuple) else self.spacing_mm
        intensity = None if self.intensity is None else self.intensity.to_json()
        return asdict(self) | {"spacing_mm": spacing, "intensity": intensity}

    @staticmethod
    def from_json(entry: dict[str, Any]) -> FineTuningConfiguration:
        """Read a dictionary of settings; those left out keep their defaults, unknown ones raise TrainingError."""
        values = dict(entry)
        rule = values.get("intensity")
        try:
            if rule is not None and not isinstance(rule, IntensityRule):
                values["intensity"] = IntensityRule.from_json(rule)
        except ModelError as error:
            raise TrainingError(str(error)) from error
        spacing = values.pop("spacing_mm", None)
        values = read_settings(values, FineTuningConfiguration, "fine-tuning")
        return FineTuningConfiguration(**values, spacing_mm=_spacing_of(spacing))


def _spacing_of(value: Any) -> Spacing | str | None:
    """Return a spacing as JSON has it; raises TrainingError when it is none."""
    if value is None or isinstance(value, str):
        return value
    sides = value if isinstance(value, list | tuple) else [value]
    if len(sides) not in (1, 3) or any(isinstance(side, bool) or not isinstance(side, int | float) for side in sides):
        raise TrainingError(
            f"The setting spacing_mm of fine-tuning must be a number, three (x, y, z) or '{PARENT_SPACING}', not "
            f"{value!r}."
        )
    return sides[0] if len(sides) == 1 else (sides[0], sides[1], sides[2])
