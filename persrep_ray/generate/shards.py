"""Synthetic images on disk: Parquet shards, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
import pyarrow.parquet as pq

from persrep_ray.config import DataConfig
from persrep_ray.data.files import sync
from persrep_ray.data.images import decode_mask, decode_rgb, encode_jpeg, encode_png_mask
from persrep_ray.generate.types import ROLES, SyntheticImage

SCHEMA = pa.schema(
    [
        pa.field("object_id", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("generator", pa.string(), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("source_photo", pa.int64()),
        pa.field("mask", pa.binary(), nullable=False),  # PNG, one bit
        pa.field("image", pa.binary(), nullable=False),  # JPEG
    ]
)
JPEG_QUALITY = 92
_REPORT = b"report"


class ShardError(ValueError):
    """A shard that cannot be read; the message names the file and the cause."""


def write_shard(path: Path, images: Iterable[SyntheticImage], report: Mapping[str, Any]) -> None:
    """Write the images to `path`; until all is on disk the name does not exist, and an older file of it is kept.

    `report`, how they came about, is JSON and kept with them for `shard_report`: `seconds` that it took, and of a
    filtered chunk its `filter_report.FilterReport`.
    """
    rows = [
        {
            "object_id": one.object_id,
            "role": one.role,
            "generator": one.generator,
            "prompt": one.prompt,
            "seed": one.seed,
            "score": one.score,
            "source_id": one.source_id,
            "source_photo": one.source_photo,
            "mask": encode_png_mask(one.mask),
            "image": encode_jpeg(one.image, quality=JPEG_QUALITY),
        }
        for one in images
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA).replace_schema_metadata(
        {_REPORT: json.dumps({**report, "images": len(rows)})}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # The leading dot keeps a killed writer's leftover out of every `*.parquet`.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            pq.write_table(table, file, compression="none", use_dictionary=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    sync(path.parent)


def shard_report(path: Path) -> dict[str, Any]:
    """What `write_shard` was told, and the number of `images`; reads the footer alone. Raises `ShardError`."""
    try:
        report: dict[str, Any] = json.loads((pq.read_metadata(path).metadata or {})[_REPORT])
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ShardError(f"{path}: not a readable shard: {error}") from error
    return report


def is_whole(path: Path) -> bool:
    """Whether there is a shard that can be read; one that a disk has damaged is as good as none."""
    try:
        shard_report(path)
    except ShardError:
        return False
    return True


class ShardRows(Sequence[SyntheticImage]):
    """Rows of shards in order; a picture is decoded when its row is asked for, and each time anew."""

    def __init__(self, rows: Sequence[tuple[Path, dict[str, Any]]], limits: DataConfig) -> None:
        self._rows = rows
        self._limits = limits

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> SyntheticImage: ...
    @overload
    def __getitem__(self, index: slice) -> ShardRows: ...
    def __getitem__(self, index: int | slice) -> SyntheticImage | ShardRows:
        if isinstance(index, slice):
            return ShardRows(self._rows[index], self._limits)
        path, row = self._rows[index]
        source = f"{path} (object {row['object_id']}, seed {row['seed']})"
        try:
            image = decode_rgb(row["image"], self._limits, source)
            mask = decode_mask(row["mask"], self._limits, source)
        except ValueError as error:
            raise ShardError(f"{path}: object {row['object_id']}, seed {row['seed']}: {error}") from error
        if mask.shape != image.shape[:2]:
            raise ShardError(f"{source}: image {image.shape[:2]} and mask {mask.shape} differ in size")
        return SyntheticImage(**{**row, "image": image, "mask": mask})


def read_shards(paths: Sequence[Path], limits: DataConfig) -> ShardRows:
    """Rows of the shards, in the order of `paths`. Raises `ShardError` (a ValueError), which names the file."""
    rows: list[tuple[Path, dict[str, Any]]] = []
    for path in paths:
        try:
            table = pq.read_table(path, partitioning=None)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ShardError(f"{path}: not a readable shard: {error}") from error
        if not table.schema.equals(SCHEMA):
            raise ShardError(f"{path}: columns {table.schema.names} are not those of a shard")
        for row in table.to_pylist():
            if row["role"] not in ROLES:
                raise ShardError(
                    f"{path}: object {row['object_id']}: role must be one of {', '.join(ROLES)}, got {row['role']!r}"
                )
            rows.append((path, row))
    return ShardRows(rows, limits)
