"""Images and their reports come back as they were written; a damaged shard is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from persrep_ray.config import DataConfig
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.shards import SCHEMA, ShardError, is_whole, read_shards, shard_report, write_shard
from persrep_ray.generate.types import Chunk, SyntheticImage
from persrep_ray.storage.files import RemoteFile
from persrep_ray.storage.store import open_store

LIMITS = DataConfig()
REPORT = {"seconds": 0.25}
FIRST, SECOND, GONE = (Chunk("mug", "positive", start, 2, 0, "cut_paste") for start in (0, 2, 4))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(open_store(tmp_path))


def path_of(folder: RunFolder, chunk: Chunk) -> Path:
    return Path(folder.store.url(folder.shard(chunk.object_id, chunk.role, chunk.start)))


def image(seed: int, **changes: object) -> SyntheticImage:
    rng = np.random.default_rng(seed)
    pixels = np.empty((24, 24, 3), np.uint8)
    pixels[:] = rng.integers(40, 200, 3)
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
        "image": pixels,
        "mask": mask,
    }
    return SyntheticImage(**{**fields, **changes})  # type: ignore[arg-type]


def test_what_is_written_is_read(folder: RunFolder) -> None:
    images = [image(0), image(1, role="negative", prompt="a cup", score=0.25, source_id="cup")]
    write_shard(folder, FIRST, images, REPORT)
    write_shard(folder, SECOND, [image(2)], REPORT)
    rows = read_shards(folder, [FIRST, SECOND], LIMITS)
    assert len(rows) == 3
    for row, written in zip(rows, [*images, image(2)], strict=True):
        assert np.array_equal(row.mask, written.mask)
        assert np.abs(row.image.astype(int) - written.image).max() <= 3
        for name in ("object_id", "role", "generator", "prompt", "seed", "score", "source_id"):
            assert getattr(row, name) == getattr(written, name)
    assert rows[-1].seed == image(2).seed and [row.seed for row in rows[1:]] == [images[1].seed, image(2).seed]


def test_an_image_need_not_be_square(folder: RunFolder) -> None:
    wide = image(0, image=np.full((20, 50, 3), 90, np.uint8), mask=np.ones((20, 50), np.bool_))
    write_shard(folder, FIRST, [wide], REPORT)
    (row,) = read_shards(folder, [FIRST], LIMITS)
    assert row.image.shape == (20, 50, 3) and row.mask.all()


def test_a_failed_write_leaves_the_old_shard_and_no_litter(folder: RunFolder, tmp_path: Path) -> None:
    write_shard(folder, FIRST, [image(0)], REPORT)
    before = path_of(folder, FIRST).read_bytes()
    with pytest.raises((TypeError, pa.ArrowException)):
        write_shard(folder, FIRST, [image(1, score="no number")], REPORT)
    path_of(folder, SECOND).mkdir()
    with pytest.raises(OSError):
        write_shard(folder, SECOND, [image(1)], REPORT)
    assert path_of(folder, FIRST).read_bytes() == before
    assert [entry.key for entry in folder.store.list()] == ["synthetic/mug/positive-00000.parquet"]


DAMAGES: list[Callable[[bytes], bytes]] = [lambda b: b[:-20], lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"x"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_named_and_not_whole(folder: RunFolder, damage: Callable[[bytes], bytes]) -> None:
    write_shard(folder, FIRST, [image(0)], REPORT)
    path = path_of(folder, FIRST)
    assert is_whole(path)
    path.write_bytes(damage(path.read_bytes()))
    assert not is_whole(path)
    for read in (lambda: read_shards(folder, [FIRST], LIMITS), lambda: shard_report(folder, FIRST)):
        with pytest.raises(ShardError, match=r"positive-00000\.parquet: not a readable shard"):
            read()


def test_a_shard_on_s3_is_whole_without_a_request() -> None:
    assert is_whole(RemoteFile("s3://no-such-bucket/shard.parquet", "tag", 1))


def test_a_missing_shard_is_named(folder: RunFolder) -> None:
    for read in (lambda: read_shards(folder, [GONE], LIMITS), lambda: shard_report(folder, GONE)):
        with pytest.raises(ShardError, match=r"positive-00004\.parquet"):
            read()


def test_another_table_is_not_a_shard(folder: RunFolder) -> None:
    write_shard(folder, FIRST, [], REPORT)
    pq.write_table(pa.table({"x": [1]}), path_of(folder, FIRST))
    with pytest.raises(ShardError, match=r"positive-00000\.parquet: columns \['x'\]"):
        read_shards(folder, [FIRST], LIMITS)


def test_reports_come_with_the_images_and_without_them(folder: RunFolder) -> None:
    told = {"seconds": 1.5, "filter": {"candidates": {"a «mug»": 3}, "rejected": {}, "best": None}}
    write_shard(folder, FIRST, [image(0), image(1)], told)
    write_shard(folder, SECOND, [], REPORT)
    reports = [{**told, "images": 2}, {**REPORT, "images": 0}]
    assert read_shards(folder, [FIRST, SECOND], LIMITS).reports == reports
    assert [shard_report(folder, chunk) for chunk in (FIRST, SECOND)] == reports


def test_a_shard_without_a_report_is_named(folder: RunFolder) -> None:
    write_shard(folder, FIRST, [], REPORT)
    pq.write_table(pa.Table.from_pylist([], schema=SCHEMA), path_of(folder, FIRST))
    for read in (lambda: read_shards(folder, [FIRST], LIMITS), lambda: shard_report(folder, FIRST)):
        with pytest.raises(ShardError, match=r"positive-00000\.parquet: not a readable shard: it has no report"):
            read()


def rewrite(path: Path, **changes: object) -> None:
    table = pq.read_table(path, partitioning=None)
    changed = pa.Table.from_pylist([{**table.to_pylist()[0], **changes}], schema=table.schema)
    pq.write_table(changed, path)


@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_damaged_image_is_named_when_it_is_accessed(folder: RunFolder, column: str) -> None:
    write_shard(folder, FIRST, [image(0)], REPORT)
    rewrite(path_of(folder, FIRST), **{column: b"\xff\xd8 no image"})
    rows = read_shards(folder, [FIRST], LIMITS)
    with pytest.raises(ShardError, match=r"positive-00000\.parquet: object mug"):
        rows[0]


def test_limits_hold_and_image_and_mask_must_fit(folder: RunFolder) -> None:
    write_shard(folder, FIRST, [image(0)], REPORT)
    with pytest.raises(ShardError, match=r"positive-00000\.parquet"):
        read_shards(folder, [FIRST], DataConfig(max_pixels=100))[0]
    write_shard(folder, FIRST, [image(0, mask=np.zeros((5, 5), np.bool_))], REPORT)
    with pytest.raises(ShardError, match="differ in size"):
        read_shards(folder, [FIRST], LIMITS)[0]


def test_an_unknown_role_is_refused(folder: RunFolder) -> None:
    write_shard(folder, FIRST, [image(0)], REPORT)
    rewrite(path_of(folder, FIRST), role="neutral")
    with pytest.raises(ShardError, match="role must be one of positive, negative"):
        read_shards(folder, [FIRST], LIMITS)
