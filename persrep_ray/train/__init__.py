"""Contrastive LoRA training: losses, views, the trainer in plain PyTorch, and the Ray Train cells that spread it."""
