from __future__ import annotations

from pathlib import Path

import pytest
from helpers.discs import save_discs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save_discs(tmp_path)
    return tmp_path
