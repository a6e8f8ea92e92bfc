"""Scans and label maps: reading, the model's grid and the way back to the scan's own, writing.

Imports go one way: ``read`` and ``write``, then ``isolated_reading``, then ``formats``, then the modules about an image
that is in memory (``geometry_checks``, ``label_values``, ``notices`` ...), which know no file format.
"""
