"""The 3D U-Net and the arithmetic of its valid convolutions."""
