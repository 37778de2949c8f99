"""`persrep serve`: an endpoint on this machine, or on the Ray cluster at RAY_ADDRESS."""

from __future__ import annotations

import os
import signal
import socket
import threading

from persrep_ray.cluster import connected
from persrep_ray.config import ConfigError
from persrep_ray.serving.settings import ServeConfig

# HAProxy in front of the ingress replicas asks again when one dies under a request; all our requests are idempotent.
# A request can be asked again only if it fits into one of its buffers; a buffer is memory only while it is in use.
SERVE_ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response response-timeout",
}


def haproxy_environment(config: ServeConfig) -> dict[str, str]:
    """What Ray Serve reads when its controller and proxies start."""
    return {**SERVE_ENVIRONMENT, "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(config.http.max_body_bytes + 64 * 1024)}


def serve_until_interrupted(config: ServeConfig, *, host: str, port: int, verbose: bool) -> None:
    """Starts the endpoint, says where it is, and stays until SIGINT or SIGTERM.

    Raises:
        ConfigError: the registry cannot be served, or the port is taken.
        RuntimeError: Ray Serve could not start the application.
    """
    for name, value in haproxy_environment(config).items():
        os.environ.setdefault(name, value)
    from ray import serve  # reads the environment when it is imported

    from persrep_ray.endpoint.deployments import build_app

    app = build_app(config)
    if "RAY_ADDRESS" not in os.environ:
        _check_free(host, port)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with connected(verbose=verbose):
        serve.start(http_options={"host": host, "port": port})
        serve.run(app, name="persrep", route_prefix="/")
        shown = "localhost" if host in ("0.0.0.0", "127.0.0.1") else host
        print(f"serving  http://{shown}:{port}/   (page; API: /docs)\nStop with Ctrl-C.", flush=True)
        try:
            ended.wait()
        finally:
            serve.shutdown()


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"port {port} on {host} cannot be used: {error.strerror}") from error
