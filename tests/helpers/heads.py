"""A real Ray cluster of one node, made by `ray start`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.served import free_port

RAY = Path(sys.executable).with_name("ray")
PATIENCE_S = 400


@contextmanager
def ray_head(environment: dict[str, str], folder: Path, *arguments: str) -> Iterator[str]:
    """The dashboard's address of a cluster of two CPUs. The cluster ends with its process group, not by `ray stop`."""
    session = tempfile.mkdtemp(prefix="ray")  # not pytest's folder: the paths of sockets must be short
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        *(str(RAY), "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats"),
        *(f"--port={free_port()}", f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}"),
        *(f"--ray-client-server-port={free_port()}", f"--temp-dir={session}", *arguments),
    ]
    log = folder / "output.txt"
    with open(log, "wb") as output:
        head = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        give_up = time.monotonic() + PATIENCE_S
        while True:
            assert head.poll() is None and time.monotonic() < give_up, log.read_text()
            try:
                urllib.request.urlopen(f"{address}/api/jobs/", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        try:
            head.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(session, ignore_errors=True)
