"""From a parent model and a few corrected cases to an adapted model."""
