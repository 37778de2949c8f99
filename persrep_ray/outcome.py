"""How a stage ended for one object: what all stages hand to the driver."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """`error` is the cause in words, None where it went well; `report` is the stage's own, JSON."""

    object_id: str
    error: str | None = None
    report: dict[str, Any] = field(default_factory=dict)


def describe(error: BaseException) -> str:
    """An exception as one line for the user: our own errors by their message, surprises with their type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
