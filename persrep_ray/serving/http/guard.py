"""ASGI middleware around every request: its id, limits on number and time, and the headers of every answer."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Mapping

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from persrep_ray.config import HttpConfig
from persrep_ray.serving.http.errors import ErrorAnswers, RequestError

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PROBES = ("/healthz", "/readyz")  # answered under any load; otherwise an orchestrator restarts a busy endpoint
_SECURITY_HEADERS = {  # a route may set other values
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware. It lets no exception of the application out, except a cancellation from outside."""

    def __init__(self, app: ASGIApp, *, http: HttpConfig, errors: ErrorAnswers) -> None:
        self._app = app
        self._http = http
        self._errors = errors
        self._in_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        exchange = _Exchange(receive, send, self._http, {"X-Request-Id": request_id, **_SECURITY_HEADERS})
        counts = scope["path"] not in _PROBES
        if counts and self._in_work >= self._http.max_waiting:
            answer = self._errors.answer(scope, RequestError("overloaded", "too many requests at a time"))
            await answer(scope, receive, exchange.send)
            return
        self._in_work += counts
        try:
            await self._answer(scope, exchange)
        finally:
            self._in_work -= counts

    async def _answer(self, scope: Scope, exchange: _Exchange) -> None:
        answer: ASGIApp | None = None
        try:
            with exchange.limit:
                await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            return
        except Exception as error:
            answer = self._errors.unexpected(scope, error)
        finally:
            exchange.stop_watching()
        if exchange.limit.cancelled_caught and not exchange.gone:
            answer = self._errors.answer(scope, exchange.late())
        if answer is not None and not exchange.answering:
            await answer(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its answer. `limit` cancels the work when the time is over or the client has gone (`gone`).

    The time is `timeout_s` at first, `body_timeout_s` once the application reads the body, and `timeout_s` again once
    the body is complete.
    """

    def __init__(self, receive: Receive, send: Send, http: HttpConfig, headers: Mapping[str, str]) -> None:
        self._receive = receive
        self._send = send
        self._http = http
        self._headers = headers
        self._body_wanted = False
        self._body_complete = False
        self._watcher: asyncio.Task[None] | None = None
        self.limit = anyio.CancelScope(deadline=anyio.current_time() + http.timeout_s)
        self.gone = False
        self.answering = False

    async def receive(self) -> Message:
        if self._body_complete:
            assert self._watcher is not None
            await self._watcher
            return {"type": "http.disconnect"}
        if not self._body_wanted:
            self._body_wanted = True
            self.limit.deadline = anyio.current_time() + self._http.body_timeout_s
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone = True
        elif not message.get("more_body", False):
            self._body_complete = True
            self.limit.deadline = anyio.current_time() + self._http.timeout_s
            self._watcher = asyncio.create_task(self._watch())
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.answering = True
            headers = MutableHeaders(scope=message)
            for name, value in self._headers.items():
                headers.setdefault(name, value)
        elif not message.get("more_body", False):
            self.stop_watching()  # after the last part, servers report a disconnect even if all is well
        await self._send(message)

    def late(self) -> RequestError:
        """The error for a request whose time is over."""
        if self._body_wanted and not self._body_complete:
            return RequestError("body_timeout", f"the body did not arrive within {self._http.body_timeout_s:g} s")
        return RequestError("timed_out", f"no answer within {self._http.timeout_s:g} s")

    def stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self) -> None:
        """Ends the work when the client goes, because nobody waits for the answer."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self.limit.cancel()


def _request_id(scope: Scope) -> str:
    """The client's id if it is harmless in logs and headers, else a new id."""
    given = Headers(scope=scope).getlist("x-request-id")
    return given[0] if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]) else uuid.uuid4().hex
