from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from persrep_ray.config import ConfigError, load_serve_config


def test_a_registry_wins_over_the_file_and_overrides_win_over_both(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("registry: from/file\nrefresh_s: 2\nencoder: {batch_rows: 4, max_replicas: 3}\n")
    config = load_serve_config(file)
    assert (config.registry, config.refresh_s, config.encoder.batch_rows) == ("from/file", 2.0, 4)
    config = load_serve_config(file, ["encoder.batch_rows=8", "http.max_waiting=5"], registry="given")
    assert (config.registry, config.encoder.batch_rows, config.encoder.max_replicas) == ("given", 8, 3)
    assert config.http.max_waiting == 5 and config.encoder.min_replicas == 1


def test_a_registry_among_the_overrides_is_enough() -> None:
    assert load_serve_config({}, ["registry=here"]).registry == "here"


def test_a_registry_is_enough() -> None:
    config = load_serve_config(registry="here")
    assert config.registry == "here" and config.backbone is None and config.dense_size is None


@pytest.mark.parametrize(
    ("values", "overrides", "message"),
    [
        ({}, [], "registry"),
        ({"registry": ""}, [], "registry"),
        ({"registry": "x", "unknown": 1}, [], "unknown"),
        ({"registry": "x", "encoder": {"batch_rows": 0}}, [], "encoder.batch_rows"),
        ({"registry": "x", "encoder": {"min_replicas": 2, "max_replicas": 1}}, [], "encoder.max_replicas"),
        ({"registry": "x"}, ["encoder.gpu=1"], "encoder.gpu"),
        ({"registry": "x"}, ["dense_size=10"], "dense_size"),
        ({"registry": "x"}, ["http.timeout_s=0"], "http.timeout_s"),
    ],
)
def test_an_invalid_setting_is_named(values: dict[str, Any], overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_serve_config(values, overrides)
