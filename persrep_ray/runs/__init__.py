"""The drivers of a run, which read from top to bottom."""
