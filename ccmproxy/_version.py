"""The version: one place, read by the package, the build and our User-Agent."""

__version__ = "0.1.0"
