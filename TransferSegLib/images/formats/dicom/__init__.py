"""DICOM series to one image."""
