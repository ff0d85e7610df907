"""The version of the package, on the ground where every room may read it."""

__version__ = "0.1.0"
