"""The fixtures of a CLIP that knows three kinds of noisy squares."""

from squares import _trained, dataset, model, processor  # noqa: F401
