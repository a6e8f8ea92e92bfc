"""Does a scan fit a model: what may make the result wrong, told from the scan, the result and the model's profile."""
