"""Connecting to Ray: to the cluster at RAY_ADDRESS, or to a private one on this machine that ends with the run."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import ray

_LEAST_LOCAL_CPUS = 2  # logical: on a single core the stages take turns
_QUIET = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # otherwise Ray writes errors that it recovers from to the driver's terminal
    "RAY_maximum_startup_concurrency": "8",  # we want many small workers on few cores, so no warning
}


@contextmanager
def connected(*, verbose: bool = False) -> Iterator[None]:
    """Connects to Ray while the body runs, unless the caller is connected already. `verbose` shows Ray's own output."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's future default; it warns otherwise
    address = os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {}
    if not address:
        local = {"num_cpus": max(_LEAST_LOCAL_CPUS, os.cpu_count() or 1), "include_dashboard": False}
    if not verbose:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
    with nullcontext() if verbose else _standard_error_closed():
        start_ray(
            address=address or "local",
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            **local,
        )
    try:
        yield
    finally:
        ray.shutdown()


def start_ray(**options: Any) -> None:
    """`ray.init`, a second time if the machine was too busy for the 30 seconds that Ray gives a new node."""
    try:
        ray.init(**options)
    except Exception as error:  # Ray has no class for it
        if "timed out during startup" not in str(error):
            raise
        ray.init(**options)


@contextmanager
def _standard_error_closed() -> Iterator[None]:
    """Discards what native code prints, which announces its log level on every start. Exceptions still get through."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
