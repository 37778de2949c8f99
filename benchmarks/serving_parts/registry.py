"""A registry of many adapters: two trained ones, and copies of them with perturbed weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from persrep_ray.registry.registry import Registry
from persrep_ray.storage.store import open_store

SAMPLE = Path(__file__).resolve().parents[2] / "examples" / "mini_pods"
TRAINED = ("mug_0", "tin_0")
_SPREAD = 0.1  # of the noise, relative to the standard deviation of the weights
_QUICK = ["train.steps=8", "train.cross_validation.folds=0", "generate.positives=16", "generate.negatives=16"]


def train_two(out: Path) -> Registry:
    """Personalizes two objects of the sample data, briefly, because their quality does not matter here."""
    registry = Registry(open_store(out / "trained"))
    if set(registry.objects()) != set(TRAINED):
        command = [sys.executable, "-m", "persrep_ray.cli", "personalize", "--objects", str(SAMPLE)]
        command += ["--registry", registry.store.uri, "--out", str(out / "run"), "--only", *TRAINED, "--set", *_QUICK]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return registry


def perturbed_copies(trained: Registry, location: str | Path, count: int) -> Registry:
    """A registry of `count` objects `copy_0000`, …: copies of the trained ones in turn, with noise on the weights."""
    registry = Registry(open_store(location))
    sources = [trained.files(object_id) for object_id in trained.objects()]
    for index in range(len(registry.objects()), count):
        files = dict(sources[index % len(sources)])
        rng = np.random.default_rng(index)
        weights = load_arrays(files["adapter_model.safetensors"])
        for name, value in weights.items():
            noise = rng.standard_normal(value.shape, dtype=np.float32) * (value.std() * _SPREAD)
            weights[name] = (value + noise).astype(value.dtype)
        card = {**json.loads(files["card.json"]), "object_id": f"copy_{index:04d}"}
        files |= {"adapter_model.safetensors": save_arrays(weights), "card.json": json.dumps(card).encode()}
        registry.publish(f"copy_{index:04d}", "v1", files)
    return registry
