"""The errors of queries. Each has a stable code that clients see."""

from __future__ import annotations

from dataclasses import dataclass


class QueryError(Exception):
    """A query cannot be answered. `message` is for the client: it has no paths and no internals."""

    code = "internal"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ObjectNotFoundError(QueryError):
    """There is no such object, or the key does not give access to it."""

    code = "object_not_found"


class VersionNotFoundError(QueryError):
    """The object has no such version."""

    code = "version_not_found"


class AdapterUnusableError(QueryError):
    """The published files are damaged or do not fit the backbone. The object must be published again."""

    code = "adapter_unusable"


class NoMasksError(QueryError):
    """The object was published without masks of its photos, so it cannot be detected or segmented."""

    code = "object_without_masks"


class RegistryUnavailableError(QueryError):
    """The registry cannot be read now. Adapters in memory still work."""

    code = "registry_unavailable"


class OverloadedError(QueryError):
    """Too many queries are waiting."""

    code = "overloaded"


class TimedOutError(QueryError):
    """There was no answer within the time limit."""

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
    """A `QueryError` that is sent to another process; an exception would arrive wrapped in another one."""

    code: str
    message: str

    @classmethod
    def of(cls, error: QueryError) -> Failure:
        return cls(error.code, error.message)

    def error(self) -> QueryError:
        return ERRORS[self.code](self.message)
