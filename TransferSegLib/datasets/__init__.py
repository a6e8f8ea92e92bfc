"""Datasets: their one format, making them from folders, checking and dividing them."""
