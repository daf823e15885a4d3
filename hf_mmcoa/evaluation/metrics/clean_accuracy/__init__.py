"""A metric of the `evaluate` library; load it with `evaluate.load(metric_path(...))`."""
