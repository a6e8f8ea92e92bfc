"""A scan in, a label map out: reading, the canonical grid, the way back, writing."""
