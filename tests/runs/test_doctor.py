"""`persrep doctor` says what will happen, and its exit code whether a run would fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from persrep_ray.cli import main


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSREP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cup", "mug"):
        (tmp_path / "objects" / name).mkdir(parents=True)
        for index in range(2):
            pixels = np.kron(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
            Image.fromarray(pixels).save(tmp_path / "objects" / name / f"{index}.png")
    return tmp_path / "objects"


def examine(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["doctor", *arguments])
    return code, capsys.readouterr().out


def test_a_sound_machine_and_folder(objects: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = examine(capsys, "--objects", str(objects))
    assert code == 0
    topics = {line.split()[0] for line in said.splitlines()}
    assert topics == {"machine", "devices", "packages", "cache", "backbone", "photos", "cost"}
    assert "4 to train on (0 with masks) and 0 to test, of 2 objects" in said
    assert "for 2 objects" in said


def test_what_will_be_skipped_and_copies_are_listed(objects: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (objects / "cup" / "broken.jpg").write_bytes(b"no image")
    (objects / "cup" / "2.png").write_bytes((objects / "mug" / "0.png").read_bytes())
    code, said = examine(capsys, "--objects", str(objects))
    assert code == 0 and "cup/broken.jpg" in said and "the same photo in two objects" in said


def test_an_object_without_photos_will_fail(objects: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (objects / "jug").mkdir()
    (objects / "jug" / "a.jpg").write_bytes(b"no image")
    code, said = examine(capsys, "--objects", str(objects))
    assert code == 1 and "PROBLEM: without a usable train photo: jug" in said


def test_a_backbone_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, revision: str | None) -> None:
        raise FileNotFoundError("neither a local folder nor on the hub")

    monkeypatch.setattr("persrep_ray.runs.doctor.check_hub", missing)
    code, said = examine(capsys, "--set", "backbone.name=org/vit")
    assert code == 1 and "PROBLEM: org/vit: neither a local folder nor on the hub" in said


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PERSREP_CACHE", str(tmp_path / "file" / "cache"))
    code, said = examine(capsys)
    assert code == 1 and "set PERSREP_CACHE" in said
