"""`ray job submit` on a real cluster, and training with two ranks per object."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.heads import RAY, ray_head

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 400


@pytest.fixture(scope="module")
def dashboard(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ray_head(environment, tmp_path_factory.mktemp("head")) as address:
        yield address


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
