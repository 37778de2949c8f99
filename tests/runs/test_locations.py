"""Locations that a user gives: folders and S3; what is wrong with them is one line and exit code 2, at the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.s3_server import FaultyS3
from PIL import Image

from persrep_ray.cli import main
from persrep_ray.config import ConfigError, DataConfig
from persrep_ray.data.objects import load_manifest
from persrep_ray.runs.inputs import photos_in
from persrep_ray.storage.files import RemoteFile
from persrep_ray.storage.store import StorageError, open_store


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["personalize", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("persrep: ") and printed.err.count("\n") == 1
    return printed.err


@pytest.fixture
def objects(tmp_path: Path) -> str:
    (tmp_path / "objects" / "mug").mkdir(parents=True)
    Image.new("RGB", (20, 20), "red").save(tmp_path / "objects" / "mug" / "a.png")
    return str(tmp_path / "objects")


@pytest.mark.parametrize("option", ["--objects", "--registry", "--out", "--negatives", "--backgrounds"])
def test_an_unknown_scheme_lists_the_known_ones(
    objects: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"--objects": objects, "--out": "run", option: "gs://bucket/x"}
    arguments = [text for item in given.items() for text in item]
    message = error_of(capsys, *arguments)
    assert (
        "unknown kind of location 'gs:'; expected a folder or s3://bucket/prefix" in message
        and "//bucket/x" not in message
    )
    assert {path.name for path in tmp_path.iterdir()} == {"objects"}, "nothing is left of a run that never began"


@pytest.mark.parametrize("option", ["--objects", "--registry", "--out"])
@pytest.mark.parametrize("code", ["AccessDenied", "ExpiredToken"])
def test_refused_credentials_end_the_run_at_its_start(
    s3: FaultyS3, objects: str, option: str, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.fail(code, times=100)
    given = {"--objects": objects, "--out": str(tmp_path / "run"), option: f"{s3.uri}/x"}
    message = error_of(capsys, *[text for item in given.items() for text in item])
    assert f"{s3.uri}/x" in message
    assert len(s3.requests) < 5, "it is not tried again and again"


def test_photos_that_may_not_be_read_end_the_run_at_its_start(
    s3: FaultyS3, objects: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_store(s3.uri).write("mug/a.png", Path(objects, "mug", "a.png"))
    s3.fail("AccessDenied", times=100, when=lambda request: request.operation == "GetObject")
    message = error_of(capsys, "--objects", s3.uri, "--out", str(tmp_path / "run"))
    assert f"{s3.uri}/mug/a.png" in message and "AccessDenied" in message
    assert s3.count("GetObject") == 1


def test_a_store_that_fails_for_a_while_makes_no_photo_a_bad_photo(s3: FaultyS3, objects: str) -> None:
    open_store(s3.uri).write("mug/a.png", Path(objects, "mug", "a.png"))
    s3.fail("SlowDown", times=100, when=lambda request: request.operation == "GetObject")
    with pytest.raises(StorageError, match=r"mug/a\.png"):
        load_manifest(s3.uri, DataConfig())


def test_storage_that_fails_during_a_run_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "objects" / "mug").mkdir(parents=True)
    (tmp_path / "objects" / "mug" / "a.png").write_bytes(b"no image")  # the object fails, so that nothing is left to do

    def away(*arguments: object) -> None:
        raise StorageError("write s3://bucket/run/summary.json: there is no answer in time, 7 attempts")

    monkeypatch.setattr("persrep_ray.runs.personalize.summarize", away)
    assert main(["personalize", "--objects", str(tmp_path / "objects"), "--out", str(tmp_path / "run")]) == 1
    assert "the run was interrupted: write s3://bucket/run/summary.json" in capsys.readouterr().err


def test_the_result_of_an_evaluation_needs_a_place_before_it_begins(
    objects: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--objects", objects, "--registry", str(tmp_path / "registry"), "--out", str(tmp_path)]
    assert main(arguments) == 2
    assert f"{tmp_path} is a folder; expected a file" in capsys.readouterr().err


def test_a_bucket_that_does_not_exist(s3: FaultyS3, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = error_of(capsys, "--objects", "s3://nobody-has-this/x", "--out", str(tmp_path / "run"))
    assert "s3://nobody-has-this" in message


def test_a_store_that_ignores_conditional_writes_is_refused(
    s3: FaultyS3, objects: str, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.ignores_conditions = True
    message = error_of(capsys, "--objects", objects, "--out", f"{s3.uri}/run")
    assert "conditional writes" in message


def test_photos_on_s3_are_the_photos_of_the_same_folder(s3: FaultyS3, objects: str, tmp_path: Path) -> None:
    for name in (
        "train/mug/a.png",
        "train/.hidden/x.png",
        "test/mug/b.png",
        "train_masks/mug/a.png",
        "train/stray.png",
    ):
        open_store(s3.uri).write(name, Path(objects, "mug", "a.png"))
        open_store(tmp_path / "copy").write(name, Path(objects, "mug", "a.png"))
    remote, local = load_manifest(s3.uri, DataConfig()), load_manifest(tmp_path / "copy", DataConfig())
    assert list(remote.objects) == list(local.objects) == ["mug"]
    for part in ("train", "test"):
        theirs, ours = getattr(local.objects["mug"], part), getattr(remote.objects["mug"], part)
        assert [photo.path.name for photo in theirs] == [photo.path.name for photo in ours]
        assert [photo.mask and photo.mask.name for photo in theirs] == [
            photo.mask and photo.mask.name for photo in ours
        ]
        assert all(isinstance(photo.path, RemoteFile) for photo in ours)
    assert [problem.cause for problem in remote.problems] == [problem.cause for problem in local.problems]
    assert str(remote.problems[0].path) == f"{s3.uri}/train/stray.png"


def test_a_folder_of_backgrounds_on_s3(s3: FaultyS3, objects: str) -> None:
    for name in ("b/one.png", "b/two.JPG", "b/notes.txt", "b/deeper/three.png", "other/four.png"):
        open_store(s3.uri).write(name, Path(objects, "mug", "a.png"))
    assert [str(file) for file in photos_in(f"{s3.uri}/b", "--backgrounds")] == [
        f"{s3.uri}/b/one.png",
        f"{s3.uri}/b/two.JPG",
    ]
    with pytest.raises(ConfigError, match="--backgrounds: there is no folder s3://"):
        photos_in(f"{s3.uri}/nothing", "--backgrounds")
