"""Whether a scan fits a model: reasons to doubt a result, from the scan, the result and the model's profile."""
