"""Fixtures of an S3 server. A test folder gets them by `from helpers.s3 import s3, s3_port` in its conftest."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.s3_server import ENVIRONMENT, FaultyS3, s3_server

from persrep_ray.storage import s3 as s3_store

__all__ = ["s3", "s3_port"]


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """The port of the server behind all proxies."""
    with s3_server() as port:
        yield port


@pytest.fixture
def s3(s3_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """An empty bucket behind a proxy, which the AWS variables lead to. Faults cost milliseconds."""
    with FaultyS3(s3_port, f"bucket-{uuid.uuid4().hex}") as proxy:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": proxy.endpoint}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PERSREP_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(s3_store, "FIRST_PAUSE_S", 0.001)
        monkeypatch.setattr(s3_store, "READ_TIMEOUT_S", 0.5)
        s3_store.client.cache_clear()
        yield proxy
        s3_store.client.cache_clear()
