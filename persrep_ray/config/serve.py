"""The settings of an endpoint: what `persrep serve --config` reads and the `args` of `serve/config.yaml` hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from persrep_ray.config import text
from persrep_ray.config.run import BackboneConfig
from persrep_ray.config.section import ConfigError, Section, merged, parse_overrides, validated


class HttpConfig(Section):
    """The HTTP side: what is let in, and how long it may take."""

    keys_file: str | None = Field(
        default=None,
        description="API keys, hashed (docs/SERVING.md); null: PERSREP_API_KEYS; without both, everybody may ask",
    )
    max_body_bytes: int = Field(default=16 * 1024 * 1024, gt=0, description="a larger request body is refused")
    max_pixels: int = Field(default=40_000_000, gt=0, description="a larger image is refused before it is decoded")
    decode_threads: int = Field(default=2, ge=1, le=64, description="images decoded at a time, per replica")
    max_waiting: int = Field(default=64, ge=1, description="requests in work per replica; more get 503")
    body_timeout_s: float = Field(default=20.0, gt=0, description="for a request body to arrive")
    timeout_s: float = Field(default=20.0, gt=0, description="for an answer, once the body is there; then 503")
    replicas: int = Field(default=1, ge=1)
    cpus_per_replica: float = Field(default=0.25, ge=0)


class EncoderConfig(Section):
    """The replicas that hold backbone and adapters."""

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="null: as many as min_replicas; more: autoscaled"
    )
    cpus_per_replica: float = Field(default=1.0, ge=0)
    gpus_per_replica: float = Field(default=0.0, ge=0)
    threads: int | None = Field(default=None, ge=1, description="of PyTorch; null: cpus_per_replica, at least 1")
    batch_rows: int = Field(default=16, ge=1, le=1024, description="images of a batch, at most")
    max_waiting: int = Field(default=64, ge=1, description="queries in work per replica; more wait, or get 503")
    max_queued: int = Field(default=128, ge=1, description="queries that wait for a replica; more get 503")
    bank_bytes: int = Field(default=2 * 1024**3, gt=0, description="for adapters, on the device")
    load_threads: int = Field(default=4, ge=1, le=64, description="adapters read from the registry at a time")
    load_timeout_s: float = Field(default=10.0, gt=0, description="for one adapter to be read")

    @field_validator("max_replicas")
    @classmethod
    def _replicas_are_a_range(cls, most: int | None, info: ValidationInfo) -> int | None:
        least = info.data.get("min_replicas", 1)
        if most is not None and most < least:
            raise ValueError(f"at least min_replicas, {least}")
        return most


class IdentifyConfig(Section):
    """Which of all objects is in an image."""

    shortlist: int = Field(
        default=16, ge=1, description="objects tried by their own adapter, chosen by the pretrained features"
    )


class ServeConfig(Section):
    """An endpoint."""

    registry: str = Field(min_length=1, description="the folder that `persrep personalize` published to")
    backbone: BackboneConfig | None = Field(default=None, description="null: what the registry's cards name")
    dense_size: int | None = Field(
        default=None, ge=14, le=2048, description="side of the input of detect and segment; null: as the cards say"
    )
    refresh_s: float = Field(default=1.0, gt=0, description="how often the registry is asked for new versions")
    http: HttpConfig = HttpConfig()
    encoder: EncoderConfig = EncoderConfig()
    identify: IdentifyConfig = IdentifyConfig()


def load_serve_config(
    source: Mapping[str, Any] | Path | None = None, overrides: Iterable[str] = (), *, registry: str | None = None
) -> ServeConfig:
    """The settings of an endpoint: a mapping or a YAML file, `registry` and then `key=value` overrides over it.

    Raises:
        ConfigError: one line: the file or the key, the value, and what is allowed.
    """
    where = f"{source}: " if isinstance(source, Path) else ""
    try:
        values = text.read_mapping(source) if isinstance(source, Path) else dict(source or {})
    except text.TextError as error:
        raise ConfigError(str(error)) from error
    if registry is not None:
        values["registry"] = registry
    changes = parse_overrides(overrides)
    # What is wrong in a file is told with its name; what it lacks may be among the overrides.
    return validated(ServeConfig, merged(values, changes), "" if changes else where)
