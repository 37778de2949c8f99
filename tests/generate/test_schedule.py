"""Chunks cover every image once, each generator has its share, and what exists is not made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from persrep_ray.config import RunConfig, load_config
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.schedule import calibration_chunks, chunks, missing_chunks, shares, training_chunks
from persrep_ray.generate.shards import write_shard
from persrep_ray.generate.types import Chunk
from persrep_ray.storage.store import open_store


def small(*overrides: str) -> RunConfig:
    return load_config("debug", overrides)


def test_chunks_cover_every_image_once() -> None:
    config = small(
        "generate.positives=5", "generate.negatives=4", "generate.chunk_size=2", "generate.calibration_images=3"
    )
    assert [(one.role, one.start, one.count) for one in chunks("mug", config)] == [
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


@pytest.mark.parametrize("count", [0, 1, 5])
def test_calibration_images_are_in_chunks_of_their_own(count: int) -> None:
    overrides = ["generate.positives=5", "generate.negatives=4", "generate.chunk_size=4"]
    config = small(*overrides, f"generate.calibration_images={count}")
    trained, calibrating = training_chunks("mug", config), calibration_chunks("mug", config)
    assert trained == training_chunks("mug", small(*overrides))
    assert trained.keys() == calibrating.keys() == {"positive", "negative"}
    for role, first in (("positive", 5), ("negative", 4)):
        images = [index for chunk in calibrating[role] for index in chunk.indices]
        assert images == list(range(first, first + count))


@pytest.mark.parametrize(
    ("generator", "wanted"),
    [
        ("cut_paste", {"cut_paste": 12}),
        ("dreambooth", {"dreambooth": 12}),
        ("folder", {"folder": 12}),
        ("combined", {"cut_paste": 9, "dreambooth": 3}),
    ],
)
def test_each_generator_makes_its_share_of_the_images(generator: str, wanted: dict[str, int]) -> None:
    config = small(
        *(f"generate.generator={generator}", "generate.dreambooth_share=0.25", "generate.positives=12"),
        *("generate.chunk_size=4", "generate.calibration_images=4"),
    )
    trained = training_chunks("mug", config)["positive"]
    assert {name: sum(one.count for one in trained if one.generator == name) for name in shares(config)} == wanted
    calibrating = calibration_chunks("mug", config)["positive"]
    indices = [index for chunk in (*trained, *calibrating) for index in chunk.indices]
    assert indices == list(range(16)), "no image twice, none left out"


def test_only_chunks_without_a_readable_shard_are_missing(tmp_path: Path) -> None:
    folder, config = RunFolder(open_store(tmp_path)), small()
    first, second, *others = chunks("mug", config)
    for chunk in (first, second):
        write_shard(folder, chunk, [], {"seconds": 1.0})
    damaged = Path(folder.store.url(folder.shard("mug", second.role, second.start)))
    damaged.write_bytes(damaged.read_bytes()[:-5])
    assert missing_chunks(["mug", "cup"], folder, config) == [second, *others, *chunks("cup", config)]


def test_a_chunk_is_checked() -> None:
    with pytest.raises(ValueError, match="object red: role must be one of positive, negative"):
        Chunk("red", "neutral", 0, 1, 0, "cut_paste")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must not be negative"):
        Chunk("red", "positive", -1, 1, 0, "cut_paste")
