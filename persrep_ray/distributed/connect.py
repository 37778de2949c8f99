"""Connecting to Ray: the cluster at RAY_ADDRESS, or a private one on this machine that ends with the run."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import ray

_LEAST_LOCAL_CPUS = 2  # logical: on one core the stages take turns
_QUIET = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # Ray's core writes errors that it recovers from to the driver's terminal
    "RAY_maximum_startup_concurrency": "8",  # many small workers on few cores are what we want: no warning
}


@contextmanager
def connected(*, verbose: bool = False) -> Iterator[None]:
    """Within, Ray is there; left alone if the caller has connected already. `verbose` shows what Ray has to say."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's future default; warns about it otherwise
    address = os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {}
    if not address:
        local = {"num_cpus": max(_LEAST_LOCAL_CPUS, os.cpu_count() or 1), "include_dashboard": False}
    if not verbose:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
    with nullcontext() if verbose else _standard_error_closed():
        ray.init(
            address=address or "local",
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            **local,
        )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _standard_error_closed() -> Iterator[None]:
    """What native code prints meanwhile is lost: it announces its log level on every start. Exceptions come through."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
