"""Both stores, for the tests of registries."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.s3 import s3, s3_proxy
from helpers.versions import write_earlier_registry

from persrep_ray.registry.registry import Registry
from persrep_ray.storage.store import Store, open_store

__all__ = ["s3", "s3_proxy"]


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "folder":
        return open_store(tmp_path / "registry")
    return open_store(f"{request.getfixturevalue('s3').uri}/registry")


@pytest.fixture
def registry(store: Store) -> Registry:
    return Registry(store)


@pytest.fixture
def folder(tmp_path: Path) -> Registry:
    """A registry in a folder, for what S3 does not have."""
    return Registry(open_store(tmp_path / "registry"))


@pytest.fixture
def earlier(store: Store) -> Registry:
    """A registry in the layout before format 2."""
    return write_earlier_registry(store)
