"""Two applications on one Ray Serve: the endpoint at /, and the same with `peft` at /peft. SIGTERM ends it."""

from __future__ import annotations

import os
import signal
import sys
import threading

from persrep_ray.config import load_serve_config
from persrep_ray.distributed.connect import connected
from persrep_ray.serving import haproxy
from persrep_ray.serving.engine.profile import read_profile


def main(registry: str, port: int, threads: int) -> None:
    settings = ["encoder.cpus_per_replica=0.5", f"encoder.threads={threads}", "http.timeout_s=120"]
    config = load_serve_config({"registry": registry}, settings)
    os.environ.update(haproxy.environment())
    from ray import serve

    from persrep_ray.serving.deployments import Encoder, application
    from serving_parts.peft_app import PeftEncoder

    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    profile = read_profile(config)
    with connected():
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(config, profile, Encoder), name="ours", route_prefix="/")
        serve.run(application(config, profile, PeftEncoder), name="peft", route_prefix="/peft")
        print("serving", flush=True)
        ended.wait()
        serve.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
