"""What can go wrong with a query, each with the stable code that clients see."""

from __future__ import annotations

from dataclasses import dataclass


class QueryError(Exception):
    """A query that gets no answer. `message` is written for the client: no paths, no internals."""

    code = "internal"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ObjectNotFoundError(QueryError):
    """There is no such object, or the key may not know of it."""

    code = "object_not_found"


class VersionNotFoundError(QueryError):
    """The object has no such version."""

    code = "version_not_found"


class AdapterUnusableError(QueryError):
    """The published files are damaged or do not fit the backbone; only publishing anew helps."""

    code = "adapter_unusable"


class NoMasksError(QueryError):
    """The object was published without a mask of its photos: it cannot be detected or segmented."""

    code = "object_without_masks"


class RegistryUnavailableError(QueryError):
    """The registry cannot be read now; what is in memory still works."""

    code = "registry_unavailable"


class OverloadedError(QueryError):
    """More queries wait than may."""

    code = "overloaded"


class TimedOutError(QueryError):
    """No answer within the time limit."""

    code = "timed_out"


ERRORS: dict[str, type[QueryError]] = {
    kind.code: kind
    for kind in (
        QueryError,
        ObjectNotFoundError,
        VersionNotFoundError,
        AdapterUnusableError,
        NoMasksError,
        RegistryUnavailableError,
        OverloadedError,
        TimedOutError,
    )
}


@dataclass(frozen=True)
class Failure:
    """A `QueryError` on its way between processes: an exception would arrive wrapped, with a traceback."""

    code: str
    message: str

    @classmethod
    def of(cls, error: QueryError) -> Failure:
        return cls(error.code, error.message)

    def error(self) -> QueryError:
        return ERRORS[self.code](self.message)
