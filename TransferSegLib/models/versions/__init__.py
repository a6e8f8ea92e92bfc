"""The versions of a model: what was trained, what is in use, and the way back."""
