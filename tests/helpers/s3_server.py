"""A real S3 server in a process of its own (moto's), and a proxy in front of it that injects faults and counts."""

from __future__ import annotations

import http.client
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

# Fault to HTTP status; the other faults break the connection or the content.
_STATUSES = {
    "InternalError": 500,
    "SlowDown": 503,
    "ConditionalRequestConflict": 409,
    "AccessDenied": 403,
    "ExpiredToken": 400,
    "NoSuchBucket": 404,
    "NotImplemented": 501,
}

_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIDTEST",
    "AWS_SECRET_ACCESS_KEY": "the-secret-key",
    "AWS_SESSION_TOKEN": "the-session-token",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Request(NamedTuple):
    """A request that reached the proxy. `operation` is the name of the API, `key` the object's."""

    method: str
    operation: str
    key: str


@dataclass
class _Fault:
    kind: str
    times: int
    when: Callable[[Request], bool]


@contextmanager
def s3_server() -> Iterator[int]:
    """The port of a server that runs until the end of the block."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if match := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                    break
            else:
                raise RuntimeError(f"the S3 server ended with exit status {process.wait()}")
            drain = threading.Thread(target=process.stderr.read, daemon=True)  # its log must not fill the pipe
            drain.start()
            yield int(match[1])
        finally:
            process.terminate()
            process.wait()


class FaultyS3(ThreadingHTTPServer):
    """The proxy, while a `with` block runs. Conditional writes are serialised, which the server behind leaves out.

    `environment` leads boto3 to it; `uri` is that of the bucket that `new_bucket` made last.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, server_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server_port_behind = server_port
        self.environment = {**_ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_address[1]}"}
        self.conditional = threading.Lock()
        self.closing = threading.Event()
        self._scripted = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.new_bucket()

    def new_bucket(self) -> None:
        """Starts afresh: an empty bucket, no faults and no requests counted."""
        self.bucket = f"bucket-{uuid.uuid4().hex}"
        self.uri = f"s3://{self.bucket}"
        self.requests: list[Request] = []
        self.ignores_conditions = False
        self._faults: list[_Fault] = []
        connection = http.client.HTTPConnection("127.0.0.1", self.server_port_behind)
        connection.request("PUT", f"/{self.bucket}", headers={"Host": "s3.us-east-1.amazonaws.com"})
        status = connection.getresponse().status
        connection.close()
        if status != 200:
            raise RuntimeError(f"the S3 server creates no bucket (HTTP {status})")

    def __enter__(self) -> FaultyS3:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def fail(self, kind: str, times: int = 1, when: Callable[[Request], bool] = lambda request: True) -> None:
        """The next `times` requests for which `when` is true fail in this way.

        "lost": the request takes effect, and its answer is lost. "hang": there is no answer. "truncated" and "damaged":
        the content of the answer. "reset": the connection. Other kinds are error codes of S3.
        """
        with self._scripted:
            self._faults.append(_Fault(kind, times, when))

    def count(self, operation: str | None = None, key: str | None = None) -> int:
        """How many requests of this operation, and about this key, have come so far."""
        return sum(
            operation in (None, request.operation) and key in (None, request.key) for request in list(self.requests)
        )

    def seen(self, request: Request) -> str | None:
        """Counts a request and returns the fault that is planned for it."""
        with self._scripted:
            self.requests.append(request)
            for fault in self._faults:
                if fault.times and fault.when(request):
                    fault.times -= 1
                    return fault.kind
        return None

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gives up is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are sent apart, and must not wait for each other
    server: FaultyS3

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = _parsed(self.command, self.path)
        fault = self.server.seen(request)
        if fault == "hang":
            self.server.closing.wait(60)
            return self._reset()
        if fault == "reset":
            return self._reset()
        if fault in _STATUSES:
            return self._send_error(fault)
        status, headers, content = self._forwarded(body)
        if fault == "lost":
            return self._reset()
        if fault == "damaged":
            content = bytes(byte ^ 1 for byte in content)
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if fault == "truncated":
            self.wfile.write(content[: len(content) // 2])
            return self._reset(gently=True)
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer

    def _forwarded(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        dropped = {"connection", "expect"}
        is_conditional = self.command == "PUT" and ("If-Match" in self.headers or "If-None-Match" in self.headers)
        if is_conditional and self.server.ignores_conditions:
            dropped |= {"if-match", "if-none-match"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port_behind)
        if is_conditional:
            self.server.conditional.acquire()
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            if is_conditional:
                self.server.conditional.release()
            connection.close()
        hop_by_hop = ("connection", "transfer-encoding", "date", "server")
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in hop_by_hop]
        if "content-length" not in {name.lower() for name, _ in kept}:
            kept.append(("Content-Length", str(len(content))))
        return answer.status, kept, content

    def _send_error(self, code: str) -> None:
        """An error as S3 words it; the text repeats the credentials, which no message of ours may do."""
        text = f"{self.headers.get('Authorization')} {self.headers.get('X-Amz-Security-Token')}"
        content = f"<Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
        content = b"" if self.command == "HEAD" else content
        self.send_response(_STATUSES[code])
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _reset(self, gently: bool = False) -> None:
        self.close_connection = True
        if not gently:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def _parsed(method: str, path: str) -> Request:
    parts = urlsplit(path)
    key = unquote(parts.path).lstrip("/").partition("/")[2]
    query = parse_qs(parts.query, keep_blank_values=True)
    names = {
        ("GET", True): "GetObject",
        ("GET", False): "ListObjectsV2",
        ("HEAD", True): "HeadObject",
        ("PUT", True): "UploadPart" if "partNumber" in query else "PutObject",
        ("DELETE", True): "AbortMultipartUpload" if "uploadId" in query else "DeleteObject",
        ("POST", True): "CreateMultipartUpload" if "uploads" in query else "CompleteMultipartUpload",
        ("POST", False): "DeleteObjects",
    }
    return Request(method, names.get((method, bool(key)), method), key)
