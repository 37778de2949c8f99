"""Connecting to Ray: to the cluster at RAY_ADDRESS, or to a private one on this machine that ends with the run."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import ray

from persrep_ray.distributed.machine import usable_cpus

_START_ATTEMPTS = 4
_QUIET = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # otherwise Ray writes errors that it recovers from to the driver's terminal
    "RAY_worker_maximum_startup_concurrency": "8",  # we want many small workers on few cores, so no warning
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
        local = {"num_cpus": usable_cpus(), "include_dashboard": False}
    if not verbose:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
    before: Any = signal.getsignal(signal.SIGTERM)
    with nullcontext() if verbose else _standard_error_closed():
        start_ray(
            address=address or "local",
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            **local,
        )
    in_main = threading.current_thread() is threading.main_thread()
    if in_main:
        # Native code of Ray has taken the signal over: it would print a stack and abort, with nothing tidied up.
        signal.signal(signal.SIGTERM, before if callable(before) else _interrupt)
    try:
        yield
    finally:
        ray.shutdown()
        if in_main and before is not None:
            signal.signal(signal.SIGTERM, before)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt  # to end by SIGTERM is to end by Ctrl-C


def start_ray(**options: Any) -> None:
    """`ray.init`, again if the machine was too busy for the 30 seconds that Ray gives a new node.

    Raises OSError, whose message is one line, if the machine stays too busy.
    """
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            ray.init(**options)
            return
        except Exception as error:  # Ray has no class for it
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()  # of what did start
            if attempt == _START_ATTEMPTS:
                raise OSError(
                    f"Ray did not start within {30 * _START_ATTEMPTS} s, because this machine is too busy; try again "
                    "when it has less to do"
                ) from error


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
