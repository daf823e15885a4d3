"""A tiny CLIP that is built and pretrained here in seconds, for examples, tests and comparisons without a network."""
