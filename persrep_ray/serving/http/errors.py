"""Errors as clients see them: a stable code, its status, and one JSON format, without tracebacks, paths or types."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from persrep_ray.serving.engine.errors import QueryError

STATUS = {
    "unauthorized": 401,
    "not_allowed": 403,
    "object_not_found": 404,
    "version_not_found": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "body_timeout": 408,
    "object_without_masks": 409,
    "body_too_large": 413,
    "image_too_large": 413,
    "unsupported_media_type": 415,
    "bad_image": 422,
    "bad_request": 422,
    "overloaded": 503,
    "timed_out": 503,
    "registry_unavailable": 503,
    "not_ready": 503,
    "adapter_unusable": 503,
    "internal": 503,
}
_HEADERS = {
    "unauthorized": {"WWW-Authenticate": "Bearer"},
    # Without this the server receives the rest of the body, which nobody needs.
    "body_timeout": {"Connection": "close"},
    "body_too_large": {"Connection": "close"},
    **{code: {"Retry-After": "1"} for code in ("overloaded", "timed_out", "registry_unavailable", "not_ready")},
}
_log = logging.getLogger(__name__)


class RequestError(QueryError):
    """A request is refused before it becomes a query. `code` is a key of `STATUS`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ErrorAnswers:
    """Makes the error answers, and calls `count` with the code of each."""

    def __init__(self, count: Callable[[str], None]) -> None:
        self._count = count

    def answer(self, scope: Scope, error: QueryError, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """The answer for `error`. The scope's state holds the request's id."""
        code = error.code if error.code in STATUS else "internal"
        self._count(code)
        content = {"code": code, "message": error.message, "request_id": scope["state"]["request_id"]}
        return JSONResponse({"error": content}, STATUS[code], {**_HEADERS.get(code, {}), **(headers or {})})

    def unexpected(self, scope: Scope, error: Exception) -> JSONResponse:
        """The answer for a defect of the endpoint, which is logged with the request's id."""
        request_id = scope["state"]["request_id"]
        _log.error("request %s, %s %r:", request_id, scope["method"], scope["path"], exc_info=error)
        return self.answer(scope, RequestError("internal", "the endpoint failed; the error was logged"))

    def install(self, app: FastAPI, routes: Sequence[BaseRoute]) -> None:
        """Makes `app`, whose routes are `routes`, answer all errors in this format."""

        async def query(request: Request, error: Exception) -> JSONResponse:
            assert isinstance(error, QueryError)
            return self.answer(request.scope, error)

        async def validation(request: Request, error: Exception) -> JSONResponse:
            assert isinstance(error, RequestValidationError)
            first = error.errors()[0]  # of pydantic: where, and what is allowed there
            field = ".".join(str(part) for part in first["loc"][1:])
            return self.answer(request.scope, RequestError("bad_request", f"{field}: {first['msg']}"))

        async def http(request: Request, error: Exception) -> JSONResponse:
            assert isinstance(error, HTTPException)
            if error.status_code == 404:
                return self.answer(request.scope, RequestError("not_found", "there is no such path"))
            if error.status_code == 405:
                allowed = _methods(routes, request.scope)
                message = f"this path only allows {allowed}"
                return self.answer(request.scope, RequestError("method_not_allowed", message), {"Allow": allowed})
            return self.unexpected(request.scope, error)

        app.add_exception_handler(QueryError, query)
        app.add_exception_handler(RequestValidationError, validation)
        app.add_exception_handler(HTTPException, http)


def _methods(routes: Sequence[BaseRoute], scope: Scope) -> str:
    """The methods of all routes to the scope's path; the framework only names those of the first one."""
    found: set[str] = set()
    for route in routes:
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return ", ".join(sorted(found))
