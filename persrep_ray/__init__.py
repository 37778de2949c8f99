"""Personalized vision representations from a few photos, on Ray."""

__version__ = "0.1.0"
