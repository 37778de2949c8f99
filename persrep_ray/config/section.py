"""The base of all sections of settings, and how changes are applied to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from persrep_ray.config import text

_Tree = TypeVar("_Tree", bound="Section")


class ConfigError(ValueError):
    """A configuration that the user has to fix; the message is one line that names the key and the allowed values."""


class Section(BaseModel):
    """A section of settings. Unknown keys, changes after validation and lax conversions are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


def changed(config: _Tree, changes: Mapping[str, Any], where: str) -> _Tree:
    """`config` with `changes` applied. Raises `ConfigError`, whose message is one line that begins with `where`."""
    return validated(type(config), merged(config.model_dump(), changes), where)


def validated(tree: type[_Tree], values: Mapping[str, Any], where: str) -> _Tree:
    """`values` as a tree of settings. Raises `ConfigError`, whose message is one line that begins with `where`."""
    try:
        return tree.model_validate(values)
    except ValidationError as error:
        # The error is not chained, because pydantic's many lines would bury ours.
        raise ConfigError(where + text.first_problem(error, tree, values)) from None


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """The changes that `key=value` texts describe; later texts win. Raises `ConfigError`."""
    changes: dict[str, Any] = {}
    try:
        for override in overrides:
            changes = merged(changes, text.parse_override(override))
    except text.TextError as error:
        raise ConfigError(str(error)) from error
    return changes


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of settings with `changes` applied, section by section."""
    result = dict(values)
    for key, change in changes.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(change, Mapping):
            result[key] = merged(old, change)
        elif not (
            isinstance(old, Mapping) and change is None
        ):  # null stands for a section whose lines are all commented out
            result[key] = change
    return result
