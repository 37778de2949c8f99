"""The application with two encoders, whose banks hold 60 % of the adapters each, behind one of Ray Serve's routers.

Each lookup of an adapter appends a letter to a file in $COUNTS: h if the adapter was in memory, m if it was not.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from persrep_ray.config import ServeConfig, load_serve_config
from persrep_ray.distributed.connect import connected
from persrep_ray.serving import deployments, haproxy
from persrep_ray.serving.engine.metrics import Metrics
from persrep_ray.serving.engine.profile import Profile, read_profile

ROUTERS = {
    "consistent_hashing": "persrep_ray.serving.router.EncoderRouter",
    "power_of_two": "ray.serve._private.request_router.pow_2_router.PowerOfTwoChoicesRequestRouter",
}


class CountedEncoder(deployments.Encoder):
    """An encoder that counts lookups."""

    async def __init__(self, config: ServeConfig, profile: Profile) -> None:  # type: ignore[misc]
        await deployments.Encoder.__init__(self, config, profile)
        self._engine.bank._metrics = _Letters(Path(os.environ["COUNTS"]) / str(os.getpid()))


class _Letters(Metrics):
    def __init__(self, file: Path) -> None:
        self._file = open(file, "a", buffering=1)  # noqa: SIM115  lives as long as the replica

    def adapter_looked_up(self, *, hit: bool) -> None:
        self._file.write("h\n" if hit else "m\n")


def main(registry: str, port: int, router: str, bank_bytes: int) -> None:
    settings = ["encoder.min_replicas=2", "encoder.cpus_per_replica=0.5", "encoder.threads=1", "http.timeout_s=120"]
    config = load_serve_config({"registry": registry}, [*settings, f"encoder.bank_bytes={bank_bytes}"])
    os.environ.update(haproxy.environment())
    from ray import serve

    deployments._ROUTER = ROUTERS[router]
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with connected():
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(deployments.application(config, read_profile(config), CountedEncoder), name="ours", route_prefix="/")
        print("serving", flush=True)
        ended.wait()
        serve.shutdown()


if __name__ == "__main__":
    from serving_parts.routed import main as importable_main  # so that replicas find CountedEncoder by this name

    importable_main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
