"""A language model behind a real HTTP server, with every kind of answer that it may send."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from persrep_ray.generate.dreambooth.prompts.chat import ChatEndpoint
from persrep_ray.generate.dreambooth.prompts.writer import OpenAiWriter, WriterError

KEY = "sk-very-secret-key"
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers the n-th request with the n-th answer of the server, and all later requests with the last answer."""

    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, dict(self.headers), json.loads(body)))
        answers = self.server.answers
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client may have closed the connection
            answers[min(len(self.server.requests), len(answers)) - 1](self)

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.closing = threading.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def wanted(self) -> list[int]:
        return [json.loads(body["messages"][1]["content"])["wanted"] for _, _, body in self.requests]


def scene(number: int) -> str:
    return f"a photo of {{token}} {{category}} at place number {number}"


def content(text: str) -> Answer:
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
    return lambda handler: handler.reply(200, body)


def scenes(start: int, stop: int) -> Answer:
    return content(json.dumps([scene(number) for number in range(start, stop)]))


def raw(status: int, body: bytes = b"", **headers: str) -> Answer:
    return lambda handler: handler.reply(status, body, **headers)


def silence(handler: Handler) -> None:
    handler.server.closing.wait()


def drip(handler: Handler) -> None:
    """Sends a byte every 20 ms: no single wait is long, but the answer never ends."""
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.closing.wait(0.02):
        handler.wfile.write(b" ")


def drip_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not handler.server.closing.wait(0.02):
        handler.wfile.write(b"x")


class Sleeps(list[float]):
    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def writer_of(
    server: Server, *, attempts: int = 3, timeout_s: float = 10, key: str | None = KEY, sleep: Sleeps | None = None
) -> OpenAiWriter:
    endpoint = ChatEndpoint(f"http://{server.host}/v1/", "tiny", key, timeout_s)
    return OpenAiWriter(endpoint, attempts, Sleeps() if sleep is None else sleep)


def failure(writer: OpenAiWriter, count: int = 4) -> str:
    with pytest.raises(WriterError) as caught:
        writer.write("mug", "rigid", count)
    return str(caught.value)
