"""Cases to patches to a trained network."""
