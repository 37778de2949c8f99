"""Versioned adapters, published atomically."""
