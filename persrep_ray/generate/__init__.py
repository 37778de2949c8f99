"""Synthetic positives and negatives of an object."""
