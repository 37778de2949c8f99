"""A run is open for one driver at a time, and only ever resumed with the same settings and inputs."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from persrep_ray.config import ConfigError, RunConfig, load_config
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.runs.open_run import open_run
from persrep_ray.storage.lock import Held
from persrep_ray.storage.store import open_store

INPUTS = {"object mug": "1", "object cup": "2"}


def small(*overrides: str) -> RunConfig:
    return load_config("debug", overrides)


def opened(root: Path, config: RunConfig, inputs: dict[str, str]) -> AbstractContextManager[tuple[RunFolder, Held]]:
    return open_run(open_store(root), config, inputs, say=print)


def test_the_same_run_can_be_opened_again(tmp_path: Path) -> None:
    for _ in range(2):
        with opened(tmp_path / "run", small(), INPUTS) as (folder, _):
            assert folder.store == open_store(tmp_path / "run")


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    with opened(tmp_path, small("train.steps=100"), INPUTS):
        pass
    with (
        pytest.raises(ConfigError, match=r"\(train\.steps 100, now 50\); choose another --out or delete it"),
        opened(tmp_path, small("train.steps=50"), INPUTS),
    ):
        pass


def test_where_a_run_takes_place_may_change(tmp_path: Path) -> None:
    with opened(tmp_path, small("train.cells=1"), INPUTS):
        pass
    with opened(tmp_path, small("train.cells=8", "generate.actors=4", "train.max_attempts=9"), INPUTS):
        pass


def made_before_the_setting(folder: Path, *keys: str) -> None:
    """Removes settings from the record of a run, as if they had been added to the product after it."""
    record = json.loads((folder / "run.json").read_text())
    for key in keys:
        section, name = key.split(".")
        del record["config"][section][name]
    (folder / "run.json").write_text(json.dumps(record))


def test_settings_that_are_newer_than_the_run_had_their_defaults_in_it(tmp_path: Path) -> None:
    with opened(tmp_path, small(), INPUTS):
        pass
    made_before_the_setting(tmp_path, "data.photos_per_object", "train.symmetric")
    with opened(tmp_path, small(), INPUTS):
        pass
    # From now on the run says what its settings are, so that a later default does not change them.
    recorded = json.loads((tmp_path / "run.json").read_text())["config"]
    assert recorded["data"]["photos_per_object"] == 32


def test_a_newer_setting_at_another_value_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path, small(), INPUTS):
        pass
    made_before_the_setting(tmp_path, "data.photos_per_object")
    with (
        pytest.raises(ConfigError, match=r"\(data\.photos_per_object 32, now 7\)"),
        opened(tmp_path, small("data.photos_per_object=7"), INPUTS),
    ):
        pass


def test_a_setting_that_is_gone_is_named(tmp_path: Path) -> None:
    with opened(tmp_path, small(), INPUTS):
        pass
    record = json.loads((tmp_path / "run.json").read_text())
    record["config"]["train"]["magic"] = 3
    (tmp_path / "run.json").write_text(json.dumps(record))
    with (
        pytest.raises(ConfigError, match=r"choose another --out or delete it: .*train\.magic"),
        opened(tmp_path, small(), INPUTS),
    ):
        pass


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"object mug": "1", "object cup": "3"}, "object cup has changed"),
        ({"object mug": "1"}, "object cup is gone"),
        ({**INPUTS, "object jug": "4"}, "object jug is new"),
    ],
)
def test_other_inputs_are_refused_by_name(tmp_path: Path, inputs: dict[str, str], message: str) -> None:
    with opened(tmp_path, small(), INPUTS):
        pass
    with pytest.raises(ConfigError, match=message), opened(tmp_path, small(), inputs):
        pass


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        opened(tmp_path, small(), INPUTS),
        pytest.raises(ConfigError, match="in use by another run"),
        opened(tmp_path, small(), INPUTS),
    ):
        pass
