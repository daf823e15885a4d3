"""A tiny CLIP that is built and pretrained in seconds, for examples, tests and comparisons without a network."""
