"""Pictures of a segmentation, drawn with numpy alone: no plotting library is needed at run time."""
