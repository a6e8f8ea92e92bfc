"""What the section "Fine-tune" asks for: its place in the parameter node, and the library's request made of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from TransferSegGui.model_choices import ModelChoice
from TransferSegGui.nodes import namesFrom, namesText
from TransferSegLib.errors import TransferSegError
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.strategies import FINETUNE
from TransferSegLib.finetuning.time_plan import MOST_FOLDS

#: Names in the parameter node, and thereby in saved scenes. SETTINGS, for scripts, holds further settings of
#: ``FineTuningConfiguration`` as JSON; LEFT_OUT the ids of the cases without a tick.
JOB, MINUTES, STRATEGY, NAME = "FineTuneJob", "FineTuneMinutes", "FineTuneStrategy", "FineTuneName"
UNTIL_CONVERGED = "FineTuneUntilConverged"
FOLDS, SEED, LEFT_OUT, SETTINGS = "FineTuneFolds", "FineTuneSeed", "FineTuneLeftOut", "FineTuneKnobs"
DEFAULT_MINUTES, DEFAULT_FOLDS, DEFAULT_SEED = 30, MOST_FOLDS, 1


@dataclass(frozen=True)
class FineTuneWishes:
    """What the user asks for beside the model, the project and the device, as a parameter node keeps it."""

    minutes: int = DEFAULT_MINUTES
    strategy: str = FINETUNE
    name: str = ""
    folds: int = DEFAULT_FOLDS
    seed: int = DEFAULT_SEED
    leftOut: tuple[str, ...] = ()
    settings: str = ""
    untilConverged: bool = False

    @staticmethod
    def of(node) -> FineTuneWishes:
        """Read a parameter node; what is not there, or damaged, has its usual value."""
        return FineTuneWishes(
            _whole(node.GetParameter(MINUTES), DEFAULT_MINUTES),
            node.GetParameter(STRATEGY) or FINETUNE,
            node.GetParameter(NAME),
            _whole(node.GetParameter(FOLDS), DEFAULT_FOLDS),
            _whole(node.GetParameter(SEED), DEFAULT_SEED),
            namesFrom(node.GetParameter(LEFT_OUT)),
            node.GetParameter(SETTINGS),
            node.GetParameter(UNTIL_CONVERGED) == "true",
        )

    def writeTo(self, node) -> None:
        """Write everything to a parameter node, as one change."""
        wasModifying = node.StartModify()
        texts = (
            (MINUTES, str(self.minutes)),
            (STRATEGY, self.strategy),
            (NAME, self.name),
            (FOLDS, str(self.folds)),
            (SEED, str(self.seed)),
            (LEFT_OUT, namesText(self.leftOut)),
            (UNTIL_CONVERGED, "true" if self.untilConverged else "false"),
        )
        for key, text in texts:
            if node.GetParameter(key) != text:
                node.SetParameter(key, text)
        node.EndModify(wasModifying)

    def request(self, project: Path, choice: ModelChoice, cases: Sequence[str]) -> FineTuneRequest:
        """Return the library's request for the cases of a project, of which ``leftOut`` are not used.

        The new version never becomes the current one by itself: the user decides. Raises TransferSegError for
        settings that cannot work.
        """
        try:
            settings: dict[str, Any] = json.loads(self.settings) if self.settings else {}
        except ValueError as error:
            text = _("The further settings of fine-tuning are not valid JSON: {reason}.")
            raise TransferSegError(text.format(reason=error)) from error
        configuration = FineTuningConfiguration.from_json(settings | {"strategy": self.strategy, "seed": self.seed})
        learned = tuple(case for case in cases if case not in self.leftOut)
        return FineTuneRequest(
            project=project,
            model=choice.path.stem if choice.path.is_file() else choice.path.name,
            name=self.name.strip() or None,
            minutes=float(self.minutes),
            until_converged=self.untilConverged,
            configuration=configuration,
            cases=None if len(learned) == len(cases) else learned,
            most_folds=self.folds,
            no_promote=True,
            command="transferseg finetune (3D Slicer)",
        )


def _whole(text: str, otherwise: int) -> int:
    try:
        return int(text)
    except ValueError:
        return otherwise
