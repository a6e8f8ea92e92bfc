"""The words that a fine-tuning configuration knows."""

from __future__ import annotations

#: The paper's names of the three ways to a model for new cases.
FINETUNE, VANILLA, SCRATCH = "finetune", "vanilla", "scratch"
STRATEGIES = (FINETUNE, VANILLA, SCRATCH)
#: Whichever of them does best on cases that were held out (``TransferSegLib.finetuning.strategy_choice``).
AUTO = "auto"
STRATEGY_CHOICES = (*STRATEGIES, AUTO)
HEAD_STARTS = ("auto", "data", "random")
#: Where the network is cut into a frozen part and a trainable tail: before the last 3x3x3 convolution (the paper), or
#: before the last two.
LAST_CONVOLUTION, LAST_PAIR = "last convolution", "last pair"
CUTS = (LAST_CONVOLUTION, LAST_PAIR)
