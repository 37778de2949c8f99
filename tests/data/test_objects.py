"""Both layouts are read, and data folders that are wrong in many ways are reported."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers import heic
from PIL import Image

import persrep_ray.data.objects as objects_module
from persrep_ray.config import DataConfig
from persrep_ray.data.objects import Manifest, load_manifest
from persrep_ray.data.tree import check_object_id

LIMITS = DataConfig()
ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("PERSREP_TEST_DATA", ROOT.parent / "shared" / "data"))


def photo(path: Path, shade: int = 90, size: tuple[int, int] = (12, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 2 * shade % 256, 30)).save(path)
    return path


def mask(path: Path, size: tuple[int, int] = (12, 8), value: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros(size[::-1], np.uint8)
    image[2:5, 2:5] = value
    Image.fromarray(image).save(path)
    return path


def problems(manifest: Manifest) -> dict[str, str]:
    """Path below the root -> cause."""
    return {str(problem.path.relative_to(manifest.root)): problem.cause for problem in manifest.problems}


def names(manifest: Manifest, object_id: str, part: str) -> list[str]:
    return [found.path.name for found in getattr(manifest.objects[object_id], part)]


@pytest.mark.parametrize("object_id", ["mug", "A", "a.b_c-9", "x" * 128, "...", ".hidden"])
def test_a_good_object_id_is_accepted(object_id: str) -> None:
    assert check_object_id(object_id) == object_id


@pytest.mark.parametrize(
    "object_id", ["", ".", "..", "a/b", "../a", "a b", "a\n", "a\0", "é", "x" * 129, None, 3, b"a"]
)
def test_a_bad_object_id_is_refused(object_id: Any) -> None:
    with pytest.raises(ValueError, match="bad object id"):
        check_object_id(object_id)


def test_the_flat_layout_is_read(tmp_path: Path) -> None:
    for name in ("mug/b.jpg", "mug/a.PNG", "cup/1.webp", "cup/2.jpeg", "cup/3.bmp"):
        photo(tmp_path / name)
    (tmp_path / "README.md").write_text("not an object")
    photo(tmp_path / "mug/.hidden.jpg")
    photo(tmp_path / ".cache/x.jpg")
    manifest = load_manifest(tmp_path, LIMITS)
    assert list(manifest.objects) == ["cup", "mug"]
    assert names(manifest, "mug", "train") == ["a.PNG", "b.jpg"]
    assert names(manifest, "cup", "train") == ["1.webp", "2.jpeg", "3.bmp"]
    assert manifest.objects["mug"].test == () and manifest.objects["mug"].category is None
    assert manifest.problems == ()
    assert all(p.mask is None and p.split is None for o in manifest.objects.values() for p in o.train)


def test_paths_are_absolute_so_that_workers_elsewhere_find_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "objects/mug/a.jpg")
    monkeypatch.chdir(tmp_path)
    manifest = load_manifest(Path("objects"), LIMITS)
    assert manifest.root == tmp_path / "objects"
    assert manifest.objects["mug"].train[0].path == tmp_path / "objects/mug/a.jpg"


def test_the_reference_layout_is_read(tmp_path: Path) -> None:
    train = photo(tmp_path / "train/mug/0.jpg")
    photo(tmp_path / "train/mug/1.jpg")
    train_mask = mask(tmp_path / "train_masks/mug/0.png")
    photo(tmp_path / "test/mug/0.jpg", 10)
    test_mask = mask(tmp_path / "test_masks/mug/1.jpg")
    photo(tmp_path / "test/mug/1.jpg", 20)
    photo(tmp_path / "test_dense/mug/7.jpg", 30)
    dense_mask = mask(tmp_path / "test_dense_masks/mug/7.png", value=1)
    photo(tmp_path / "test/cup/0.jpg")
    (tmp_path / "tiny_info.json").write_text(json.dumps({"classes": ["mug"], "class_to_sc": {"mug": "mug, blue"}}))

    manifest = load_manifest(tmp_path, LIMITS)

    assert manifest.problems == ()
    mug = manifest.objects["mug"]
    assert mug.category == "mug, blue"
    assert [(p.path.name, p.mask) for p in mug.train] == [("0.jpg", train_mask), ("1.jpg", None)]
    assert mug.train[0].path == train and mug.train[0].object_id == "mug"
    assert [(p.path.name, p.mask) for p in mug.test] == [("0.jpg", None), ("1.jpg", test_mask), ("7.jpg", dense_mask)]
    assert manifest.objects["cup"].train == () and len(manifest.objects["cup"].test) == 1
    assert manifest.objects["cup"].category is None


def test_a_dense_copy_of_a_test_photo_only_lends_its_mask(tmp_path: Path) -> None:
    photo(tmp_path / "train/mug/0.jpg")
    photo(tmp_path / "test/mug/a.jpg", 10)
    photo(tmp_path / "test/mug/b.jpg", 20)
    photo(tmp_path / "test_dense/mug/a.jpg", 30)  # another photo of that name
    photo(tmp_path / "test_dense/mug/c.jpg", 20)  # a copy of test/mug/b.jpg
    dense_mask = mask(tmp_path / "test_dense_masks/mug/c.png")
    test = load_manifest(tmp_path, LIMITS).objects["mug"].test
    assert [(p.path.parent.parent.name, p.path.name, p.mask) for p in test] == [
        ("test", "a.jpg", None),
        ("test", "b.jpg", dense_mask),
        ("test_dense", "a.jpg", None),
    ]


def test_every_kind_of_image_id_gives_its_split(tmp_path: Path) -> None:
    for name in (
        "train/mug/0.jpg",
        "test/mug/0.jpg",
        "test/mug/1.jpg",
        "test/mug/2.jpg",
        "test/mug/3.jpg",
        "test/mug/4.jpg",
    ):
        photo(tmp_path / name)
    photo(tmp_path / "train/cup/2.jpg")
    photo(tmp_path / "test/cup/2.jpg")
    photo(tmp_path / "test_dense/mug/9.jpg", 77)

    def entry(test_split: str, **more: str) -> dict[str, str]:
        return {"class": "mug", "split": "test", "test_split": test_split, **more}

    annotations = {
        "train/mug/0.jpg": {"class": "mug", "split": "train"},
        "mug/0.jpg": entry("pose"),
        "test/mug/1.jpg": entry("distractors"),
        "2.jpg": entry("in_distribution"),
        "3": entry("pose_and_distractors"),
        "test_dense/mug/9.jpg": entry("pose"),
    }
    (tmp_path / "pods_image_annos.json").write_text(json.dumps(annotations))
    manifest = load_manifest(tmp_path, LIMITS)
    splits = {p.path.name: p.split for p in manifest.objects["mug"].test}
    assert splits == {
        "0.jpg": "pose",
        "1.jpg": "distractors",
        "2.jpg": "in_distribution",
        "3.jpg": "pose_and_distractors",
        "4.jpg": None,
        "9.jpg": "pose",
    }
    assert manifest.objects["mug"].train[0].split is None
    assert manifest.objects["cup"].test[0].split is None  # another class also has a 2.jpg


def test_an_object_called_train_is_an_object(tmp_path: Path) -> None:
    photo(tmp_path / "train/0.jpg")
    photo(tmp_path / "plane/0.jpg")
    assert list(load_manifest(tmp_path, LIMITS).objects) == ["plane", "train"]


def test_bad_photos_are_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    photo(tmp_path / "mug/good.jpg")
    photo(tmp_path / "mug/over.png", size=(64, 64))
    (tmp_path / "mug/empty.png").touch()
    (tmp_path / "mug/phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "mug/text.jpg").write_text("hello")
    photo(tmp_path / "mug/large.png", size=(40, 30))
    os.mkfifo(tmp_path / "mug/pipe.jpg")
    (tmp_path / "mug/nested").mkdir()
    (tmp_path / "cup").mkdir()
    (tmp_path / "cup/only.jpg").write_text("broken")
    photo(tmp_path / "stray.jpg")
    photo(tmp_path / "bad name/0.jpg")
    manifest = load_manifest(tmp_path, DataConfig(max_pixels=64 * 64 - 1))
    assert names(manifest, "mug", "train") == ["good.jpg", "large.png"]
    assert manifest.objects["cup"].train == ()
    assert list(manifest.objects) == ["cup", "mug"]
    found = problems(manifest)
    assert found.pop("mug/over.png") == "64 x 64 pixels, the limit is 4,095 in all"
    assert found.pop("bad name").startswith("bad object id 'bad name'")
    not_an_image = "not a JPEG, PNG, WebP, BMP, HEIC or AVIF image"
    assert found == {
        "mug/empty.png": not_an_image,
        "mug/phone.HEIC": not_an_image,
        "mug/text.jpg": not_an_image,
        "cup/only.jpg": not_an_image,
        "mug/pipe.jpg": "not a regular file",
        "mug/nested": "a folder inside an object's folder is not read",
        "stray.jpg": "is not inside an object's folder",
    }
    assert {p.object_id for p in manifest.problems if p.path.parent.name == "mug"} == {"mug"}


def test_truncated_photos_are_found_in_both_parts(tmp_path: Path) -> None:
    for part in ("train", "test"):
        photo(tmp_path / part / "mug/0.jpg")
        path = photo(tmp_path / part / "mug/1.jpg", size=(64, 64))
        path.write_bytes(path.read_bytes()[:-20])
    manifest = load_manifest(tmp_path, LIMITS)
    assert names(manifest, "mug", "train") == names(manifest, "mug", "test") == ["0.jpg"]
    assert sorted(problems(manifest)) == ["test/mug/1.jpg", "train/mug/1.jpg"]


def test_beyond_the_threshold_test_photos_without_masks_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_module, "_DECODE_ALL_UP_TO", 4)
    for name in ("train/mug/0.jpg", "train/mug/1.jpg", "test/mug/2.jpg", "test/mug/3.jpg", "test/mug/4.jpg"):
        path = photo(tmp_path / name, size=(64, 64))
        path.write_bytes(path.read_bytes()[:-20])
    mask(tmp_path / "test_masks/mug/3.png", size=(64, 64))
    (tmp_path / "test/mug/4.jpg").write_text("no header")
    manifest = load_manifest(tmp_path, LIMITS)
    assert names(manifest, "mug", "test") == ["2.jpg"]
    assert sorted(problems(manifest)) == ["test/mug/3.jpg", "test/mug/4.jpg", "train/mug/0.jpg", "train/mug/1.jpg"]


def test_a_photo_with_a_bad_mask_is_kept_without_the_mask(tmp_path: Path) -> None:
    for stem in "abc":
        photo(tmp_path / f"train/mug/{stem}.jpg")
    mask(tmp_path / "train_masks/mug/a.png", size=(8, 12))
    mask(tmp_path / "train_masks/mug/b.png", value=0)
    mask(tmp_path / "train_masks/mug/c.png").write_bytes(b"broken")
    manifest = load_manifest(tmp_path, LIMITS)
    assert [p.mask for p in manifest.objects["mug"].train] == [None] * 3
    assert problems(manifest) == {
        "train_masks/mug/a.png": "the mask has 8 x 12 pixels, but its photo 12 x 8",
        "train_masks/mug/b.png": "the mask has no object pixel",
        "train_masks/mug/c.png": "not a JPEG, PNG, WebP, BMP, HEIC or AVIF image",
    }


def test_a_png_mask_wins_over_a_jpeg(tmp_path: Path) -> None:
    photo(tmp_path / "train/mug/0.jpg")
    for suffix in ("webp", "png", "jpg", "bmp"):
        mask(tmp_path / f"train_masks/mug/0.{suffix}")
    assert load_manifest(tmp_path, LIMITS).objects["mug"].train[0].mask == tmp_path / "train_masks/mug/0.png"


def test_links_that_leave_the_root_are_refused_and_links_within_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    secret = photo(tmp_path / "root-secret/mug/secret.jpg")  # shares a prefix with the root's name
    photo(root / "train/mug/0.jpg")
    (root / "train/mug/1.jpg").symlink_to("0.jpg")
    (root / "train/mug/2.jpg").symlink_to(secret)
    (root / "train/mug/3.jpg").symlink_to("nowhere.jpg")
    (root / "train/mug/4.jpg").symlink_to("4.jpg")
    (root / "train/mug/5.jpg").symlink_to("../../../root-secret/mug/secret.jpg")
    (root / "train/cup").symlink_to(secret.parent)
    (root / "train/twin").symlink_to("mug")
    (root / "test").symlink_to(secret.parent.parent)
    mask(tmp_path / "root-secret/0.png")
    (root / "train_masks/mug").mkdir(parents=True)
    (root / "train_masks/mug/0.png").symlink_to(tmp_path / "root-secret/0.png")
    manifest = load_manifest(root, LIMITS)
    assert list(manifest.objects) == ["mug", "twin"]
    assert names(manifest, "mug", "train") == ["0.jpg", "1.jpg"]
    assert manifest.objects["mug"].train[0].mask is None and manifest.objects["mug"].test == ()
    found = problems(manifest)
    leaves = "a symbolic link that leaves the data folder"
    for name in ("train/mug/2.jpg", "train/mug/5.jpg", "train/cup", "test", "train_masks/mug/0.png"):
        assert found[name] == leaves
    assert found["train/mug/3.jpg"].startswith("a symbolic link to nowhere")
    assert found["train/mug/4.jpg"].startswith("a symbolic link to nowhere")


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    photo(tmp_path / "real/mug/0.jpg")
    (tmp_path / "link").symlink_to("real")
    manifest = load_manifest(tmp_path / "link", LIMITS)
    assert manifest.problems == () and names(manifest, "mug", "train") == ["0.jpg"]


def test_unprintable_names_are_reported_in_a_printable_way(tmp_path: Path) -> None:
    photo(tmp_path / "mug/fine é\u202f☕.jpg")
    photo(tmp_path / "mug/two\nlines.jpg")
    photo(tmp_path / "mug/escape\x1b[2J.jpg")
    (tmp_path / "mug" / os.fsdecode(b"\xff.jpg")).write_bytes(b"")
    manifest = load_manifest(tmp_path, LIMITS)
    assert names(manifest, "mug", "train") == ["fine é\u202f☕.jpg"]
    assert len(manifest.problems) == 3
    for problem in manifest.problems:
        assert problem.path == tmp_path / "mug" and problem.cause.startswith("unprintable name '")
        assert problem.cause.isprintable()
        problem.cause.encode()


@pytest.mark.parametrize("make", ["missing", "file", "empty", "photos only", "bad folder", "reference", "hidden"])
def test_a_root_without_objects_says_what_was_expected(tmp_path: Path, make: str) -> None:
    root = tmp_path / "data"
    if make == "file":
        root.touch()
    elif make != "missing":
        root.mkdir()
    if make == "photos only":
        photo(root / "0.jpg")
    elif make == "bad folder":
        photo(root / "my mug/0.jpg")
    elif make == "reference":
        (root / "train").mkdir()
        (root / "test").mkdir()
    elif make == "hidden":
        photo(root / ".mug/0.jpg")
    with pytest.raises(ValueError, match=r"data: no .*expected <object>/<photo>\.jpg or train/") as caught:
        load_manifest(root, LIMITS)
    if make == "bad folder":
        assert "bad object id 'my mug'" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "not readable as JSON"),
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("9" * 10_000, "not readable as JSON"),
        ('{"class_to_sc": ["mug"]}', "key 'class_to_sc': expected a mapping"),
        ('{"class_to_sc": {"mug": 3}}', "key 'class_to_sc', 'mug': expected a category, got 3"),
        ('{"class_to_sc": {"mug": " "}}', "key 'class_to_sc', 'mug'"),
        ('{"class_to_sc": {"mug": "a\\nb"}}', "key 'class_to_sc', 'mug'"),
        ('{"class_to_sc": {"mug": "\\ud800"}}', "key 'class_to_sc', 'mug'"),
    ],
)
def test_malformed_info_names_the_file_and_the_key(tmp_path: Path, text: str, cause: str) -> None:
    photo(tmp_path / "train/mug/0.jpg")
    (tmp_path / "tiny_info.json").write_text(text)
    manifest = load_manifest(tmp_path, LIMITS)
    assert manifest.objects["mug"].category is None and len(manifest.objects["mug"].train) == 1
    assert problems(manifest)["tiny_info.json"].startswith(cause)


def test_only_the_metadata_of_the_reference_is_read(tmp_path: Path) -> None:
    photo(tmp_path / "mug/0.jpg")
    photo(tmp_path / "cup/0.jpg")
    (tmp_path / "dataset_info.json").write_text(json.dumps({"features": {"image": {"_type": "Image"}}, "splits": {}}))
    (tmp_path / "list_info.json").write_text("[]")
    (tmp_path / "a_info.json").write_text(json.dumps({"class_to_sc": {"mug": "mug"}}))
    (tmp_path / "b_info.json").write_text(json.dumps({"class_to_sc": {"cup": "cup", "mug": "jug"}}))
    manifest = load_manifest(tmp_path, LIMITS)
    assert {name: one.category for name, one in manifest.objects.items()} == {"cup": "cup", "mug": "mug"}
    assert problems(manifest) == {"b_info.json": "another category of 'mug' than in a file before it"}


@pytest.mark.parametrize(
    ("image_id", "entry", "cause"),
    [
        ("0.jpg", "mug", "expected a mapping with the image's 'class'"),
        ("0.jpg", {"split": "train"}, "expected a mapping with the image's 'class'"),
        ("0.jpg", {"class": ["mug"]}, "expected a mapping with the image's 'class'"),
        ("0.jpg", {"class": "mug"}, "'split' must be train or test, got None"),
        ("0.jpg", {"class": "mug", "split": []}, "'split' must be train or test"),
        ("0.jpg", {"class": "mug", "split": "test"}, "'test_split' must be one of in_distribution, pose,"),
        (
            "cup/0.jpg",
            {"class": "mug", "split": "test", "test_split": "pose"},
            "is not in the folder of its class",
        ),
        ("../mug/0.jpg", {"class": "mug", "split": "test", "test_split": "pose"}, "is not in the folder"),
    ],
)
def test_malformed_annotations_name_the_file_and_the_key(
    tmp_path: Path, image_id: str, entry: object, cause: str
) -> None:
    photo(tmp_path / "train/mug/0.jpg")
    (tmp_path / "pods_image_annos.json").write_text(json.dumps({image_id: entry}))
    manifest = load_manifest(tmp_path, LIMITS)
    assert len(manifest.objects["mug"].train) == 1
    found = problems(manifest)["pods_image_annos.json"]
    assert found.startswith(f"key '{image_id}': ") and cause in found


def test_metadata_is_not_read_from_elsewhere_nor_from_special_files(tmp_path: Path) -> None:
    root = tmp_path / "root"
    photo(root / "train/mug/0.jpg")
    (tmp_path / "elsewhere.json").write_text('{"class_to_sc": {"mug": "mug"}}')
    (root / "a_info.json").symlink_to(tmp_path / "elsewhere.json")
    manifest = load_manifest(root, LIMITS)
    assert manifest.objects["mug"].category is None
    assert problems(manifest) == {"a_info.json": "a symbolic link that leaves the data folder"}
    (root / "a_info.json").unlink()
    os.mkfifo(root / "a_info.json")
    (root / "b_info.json").write_text('{"class_to_sc": {"mug": "mug"}}')
    manifest = load_manifest(root, LIMITS)
    assert manifest.objects["mug"].category == "mug"
    assert problems(manifest) == {"a_info.json": "not readable as JSON: not a regular file"}


def test_the_content_decides_what_is_a_photo_and_the_rest_is_listed_once(tmp_path: Path) -> None:
    for name in ("0.jfif", "1.jpe", "2", "3.dat", "4.txt"):
        photo(tmp_path / "mug/x.jpg").rename(tmp_path / "mug" / name)
    (tmp_path / "mug/x.heic").write_bytes(heic.UPRIGHT)
    for index in range(7):
        (tmp_path / f"mug/notes {index}.txt").write_text("not a photo")
    (tmp_path / "cup").mkdir()
    (tmp_path / "cup/film.mov").write_bytes(b"\0\0\0\x14ftypqt  ")
    manifest = load_manifest(tmp_path, LIMITS)
    assert names(manifest, "mug", "train") == ["0.jfif", "1.jpe", "2", "3.dat", "4.txt", "x.heic"]
    assert manifest.objects["cup"].train == ()
    shown = ", ".join(f"notes {index}.txt" for index in range(5))
    assert problems(manifest) == {
        "cup": "passed over, because they are no images: film.mov",
        "mug": f"passed over, because they are no images: {shown} and 2 more",
    }
    assert [problem.object_id for problem in manifest.problems] == ["cup", "mug"]


def test_a_mask_that_is_not_an_image_is_told(tmp_path: Path) -> None:
    photo(tmp_path / "train/mug/0.jpg")
    (tmp_path / "train_masks/mug").mkdir(parents=True)
    (tmp_path / "train_masks/mug/0.json").write_text(json.dumps({"images": [], "annotations": []}))
    manifest = load_manifest(tmp_path, LIMITS)
    assert manifest.objects["mug"].train[0].mask is None
    assert "export them as PNG" in problems(manifest)["train_masks/mug/0.json"]


def test_a_mask_that_lies_wrong_on_a_turned_photo_is_left_out(tmp_path: Path) -> None:
    exif = Image.Exif()
    for stem, orientation in (("half", 3), ("quarter", 6)):
        exif[0x0112] = orientation
        Image.new("RGB", (12, 8)).save(photo(tmp_path / f"train/mug/{stem}.jpg"), exif=exif)
        mask(tmp_path / f"train_masks/mug/{stem}.png")  # of the pixels as they are stored
    manifest = load_manifest(tmp_path, LIMITS)
    assert [p.mask and p.mask.name for p in manifest.objects["mug"].train] == [None, "quarter.png"]
    assert "EXIF orientation (3)" in problems(manifest)["train_masks/mug/half.png"]


def test_real_data_in_the_reference_layout_is_read_without_problems() -> None:
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED}")
    dreambooth = load_manifest(SHARED / "dreambooth30", LIMITS)
    assert len(dreambooth.objects) == 30 and dreambooth.problems == ()
    assert all(len(found.train) == 3 and found.test and found.category for found in dreambooth.objects.values())
    masked = load_manifest(SHARED / "masked5", LIMITS)
    photos = [p for found in masked.objects.values() for p in (*found.train, *found.test)]
    assert len(photos) == 25 and all(p.mask and p.mask.stem == p.path.stem for p in photos)


def test_of_hundreds_of_photos_an_even_draw_is_used_and_told(tmp_path: Path) -> None:
    limits = DataConfig(photos_per_object=20)
    names_of: dict[str, list[str]] = {}
    for object_id, count in (("big", 300), ("small", 20)):
        for index in range(count):
            photo(tmp_path / f"{object_id}/{index:03d}.png", size=(4, 3))
    manifest = load_manifest(tmp_path, limits)
    for object_id in ("big", "small"):
        names_of[object_id] = names(manifest, object_id, "train")
        assert len(names_of[object_id]) == 20 and names_of[object_id] == sorted(names_of[object_id])
    thirds = [sum(start <= int(name[:3]) < start + 100 for name in names_of["big"]) for start in (0, 100, 200)]
    assert min(thirds) >= 3
    assert [(p.path, p.cause) for p in manifest.problems] == [
        ("object big", "has 300 train photos, of which an even draw of 20 is used (data.photos_per_object)")
    ]


def test_copies_in_two_objects_and_in_train_and_test_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def scene(name: str, image: np.ndarray | None = None) -> np.ndarray:
        if image is None:
            image = cv2.resize(rng.integers(0, 255, (6, 8, 3)).astype(np.uint8), (160, 120))
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
        return image

    shared, seen = scene("train/mug/a.png"), scene("train/cup/a.png")
    scene("train/mug/b.png")
    twice = scene("train/tin/1.png")
    scene("train/tin/2.png", twice)  # twice in one folder harms nobody
    scene("train/cup/z.jpg", shared[2:-2, 3:-3])
    scene("test/cup/0.jpg", cv2.resize(seen, (96, 72), interpolation=cv2.INTER_AREA))
    manifest = load_manifest(tmp_path, LIMITS)
    found = [[str(p.path.relative_to(tmp_path)) for p in group] for group in manifest.duplicates]  # type: ignore[arg-type]
    assert found == [["train/cup/a.png", "test/cup/0.jpg"], ["train/cup/z.jpg", "train/mug/a.png"]]
