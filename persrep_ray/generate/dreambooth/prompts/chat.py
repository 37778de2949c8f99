"""Requests to an OpenAI-compatible language model over HTTP, with limits, because the endpoint is not trusted."""

from __future__ import annotations

import http
import http.client
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout  # the built-in one from Python 3.11 on
from typing import Any

from persrep_ray.config import ConfigError

URL, MODEL, KEY = "PERSREP_LLM_URL", "PERSREP_LLM_MODEL", "PERSREP_LLM_API_KEY"

_MAX_BYTES = 4 * 1024 * 1024  # of an answer; a thousand prompts take 200 kB
_MAX_WAIT_S = 60.0  # the longest pause between two requests that a server may ask for
_HINTS = {401: f"check {KEY}", 403: f"check {KEY}", 404: f"check {URL} and {MODEL}"}
_WORTH_ANOTHER_TRY = frozenset({408, 425, 429})  # besides 500 and above


class ChatError(Exception):
    """There is no answer. The message says why, as the end of "the language model at …", and never contains the key.

    Attributes:
        retry: whether the same request may succeed later.
        wait_s: how many seconds the server asks to wait before that.
    """

    def __init__(self, message: str, *, retry: bool, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry = retry
        self.wait_s = wait_s


class ChatEndpoint:
    """A language model behind `POST {url}/chat/completions`.

    Args:
        url: http or https, without user, query and fragment; for example `https://api.openai.com/v1`.
        model: its name there.
        key: sent as a bearer token; a private server often needs none.
        timeout_s: limit for a request, from the first packet to the last byte of the answer.

    Raises:
        ConfigError: the URL or the key is unusable; names the environment variable, never its value.
    """

    def __init__(self, url: str, model: str, key: str | None, timeout_s: float) -> None:
        self.host = _checked_host(url)
        if key and not (key.isascii() and key.isprintable()):
            raise ConfigError(f"{KEY} contains characters that are not allowed in an HTTP header")
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._model = model
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._timeout_s = timeout_s
        self._opener = urllib.request.build_opener(_NoRedirects)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], timeout_s: float) -> ChatEndpoint:
        """Reads `PERSREP_LLM_URL`, `PERSREP_LLM_MODEL` and, if set, `PERSREP_LLM_API_KEY`. Raises ConfigError."""
        url, model, key = (environ.get(name, "").strip() for name in (URL, MODEL, KEY))
        missing = [name for name, value in ((URL, url), (MODEL, model)) if not value]
        if missing:
            raise ConfigError(f"generate.prompts.source=llm needs the environment variables {' and '.join(missing)}")
        return cls(url, model, key, timeout_s)

    def ask(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of the model's answer. Raises ChatError."""
        # No temperature and no token limit, because some models refuse them.
        body = json.dumps({"model": self._model, "messages": list(messages)}).encode()
        request = urllib.request.Request(self._url, body, self._headers, method="POST")
        deadline = time.monotonic() + self._timeout_s
        try:
            answer = _within(self._timeout_s, lambda: self._read(request, deadline))
        except (FutureTimeout, TimeoutError):
            raise ChatError("timed out", retry=True) from None
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise ChatError("timed out", retry=True) from None
            raise ChatError(f"cannot be reached: {error.reason}", retry=True) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ChatError(f"broke off: {type(error).__name__}", retry=True) from None
        return _text_of(answer)

    def _read(self, request: urllib.request.Request, deadline: float) -> bytes:
        with self._opener.open(request, timeout=self._timeout_s) as response:
            answer = bytearray()
            while chunk := response.read1(65536):
                answer += chunk
                if len(answer) > _MAX_BYTES:
                    raise ChatError(f"sent more than {_MAX_BYTES:,} bytes", retry=True)
                if time.monotonic() > deadline:
                    raise TimeoutError
            return bytes(answer)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, because the key is meant for the host that the user named."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _checked_host(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number, or half an IPv6 address
        usable = False
    if not usable or not (url.isascii() and url.isprintable() and " " not in url):
        raise ConfigError(f"{URL} must be an address such as https://api.openai.com/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(f"{URL} must have no user, password, query or fragment; the key goes into {KEY}")
    return parts.netloc


def _within(seconds: float, call: Callable[[], bytes]) -> bytes:
    """Returns `call()` or gives up after `seconds`; a socket's own limit starts again with every byte it receives."""
    future: Future[bytes] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)


def _refusal(error: urllib.error.HTTPError) -> ChatError:
    with error:
        status = error.code
        asked = error.headers.get("Retry-After", "")
    known = {one.value: one.phrase for one in http.HTTPStatus}  # the phrase that the server sends may be anything
    message = f"answered {status} {known.get(status, '')}".rstrip()
    if 300 <= status < 400:
        message += f" (redirects are not followed; check {URL})"
    elif status in _HINTS:
        message += f" ({_HINTS[status]})"
    wait_s = min(float(asked), _MAX_WAIT_S) if asked.isascii() and asked.isdecimal() else 0.0
    return ChatError(message, retry=status in _WORTH_ANOTHER_TRY or status >= 500, wait_s=wait_s)


def _text_of(answer: bytes) -> str:
    try:
        text = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise ChatError("sent no chat completion", retry=True)
    return text
