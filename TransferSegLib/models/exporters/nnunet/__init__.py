"""Models written as nnU-Net v2 writes its own, so that nnU-Net can use them."""
