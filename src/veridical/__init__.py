"""Veridical: train classifiers whose gradient explanations hold still, attack explanations, measure both."""

from veridical._version import __version__

__all__ = ["__version__"]
