from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from persrep_ray.config import DataConfig
from persrep_ray.generate.shards import SCHEMA, ShardError, read_shards, shard_report, write_shard
from persrep_ray.generate.types import SyntheticImage

LIMITS = DataConfig()
REPORT = {"seconds": 0.25}


def picture(seed: int, **changes: object) -> SyntheticImage:
    rng = np.random.default_rng(seed)
    image = np.empty((24, 24, 3), np.uint8)
    image[:] = rng.integers(40, 200, 3)
    mask = rng.random((24, 24)) < 0.5
    fields: dict[str, object] = {
        "object_id": "mug",
        "role": "positive",
        "generator": "cut_paste",
        "prompt": None,
        "seed": 2**63 - 1 - seed,
        "score": None,
        "source_id": "mug",
        "source_photo": 0,
        "image": image,
        "mask": mask,
    }
    return SyntheticImage(**{**fields, **changes})  # type: ignore[arg-type]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    images = [picture(0), picture(1, role="negative", prompt="a cup", score=0.25, source_id="cup")]
    write_shard(tmp_path / "a.parquet", images, REPORT)
    write_shard(tmp_path / "b.parquet", [picture(2)], REPORT)
    rows = read_shards([tmp_path / "a.parquet", tmp_path / "b.parquet"], LIMITS)
    assert len(rows) == 3
    for row, image in zip(rows, [*images, picture(2)], strict=True):
        assert np.array_equal(row.mask, image.mask)
        assert np.abs(row.image.astype(int) - image.image).max() <= 3
        for name in ("object_id", "role", "generator", "prompt", "seed", "score", "source_id"):
            assert getattr(row, name) == getattr(image, name)
    assert rows[-1].seed == picture(2).seed and len(rows[1:]) == 2


def test_a_failed_write_leaves_the_old_shard_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_shard(path, [picture(0)], REPORT)
    before = path.read_bytes()
    with pytest.raises((TypeError, pa.ArrowException)):
        write_shard(path, [picture(1, score="no number")], REPORT)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(OSError):
        write_shard(tmp_path / "folder.parquet", [picture(1)], REPORT)
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.parquet", "folder.parquet"]


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"x" * 99])
def test_a_damaged_shard_is_named(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "a.parquet"
    write_shard(path, [picture(0)], REPORT)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ShardError, match=r"a\.parquet"):
        read_shards([path], LIMITS)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"gone\.parquet"):
        read_shards([tmp_path / "gone.parquet"], LIMITS)


def test_another_table_is_no_shard(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ShardError, match=r"a\.parquet: columns \['x'\]"):
        read_shards([tmp_path / "a.parquet"], LIMITS)


def test_the_report_is_kept_with_the_images(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    told = {"seconds": 1.5, "filter": {"candidates": {"a «mug»": 3}, "rejected": {}, "best": None}}
    write_shard(path, [picture(0), picture(1)], told)
    assert shard_report(path) == {**told, "images": 2}
    write_shard(path, [], told)
    assert shard_report(path)["images"] == 0 and len(read_shards([path], LIMITS)) == 0


def test_a_shard_without_a_report_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([], schema=SCHEMA), path)
    for wrong in (path, tmp_path / "gone.parquet"):
        with pytest.raises(ShardError, match=rf"{wrong.name}: not a readable shard"):
            shard_report(wrong)


def rewrite(path: Path, **changes: object) -> None:
    row = {**pq.read_table(path).to_pylist()[0], **changes}
    pq.write_table(pa.Table.from_pylist([row], schema=SCHEMA), path)


@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_damaged_picture_is_named_when_it_is_asked_for(tmp_path: Path, column: str) -> None:
    path = tmp_path / "a.parquet"
    write_shard(path, [picture(0)], REPORT)
    rewrite(path, **{column: b"\xff\xd8 no picture"})
    rows = read_shards([path], LIMITS)
    with pytest.raises(ShardError, match=r"a\.parquet.*object mug"):
        rows[0]


def test_limits_hold_and_image_and_mask_must_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_shard(path, [picture(0)], REPORT)
    with pytest.raises(ShardError, match=r"a\.parquet"):
        read_shards([path], DataConfig(max_pixels=100))[0]
    write_shard(path, [picture(0, mask=np.zeros((5, 5), np.bool_))], REPORT)
    with pytest.raises(ShardError, match="differ in size"):
        read_shards([path], LIMITS)[0]


def test_an_unknown_role_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_shard(path, [picture(0)], REPORT)
    rewrite(path, role="neutral")
    with pytest.raises(ShardError, match="role must be one of positive, negative"):
        read_shards([path], LIMITS)
