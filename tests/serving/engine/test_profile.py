"""What an endpoint learns from the cards of its registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.versions import write_earlier_registry
from safetensors.numpy import save

from persrep_ray.config import BackboneConfig, ConfigError, EvaluateConfig, RunConfig, ServeConfig
from persrep_ray.config.text import RENAMED
from persrep_ray.registry.migration import migrate
from persrep_ray.registry.registry import FILES, Registry
from persrep_ray.serving.engine.profile import Profile, read_profile
from persrep_ray.storage.store import open_store

MADE_WITH = RunConfig(
    backbone=BackboneConfig(name="elsewhere/vit", adapted_blocks="all", precision="float32"),
    evaluate=EvaluateConfig(dense_size=112),
)


def publish(root: Path, object_id: str, card: dict[str, Any]) -> None:
    tensors = save({"any": np.zeros(1, np.float32)})
    text = json.dumps(card).encode()
    Registry(open_store(root)).publish(
        object_id, "v1", {name: text if name.endswith("json") else tensors for name in FILES}
    )


def test_the_cards_say_what_the_settings_leave_open(tmp_path: Path) -> None:
    publish(tmp_path, "mug", {"config": MADE_WITH.to_dict()})
    assert read_profile(ServeConfig(registry=str(tmp_path))) == Profile(MADE_WITH.backbone, 112)
    assert read_profile(ServeConfig(registry=str(tmp_path), dense_size=56)) == Profile(MADE_WITH.backbone, 56)
    other = BackboneConfig(image_size=112)
    assert read_profile(ServeConfig(registry=str(tmp_path), backbone=other)) == Profile(other, 112)


def test_cards_of_an_earlier_version_are_understood(tmp_path: Path) -> None:
    registry = write_earlier_registry(open_store(tmp_path))
    config = MADE_WITH.to_dict()
    for old, new in RENAMED.items():
        (section, key), (_, new_key) = old.split("."), new.split(".")
        config[section][key] = config[section].pop(new_key)
    for key in ("cup/versions/v2", "mug/versions/v1"):
        registry.store.write(f"objects/{key}/card.json", json.dumps({"config": config}).encode())
    migrate(registry)
    assert read_profile(ServeConfig(registry=str(tmp_path))) == Profile(MADE_WITH.backbone, 112)


def test_settings_that_say_it_all_need_no_registry(tmp_path: Path) -> None:
    config = ServeConfig(registry=str(tmp_path / "nowhere"), backbone=BackboneConfig(), dense_size=56)
    assert read_profile(config) == Profile(BackboneConfig(), 56)


def test_cards_that_say_nothing_are_passed_over(tmp_path: Path) -> None:
    for number, card in enumerate(({}, {"config": 1}, {"config": {"backbone": {"name": 3}}})):
        publish(tmp_path, f"a{number}", card)
    publish(tmp_path, "b", {"config": MADE_WITH.to_dict()})
    (Registry(open_store(tmp_path)).local_copy("a0") / "card.json").write_text("{")
    assert read_profile(ServeConfig(registry=str(tmp_path))).backbone == MADE_WITH.backbone


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "registry .*: the registry cannot be reached"),
        (lambda root: Registry(open_store(root)).mark(), "holds no object whose card can be read: publish one first"),
        (lambda root: publish(root, "mug", {}), "holds no object whose card can be read: publish one first"),
    ],
)
def test_nothing_to_learn_from(tmp_path: Path, prepare: Any, message: str) -> None:
    prepare(tmp_path)
    with pytest.raises(ConfigError, match=message):
        read_profile(ServeConfig(registry=str(tmp_path)))


def test_one_object_of_another_backbone_decides_nothing(tmp_path: Path) -> None:
    stray = RunConfig(backbone=BackboneConfig(name="stray/vit"))
    publish(tmp_path, "a", {"config": stray.to_dict()})
    for object_id in ("b", "c"):
        publish(tmp_path, object_id, {"config": MADE_WITH.to_dict()})
    assert read_profile(ServeConfig(registry=str(tmp_path))).backbone == MADE_WITH.backbone
