"""Opens a run. Only one driver holds it at a time, and it resumes only with the same settings and inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from persrep_ray.config import ConfigError, RunConfig, recorded_config
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.storage.lock import Held, held
from persrep_ray.storage.store import Store

# Where a run takes place and how parallel it is do not decide its result: a resumed run may have more machines.
_PLACEMENT = (
    *("actors", "cells", "max_attempts", "llm_timeout_s", "llm_attempts"),
    *("cpus_per_actor", "gpus_per_actor", "cpus_per_worker", "gpus_per_worker"),
)


@contextmanager
def open_run(
    store: Store, config: RunConfig, inputs: Mapping[str, str], say: Callable[[str], None]
) -> Iterator[tuple[RunFolder, Held]]:
    """The run in `store`, new or resumed, and its lock, which this process holds.

    Args:
        inputs: what the run reads (object ids, folders), each with a digest.
        say: is told why opening takes long if another driver of the run may be dead.

    Raises:
        ConfigError: the run is in use, or has other settings or other inputs.
        StorageError: the store cannot be written.
    """
    store.check_writable()
    with held(store, "lock", f"{store.uri} is in use by another run; choose another --out", say) as lock:
        folder = RunFolder(store)
        _check_same_run(folder, config, inputs)
        yield folder, lock


def _check_same_run(folder: RunFolder, config: RunConfig, inputs: Mapping[str, str]) -> None:
    mine: dict[str, Any] = {"config": config.to_dict(), "inputs": dict(inputs)}
    if not folder.exists("run.json"):
        folder.write_json("run.json", mine)
        return
    before = folder.read_json("run.json")
    # A setting that is newer than the run has its default in it, because that is how the run was made.
    where = f"{folder.store.uri} holds a run that cannot be continued; choose another --out or delete it: "
    old = _settings(recorded_config(before.get("config", {}), where).to_dict())
    new = _settings(mine["config"])
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            raise ConfigError(
                f"{folder.store.uri} holds a run with other settings ({key} {old.get(key)}, now {new.get(key)}); "
                "choose another --out or delete it"
            )
    old, new = before.get("inputs", {}), mine["inputs"]
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            change = "is new" if name not in old else "is gone" if name not in new else "has changed"
            raise ConfigError(
                f"{folder.store.uri} holds a run with other inputs ({name} {change}); choose another --out or delete it"
            )
    folder.write_json("run.json", mine)  # with the settings that were filled in, whose defaults may change later


def _settings(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"train": {"steps": 1}}` as `{"train.steps": 1}`, without what only says where the run takes place."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update(_settings(value, f"{prefix}{name}."))
        elif name not in _PLACEMENT:
            flat[f"{prefix}{name}"] = value
    return flat
