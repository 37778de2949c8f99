"""Fixtures of an S3 server. A test folder gets them by `from helpers.s3 import s3, s3_proxy` in its conftest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.s3_server import FaultyS3, s3_server

from persrep_ray.storage import s3 as s3_store

__all__ = ["s3", "s3_proxy"]

READ_TIMEOUT_S = 1.0  # what a hang costs; shorter, and a busy machine would seem to hang


@pytest.fixture(scope="session")
def s3_proxy() -> Iterator[tuple[FaultyS3, Any]]:
    """The proxy of all tests and a client of it, which takes long to make."""
    with s3_server() as port, FaultyS3(port) as proxy, pytest.MonkeyPatch.context() as patch:
        for name, value in proxy.environment.items():
            patch.setenv(name, value)
        patch.setattr(s3_store, "READ_TIMEOUT_S", READ_TIMEOUT_S)
        client = s3_store.client.__wrapped__()
        patch.undo()
        yield proxy, client


@pytest.fixture
def s3(s3_proxy: tuple[FaultyS3, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaultyS3:
    """An empty bucket behind a proxy, which the AWS variables lead to. Faults cost milliseconds."""
    proxy, client = s3_proxy
    proxy.new_bucket()
    for name, value in proxy.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PERSREP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(s3_store, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(s3_store, "client", lambda: client)
    return proxy
