"""How a stage ended for one object: what all stages hand to the driver."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

_LONGEST = 500  # characters of a cause


@dataclass(frozen=True)
class Outcome:
    """`error` is the cause in words, None where it went well; `report` is the stage's own, JSON."""

    object_id: str
    error: str | None = None
    report: dict[str, Any] = field(default_factory=dict)


def describe(error: BaseException) -> str:
    """An exception as one line for the user: our own errors by their message, surprises with their type.

    A surprise's traceback goes to the log, which `--verbose` shows.
    """
    while isinstance(cause := getattr(error, "cause", None) or error.__cause__, BaseException) and _is_rays(error):
        error = cause
    text = " ".join(str(error).split())
    if not isinstance(error, ValueError) or not text:
        logging.getLogger(__name__).error("unexpected error", exc_info=error)
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _is_rays(error: BaseException) -> bool:
    """Whether `error` is Ray's wrapping of another: its text is a whole traceback."""
    return type(error).__module__.split(".")[0] == "ray"
