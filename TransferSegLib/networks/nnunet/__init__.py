"""nnU-Net's networks: plain and residual-encoder U-Nets of any depth, with instance normalisation."""
