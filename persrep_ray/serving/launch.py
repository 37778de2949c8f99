"""`persrep serve`: an endpoint on this machine, or on the Ray cluster at RAY_ADDRESS."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import Any

from persrep_ray.config import ConfigError, ServeConfig
from persrep_ray.distributed.connect import connected
from persrep_ray.serving import haproxy
from persrep_ray.serving.http.auth import Keys
from persrep_ray.storage.store import is_remote, open_store

_APPLICATION = "persrep"
_LONGEST_END_S = 20.0
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


def serve_until_interrupted(config: ServeConfig, *, host: str, port: int, verbose: bool) -> None:
    """Starts the endpoint, prints its address, and runs until SIGINT, SIGTERM or SIGHUP.

    Raises:
        ConfigError: the registry cannot be served, or the port is in use.
        RuntimeError: Ray Serve cannot start the application.
    """
    for name, value in haproxy.environment().items():
        os.environ.setdefault(name, value)
    if not haproxy.is_available() and "RAY_ADDRESS" not in os.environ:
        print(f"persrep: {haproxy.MISSING}", file=sys.stderr)
    from ray import serve  # reads the environment when it is imported

    from persrep_ray.serving.deployments import build_app

    config = _with_absolute_locations(config)
    app = build_app(config)
    if host not in _THIS_MACHINE and Keys.load(config.http).are_open:
        print(
            f"persrep: there are no keys, so everyone who reaches {host} has access (docs/SERVING.md)", file=sys.stderr
        )
    if "RAY_ADDRESS" not in os.environ:
        _check_free(host, port)
    ended = threading.Event()
    with connected(verbose=verbose):
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # only now: Ray has handlers of its own
                if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                    signal.signal(number, lambda *_: ended.set())
            serve.start(http_options={"host": host, "port": port})
            serve.run(app, name=_APPLICATION, route_prefix="/")
            shown = "localhost" if host in (*_THIS_MACHINE, "0.0.0.0") else host
            print(f"serving  http://{shown}:{port}/   (page; API: /docs)\nStop with Ctrl-C.", flush=True)
            ended.wait()
        finally:
            if "RAY_ADDRESS" in os.environ:
                serve.delete(_APPLICATION)  # but nothing else that a shared cluster serves
            else:
                _end_private(serve, quiet=ended.is_set() and not verbose)


def _end_private(serve: Any, *, quiet: bool) -> None:
    """Ends an endpoint that has Ray for itself.

    What ends everything together (systemd, a terminal that closes) signals Ray's processes, too. Then there is nobody
    who answers, and native code of this process prints stacks.
    """
    if quiet:
        for output in (1, 2):  # nothing of ours is left to say
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)
        last = threading.Timer(_LONGEST_END_S, os._exit, [0])
        last.daemon = True
        last.start()
    with suppress(Exception):
        serve.shutdown()


def _with_absolute_locations(config: ServeConfig) -> ServeConfig:
    """`config` for replicas, which may run in another folder."""
    changes: dict[str, object] = {"registry": open_store(config.registry).uri}
    keys_file = config.http.keys_file
    if keys_file is not None and not is_remote(keys_file):
        changes["http"] = config.http.model_copy(update={"keys_file": os.path.abspath(keys_file)})
    return config.model_copy(update=changes)


def _check_free(host: str, port: int) -> None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigError(f"port {port} on {host} cannot be used: {error.strerror}") from error
