"""A job must not read from or write to Ray's copy of its working directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import _get_ignore_file

from persrep_ray.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["personalize", "--objects", "objects", "--registry", "s3://b/r", "--out", "s3://b/o"], "objects"),
        (["personalize", "--objects", "s3://b/p", "--registry", "registry", "--out", "s3://b/o"], "registry"),
        (["personalize", "--objects", "s3://b/p", "--registry", "s3://b/r", "--out", "runs/x"], "out"),
        (["personalize", "--objects", "s3://b/p"], "registry"),
        (["evaluate", "--objects", "s3://b/p", "--registry", "s3://b/r", "--out", "result.json"], "out"),
    ],
)
def test_relative_paths_are_refused_in_a_job(
    arguments: list[str],
    option: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"persrep: --{option}: ") and "s3://bucket/prefix" in message
    assert not list(copy.iterdir())


def test_the_upload_leaves_data_out() -> None:
    ignored = _get_ignore_file(ROOT, ignore_file=".rayignore")
    assert ignored is not None
    for folder in ("objects", "registry", "examples"):
        assert ignored(ROOT / folder / "mug" / "a.jpg")
    for needed in ("jobs/personalize.py", "persrep_ray/cli.py", "persrep_ray/registry/registry.py"):
        assert not ignored(ROOT / needed)
