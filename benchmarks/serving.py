"""Serving: mixed batches, comparison with `peft`, loads, memory, identify. docs/SERVING.md quotes the figures.

    python benchmarks/serving.py [--trained REGISTRY --data DIR]

It trains two objects of the sample data briefly, makes 200 (and 1,000) perturbed copies of their adapters, serves them
over HTTP to a load generator in another process, and measures both sides of a ratio in turns, so that other load on the
machine affects both. `--trained` (a registry that `benchmarks/quality.py` made) and `--data` (its data set) add the
agreement of identify's two modes on real photos. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = Path(__file__).with_name("serving_parts")
ADAPTERS, RESIDENT, ON_S3 = 200, 1000, 50
PORT = 8181
ROUND_S = 20  # about twenty batches on two cores; with fewer, a single batch changes the result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/serving"), metavar="DIR", help="folder for registries")
    parser.add_argument("--trained", type=Path, metavar="REGISTRY", help="adapters of the objects of --data")
    parser.add_argument("--data", type=Path, metavar="DIR", help="real photos in the reference layout")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of PyTorch")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the HTTP comparisons")
    parser.add_argument("--only", nargs="+", choices=sorted(MEASURES), default=list(MEASURES), metavar="PART")
    options = parser.parse_args()
    document: dict[str, Any] = {
        "benchmark": "serving",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPU cores, {options.threads} threads",
    }
    for name in options.only:
        document[name] = MEASURES[name](options)
        print(f"\n{name}")
        for key, value in document[name].items():
            print(f"  {key:24} {value:.3f}" if isinstance(value, float) else f"  {key:24} {value}", flush=True)
    print(json.dumps(document))
    return 0


def over_http(options: argparse.Namespace) -> dict[str, Any]:
    """Requests per second: a different adapter for each row, one adapter for all rows, and `peft`."""
    registry = copies(options.out, ADAPTERS)
    rates: dict[str, list[float]] = {"mixed": [], "one adapter": [], "peft": []}
    failed = 0
    with endpoint(registry.store.uri, options.threads) as url:
        for _ in range(options.rounds):
            for name, path, objects in (("mixed", "", ADAPTERS), ("one adapter", "", 1), ("peft", "/peft", ADAPTERS)):
                result = load(url + path, objects)
                rates[name].append(result["requests_per_s"])
                failed += result["failed"]
    pairs = list(zip(rates["mixed"], rates["one adapter"], rates["peft"], strict=True))
    return {
        "adapters": ADAPTERS,
        "failed": failed,
        "mixed_over_one_adapter": statistics.median(mixed / one for mixed, one, _ in pairs),
        "mixed_over_peft": statistics.median(mixed / peft for mixed, _, peft in pairs),
        **{f"{name} requests/s": statistics.median(values) for name, values in rates.items()},
    }


def batch(options: argparse.Namespace) -> dict[str, Any]:
    """Batches of 16 rows without HTTP: 16 adapters compared with one."""
    from serving_parts import engine
    from serving_parts.registry import SAMPLE

    registry = copies(options.out, ADAPTERS)
    photo = sorted((SAMPLE / "test").glob("*/*.jpg"))[0]
    one = engine.make_engine(registry, threads=options.threads)
    return {"rows": 16, "mixed_over_one_adapter": asyncio.run(engine.batches(one, registry, photo))}


def bank(options: argparse.Namespace) -> dict[str, Any]:
    from serving_parts import engine

    registry = copies(options.out, ADAPTERS)
    one = engine.make_engine(registry, threads=options.threads)

    async def measure() -> dict[str, Any]:
        cold = await engine.cold_loads(one, registry)
        return {
            "cold_load_p50_ms": cold["p50"],
            "cold_load_p99_ms": cold["p99"],
            "cached_overhead_ms": await engine.bank_overhead(one, engine.refs_of(registry)[0]),
        }

    return asyncio.run(measure())


def bank_on_s3(options: argparse.Namespace) -> dict[str, Any]:
    """Cold loads from an S3 server on this machine: what the network adds must be added."""
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers.s3_server import FaultyS3, s3_server
    from serving_parts import engine
    from serving_parts.registry import perturbed_copies, train_two

    trained = train_two(options.out)
    with s3_server() as port, FaultyS3(port) as server:
        os.environ.update(server.environment)
        registry = perturbed_copies(trained, f"{server.uri}/registry", ON_S3)
        one = engine.make_engine(registry, threads=options.threads)
        before = server.count()
        cold = asyncio.run(engine.cold_loads(one, registry))
        requests = server.count() - before - 1 - ON_S3  # the list of the objects is no part of a load
    return {"adapters": ON_S3, "cold_load_p50_ms": cold["p50"], "requests_per_load": requests / ON_S3}


def resident(options: argparse.Namespace) -> dict[str, Any]:
    from serving_parts import engine

    registry = copies(options.out, RESIDENT)
    return asyncio.run(engine.resident(engine.make_engine(registry, threads=options.threads), registry))


def identify(options: argparse.Namespace) -> dict[str, Any]:
    from serving_parts import engine
    from serving_parts.registry import SAMPLE

    registry = copies(options.out, ADAPTERS)
    photo = sorted((SAMPLE / "test").glob("*/*.jpg"))[0]
    return asyncio.run(engine.identify(engine.make_engine(registry, threads=options.threads), registry, photo))


def queries(options: argparse.Namespace) -> dict[str, Any]:
    """What the encoder spends on a query, compared with the former way of classify and detect."""
    from serving_parts import engine
    from serving_parts.registry import SAMPLE, TRAINED, train_two

    registry = train_two(options.out)
    photos = sorted(photo for object_id in TRAINED for photo in (SAMPLE / "test" / object_id).glob("*.jpg"))
    return asyncio.run(engine.queries(engine.make_engine(registry, threads=options.threads), registry, photos))


def top1(options: argparse.Namespace) -> dict[str, Any]:
    from serving_parts import engine

    from persrep_ray.registry.registry import Registry
    from persrep_ray.storage.store import open_store

    if options.trained is None or options.data is None:
        return {"skipped": "needs --trained and --data"}
    trained = Registry(open_store(options.trained))
    return asyncio.run(engine.same_top1(trained, options.data, threads=options.threads, shortlists=(4, 8, 16)))


def copies(out: Path, count: int) -> Any:
    from serving_parts.registry import perturbed_copies, train_two

    return perturbed_copies(train_two(out), out / f"copies_{count}", count)


def routing(options: argparse.Namespace) -> dict[str, Any]:
    """Two encoders that hold 60 % of the adapters each: what consistent hashing of the object's id gains."""
    registry = copies(options.out, ADAPTERS)
    bank_bytes = int(ADAPTERS * 0.6 * _adapter_bytes(registry))
    found: dict[str, Any] = {}
    for router in ("power_of_two", "consistent_hashing"):
        counts = Path(tempfile.mkdtemp())
        with running(["routed.py", registry.store.uri, str(PORT), router, str(bank_bytes)], COUNTS=str(counts)) as url:
            load(url, ADAPTERS)
            before = _letters(counts)
            result = load(url, ADAPTERS)
            looked = _letters(counts) - before
        found[f"{router} in memory"] = looked["h"] / looked.total()
        found[f"{router} requests/s"] = result["requests_per_s"]
        shutil.rmtree(counts)
    return found


