"""File formats: DICOM, NIfTI, NRRD, MetaImage and 3D Slicer's segmentations."""
