"""What `persrep serve` gives to the replicas."""

from __future__ import annotations

from pathlib import Path

import pytest

from persrep_ray.config import ConfigError, load_serve_config
from persrep_ray.serving.launch import _with_absolute_locations


def test_locations_are_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "settings" / "serve.yaml"
    file.parent.mkdir()
    file.write_text("registry: adapters\nhttp: {keys_file: keys.json}\n")
    config = _with_absolute_locations(load_serve_config(file))
    assert (config.registry, config.http.keys_file) == (str(tmp_path / "adapters"), str(tmp_path / "keys.json"))


def test_locations_in_s3_stay_what_they_are() -> None:
    values = {"registry": "s3://bucket/adapters", "http": {"keys_file": "s3://bucket/keys.json"}}
    config = _with_absolute_locations(load_serve_config(values))
    assert (config.registry, config.http.keys_file) == ("s3://bucket/adapters", "s3://bucket/keys.json")
    with pytest.raises(ConfigError, match="unknown kind of location 'gs:'"):
        _with_absolute_locations(load_serve_config({"registry": "gs://bucket/adapters"}))
