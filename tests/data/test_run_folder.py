"""A run's folder: complete or absent, one run at a time, and only ever resumed with the same settings and inputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from persrep_ray.config import ConfigError, RunConfig, load_config
from persrep_ray.data.images import read_mask
from persrep_ray.data.objects import ObjectPhotos, Photo
from persrep_ray.data.run_folder import RunFolder, open_run, read_json

INPUTS = {"object mug": "1", "object cup": "2"}


def small(*overrides: str) -> RunConfig:
    return load_config("debug", overrides)


def leftovers(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.name not in ("run.json", "lock"))


def test_the_same_run_can_be_opened_again(tmp_path: Path) -> None:
    for _ in range(2):
        with open_run(tmp_path / "run", small(), INPUTS) as folder:
            assert folder.root == tmp_path / "run"


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    with open_run(tmp_path, small("train.steps=100"), INPUTS):
        pass
    with (
        pytest.raises(ConfigError, match=r"\(train\.steps 100, now 50\); choose another --out or delete it"),
        open_run(tmp_path, small("train.steps=50"), INPUTS),
    ):
        pass


def test_where_a_run_takes_place_may_change(tmp_path: Path) -> None:
    with open_run(tmp_path, small("train.cells=1"), INPUTS):
        pass
    with open_run(tmp_path, small("train.cells=8", "generate.actors=4", "train.max_attempts=9"), INPUTS):
        pass


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"object mug": "1", "object cup": "3"}, "object cup has changed"),
        ({"object mug": "1"}, "object cup is gone"),
        ({**INPUTS, "object jug": "4"}, "object jug is new"),
    ],
)
def test_other_inputs_are_refused_by_name(tmp_path: Path, inputs: dict[str, str], message: str) -> None:
    with open_run(tmp_path, small(), INPUTS):
        pass
    with pytest.raises(ConfigError, match=message), open_run(tmp_path, small(), inputs):
        pass


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        open_run(tmp_path, small(), INPUTS),
        pytest.raises(ConfigError, match="in use by another run"),
        open_run(tmp_path, small(), INPUTS),
    ):
        pass


def test_what_a_killed_run_was_writing_is_removed(tmp_path: Path) -> None:
    stale = [
        tmp_path / "scratch" / "abc" / "masks.json",
        tmp_path / "ray" / "cell-0" / "state.json",
        tmp_path / "synthetic" / "mug" / ".positive-00000.parquet.x1",
        tmp_path / ".mug.jpg.123",
    ]
    kept = tmp_path / "synthetic" / "mug" / "positive-00000.parquet"
    for path in (*stale, kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    with open_run(tmp_path, small(), INPUTS):
        assert not any(path.exists() for path in stale)
        assert kept.exists()


def test_masks_come_back_with_their_photos(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    photos = tuple(Photo("mug", Path(f"/photos/{name}.jpg"), None, None) for name in "ab")
    first = np.zeros((4, 6), np.bool_)
    first[1:3, 2:5] = True
    folder.write_masks("mug", [first, None], {"seconds": 1.5, "problems": ["b.jpg: no foreground"]})
    masked = folder.masked_photos(ObjectPhotos("mug", None, photos, ()))
    assert masked[1].mask is None
    assert masked[0].mask is not None
    np.testing.assert_array_equal(read_mask(masked[0].mask, RunConfig().data), first)
    assert leftovers(tmp_path) == ["masks", "masks/mug", "masks/mug/00.png", "masks/mug/masks.json", "scratch"]


def test_a_folder_that_is_there_is_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_trained("mug", {"adapter_model.safetensors": b"first"}, {"seconds": 1})
    folder.write_trained("mug", {"adapter_model.safetensors": b"second"}, {"seconds": 2})
    assert (folder.trained("mug") / "adapter_model.safetensors").read_bytes() == b"first"
    assert read_json(folder.trained("mug") / "train.json") == {"seconds": 1}
    assert not list((tmp_path / "scratch").iterdir())


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json(folder.summary, {"mean": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_json(folder.summary, {"mean": float("nan")})
    assert json.loads(folder.summary.read_text()) == {"mean": 1}


def test_chunks_cover_every_image_once(tmp_path: Path) -> None:
    config = small(
        "generate.positives=5", "generate.negatives=4", "generate.chunk_size=2", "generate.calibration_images=3"
    )
    folder = RunFolder(tmp_path)
    chunks = folder.chunks("mug", config)
    assert [(one.role, one.start, one.count) for one in chunks] == [
        ("positive", 0, 2),
        ("positive", 2, 2),
        ("positive", 4, 1),
        ("negative", 0, 2),
        ("negative", 2, 2),
        ("positive", 5, 2),
        ("positive", 7, 1),
        ("negative", 4, 2),
        ("negative", 6, 1),
    ]
    assert folder.shard(chunks[2]) == tmp_path / "synthetic" / "mug" / "positive-00004.parquet"


@pytest.mark.parametrize("heldout", [0, 1, 5])
def test_images_held_out_of_training_are_in_chunks_of_their_own(tmp_path: Path, heldout: int) -> None:
    overrides = ["generate.positives=5", "generate.negatives=4", "generate.chunk_size=4"]
    folder, config = RunFolder(tmp_path), small(*overrides, f"generate.calibration_images={heldout}")
    trained, held = folder.chunks_by_role("mug", config), folder.calibration_by_role("mug", config)
    assert trained == folder.chunks_by_role("mug", small(*overrides))
    for role, first in (("positive", 5), ("negative", 4)):
        images = [image for one in held[role] for image in range(one.start, one.start + one.count)]
        assert images == list(range(first, first + heldout))
        assert not {folder.shard(one) for one in held[role]} & {folder.shard(one) for one in trained[role]}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("{")
    with pytest.raises(ValueError, match=r"train\.json: .*delete it and run again"):
        read_json(tmp_path / "train.json")


@pytest.mark.parametrize(
    ("generator", "pasted", "sampled"), [("cut_paste", 12, 0), ("dreambooth", 0, 12), ("combined", 9, 3)]
)
def test_each_generator_has_its_share_of_the_images(tmp_path: Path, generator: str, pasted: int, sampled: int) -> None:
    config = small(
        *(f"generate.generator={generator}", "generate.dreambooth_share=0.25", "generate.positives=12"),
        *("generate.chunk_size=4", "generate.calibration_images=4"),
    )
    chunks = RunFolder(tmp_path).chunks_by_role("mug", config)["positive"]
    counts = {name: sum(one.count for one in chunks if one.generator == name) for name in ("cut_paste", "dreambooth")}
    assert counts == {"cut_paste": pasted, "dreambooth": sampled}
    heldout = RunFolder(tmp_path).calibration_by_role("mug", config)["positive"]
    indices = [index for one in (*chunks, *heldout) for index in range(one.start, one.start + one.count)]
    assert indices == list(range(16)), "no image twice, none left out"


def test_class_images_of_any_prompt_have_a_folder_of_their_own(tmp_path: Path) -> None:
    prompts = ["a photo of a mug", "a photo of a Mug", "../../etc", "a photo of " + "x" * 300, "é", "日本", ""]
    folders = [RunFolder(tmp_path).class_images(prompt) for prompt in prompts]
    assert len(set(folders)) == len(prompts)
    assert {folder.parent for folder in folders} == {tmp_path / "class_images"}
    assert all(len(folder.name) < 60 and folder.name.isascii() for folder in folders)


def test_a_folder_that_could_not_be_written_whole_is_nowhere(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(RuntimeError), folder.whole_folder(folder.generator("mug")) as scratch:
        (scratch / "weights").write_bytes(b"half of th")
        raise RuntimeError
    assert leftovers(tmp_path) == ["scratch"]


def test_dropped_weights_are_gone_and_how_they_were_made_stays(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.whole_folder(folder.generator("mug")) as scratch:
        (scratch / "unet").mkdir()
        (scratch / "unet" / "weights").write_bytes(b"weights")
    folder.write_json(folder.tuned("mug"), {"seed": 1})
    for _ in range(2):
        folder.drop_generator("mug")
    assert leftovers(tmp_path) == ["generators", "scratch", "tuned", "tuned/mug.json"]
