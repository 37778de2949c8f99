"""Models that would be trained wrongly are refused, and models of the hub are known by their commit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.text_to_image import model

from persrep_ray.generate.dreambooth.diffusion.loading import DiffusionError

Base = Callable[[str], Path]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def with_config(base: Path, folder: Path, part: str, **changes: Any) -> Path:
    """A copy of the pipeline in which some settings of a component differ."""
    shutil.copytree(base, folder)
    (file,) = (folder / part).glob("*config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    ("family", "part", "changes", "cause"),
    [
        (
            "sd",
            "scheduler",
            {"prediction_type": "sample"},
            "it predicts 'sample'; epsilon and v_prediction are supported",
        ),
        ("sdxl", "scheduler", {"sigma_data": 0.5}, "it uses the noise of EDM"),
        ("sdxl", "vae", {"latents_mean": [0.0] * 4}, "its VAE shifts each channel of the latents"),
    ],
)
def test_noise_and_latents_that_the_loss_does_not_support_are_refused(
    base: Base, tmp_path: Path, family: str, part: str, changes: dict[str, Any], cause: str
) -> None:
    other = with_config(base(family), tmp_path / "other", part, **changes)
    with pytest.raises(DiffusionError) as caught:
        model(other)
    assert str(caught.value).startswith(f"generator {other}: {cause}")


def test_min_snr_is_refused_before_anything_is_drawn(base: Base) -> None:
    with pytest.raises(DiffusionError, match=r"generate\.dreambooth\.min_snr_gamma: .* flow matching"):
        model(base("sd3"), min_snr_gamma=5.0)


def test_a_folder_has_no_commit(base: Base) -> None:
    assert model(base("sd")).commit is None


def test_a_model_of_the_hub_is_known_by_its_commit(base: Base, tmp_path: Path) -> None:
    """The model comes from a cache in the layout of the hub's client, so nothing is downloaded."""
    cached = tmp_path / "hub" / "models--somebody--tiny"
    shutil.copytree(base("sd"), cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    program = (
        "from helpers.text_to_image import model\n"
        "tiny = model('somebody/tiny')\nprint(tiny.commit, type(tiny.pipe).__name__)\n"
    )
    tests = Path(__file__).resolve().parents[3]
    environment = {
        **os.environ,
        **{"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
    }
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout.split() == [COMMIT, "StableDiffusionPipeline"], run.stderr
