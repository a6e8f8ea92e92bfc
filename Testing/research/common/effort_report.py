"""The table and the picture of effort streams: contour drawn per scan, by task and mode."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from TransferSegLib.wording import table

Line = dict[str, Any]
#: What a picture needs to tell modes apart without colour vision (Okabe and Ito).
_LOOKS = (("#666666", "s"), ("#0072B2", "o"), ("#D55E00", "^"), ("#009E73", "D"), ("#CC79A7", "v"), ("#E69F00", "P"))
#: Scans at the end of a stream whose mean is shown.
_LAST = 3


def streams(lines: Sequence[Line]) -> dict[tuple[str, str], dict[int, list[Line]]]:
    """Return the lines by task and mode, then by scan (all seeds); of interpolating only the best step of each seed."""
    best = _best_steps(lines)
    found: dict[tuple[str, str], dict[int, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if line["mode"] != "interpolate" or best[line["task"], line["seed"]] == line["every"]:
            found[line["task"], _name(line)][line["scan"]].append(line)
    return {key: dict(sorted(scans.items())) for key, scans in found.items()}


def _name(line: Line) -> str:
    """Return what a mode is called: with the minutes of a fine-tuning."""
    if line["steps"] is not None:
        return f"{line['mode']}, {sum(line['steps'])} steps"
    return f"{line['mode']}, {line['minutes']:g} min" if line["minutes"] else str(line["mode"])


def _best_steps(lines: Sequence[Line]) -> dict[tuple[str, int], int]:
    """Return by task and seed the distance of drawn slices with which interpolating needs least in the whole stream."""
    sums: dict[tuple[str, int], dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for line in lines:
        if line["mode"] == "interpolate":
            sums[line["task"], line["seed"]][line["every"]] += line["added_path_m"]
    return {key: min(by_step, key=lambda step: (by_step[step], step)) for key, by_step in sums.items()}


def mean_of(lines: Sequence[Line], name: str) -> float:
    """Return the mean of a number over lines."""
    return float(np.mean([line[name] for line in lines]))


def report_table(lines: Sequence[Line]) -> str:
    """Return the table: contour per scan in m at the start, at the end, on average, and slices drawn per scan."""
    rows = []
    for (task, mode), scans in streams(lines).items():
        every = [line for found in scans.values() for line in found]
        last = [line for number in list(scans)[-_LAST:] for line in scans[number]]
        reached = sum(all(dice >= line["target"] for dice in line["after"].values()) for line in every)
        rows.append(
            (
                task,
                mode,
                "/".join(sorted({str(line["every"]) for line in every})),
                str(len(every)),
                str(len({(line["seed"], line["model"]) for line in every if line["model"] is not None})),
                f"{mean_of(scans[min(scans)], 'added_path_m'):.2f}",
                f"{mean_of(last, 'added_path_m'):.2f}",
                f"{mean_of(every, 'added_path_m'):.2f}",
                f"{mean_of(every, 'slices'):.1f}",
                f"{np.mean([dice for line in every for dice in line['before'].values()]):.2f}",
                f"{reached}/{len(every)}",
            )
        )
    header = (
        "task", "mode", "k", "scans", "models", "first scan, m", f"last {_LAST}, m", "mean, m", "slices",
        "surface Dice before", "target reached",
    )  # fmt: skip
    return table(header, rows)


def print_report(lines: Sequence[Line]) -> None:
    """Print a table for each choice of scans, with the bases that were used on them."""
    for held_out in dict.fromkeys(line["held_out"] for line in lines):
        some = [line for line in lines if line["held_out"] == held_out]
        bases = sorted({line["base"] for line in some if line["base"] is not None})
        print(f"Scans held out: {held_out}; base: {', '.join(bases) or 'none'}\n\n{report_table(some)}\n")
    if not lines:
        print("Nothing was measured yet.")


def draw_report(lines: Sequence[Line], path: Path) -> None:
    """Draw a curve per mode, a panel per task, as a PNG file."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = streams(lines)
    tasks = list(dict.fromkeys(task for task, _ in found))
    modes = list(dict.fromkeys(mode for _, mode in found))
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(3.4 * len(tasks) + 0.6, 3.8), layout="constrained", dpi=110)
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(tasks), squeeze=False)[0]
        for task, place in zip(tasks, axes, strict=True):
            place.set_title(task, fontsize=10, fontweight="bold")
            for mode in modes:
                scans = found.get((task, mode), {})
                color, marker = _LOOKS[modes.index(mode) % len(_LOOKS)]
                means = [mean_of(one, "added_path_m") for one in scans.values()]
                place.plot(list(scans), means, color=color, marker=marker, markersize=4, label=mode)
            place.set_ylim(bottom=0)
            place.grid(axis="y", color="#e0e0e0", linewidth=0.8)
            place.set_axisbelow(True)
        axes[0].set_ylabel("contour drawn, m")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        figure.supxlabel("scan of the stream (mean of the seeds; axes differ)", fontsize=10)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Software": None})
