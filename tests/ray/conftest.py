"""Fixtures of the Ray tests: a few objects (coloured shapes), a tiny ViT, and ways to run and kill `persrep`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import ray
import torch
import transformers
from helpers.s3 import s3, s3_proxy

from persrep_ray.distributed.connect import start_ray

__all__ = ["s3", "s3_proxy"]

ROOT = Path(__file__).resolve().parents[2]
# A token in the user's environment would switch authentication on. Niceness 0 keeps workers from yielding to everything
# else on the machine.
RAY_SETTINGS = {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 40, 40)}


@dataclass(frozen=True)
class Sample:
    """A data folder in the reference layout, and a backbone folder."""

    objects: Path
    backbone: Path

    def arguments(self, out: Path, *overrides: str) -> list[str]:
        """The arguments of `persrep personalize`, with the `debug` preset."""
        settings = [f"backbone.name={self.backbone}", "train.steps=40", *overrides]
        return ["--objects", str(self.objects), "--out", str(out), "--config", "debug", "--set", *settings]


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """The objects `blue`, `green` and `red`, with three train and two test photos each, all with masks."""
    root = tmp_path_factory.mktemp("sample")
    for number, (name, colour) in enumerate(COLOURS.items()):
        for part, photos in (("train", 3), ("test", 2)):
            for index in range(photos):
                rng = np.random.default_rng([number, index, photos])
                image = rng.integers(90, 160, (96, 96, 3)).astype(np.uint8)
                y, x = np.mgrid[:96, :96]
                centre, radius = rng.uniform(38, 58, 2), rng.uniform(16, 26)
                mask = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
                image[mask] = colour[::-1]
                for folder, content in ((part, image), (f"{part}_masks", mask.astype(np.uint8) * 255)):
                    path = root / "objects" / folder / name / f"{index:02d}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(path), content)
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=56, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(root / "vit")
    return Sample(root / "objects", root / "vit")


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment of subprocesses: no foreign cluster, no tokens, one thread per process."""
    without_ray = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**without_ray, **RAY_SETTINGS, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A private cluster of two CPUs, which `persrep` called in this process uses."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY_SETTINGS.items():
            patch.setenv(name, value)
        start_ray(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Callable[[list[str]], subprocess.Popen[bytes]]:
    """Starts `persrep personalize` as the leader of a new process group and appends its output to a file."""

    def start_personalize(arguments: list[str]) -> subprocess.Popen[bytes]:
        with open(tmp_path / "output.txt", "ab") as output:
            command = [sys.executable, "-m", "persrep_ray.cli", "personalize", *arguments]
            return subprocess.Popen(
                command, env=environment, cwd=tmp_path, stdout=output, stderr=output, start_new_session=True
            )

    return start_personalize


@pytest.fixture
def kill_group() -> Callable[[subprocess.Popen[bytes]], None]:
    """Kills the whole process group, as an out-of-memory killer would kill a single process."""

    def kill(process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    return kill
