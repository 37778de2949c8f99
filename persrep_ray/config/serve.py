"""The settings of an endpoint, as `persrep serve --config` and the `args` of `serve/config.yaml` give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from persrep_ray.config import text
from persrep_ray.config.run import BackboneConfig
from persrep_ray.config.section import ConfigError, Section, merged, parse_overrides, validated


class HttpConfig(Section):
    """The HTTP interface: access, limits on requests, and time limits."""

    keys_file: str | None = Field(
        default=None,
        description="file of hashed API keys, local or s3:// (docs/SERVING.md); null: the variable PERSREP_API_KEYS; "
        "without both, everyone has access",
    )
    max_body_bytes: int = Field(default=16 * 1024 * 1024, gt=0, description="a larger request body is refused")
    max_pixels: int = Field(
        default=52_000_000,
        gt=0,
        description="pixels that are decoded at a time; a larger JPEG is decoded at a half, a quarter or an eighth of "
        "its size, and any other larger image is refused",
    )
    decode_threads: int = Field(default=2, ge=1, le=64, description="number of images that a replica decodes at a time")
    max_waiting: int = Field(default=64, ge=1, description="requests per replica at a time; more get 503")
    body_timeout_s: float = Field(default=20.0, gt=0, description="time limit for a request body to arrive")
    timeout_s: float = Field(default=20.0, gt=0, description="time limit for an answer to a complete request; then 503")
    replicas: int = Field(default=1, ge=1)
    cpus_per_replica: float = Field(default=0.25, ge=0)


class EncoderConfig(Section):
    """The replicas that hold the backbone and the adapters."""

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="null: min_replicas; a larger number: autoscaling"
    )
    cpus_per_replica: float = Field(default=1.0, ge=0)
    gpus_per_replica: float = Field(default=0.0, ge=0)
    threads: int | None = Field(default=None, ge=1, description="PyTorch threads; null: cpus_per_replica, at least 1")
    batch_rows: int = Field(default=16, ge=1, le=1024, description="largest number of images in a batch")
    max_waiting: int = Field(default=64, ge=1, description="queries per replica at a time; more wait or get 503")
    max_queued: int = Field(default=128, ge=1, description="queries that may wait for a replica; more get 503")
    bank_bytes: int = Field(default=2 * 1024**3, gt=0, description="memory for adapters on the device, bytes")
    load_threads: int = Field(default=4, ge=1, le=64, description="number of adapters that are loaded at a time")
    load_timeout_s: float = Field(default=10.0, gt=0, description="time limit for loading an adapter")

    @field_validator("max_replicas")
    @classmethod
    def _replicas_are_a_range(cls, most: int | None, info: ValidationInfo) -> int | None:
        least = info.data.get("min_replicas", 1)
        if most is not None and most < least:
            raise ValueError(f"at least min_replicas, {least}")
        return most

    @property
    def most_replicas(self) -> int:
        return self.max_replicas or self.min_replicas


class IdentifyConfig(Section):
    """Finding which of all objects an image shows."""

    shortlist: int = Field(
        default=16, ge=1, description="how many objects, chosen by the pretrained features, have their adapters tried"
    )


class ServeConfig(Section):
    """An endpoint."""

    registry: str = Field(
        min_length=1, description="where `persrep personalize` published: a folder or s3://bucket/prefix"
    )
    backbone: BackboneConfig | None = Field(default=None, description="null: the one in the registry's cards")
    dense_size: int | None = Field(
        default=None,
        ge=14,
        le=2048,
        description="side of the input of detect and segment; null: as in the cards",
    )
    refresh_s: float = Field(
        default=1.0,
        gt=0,
        description="pause between two looks for new versions; in S3, for each 1,000 objects (docs/SERVING.md)",
    )
    http: HttpConfig = HttpConfig()
    encoder: EncoderConfig = EncoderConfig()
    identify: IdentifyConfig = IdentifyConfig()


def load_serve_config(
    source: Mapping[str, Any] | Path | None = None, overrides: Iterable[str] = (), *, registry: str | None = None
) -> ServeConfig:
    """The settings of an endpoint: a mapping or a YAML file, then `registry`, then `key=value` overrides.

    Raises:
        ConfigError: one line that names the file or the key, the value, and what is allowed.
    """
    where = f"{source}: " if isinstance(source, Path) else ""
    try:
        values = text.read_mapping(source) if isinstance(source, Path) else dict(source or {})
    except text.TextError as error:
        raise ConfigError(str(error)) from error
    if registry is not None:
        values["registry"] = registry
    changes = parse_overrides(overrides)
    # An error in a file names the file, unless overrides can have caused it.
    return validated(ServeConfig, merged(values, changes), "" if changes else where)
