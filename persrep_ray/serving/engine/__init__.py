"""The serving engine: adapters in memory, mixed batches, answers. It uses neither Ray nor HTTP."""
