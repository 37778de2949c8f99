"""Parts of `benchmarks/quality.py`, each of which also runs alone."""
