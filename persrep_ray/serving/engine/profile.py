"""The backbone and the image size that all adapters of an endpoint share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice

from persrep_ray.config import BackboneConfig, ConfigError, ServeConfig, recorded_config
from persrep_ray.serving.engine.answers import AdapterRef
from persrep_ray.serving.engine.errors import QueryError
from persrep_ray.serving.engine.source import Source

_CARDS = 100  # enough to outvote a stray object of another backbone


@dataclass(frozen=True)
class Profile:
    """`dense_size` is the side of the input of detection and segmentation, in pixels."""

    backbone: BackboneConfig
    dense_size: int


def read_profile(config: ServeConfig) -> Profile:
    """The profile in the settings. What they leave out is the most frequent value in the registry's first cards.

    Raises:
        ConfigError: the settings are incomplete, and the registry is out of reach or holds no readable card.
    """
    if config.backbone is not None and config.dense_size is not None:
        return Profile(config.backbone, config.dense_size)
    source = Source(config.registry)
    try:
        live = source.live()
    except QueryError as error:
        raise ConfigError(f"registry {config.registry}: {error.__cause__ or error.message}") from error
    found: Counter[Profile] = Counter()
    for object_id, version in islice(sorted(live.items()), _CARDS):
        try:
            recorded = source.card(AdapterRef(object_id, version))["config"]
            made_with = recorded_config(recorded, f"object {object_id}")
        except (QueryError, ValueError, KeyError, TypeError):
            continue
        found[Profile(config.backbone or made_with.backbone, config.dense_size or made_with.evaluate.dense_size)] += 1
    if found:
        return found.most_common(1)[0][0]
    raise ConfigError(
        f"registry {config.registry} holds no object whose card can be read: publish one first (persrep personalize), "
        "or set `backbone` and `dense_size`"
    )
