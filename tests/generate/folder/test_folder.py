"""Images that the user already has: which are used for what, with which masks, and what happens to bad ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tiny import COLOURS, shape

from persrep_ray.config import ConfigError, RunConfig, load_config
from persrep_ray.data.images import encode_jpeg, encode_png, encode_png_mask
from persrep_ray.data.objects import Manifest, ObjectPhotos, Photo
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.folder.generator import Folder
from persrep_ray.generate.folder.worker import FolderWorker, choose
from persrep_ray.generate.schedule import calibration_chunks, training_chunks
from persrep_ray.generate.shards import read_shards
from persrep_ray.generate.types import Role, SyntheticImage
from persrep_ray.masks.grabcut import MaskError
from persrep_ray.storage.store import open_store

SIZE = 40


def config(root: Path, **changes: Any) -> RunConfig:
    settings = {"positives": 4, "negatives": 4, "calibration_images": 2, "chunk_size": 3, "image_size": SIZE, **changes}
    overrides = [f"generate.{name}={value}" for name, value in settings.items()]
    return load_config("debug", ["generate.generator=folder", f"generate.folder.path={root}", *overrides])


class Run:
    """A folder of images, and the workers of a run that uses it. Masks are made by the rule `masked`."""

    def __init__(self, root: Path) -> None:
        self.images = root / "images"
        self.folder = RunFolder(open_store(root / "run"))
        photos = (Photo("mug", root / "photo.png", None, None),)
        objects = {name: ObjectPhotos(name, category, photos, ()) for name, category in (("mug", "cup"), ("jug", None))}
        self.manifest = Manifest(root, objects, ())
        self.warnings: list[str] = []
        self.masked: Callable[[np.ndarray], np.ndarray] = lambda image: image[..., 0] > 150

    def add(self, folder: str, count: int, *, colour: str = "red", masks: bool = False) -> None:
        for index in range(count):
            image, mask = shape(COLOURS[colour], index)
            path = self.images / folder / f"{index:02d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_jpeg(image))
            if masks:
                mask_path = self.images / f"{folder}_masks" / f"{index:02d}.png"
                mask_path.parent.mkdir(parents=True, exist_ok=True)
                mask_path.write_bytes(encode_png_mask(mask))

    def make(self, object_id: str = "mug", **changes: Any) -> str:
        """Makes all chunks of an object; returns its error."""
        settings = config(self.images, **changes)
        generator = Folder(settings)
        worker: Any = FolderWorker(settings, self.manifest, self.folder, open_store(self.images))
        worker._masker.mask = lambda image, reference: self.masked(image)
        for part in (training_chunks(object_id, settings), calibration_chunks(object_id, settings)):
            for chunk in (chunk for by_role in part.values() for chunk in by_role):
                row = worker(asdict(chunk))
                self.warnings += row["warnings"]
                if row["error"]:
                    return str(row["error"])
        positives = training_chunks(object_id, settings)["positive"]
        return generator.why_unusable(self.folder, object_id, positives) or ""

    def made(
        self, role: Role = "positive", *, calibrating: bool = False, object_id: str = "mug", **changes: Any
    ) -> list[SyntheticImage]:
        settings = config(self.images, **changes)
        chunks = (calibration_chunks if calibrating else training_chunks)(object_id, settings)
        return list(read_shards(self.folder, chunks[role], settings.data))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


# -- which images ------------------------------------------------------------------------------------------------------


def files(count: int) -> list[Path]:
    return [Path(f"{index:03d}.jpg") for index in range(count)]


@pytest.mark.parametrize(
    ("there", "trained", "calibrating"),
    [(100, 10, 5), (15, 10, 5), (12, 8, 4), (6, 4, 2), (3, 2, 1), (2, 1, 1), (1, 1, 0)],
)
def test_training_and_calibration_share_no_image(there: int, trained: int, calibrating: int) -> None:
    chosen = choose(files(there), training=10, calibration=5)
    assert list(chosen) == [*range(trained), *range(10, 10 + calibrating)]
    assert len(set(chosen.values())) == trained + calibrating
    assert choose(list(reversed(files(there))), training=10, calibration=5) == chosen


def test_training_gets_an_image_however_many_calibrate() -> None:
    assert list(choose(files(2), training=1, calibration=100)) == [0, 1]
    assert list(choose(files(3), training=4, calibration=0)) == [0, 1, 2]


def test_images_are_used_once_and_too_many_are_a_warning(run: Run) -> None:
    run.add("mug/positive", 9)
    run.add("mug/negative", 2, colour="green")
    assert run.make() == ""
    assert (len(run.made()), len(run.made(calibrating=True))) == (4, 2)
    assert (len(run.made("negative")), len(run.made("negative", calibrating=True))) == (1, 1)
    assert set(run.warnings) == {
        "generate.folder: there are more positive images than generate.positives and generate.calibration_images use "
        "(4 + 2 for each object)"
    }


def test_the_same_images_are_made_wherever_chunks_are_cut(run: Run, tmp_path: Path) -> None:
    run.add("mug/positive", 6)
    run.add("mug/negative", 6, colour="green")
    assert run.make() == ""
    whole = Run(tmp_path / "whole")
    whole.images = run.images
    assert whole.make(chunk_size=50) == ""
    for role in ("positive", "negative"):
        one, other = run.made(role), whole.made(role, chunk_size=50)  # type: ignore[arg-type]
        assert [image.seed for image in one] == [image.seed for image in other]
        assert all(np.array_equal(a.image, b.image) for a, b in zip(one, other, strict=True))


def test_negatives_are_the_objects_or_else_its_categorys(run: Run) -> None:
    run.add("mug/positive", 3)
    run.add("cup/negative", 3, colour="green")
    assert run.make() == ""
    (image, *_) = run.made("negative")
    assert image.image[SIZE // 2, SIZE // 2, 1] > 150 > image.image[SIZE // 2, SIZE // 2, 0], "green"
    assert image.source_id in ("00", "01", "02") and not image.mask.any()
    run.add("mug/negative", 3, colour="blue")
    assert run.make() == ""
    assert run.made("negative")[0].image[SIZE // 2, SIZE // 2, 2] > 150, "blue"


@pytest.mark.parametrize(
    ("object_id", "present", "missing"),
    [
        ("mug", [], "mug/positive"),
        ("mug", ["mug/positive"], "mug/negative or {root}/cup/negative"),
        ("jug", ["jug/positive"], "jug/negative"),
    ],
)
def test_an_object_without_images_fails_by_name(run: Run, object_id: str, present: list[str], missing: str) -> None:
    for folder in present:
        run.add(folder, 3)
    run.add("another/positive", 1)
    error = run.make(object_id)
    assert error == f"object {object_id}: generate: there are no images in {run.images}/" + missing.format(
        root=run.images
    )


# -- images and masks --------------------------------------------------------------------------------------------------


def test_a_positive_has_the_users_mask_or_a_made_one(run: Run) -> None:
    run.add("mug/positive", 6, masks=True)
    run.add("mug/negative", 6, colour="green")
    (run.images / "mug" / "positive_masks" / "03.png").unlink()
    run.masked = lambda image: np.ones(image.shape[:2], np.bool_)
    assert run.make() == "" and run.warnings == []
    images = [*run.made(), *run.made(calibrating=True)]
    assert sorted(bool(image.mask.all()) for image in images) == [False] * 5 + [True]
    for image in images:
        assert (image.object_id, image.source_id, image.source_photo, image.generator) == ("mug", "mug", None, "folder")
        assert image.image.shape == (SIZE, SIZE, 3)
        if not image.mask.all():
            red, green, blue = np.median(image.image[image.mask], axis=0)
            assert red > 150 > max(green, blue), "the mask lies on the red disc"


def test_an_image_keeps_its_proportions_and_is_never_enlarged(run: Run) -> None:
    run.add("mug/positive", 1)
    run.add("mug/negative", 1)
    (run.images / "mug" / "positive" / "00.jpg").write_bytes(encode_jpeg(np.full((100, 50, 3), 200, np.uint8)))
    (run.images / "mug" / "negative" / "00.jpg").write_bytes(encode_jpeg(np.full((20, 30, 3), 200, np.uint8)))
    assert run.make() == ""
    assert run.made()[0].image.shape == (80, 40, 3) == (*run.made()[0].mask.shape, 3)
    assert run.made("negative")[0].image.shape == (20, 30, 3)


def test_a_bad_mask_is_reported_and_another_is_made(run: Run) -> None:
    run.add("mug/positive", 2, masks=True)
    run.add("mug/negative", 1)
    bad, small = (run.images / "mug" / "positive_masks" / name for name in ("00.png", "01.png"))
    bad.write_bytes(b"no mask")
    small.write_bytes(encode_png_mask(np.ones((9, 9), np.bool_)))
    assert run.make(calibration_images=0) == ""
    assert sorted(run.warnings) == [
        f"{bad}: not a JPEG, PNG, WebP, BMP, HEIC or AVIF image",
        f"{small}: the mask has 9 x 9 pixels, but its photo 64 x 64",
    ]
    assert all(image.mask.any() for image in run.made(calibration_images=0))


def test_an_image_without_a_foreground_is_used_without_a_mask(run: Run) -> None:
    def nothing(image: np.ndarray) -> np.ndarray:
        raise MaskError("mask: no foreground found")

    run.masked = nothing
    run.add("mug/positive", 1)
    run.add("mug/negative", 1)
    assert run.make() == ""
    (image,) = run.made()
    assert not image.mask.any()
    file = run.images / "mug" / "positive" / "00.jpg"
    assert run.warnings == [f"{file}: mask: no foreground found; the image is used without a mask"]


def test_images_that_cannot_be_read_are_reported_and_left_out(run: Run) -> None:
    run.add("mug/positive", 3)
    run.add("mug/negative", 3)
    bad = run.images / "mug" / "positive" / "01.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    (run.images / "mug" / "positive" / ".hidden.jpg").write_bytes(b"x")
    (run.images / "mug" / "positive" / "notes.txt").write_text("x")
    assert run.make(calibration_images=0) == ""
    assert len(run.made(calibration_images=0)) == 2
    assert len(run.warnings) == 1 and run.warnings[0].startswith(f"{bad}: ")


def test_an_object_whose_images_all_cannot_be_read_fails(run: Run) -> None:
    run.add("mug/positive", 2)
    run.add("mug/negative", 1)
    for path in (run.images / "mug" / "positive").iterdir():
        path.write_bytes(b"no image")
    assert run.make() == f"no image in {run.images}/mug/positive can be read"


# -- what a run is told ------------------------------------------------------------------------------------------------


def test_a_changed_folder_is_another_input(run: Run) -> None:
    generator = Folder(config(run.images))
    with pytest.raises(ConfigError, match=rf"^generate\.folder\.path: there are no images in {run.images}$"):
        generator.digests()
    run.add("mug/positive", 1)
    before = generator.digests()
    assert before.keys() == {"generate.folder.path"} and generator.digests() == before
    (run.images / "mug" / "positive" / "more.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    assert generator.digests() != before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("generate.folder.path=null", "needs the folder of your images"),
        ("generate.folder.path=ftp://host/images", "unknown kind of location 'ftp:'"),
    ],
)
def test_a_location_that_cannot_be_used_is_named_by_its_setting(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^generate\.folder\.path: .*{message}"):
        Folder(load_config(None, ["generate.generator=folder", override])).digests()
