"""Where a segmentation may be wrong: how doubtful each voxel is, and the places where a person should look first."""
