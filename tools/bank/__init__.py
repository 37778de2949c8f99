"""The parts of `render_bank.py`: everyday things of many categories, from a few shapes and random colours."""
