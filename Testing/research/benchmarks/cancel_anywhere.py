"""Measure how fast ``transferseg segment`` stops after Ctrl-C at random moments, and how often it reports progress.

    python3 Testing/run.py benchmark cancel_anywhere [--slices 232] [--trials 8] [--threads 1] [--seed 0]

The scan is the bundled sample CT, repeated and interpolated to 512 x 512 voxels and ``--slices`` slices, with noise. A
complete run gives the duration and the longest gap between two reports; each trial then presses Ctrl-C at a random
moment. Printed are the seconds from Ctrl-C to the end, the exit code, and the files left in the output folder. These
are wall-clock seconds: run it on an idle machine.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import SimpleITK as sitk

from Testing.research.common.measuring import command_line
from Testing.research.common.scans import resampled_around, sample_scan, stacked

SPACING_MM = 0.98


def main() -> None:
    """Print a line per trial and the longest of each."""
    parser = command_line(__doc__, threads=1)
    parser.add_argument("--slices", type=int, default=232)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        scan = Path(temporary) / "large.nii.gz"
        write_scan(scan, arguments.slices)
        output = Path(temporary) / "out"
        length, gap = whole_run(scan, output, arguments.threads)
        print(f"whole run {length:.1f} s, longest gap between two reports {gap:.2f} s", flush=True)
        longest = 0.0
        for _ in range(arguments.trials):
            took, code, left, moment = one_trial(scan, output, arguments.threads, random.uniform(0, length))
            longest = max(longest, took)
            print(f"Ctrl-C at {moment:5.1f} s: ended after {took:.2f} s, exit code {code}, left: {left}", flush=True)
        print(f"longest {longest:.2f} s")


def write_scan(path: Path, slices: int) -> None:
    """Write the large scan: 2.5 mm slices where there are few, 1 mm where there are many."""
    sample = sample_scan()
    thickness = 2.5 if slices < 400 else 1.0
    repeats = math.ceil(slices * thickness / (sample.GetSize()[2] * sample.GetSpacing()[2]))
    large = resampled_around(stacked(sample, repeats), (512, 512, slices), (SPACING_MM, SPACING_MM, thickness))
    noisy = sitk.AdditiveGaussianNoise(sitk.Cast(large, sitk.sitkFloat32), 12.0, 0.0, 1)
    sitk.WriteImage(sitk.Cast(noisy, sitk.sitkInt16), str(path), useCompression=True)


def started(scan: Path, output: Path, threads: int, *args: str) -> subprocess.Popen[bytes]:
    """Start the command line with JSON progress."""
    output.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "TransferSegLib", "segment", str(scan), "--output", str(output / "labels.nii.gz")]
    command += ["--preview", str(output / "picture.png"), "--device", "cpu", "--progress", "json", *args]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def whole_run(scan: Path, output: Path, threads: int) -> tuple[float, float]:
    """Return the seconds from the first report to the end, and the longest gap between two reports."""
    process = started(scan, output, threads)
    assert process.stdout is not None
    times, fractions = [], []
    for line in process.stdout:
        times.append(time.perf_counter())
        entry = json.loads(line)
        if "fraction" in entry:
            fractions.append(entry["fraction"])
    assert process.wait() == 0
    assert fractions == sorted(fractions)
    for file in output.iterdir():
        file.unlink()
    return times[-1] - times[0], max(later - earlier for earlier, later in itertools.pairwise(times))


def one_trial(scan: Path, output: Path, threads: int, moment: float) -> tuple[float, int, list[str], float]:
    """Press Ctrl-C ``moment`` seconds after the first report; return seconds, exit code, files left, and the moment."""
    process = started(scan, output, threads)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(moment)
    pressed = time.perf_counter()
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    code = process.wait()
    took = time.perf_counter() - pressed
    left = sorted(file.name for file in output.iterdir())
    for file in output.iterdir():
        file.unlink()
    return took, code, left, moment


if __name__ == "__main__":
    main()
