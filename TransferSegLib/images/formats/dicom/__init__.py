"""DICOM: one series as a volume.

Imports go one way: ``series``, then ``files``, ``selection`` and ``resampling``, then ``placement`` and ``pixels``,
then ``frames`` (one file), ``intensities`` and ``elements`` (bytes). No other format is imported.
"""
