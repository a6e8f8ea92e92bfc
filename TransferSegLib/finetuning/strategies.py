"""The strategies by which a model is adapted. A further one is a ``Strategy`` and a place in ``STRATEGIES``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Strategy:
    """What is trained, from which weights, and in which order.

    ``from_parent``: the network begins with the parent's weights, else with random ones; only then can it be distilled
    from the parent. ``last_layers_first``: the last layers are trained alone, on cached features, before all layers
    are; ``all_layers`` false leaves it at that. ``inits_from_data``: channels without a predecessor are fitted to the
    data, else they begin at random. ``rate`` names the setting of ``FineTuningConfiguration`` that is the highest
    learning rate of all layers.
    """

    name: str
    summary: str
    from_parent: bool = True
    last_layers_first: bool = False
    all_layers: bool = True
    inits_from_data: bool = False
    rate: str = "full_rate"


#: The paper's three ways to a model for new cases, by its names.
FINETUNE, VANILLA, SCRATCH = "finetune", "vanilla", "scratch"
#: Whichever of them does best on held-out cases (``TransferSegLib.finetuning.strategy_choice``).
AUTO = "auto"

STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy(FINETUNE, "the last layers first, then all", last_layers_first=True, inits_from_data=True),
        Strategy(VANILLA, "all layers at once", rate="vanilla_rate"),
        Strategy(SCRATCH, "random weights", from_parent=False, rate="scratch_rate"),
    )
}


def strategy_of(name: str) -> Strategy:
    """Return a strategy by its name; ``auto`` counts as ``finetune``, which it tries first."""
    return STRATEGIES[FINETUNE if name == AUTO else name]
