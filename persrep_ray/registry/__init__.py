"""Versioned adapters in a store, published atomically."""
