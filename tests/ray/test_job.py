"""`ray job submit` on a real cluster, and training with two ranks per object."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).with_name("ray")
PATIENCE_S = 400


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def dashboard(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of two CPUs on free ports; ended by its process group, never by `ray stop`."""
    session = tempfile.mkdtemp(prefix="ray")  # not pytest's folder: the paths of sockets must be short
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        *(str(RAY), "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats"),
        *(f"--port={free_port()}", f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}"),
        *(f"--ray-client-server-port={free_port()}", f"--temp-dir={session}"),
    ]
    log = tmp_path_factory.mktemp("head") / "output.txt"
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


def test_a_submitted_job_publishes_with_two_ranks_per_object(
    dashboard: str, environment: dict[str, str], sample: Any, tmp_path: Path
) -> None:
    work = tmp_path / "work"  # what a user would submit: the code, without results and data
    work.mkdir()
    for name in ("persrep_ray", "jobs"):
        (work / name).symlink_to(ROOT / name)
    out = tmp_path / "out"
    arguments = sample.arguments(out, "train.cells=1", "train.workers_per_object=2")
    submitted = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    command = [str(RAY), "job", "submit", "--address", dashboard, "--working-dir", str(work), "--"]
    done = subprocess.run(
        [*command, sys.executable, "jobs/personalize.py", *arguments, "--only", "blue", "red"],
        env=submitted,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert {name: one["status"] for name, one in summary["objects"].items()} == {
        "blue": "published",
        "red": "published",
    }
    assert "mean" in done.stdout, "the table is in the job's log"
