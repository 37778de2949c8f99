"""Synthetic images as Parquet files in the run folder, one shard per chunk."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

import pyarrow as pa
import pyarrow.parquet as pq

from persrep_ray.config import DataConfig
from persrep_ray.data.images import decode_mask, decode_rgb, encode_jpeg, encode_png_mask
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.types import ROLES, Chunk, SyntheticImage
from persrep_ray.storage.files import File

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


def shard_key(folder: RunFolder, chunk: Chunk) -> str:
    return folder.shard(chunk.object_id, chunk.role, chunk.start)


def write_shard(folder: RunFolder, chunk: Chunk, images: Iterable[SyntheticImage], report: Mapping[str, Any]) -> None:
    """Writes the images of `chunk` whole or not at all; a shard that exists is replaced.

    `report` is JSON about how they were made, with at least the `seconds` it took; it is stored with the images.
    Raises StorageError.
    """
    rows = [
        {
            "object_id": image.object_id,
            "role": image.role,
            "generator": image.generator,
            "prompt": image.prompt,
            "seed": image.seed,
            "score": image.score,
            "source_id": image.source_id,
            "source_photo": image.source_photo,
            "mask": encode_png_mask(image.mask),
            "image": encode_jpeg(image.image, quality=JPEG_QUALITY),
        }
        for image in images
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA).replace_schema_metadata(
        {_REPORT: json.dumps({**report, "images": len(rows)})}
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="none", use_dictionary=False)
    folder.store.write(shard_key(folder, chunk), buffer.getvalue())


def is_whole(file: File) -> bool:
    """Whether a listed shard can be read. A disk may damage a local file; S3 checks what it stores."""
    if not isinstance(file, Path):
        return True
    try:
        _footer_report(file.open("rb"), str(file))
    except (OSError, ShardError):
        return False
    return True


def shard_report(folder: RunFolder, chunk: Chunk) -> dict[str, Any]:
    """The report of a shard and its number of `images`. Raises `ShardError`, also if there is no shard."""
    key = shard_key(folder, chunk)
    try:
        content = folder.store.read(key)
    except FileNotFoundError as error:
        raise ShardError(f"{folder.store.url(key)}: there is no such shard") from error
    return _footer_report(io.BytesIO(content), folder.store.url(key))


class ShardRows(Sequence[SyntheticImage]):
    """The images of shards, in order. Each access decodes the image anew.

    `reports` are those of the shards, one for each, with the number of their `images`.
    """

    def __init__(
        self, rows: Sequence[tuple[str, dict[str, Any]]], reports: Sequence[dict[str, Any]], limits: DataConfig
    ) -> None:
        """`rows` are the shards' names and what they hold in a row."""
        self.reports = reports
        self._rows = rows
        self._limits = limits

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> SyntheticImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[SyntheticImage]: ...
    def __getitem__(self, index: int | slice) -> SyntheticImage | list[SyntheticImage]:
        """Raises `ShardError` for an image or mask that cannot be decoded."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        name, row = self._rows[index]
        source = f"{name}: object {row['object_id']}, seed {row['seed']}"
        try:
            image = decode_rgb(row["image"], self._limits, source)
            mask = decode_mask(row["mask"], self._limits, source)
        except ValueError as error:
            raise ShardError(str(error)) from error
        if mask.shape != image.shape[:2]:
            raise ShardError(f"{source}: image {image.shape[:2]} and mask {mask.shape} differ in size")
        return SyntheticImage(**{**row, "image": image, "mask": mask})


def read_shards(folder: RunFolder, chunks: Iterable[Chunk], limits: DataConfig) -> ShardRows:
    """The images of `chunks` in their order, and their reports, in one read per shard. Raises `ShardError`."""
    rows: list[tuple[str, dict[str, Any]]] = []
    reports: list[dict[str, Any]] = []
    for chunk in chunks:
        key = shard_key(folder, chunk)
        name = folder.store.url(key)
        try:
            table = pq.read_table(io.BytesIO(folder.store.read(key)))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ShardError(f"{name}: not a readable shard: {error}") from error
        if not table.schema.equals(SCHEMA):
            raise ShardError(f"{name}: columns {table.schema.names} are not those of a shard")
        reports.append(_report(table.schema.metadata, name))
        for row in table.to_pylist():
            if row["role"] not in ROLES:
                raise ShardError(
                    f"{name}: object {row['object_id']}: role must be one of {', '.join(ROLES)}, got {row['role']!r}"
                )
            rows.append((name, row))
    return ShardRows(rows, reports, limits)


def _footer_report(shard: BinaryIO, name: str) -> dict[str, Any]:
    """The report of a shard, from the end of its file, which is closed then."""
    try:
        with shard:
            metadata = pq.read_metadata(shard).metadata
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ShardError(f"{name}: not a readable shard: {error}") from error
    return _report(metadata, name)


def _report(metadata: Mapping[bytes, bytes] | None, name: str) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads((metadata or {})[_REPORT])
    except (ValueError, KeyError) as error:
        raise ShardError(f"{name}: not a readable shard: it has no report") from error
    return report
