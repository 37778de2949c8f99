"""What all adapters of an endpoint have in common: one endpoint serves one backbone."""

from __future__ import annotations

from dataclasses import dataclass

from persrep_ray.config import BackboneConfig, ConfigError, RunConfig
from persrep_ray.serving.answers import Target
from persrep_ray.serving.errors import QueryError
from persrep_ray.serving.settings import ServeConfig
from persrep_ray.serving.source import Source


@dataclass(frozen=True)
class Profile:
    """`dense_size`: side of the input of detection and segmentation, pixels."""

    backbone: BackboneConfig
    dense_size: int


def read_profile(config: ServeConfig) -> Profile:
    """From the settings; what they leave open, from the first card of the registry that can be read.

    Raises:
        ConfigError: the registry is out of reach or holds no readable card, and the settings do not say it all.
    """
    if config.backbone is not None and config.dense_size is not None:
        return Profile(config.backbone, config.dense_size)
    source = Source(config.registry)
    try:
        live = source.live()
    except QueryError as error:
        raise ConfigError(f"registry {config.registry}: {error.message}") from error
    for object_id, version in sorted(live.items()):
        try:
            made_with = RunConfig.model_validate(source.card(Target(object_id, version))["config"])
        except (QueryError, ValueError, KeyError):
            continue
        return Profile(config.backbone or made_with.backbone, config.dense_size or made_with.evaluate.dense_size)
    raise ConfigError(
        f"registry {config.registry} holds no object whose card can be read: publish one first (persrep personalize), "
        "or set `backbone` and `dense_size`"
    )
