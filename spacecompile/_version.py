"""The version, apart from the package so that reading it imports no stage."""

__version__ = "0.1.0"
