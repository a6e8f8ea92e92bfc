"""``transferseg demo``: segment the bundled sample CT with the bundled model and compare with its own label."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from TransferSegLib.cli.options import add_device_option
from TransferSegLib.cli.reporting import duration, interruptible, progress_shown
from TransferSegLib.wording import table


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser = subparsers.add_parser(
        "demo",
        help="segment the bundled sample scan (no network connection needed)",
        description="Segment the bundled sample CT with the bundled model, and compare with the sample's own label.",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("transferseg-demo"), metavar="FOLDER", help="default: transferseg-demo"
    )
    add_device_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Segment, write the label map and a picture, print the table."""
    from TransferSegLib.datasets.dataset import read_dataset
    from TransferSegLib.evaluation.predict_and_score import score_label_maps
    from TransferSegLib.images.read import read_label_map_on, read_scan
    from TransferSegLib.images.write import write_label_map
    from TransferSegLib.inference.segment import Segmenter
    from TransferSegLib.models.locate import bundled_sample, find_model
    from TransferSegLib.models.store import load_model
    from TransferSegLib.pictures.preview import draw_preview

    sample = read_dataset(bundled_sample())
    case = sample.cases[0]
    image = read_scan(case.image)
    model = load_model(find_model(None))
    with progress_shown() as progress, interruptible() as cancel:
        segmentation = Segmenter(model, arguments.device).segment(image, None, progress, cancel)
    output = arguments.output
    segmentation_file, picture = output / "sample.seg.nrrd", output / "sample.png"
    write_label_map(segmentation.label_map, segmentation_file, segmentation.label_set)
    title = f"{sample.name}, {case.id}"
    draw_preview(image, segmentation.label_map, segmentation.label_set, picture, title=title)

    reference = read_label_map_on(image, case.labels)
    scores = score_label_maps(segmentation.label_map, segmentation.label_set, reference, sample.label_set, case)
    rows = [
        (name, f"{volume:.1f}", f"{scores[name].dice:.3f}" if name in scores else "not annotated")
        for name, volume in segmentation.volumes_ml().items()
    ]
    print(f"{title}, model '{model.description.name}' version {model.description.version}")
    print(table(("structure", "ml", "Dice"), rows))
    print(f"segmentation: {segmentation_file} (opens in 3D Slicer)\npicture:      {picture}")
    print(f"{duration(segmentation.seconds)} on {segmentation.device}")
    return 0
