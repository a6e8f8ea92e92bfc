"""Models that nnU-Net v2 has trained: its results folders and the zip files it exports."""
