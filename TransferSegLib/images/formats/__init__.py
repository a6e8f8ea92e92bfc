"""File formats: DICOM, NIfTI, NRRD, MetaImage and 3D Slicer's segmentations.

``registry`` imports the readers of headers, and these import ``header_facts`` and ``data_files``. Nothing here imports
``images.read``, ``images.write`` or ``images.isolated_reading``.
"""
