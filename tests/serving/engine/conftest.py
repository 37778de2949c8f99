"""Registries for tests of the engine."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.engines import REFS, Sample
from helpers.published import publish_object, tiny_checkpoint

from persrep_ray.backbones.lora import load_lora


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    root = tmp_path_factory.mktemp("sample")
    config = tiny_checkpoint(root / "vit")
    lora = load_lora(config)
    for number, ref in enumerate(REFS):
        publish_object(root / "registry", ref.object_id, config, number, lora=lora)
    return Sample(root / "registry", config, lora)


@pytest.fixture
def own(sample: Sample, tmp_path: Path) -> Sample:
    """A copy of the registry that a test may damage."""
    return replace(sample, registry=shutil.copytree(sample.registry, tmp_path / "registry"))
