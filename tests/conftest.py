"""For all tests."""

from __future__ import annotations

import torch

# Tiny models on many threads wait for each other more than they compute.
torch.set_num_threads(1)
