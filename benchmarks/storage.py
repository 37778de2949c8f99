"""Measures what storage costs: publish, list, follow, cold load and resume, on a folder and on S3.

    python benchmarks/storage.py [--objects 200] [--adapter-kb 600]

The S3 server is local (moto's), so its times only say how many round trips there are. They are given as ratios to the
times of the folder, next to the requests per object, which hold for every S3 server. The last line is one JSON object.

    publish      the four files of a version, then its pointer by compare-and-swap
    list         all pointers, as an endpoint reads them when it starts
    follow       all pointers again: a listing shows by their tags that none has changed
    cold load    the files of a version
    resume       which objects of a run are trained
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from persrep_ray.data.run_folder import RunFolder
from persrep_ray.registry.pointers import Pointer
from persrep_ray.registry.registry import Registry
from persrep_ray.storage.store import Store, open_store

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the S3 server is started as in the tests


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=200, metavar="N", help="how many objects are published")
    parser.add_argument("--adapter-kb", type=int, default=600, metavar="KB", help="size of an adapter")
    options = parser.parse_args()

    from helpers.s3_server import FaultyS3, s3_server

    with tempfile.TemporaryDirectory() as scratch, s3_server() as port, FaultyS3(port) as s3:
        os.environ |= {**s3.environment, "PERSREP_CACHE": f"{scratch}/cache"}
        folder = measure(open_store(Path(scratch, "store")), options, requests=lambda: 0)
        remote = measure(open_store(s3.uri), options, requests=s3.count)
    table = {
        name: {
            "folder_ms_per_object": round(folder[name][0], 3),
            "s3_to_folder": round(remote[name][0] / folder[name][0], 1),
            "s3_requests_per_object": round(remote[name][1], 3),
        }
        for name in folder
    }
    print(f"{'':10}{'folder, ms per object':>24}{'S3 / folder':>14}{'S3 requests per object':>25}")
    for name, row in table.items():
        print(
            f"{name:10}" + "".join(f"{value:>{width}}" for value, width in zip(row.values(), (24, 14, 25), strict=True))
        )
    document = {
        "benchmark": "storage",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "objects": options.objects,
        "adapter_kb": options.adapter_kb,
        **table,
    }
    print(json.dumps(document))
    return 0


def measure(store: Store, options: argparse.Namespace, requests: Callable[[], int]) -> dict[str, tuple[float, float]]:
    """(milliseconds, by the median call; requests), each per object, of every step."""
    ids = [f"object_{number:05d}" for number in range(options.objects)]
    files: dict[str, bytes | Path] = {
        "adapter_config.json": b"{}",
        "adapter_model.safetensors": _tensors(options.adapter_kb),
        "prototypes.safetensors": _tensors(16),
        "card.json": b"{}",
    }
    store.check_writable()
    registry, run = Registry(store), RunFolder(store)
    known: dict[str, Pointer] = {}

    def follow() -> None:
        known.update(registry.pointers(known))
        if len(known) != len(ids):
            raise RuntimeError(f"{store.uri}: expected {len(ids)} pointers, found {len(known)}")

    def load(object_id: str) -> None:
        registry.files(object_id, "v1")

    def complete(object_id: str) -> None:
        run.write_trained(object_id, {"adapter_model.safetensors": b""}, {})

    def resume() -> None:
        if run.trained() != set(ids):
            raise RuntimeError(f"{store.uri}: expected {len(ids)} trained objects")

    steps: dict[str, list[Callable[[], None]]] = {
        "publish": [partial(registry.publish, object_id, "v1", files) for object_id in ids],
        "list": [follow],
        "follow": [follow],
        "cold load": [partial(load, object_id) for object_id in ids],
    }
    measured = {name: _measured(calls, requests, len(ids)) for name, calls in steps.items()}
    for object_id in ids:
        complete(object_id)
    return {**measured, "resume": _measured([resume], requests, len(ids))}


def _tensors(kilobytes: int) -> bytes:
    return save({"values": np.zeros((kilobytes, 256), np.float32)})


def _measured(calls: list[Callable[[], None]], requests: Callable[[], int], objects: int) -> tuple[float, float]:
    before, seconds = requests(), []
    for call in calls:
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds) * len(calls) / objects, (requests() - before) / objects


if __name__ == "__main__":
    sys.exit(main())
