"""Reads thousands of damaged files in one process; run by test_damaged_files.py in a child process.

``python fuzz_reading.py FOLDER ROUNDS SEED``: whatever file the header checks let through is read by ITK here, so a
crash ends this process. Files that go to a child process are counted as refused, which is what a crash there becomes.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

import TransferSegLib.images.read as reading
from TransferSegLib.errors import ScanError


def write_samples(folder: Path) -> list[Path]:
    """Write a small scan in every format that is read in the caller's process; returns the files to damage."""
    voxels = np.random.default_rng(5).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-10.5, 20.25, 30.0))
    image.SetDirection((0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0))
    image.SetMetaData("Segment0_Name", "liver")
    samples = []
    for name in ("a.nii", "b.nii.gz", "c.nrrd", "d.nrrd", "e.mha", "f.mha", "g.mhd", "h.hdr", "i.nhdr"):
        sitk.WriteImage(image, str(folder / name), useCompression=name in ("b.nii.gz", "d.nrrd", "f.mha"))
        samples.append(folder / name)
    return samples


def damage(content: bytes, chance: random.Random) -> bytes:
    """Return the content cut off, with bits flipped, with numbers replaced or with a piece repeated."""
    damaged = bytearray(content)
    kind = chance.randrange(5)
    if kind == 0:
        return bytes(damaged[: chance.randrange(len(damaged))])
    header = min(len(damaged), 400)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        position = chance.randrange(header)
        if kind == 1:
            damaged[position] ^= 1 << chance.randrange(8)
        elif kind == 2:
            damaged[position] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 0x20, 0x2D, 0x39))
        elif kind == 3:
            value = chance.choice((b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"9999"))
            damaged[position : position + 4] = value
        else:
            damaged[position:position] = damaged[position : position + chance.randrange(1, 12)]
    return bytes(damaged)


def main(folder: Path, rounds: int, seed: int) -> None:
    """Damage every sample so many times, read each, and print how many were read and refused."""

    def refuse(path: Path, *rest: object, **options: object) -> sitk.Image:
        raise ScanError(f"{path} goes to a child process")

    reading.read_isolated = refuse
    chance = random.Random(seed)
    read = refused = 0
    for sample in write_samples(folder):
        content = sample.read_bytes()
        for _ in range(rounds):
            sample.write_bytes(damage(content, chance))
            try:
                image = reading.read_scan(sample)
            except ScanError as error:
                assert "\n" not in str(error), str(error)
                refused += 1
                continue
            assert image.GetDimension() == 3
            assert np.all(np.isfinite(image.GetOrigin() + image.GetDirection()))
            assert all(0.001 <= side <= 100 for side in image.GetSpacing())
            read += 1
        sample.write_bytes(content)
        assert reading.read_scan(sample).GetSize() == (6, 5, 4)
    print(read, refused)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
