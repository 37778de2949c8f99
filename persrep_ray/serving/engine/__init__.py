"""The serving engine: adapters in memory, mixed batches, answers. Neither Ray nor HTTP in here."""
