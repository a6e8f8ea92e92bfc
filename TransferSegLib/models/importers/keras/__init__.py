"""The published Keras weights of the paper's network."""
