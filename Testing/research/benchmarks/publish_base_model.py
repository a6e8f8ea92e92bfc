"""Make the bundled model from a finished training run: half precision, measured on its validation cases, with a card.

    python3 Testing/run.py benchmark publish_base_model --run RUN --data DATASET --output Resources/Models/head-neck-ct

``RUN`` is the output folder of ``transferseg train-base``. The model is measured as users get it: in half precision, on
each scan's own grid.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from Testing.research.common.measuring import command_line
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.evaluation.predict_and_score import Summary, evaluate, summarise
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.store import load_model, save_model


def main() -> None:
    """Measure, write model and card, print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--command", help="the command to state, where the run was not started by it (say so in --note)"
    )
    parser.add_argument("--model-version", help="the version to state (default: that of the run, 1)")
    parser.add_argument("--note", default="", help="a paragraph for the card: how the run really went")
    parser.add_argument("--single-part", nargs="*", default=[], help="structures of which the largest part is kept")
    arguments = parser.parse_args()

    trained = load_model(arguments.run / "model")
    if arguments.command:
        provenance = replace(trained.description.provenance, command=arguments.command)
        trained = replace(trained, description=replace(trained.description, provenance=provenance))
    described = replace(
        trained.description,
        single_part=tuple(arguments.single_part),
        license="Apache-2.0",
        version=arguments.model_version or trained.description.version,
    )
    trained = replace(trained, description=described)
    save_model(arguments.output, trained.description, trained.state_dict, half_precision=True, overwrite=True)
    dataset = read_dataset(arguments.data)
    validation = dataset.select(trained.description.metrics["validation"]["ids"])
    results = evaluate(Segmenter(load_model(arguments.output)), validation)
    summary = summarise(results, trained.description.label_set.names)

    metrics = dict(trained.description.metrics)
    metrics["validation"] = metrics["validation"] | {
        "grid": "each scan's own",
        "dice": {name: round(row.mean, 4) for name, row in summary.items() if name != "mean of structures"},
        "mean_dice": round(summary["mean of structures"].mean, 4),
    }
    description = replace(trained.description, metrics=metrics)
    save_model(arguments.output, description, trained.state_dict, half_precision=True, overwrite=True)
    history = [json.loads(line) for line in (arguments.run / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    draw_learning_curve(history, arguments.output / "learning-curve.png")
    (arguments.output / "README.md").write_text(card(description, summary, history, arguments.note), encoding="utf-8")
    print(table(summary))


def table(summary: dict[str, Summary]) -> str:
    """Return a Markdown table of Dice per structure."""
    rows = ["| structure | cases | mean Dice | median | smallest |", "|---|---|---|---|---|"]
    rows += [
        f"| {name} | {row.cases} | {row.mean:.3f} | {row.median:.3f} | {row.smallest:.3f} |"
        for name, row in summary.items()
    ]
    return "\n".join(rows)


def card(description: ModelDescription, summary: dict[str, Summary], history: list[dict], note: str) -> str:
    """Return the model's card as Markdown."""
    validations = [line for line in history if "validation_dice" in line]
    curve = "\n".join(f"| {line['step']} | {line['mean']:.3f} |" for line in validations)
    return f"""# {description.name}

{description.summary}. A 3D U-Net of {description.backbone.summary} at
{description.preparation.spacing_text}, stored in half precision.

- **Training data:** {description.training_data}
- **Licence of the model:** Apache-2.0; of its training data: MIT (Open-KBP)

## Accuracy

Dice on {len(description.metrics["validation"]["ids"])} validation cases that were not trained on, each structure where
it is annotated, on each scan's own grid. The checkpoint with the best mean Dice on these cases was chosen, so the
numbers are slightly optimistic. `transferseg evaluate --data DATASET --validation` prints this table.

{table(summary)}

## Limits

Planning CTs with voxels of about 4 x 4 x 2.5 mm, in which tissue outside the source's region of interest is missing
(-1024 HU). Labels are clinical contours by many hands. Not a medical device.

## How it was trained

`{description.provenance.command}` (code {description.provenance.code_version},
{description.provenance.created[:10]}, seed {description.provenance.seed}). `model.json` holds all settings.

{note}

![learning curve](learning-curve.png)

| step | mean validation Dice of the averaged weights (canonical grid) |
|---|---|
{curve}
"""


def draw_learning_curve(history: list[dict], path: Path) -> None:
    """Draw training loss and validation Dice over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    losses = [line for line in history if "dice_loss" in line]
    validations = [line for line in history if "validation_dice" in line]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6))
    steps = [line["step"] for line in losses]
    left.plot(steps, [line["dice_loss"] for line in losses], label="Dice loss", linewidth=1)
    left.plot(steps, [line["cross_entropy"] for line in losses], label="cross-entropy", linewidth=1)
    left.set(xlabel="step", title="training loss (means of 20 steps)", ylim=(0, 1.05))
    left.legend()
    for name in validations[-1]["validation_dice"]:
        right.plot(
            [line["step"] for line in validations],
            [line["validation_dice"].get(name) for line in validations],
            marker="o",
            label=name,
        )
    right.set(xlabel="step", title="validation Dice (averaged weights)", ylim=(0, 1))
    right.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
