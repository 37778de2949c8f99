"""Hostile requests on a real endpoint: no defect shows, no other client notices, and memory stays bounded."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import schemathesis
from helpers.served import DiscPublisher, Endpoint, disc_png, running_endpoint
from hypothesis import HealthCheck, Phase, given, settings
from serving.http.hostile import Hostile, hostile_requests

HOSTILE = 1000
MOST_GROWTH = 150 * 1024 * 1024  # bytes, over all processes: less than one of the bodies that are sent
HUGE_BODY = 200 * 1024 * 1024


@pytest.fixture(scope="module")
def endpoint(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("hostile")
    publisher = DiscPublisher(folder / "vit", folder / "registry")
    publisher.publish(0)
    settings = ["encoder.cpus_per_replica=0.5", "http.max_body_bytes=2000000", "http.max_pixels=8000000"]
    with running_endpoint(publisher.registry.store.uri, environment, folder, settings=settings) as endpoint:
        yield endpoint


def wire(request: Hostile) -> bytes:
    """The request as bytes, malformed as it may be."""
    head = f"{request.method} {request.path} HTTP/1.1\r\nHost: endpoint\r\nConnection: close\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in request.headers)
    if request.body and not any(name.lower() in ("content-length", "transfer-encoding") for name, _ in request.headers):
        head += f"Content-Length: {len(request.body)}\r\n"
    return head.encode("latin-1", errors="replace") + b"\r\n" + request.body


def status_of(endpoint: Endpoint, data: bytes, *, send_all: bool = True) -> int:
    """The status of the answer; 0 if the server closed the connection without one, which it may on a broken request."""
    address = urlsplit(endpoint.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        try:
            connection.sendall(data)
            if not send_all:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused before its end: the answer is there all the same
        try:
            first = io.BufferedReader(socket.SocketIO(connection, "r")).readline()
        except OSError:
            return 0
    return int(first.split()[1]) if first.startswith(b"HTTP/") else 0


def good(endpoint: Endpoint) -> None:
    query = disc_png(0)
    head = "POST /v1/objects/disc_0/classify HTTP/1.1\r\nHost: e\r\nContent-Type: image/png\r\nConnection: close\r\n"
    assert status_of(endpoint, f"{head}Content-Length: {len(query)}\r\n\r\n".encode() + query) == 200


def test_hostile_requests_get_answers_and_memory_stays(endpoint: Endpoint) -> None:
    requests = list(hostile_requests(7, HOSTILE, "disc_0"))
    good(endpoint)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda request: status_of(endpoint, wire(request)), requests[:200]))  # buffers and caches fill
        before, replicas = endpoint.resident_bytes(), endpoint.replicas("ingress") + endpoint.replicas("encoder")
        statuses = list(pool.map(lambda request: status_of(endpoint, wire(request)), requests))
    bad = {(request.kind, status) for request, status in zip(requests, statuses, strict=True) if status >= 500}
    assert not {pair for pair in bad if pair[1] != 503}, bad
    assert sum(400 <= status < 500 for status in statuses) > HOSTILE / 2
    good(endpoint)
    assert endpoint.resident_bytes() - before < MOST_GROWTH
    assert endpoint.replicas("ingress") + endpoint.replicas("encoder") == replicas, "a replica crashed"


def test_uploads_that_end_early_leave_nothing_behind(endpoint: Endpoint) -> None:
    image = disc_png(0)
    head = "POST /v1/objects/disc_0/classify HTTP/1.1\r\nHost: e\r\nContent-Type: image/png\r\n"
    head += f"Content-Length: {len(image)}"
    with ThreadPoolExecutor(8) as pool:
        sent = [head.encode() + b"\r\n\r\n" + image[: len(image) * part // 40] for part in range(40)]
        statuses = list(pool.map(lambda data: status_of(endpoint, data, send_all=False), sent))
    assert all(status == 0 or 400 <= status < 500 or status == 503 for status in statuses), statuses
    good(endpoint)


def test_huge_bodies_are_refused_without_being_kept(endpoint: Endpoint) -> None:
    zeros = bytes(HUGE_BODY)
    plain = f"POST /v1/identify HTTP/1.1\r\nHost: e\r\nContent-Type: image/png\r\nContent-Length: {HUGE_BODY}\r\n\r\n"
    chunked = "POST /v1/identify HTTP/1.1\r\nHost: e\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    bodies = [plain.encode() + zeros, chunked.encode() + f"{HUGE_BODY:x}\r\n".encode() + zeros]
    assert [status_of(endpoint, body) for body in bodies] == [413, 413]
    before = endpoint.resident_bytes()
    assert [status_of(endpoint, body) for body in bodies * 3] == [413] * 6
    assert endpoint.resident_bytes() - before < MOST_GROWTH
    good(endpoint)


def test_the_api_is_as_described(endpoint: Endpoint) -> None:
    api = schemathesis.openapi.from_url(f"{endpoint.url}/openapi.json")

    @settings(
        max_examples=60,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=api.as_strategy())
    def check(case: schemathesis.Case) -> None:
        if "object_id" in case.path_parameters and case.method != "DELETE":
            case.path_parameters["object_id"] = "disc_0"
        answer = case.call()
        assert answer.status_code < 500 or answer.status_code == 503, (case.method, case.formatted_path, answer.content)

    check()
    good(endpoint)
