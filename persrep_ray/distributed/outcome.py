"""How a stage ended for an object: what every stage hands to the driver."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from persrep_ray.storage.store import StorageError

_LONGEST = 500  # characters of a cause


@dataclass(frozen=True)
class Outcome:
    """`error` is the cause of a failure, in words. `report` is JSON; its list `warnings` is shown to the user."""

    object_id: str
    error: str | None = None
    report: dict[str, Any] = field(default_factory=dict)


def describe(error: BaseException) -> str:
    """An exception as one line for the user: its message, after its type unless it is an error that we expect.

    The traceback of an unexpected error goes to the log, which `--verbose` shows.
    """
    while isinstance(cause := getattr(error, "cause", None) or error.__cause__, BaseException) and _is_rays(error):
        error = cause
    text = " ".join(str(error).split())
    if not isinstance(error, ValueError | StorageError) or not text:
        logging.getLogger(__name__).error("unexpected error", exc_info=error)
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _is_rays(error: BaseException) -> bool:
    """Whether Ray has wrapped another error in `error`, whose text is then a whole traceback."""
    return type(error).__module__.split(".")[0] == "ray"
