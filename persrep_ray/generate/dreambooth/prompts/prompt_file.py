"""Prompts by the user: JSON in the format of the reference, `{object: [prompt, …]}`."""

from __future__ import annotations

import json
from typing import Any

from persrep_ray.config import ConfigError
from persrep_ray.storage.files import file_at, read_file

_MAX_BYTES = 64 * 1024 * 1024
_MAX_CHARACTERS = 500  # of a prompt; text encoders see the first 77 tokens


def read_prompt_file(location: str) -> dict[str, tuple[str, ...]]:
    """Object id -> its prompts without surrounding spaces, from a local path or an `s3://` URI.

    Objects with equal lists share a list. Prompts without the token are found when their object is at hand: then only
    this object fails.

    Raises:
        ConfigError: the file cannot be read, is not JSON, is too large or of another shape; names the file and the key.
    """
    try:
        content = json.loads(read_file(file_at(location), _MAX_BYTES), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise ConfigError(f"{location}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{location}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{location}: expected {{object: [prompts]}}, got {type(content).__name__}")
    kept: dict[tuple[str, ...], tuple[str, ...]] = {}
    prompts = {}
    for object_id, texts in content.items():
        mine = _prompts(texts, f"{location}: key {object_id!r:.150}")
        prompts[object_id] = kept.setdefault(mine, mine)
    return prompts


def _prompts(texts: Any, where: str) -> tuple[str, ...]:
    if not isinstance(texts, list) or not texts:
        raise ConfigError(f"{where}: expected a list of one or more prompts, got {texts!r:.100}")
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str) or not text.isprintable() or not 0 < len(text.strip()) <= _MAX_CHARACTERS:
            raise ConfigError(
                f"{where}: prompt {number}: expected a printable line of 1 to {_MAX_CHARACTERS} characters, "
                f"got {text!r:.100}"
            )
    return tuple(text.strip() for text in texts)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {key!r:.150} occurs twice")
        content[key] = value
    return content
