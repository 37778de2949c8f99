"""Tiny text-to-image pipelines, each saved once in a session, and S3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.s3 import s3, s3_proxy
from helpers.tiny_diffusion import SAVERS, save_tiny_sd

__all__ = ["s3", "s3_proxy"]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny pipeline: sd, sdxl, sd3 or flux; sd_v predicts the velocity."""
    root = tmp_path_factory.mktemp("bases")

    def saved(family: str) -> Path:
        folder = root / family
        if folder.exists():
            return folder
        if family == "sd_v":
            return save_tiny_sd(folder, prediction_type="v_prediction")
        return SAVERS[family](folder)

    return saved
