from __future__ import annotations

from pathlib import Path

import pytest
from helpers.discs import save_discs

from persrep_ray.evaluate import recognizers


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save_discs(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def small_cohort(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few photos of the bank stand for all, which would take longer than everything else in these tests."""
    photos = recognizers.cohort_photos()[::14]
    monkeypatch.setattr(recognizers, "cohort_photos", lambda: photos)
