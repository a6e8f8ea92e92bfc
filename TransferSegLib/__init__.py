"""TransferSeg without a user interface: segment 3D scans, train base models, adapt them from a few corrected cases.

>>> from TransferSegLib.inference.segment import segment
>>> segmentation = segment("scan.nii.gz")
>>> segmentation.volumes_ml()

Nothing here knows of 3D Slicer or Qt, and importing this package does not import torch.
"""
