from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save

from persrep_ray.config import ConfigError, RunConfig, load_config
from persrep_ray.registry.registry import FILES, Registry
from persrep_ray.runs.evaluate import evaluate_registry
from persrep_ray.runs.progress import StatusLine
from persrep_ray.storage.store import open_store

SAM = ["evaluate.mode=persam", "masks.sam.name=one"]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(open_store(tmp_path / "registry"))


def publish(registry: Registry, object_id: str, config: dict[str, Any]) -> None:
    files = {name: b"{}" if name.endswith(".json") else save({}) for name in FILES}
    registry.publish(object_id, "v1", files | {"card.json": json.dumps({"config": config}).encode()})


def evaluate(registry: Registry, tmp_path: Path) -> None:
    """Evaluates as the cards say. Once they agree, the missing data folder is an error."""
    evaluate_registry(str(tmp_path / "no-data"), registry, None, StatusLine(io.StringIO()))


@pytest.mark.parametrize(
    ("first", "second", "section"),
    [
        ([], ["backbone.image_size=112"], "backbone"),
        ([], ["evaluate.mode=persam"], "evaluate"),
        (SAM, [*SAM, "masks.sam.name=other"], "masks.sam"),
    ],
)
def test_cards_that_disagree_are_refused(
    registry: Registry, tmp_path: Path, first: list[str], second: list[str], section: str
) -> None:
    for object_id, overrides in (("cup", first), ("mug", second)):
        publish(registry, object_id, load_config(None, overrides).to_dict())
    with pytest.raises(ConfigError, match=f"objects cup and mug were made with different {section} settings"):
        evaluate(registry, tmp_path)


def test_an_unused_sam_may_differ(registry: Registry, tmp_path: Path) -> None:
    for object_id, name in (("cup", "one"), ("mug", "other")):
        publish(registry, object_id, load_config(None, [f"masks.sam.name={name}"]).to_dict())
    with pytest.raises(ValueError, match="no-data: no such folder"):
        evaluate(registry, tmp_path)


def test_a_card_without_a_new_setting_agrees_with_its_default(registry: Registry, tmp_path: Path) -> None:
    new = RunConfig().to_dict()
    old = new | {"evaluate": {key: value for key, value in new["evaluate"].items() if key != "mode"}}
    publish(registry, "cup", old)
    publish(registry, "mug", new)
    with pytest.raises(ValueError, match="no-data: no such folder"):
        evaluate(registry, tmp_path)


def test_a_card_of_an_earlier_version_may_use_its_names_of_settings(registry: Registry, tmp_path: Path) -> None:
    old = RunConfig().to_dict()
    old["train"]["heldout"] = old["train"].pop("cross_validation")
    old["generate"]["heldout"] = old["generate"].pop("calibration_images")
    publish(registry, "cup", old)
    with pytest.raises(ValueError, match="no-data: no such folder"):
        evaluate(registry, tmp_path)


def test_a_card_with_a_bad_configuration_is_named(registry: Registry, tmp_path: Path) -> None:
    publish(registry, "cup", RunConfig().to_dict() | {"sauce": 1})
    with pytest.raises(ConfigError, match=r"the card of cup: .*sauce"):
        evaluate(registry, tmp_path)