def _letters(folder: Path) -> Counter[str]:
    return Counter("".join(file.read_text() for file in folder.iterdir()).replace("\n", ""))


def _adapter_bytes(registry: Any) -> int:
    from serving_parts import engine

    async def measure() -> int:
        one = engine.make_engine(registry, threads=1)
        async with one.bank.lease(engine.refs_of(registry)[0]):
            return one.bank.nbytes

    return asyncio.run(measure())


@contextmanager
def endpoint(registry: str, threads: int) -> Iterator[str]:
    """The endpoint, and the same with `peft` at /peft."""
    with running(["endpoints.py", registry, str(PORT), str(threads)]) as url:
        for path in ("", "/peft"):
            urllib.request.urlopen(f"{url}{path}/readyz", timeout=60).close()
            load(url + path, ADAPTERS)  # warms up: all adapters are in memory
        yield url


@contextmanager
def running(part: list[str], **variables: str) -> Iterator[str]:
    """Runs a program of `serving_parts` in its own process group and waits until it serves."""
    command = [sys.executable, str(PARTS / part[0]), *part[1:]]
    environment = {**os.environ, "PYTHONPATH": str(PARTS.parent), "RAY_worker_niceness": "0", **variables}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("serving"):
                break
        else:
            raise RuntimeError("the endpoint did not start")
        yield f"http://127.0.0.1:{PORT}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def load(url: str, objects: int) -> dict[str, Any]:
    """One round of the load generator."""
    photos = ROOT / "examples" / "mini_pods" / "test"
    command = [sys.executable, str(PARTS / "load.py"), "--url", url, "--photos", str(photos), "--objects", str(objects)]
    command += ["--seconds", str(ROUND_S)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


MEASURES = {
    "http": over_http,
    "batch": batch,
    "bank": bank,
    "bank_on_s3": bank_on_s3,
    "resident": resident,
    "identify": identify,
    "queries": queries,
    "routing": routing,
    "top1": top1,
}

if __name__ == "__main__":
    sys.exit(main())
