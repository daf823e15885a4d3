"""The version, where setuptools and the code both read it."""

__version__ = "0.1.0"
