"""The paper's 3D U-Net with valid convolutions: the network, its tiling and its cost."""
