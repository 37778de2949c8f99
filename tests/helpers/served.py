"""A real endpoint in its own processes, load on it, and ways to hurt it."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import aiohttp
import numpy as np
import ray
from helpers.published import PHOTOS, photo, publish_object, tiny_checkpoint
from PIL import Image
from ray import serve
from ray.serve.schema import ReplicaState

from persrep_ray.backbones.lora import load_lora
from persrep_ray.registry.registry import Registry
from persrep_ray.storage.store import open_store

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300


def free_port() -> int:
    """A port outside the range of outgoing connections, which would take it while the server starts."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def proxy_ports() -> dict[str, str]:
    """Settings of Ray Serve's proxy: ports that no other endpoint of the machine has, and patience on busy machines."""
    return {
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),  # answers before the first ingress replica is there
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    }


@dataclass(frozen=True)
class Endpoint:
    """A running `persrep serve`."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def replicas(self, deployment: str) -> list[int]:
        """Process ids of the replicas of "encoder" or "ingress"."""
        return processes_below(self.process.pid, f"ray::ServeReplica:persrep:{deployment}")

    def wait_until_replaced(self, deployment: str, lost: int) -> None:
        """Waits until two replicas other than the process `lost` are running and get queries."""
        wait_until(lambda: len(set(self.replicas(deployment)) - {lost}) == 2)
        (raylet,) = processes_below(self.process.pid, "raylet/raylet ")
        flags = Path(f"/proc/{raylet}/cmdline").read_text().split("\0")
        (address,) = {flag.partition("=")[2] for flag in flags if flag.startswith("--gcs-address=")}
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        try:

            def states() -> dict[ReplicaState, int]:
                return serve.status().applications["persrep"].deployments[deployment].replica_states

            wait_until(lambda: states() == {ReplicaState.RUNNING: 2})  # the process starts long before
        finally:
            ray.shutdown()

    def resident_bytes(self) -> int:
        """The resident memory of the replicas and the proxy."""
        pids = [
            *processes_below(self.process.pid, "ray::ServeReplica"),
            *processes_below(self.process.pid, "ray::ProxyActor"),
            *processes_below(self.process.pid, "haproxy"),
        ]
        page = os.sysconf("SC_PAGE_SIZE")
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in pids)


@contextmanager
def running_endpoint(
    registry: str, environment: dict[str, str], folder: Path, *arguments: str, settings: Sequence[str] = ()
) -> Iterator[Endpoint]:
    """`persrep serve` on a free port, ready for queries."""
    port = free_port()
    command = [sys.executable, "-m", "persrep_ray.cli", "serve", "--registry", registry, "--port", str(port)]
    command += [*arguments, "--set", *settings] if settings else arguments
    log = folder / "endpoint.txt"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, env={**environment, **proxy_ports()}, stdout=output, stderr=output, start_new_session=True
        )
    endpoint = Endpoint(f"http://127.0.0.1:{port}", process, log)
    try:
        wait_until(lambda: ready(endpoint.url), lambda: process.poll() is None, log)
        yield endpoint
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


def wait_until(holds: Callable[[], bool], alive: Callable[[], bool] = lambda: True, log: Path | None = None) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not holds():
        assert alive() and time.monotonic() < give_up, log.read_text()[-5000:] if log else "waited in vain"
        time.sleep(0.1)


def processes_below(ancestor: int, title: str) -> list[int]:
    """The process ids of descendants whose command line contains `title`."""
    parents, titles = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        pid = int(stat.parent.name)
        try:
            parents[pid] = int(stat.read_text().rpartition(")")[2].split()[1])
            titles[pid] = (stat.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # ended meanwhile

    def is_below(pid: int) -> bool:
        while pid in parents and pid != ancestor:
            pid = parents[pid]
        return pid == ancestor

    return [pid for pid in parents if title in titles.get(pid, "") and is_below(pid)]


@dataclass(frozen=True)
class Query:
    """A query about an object with an image."""

    object_id: str
    image: bytes
    task: str = "classify"


async def ask(session: aiohttp.ClientSession, url: str, query: Query) -> tuple[int, dict[str, object], str]:
    """Status, JSON and X-Adapter-Version."""
    async with session.post(
        f"{url}/v1/objects/{query.object_id}/{query.task}", data=query.image, headers={"Content-Type": "image/png"}
    ) as answer:
        return answer.status, await answer.json(), answer.headers.get("X-Adapter-Version", "")


def under_load(
    url: str, queries: Sequence[Query], meanwhile: Callable[[], None], *, clients: int = 16
) -> Counter[tuple[str, int, str]]:
    """How many answers each (object, status, error code or version) had, of `clients` at once while `meanwhile` ran.

    A connection that breaks counts as status 0.
    """
    answers: Counter[tuple[str, int, str]] = Counter()

    async def run() -> None:
        numbers = count()
        done = asyncio.get_running_loop().run_in_executor(None, meanwhile)
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=clients)) as session:

            async def client() -> None:
                while not done.done():
                    query = queries[next(numbers) % len(queries)]
                    try:
                        status, body, version = await ask(session, url, query)
                        error = body.get("error")
                        said = str(error["code"]) if isinstance(error, dict) else version
                    except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
                        status, said = 0, f"{error!r}, {len(query.image)} bytes sent"
                    answers[query.object_id, status, said] += 1

            await asyncio.gather(*(client() for _ in range(clients)))
        await done

    asyncio.run(run())
    return answers


def disc_png(number: int, index: int = PHOTOS) -> bytes:
    """An image of the object `disc_<number>`; from index `PHOTOS` on, no prototype knows it."""
    return _png(photo(number, index)[0])


def noise_png(size: int) -> bytes:
    """An image that does not compress and has about 3 * size * size bytes."""
    return _png(np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8))


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


class DiscPublisher:
    """Publishes discs as objects for a tiny backbone in `folder`."""

    def __init__(self, folder: Path, registry: str | Path) -> None:
        self.registry = Registry(open_store(registry))
        self._config = tiny_checkpoint(folder)
        self._lora = load_lora(self._config)

    def publish(self, number: int, version: str = "v1") -> None:
        """Publishes the object `disc_<number>`; a version other than v1 has another adapter."""
        made_of = number if version == "v1" else number + 500
        publish_object(
            self.registry.store.uri, f"disc_{number}", self._config, made_of, version=version, lora=self._lora
        )
