"""Both stores, for the tests of what they have in common."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.s3 import s3, s3_proxy

from persrep_ray.storage.store import Store, open_store

__all__ = ["s3", "s3_proxy"]


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "folder":
        return open_store(tmp_path / "store")
    return open_store(f"{request.getfixturevalue('s3').uri}/some/prefix")
