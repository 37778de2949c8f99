"""A run with everything on an unreliable S3 store gives the same adapters as a run on folders."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.s3_server import FaultyS3, Request

from persrep_ray.registry.registry import FILES, Registry
from persrep_ray.storage.store import open_store

PATIENCE_S = 400
OBJECTS = ["blue", "green", "red"]


def personalize(arguments: list[str], environment: dict[str, str], folder: Path) -> None:
    command = [sys.executable, "-m", "persrep_ray.cli", "personalize", *arguments]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr


def every_tenth(offset: int) -> Callable[[Request], bool]:
    """True for every tenth request that is not about a photo."""
    seen = itertools.count(offset)
    return lambda request: not request.key.startswith("photos/") and next(seen) % 10 == 0


def test_a_run_on_s3_gives_the_same_adapters_and_fetches_each_photo_once(
    sample: Any, environment: dict[str, str], s3: FaultyS3, tmp_path: Path
) -> None:
    photos = open_store(f"{s3.uri}/photos")
    for file in sorted(path for path in sample.objects.rglob("*") if path.is_file()):
        photos.write(str(file.relative_to(sample.objects)), file)
    environment = {**environment, **s3.environment, "PERSREP_CACHE": str(tmp_path / "cache")}
    local = sample.arguments(tmp_path / "run", "train.cells=1", "train.steps=10")
    remote = [*local, "--registry", f"{s3.uri}/registry"]
    remote[remote.index("--objects") + 1], remote[remote.index("--out") + 1] = f"{s3.uri}/photos", f"{s3.uri}/run"
    for offset, fault in enumerate(("SlowDown", "InternalError", "reset", "lost")):
        s3.fail(fault, times=5, when=every_tenth(offset))

    personalize(remote, environment, tmp_path)
    assert not (tmp_path / "s3:").exists(), "a URI is never taken for a folder"
    requests = list(s3.requests)
    personalize(local, environment, tmp_path)

    summary = json.loads(open_store(f"{s3.uri}/run").read("summary.json"))
    ours, theirs = Registry(open_store(f"{s3.uri}/registry")), Registry(open_store(tmp_path / "run" / "registry"))
    for object_id in OBJECTS:
        assert summary["objects"][object_id]["status"] == "published"
        assert ours.current(object_id) == theirs.current(object_id) == summary["objects"][object_id]["version"]
        for name in FILES[:-1]:  # the card tells of seconds
            assert ours.read(object_id, None, name) == theirs.read(object_id, None, name)
    fetched = [one.key for one in requests if one.operation == "GetObject" and one.key.startswith("photos/")]
    stored = [f"photos/{entry.key}" for entry in photos.list()]
    assert sorted(fetched) == sorted(stored), "each photo and mask is fetched once by the node"
