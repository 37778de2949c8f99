"""What all sections of settings are made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ConfigError(ValueError):
    """A configuration the user has to mend: the message is one line and names the key and the allowed values."""


class Section(BaseModel):
    """What all settings share: no unknown keys, no change after validation, no lax conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)
