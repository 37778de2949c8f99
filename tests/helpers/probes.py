"""Probes for patches of four values, which say what a patch shows."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from persrep_ray.masks.probes import MaskProbes

GROUND, THING, HAND, FRONT = np.eye(4, dtype=np.float32)


def tiny_probes() -> MaskProbes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "probes.safetensors"
        save_file({"hand": np.append(HAND * 4, np.float32(-3)), "filled": np.append(FRONT * 4, np.float32(-3))}, file)
        return MaskProbes(file)


def patches(kind: np.ndarray) -> np.ndarray:
    """A grid of 16 x 16 patches of one kind, (256, 4)."""
    return np.tile(kind, (256, 1))
