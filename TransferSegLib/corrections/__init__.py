"""Corrected cases: a project folder that collects them, with revisions, and can be read as a dataset at any moment."""
