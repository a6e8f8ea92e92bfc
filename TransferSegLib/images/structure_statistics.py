"""What a label map says of each structure in its scan: volume, intensities, surface and position."""

from __future__ import annotations

from dataclasses import dataclass

import SimpleITK as sitk

from TransferSegLib.structures import LabelSet

#: The columns of a table of statistics, behind the structure's name.
COLUMNS = (
    "volume_ml",
    "mean_intensity",
    "sd_intensity",
    "surface_mm2",
    "centroid_left_mm",
    "centroid_posterior_mm",
    "centroid_superior_mm",
)


@dataclass(frozen=True)
class StructureStatistics:
    """What is measured of one structure; without voxels the volume is 0 and all else None.

    The standard deviation is that of a sample (divided by n - 1). The surface is Crofton's estimate from the voxels.
    The centroid is in patient coordinates in mm, along left, posterior, superior (LPS), as in DICOM.
    """

    name: str
    volume_ml: float
    mean_intensity: float | None = None
    sd_intensity: float | None = None
    surface_mm2: float | None = None
    centroid_lps_mm: tuple[float, float, float] | None = None

    def cells(self) -> list[str]:
        """Return the values of COLUMNS as text, empty where there is none."""
        others = [self.mean_intensity, self.sd_intensity, self.surface_mm2, *(self.centroid_lps_mm or (None,) * 3)]
        return [f"{self.volume_ml:.4f}", *("" if value is None else f"{value:.3f}" for value in others)]


def structure_statistics(scan: sitk.Image, label_map: sitk.Image, label_set: LabelSet) -> list[StructureStatistics]:
    """Measure every structure of a label set; scan and label map (whole numbers) have one voxel grid."""
    measured = sitk.LabelIntensityStatisticsImageFilter()
    # The label map has the scan's grid but for the rounding of its file's header.
    scan = sitk.Cast(scan, sitk.sitkFloat64)
    scan.CopyInformation(label_map)
    measured.Execute(label_map, scan)
    present = set(measured.GetLabels())
    found = []
    for structure in label_set:
        label = structure.label
        if label not in present:
            found.append(StructureStatistics(structure.name, 0.0))
            continue
        left, posterior, superior = measured.GetCentroid(label)
        several = measured.GetNumberOfPixels(label) > 1
        found.append(
            StructureStatistics(
                structure.name,
                measured.GetPhysicalSize(label) / 1000,
                measured.GetMean(label),
                measured.GetStandardDeviation(label) if several else None,
                measured.GetPerimeter(label),
                (left, posterior, superior),
            )
        )
    return found
