"""Limits on the size and duration of requests: excess is not read, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from serving.http.fakes import Answer, Wire, encoded, endpoint

from persrep_ray.serving.http.auth import Keys

IMAGE = encoded()
PNG = {"Content-Type": "image/png"}
CLASSIFY = "/v1/objects/mug/classify"


async def turns() -> None:
    """Lets all tasks run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def put_forward(seconds: float) -> None:
    """Advances the event loop's clock, and no other."""
    loop = asyncio.get_running_loop()
    now, started = loop.time() + seconds, time.monotonic()
    loop.time = lambda: now + time.monotonic() - started  # type: ignore[method-assign]
    await turns()


async def until_asked(asked: list[object], many: int) -> None:
    while len(asked) < many:
        await asyncio.sleep(0.001)


def answered(answer: Answer | None) -> Answer:
    assert answer is not None
    return answer


def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    for length in (str(101), str(10**12), "9" * 5000):
        wire = Wire("POST", CLASSIFY, [b"x" * 101], {**PNG, "Content-Length": length})
        answer = answered(asyncio.run(wire.run(endpoint(max_body_bytes=100).app)))
        assert (answer.status, answer.code) == (413, "body_too_large")
        assert answer.headers["connection"] == "close", "or the server would go on to receive it"
        assert wire.chunks_read == 0


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "10"}])
def test_a_body_that_does_not_say_is_read_up_to_the_limit(headers: dict[str, str]) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(40)

    wire = Wire("POST", CLASSIFY, endless(), {**PNG, **headers})
    answer = answered(asyncio.run(wire.run(endpoint(max_body_bytes=100).app)))
    assert (answer.status, answer.code) == (413, "body_too_large")
    assert wire.chunks_read == 3


def test_a_body_of_exactly_the_limit_is_let_in() -> None:
    served = endpoint(max_body_bytes=len(IMAGE))
    parts = [IMAGE[:10], b"", IMAGE[10:]]
    wire = Wire("POST", CLASSIFY, parts, {**PNG, "Content-Length": str(len(IMAGE))})
    assert answered(asyncio.run(wire.run(served.app))).status == 200


@pytest.mark.parametrize(
    ("path", "headers", "code"),
    [
        (CLASSIFY, PNG, "unauthorized"),
        (CLASSIFY, {**PNG, "Authorization": "Bearer wrong"}, "unauthorized"),
        ("/v1/identify", PNG, "unauthorized"),
        ("/v1/objects/nothing/classify", PNG, "object_not_found"),
        ("/v1/objects/%/classify", PNG, "bad_request"),
        ("/v1/identify?top_k=0", PNG, "bad_request"),
        ("/v1/nothing", PNG, "not_found"),
        ("/v1/objects/mug", PNG, "method_not_allowed"),
        (CLASSIFY, {}, "unsupported_media_type"),
        (CLASSIFY, {"Content-Type": "text/plain"}, "unsupported_media_type"),
        (CLASSIFY, {"Content-Type": "application/x-www-form-urlencoded"}, "unsupported_media_type"),
        (CLASSIFY, {"Content-Type": "video/mp4"}, "unsupported_media_type"),
        (CLASSIFY, {"Content-Type": "image/png" + ";" * 60_000}, "unsupported_media_type"),
        (CLASSIFY, {**PNG, "Content-Encoding": "gzip"}, "unsupported_media_type"),
        (CLASSIFY, {"Content-Type": "multipart/form-data"}, "bad_request"),
        (CLASSIFY, {**PNG, "Content-Length": "-1"}, "bad_request"),
    ],
)
def test_the_body_of_a_request_that_is_refused_anyway_is_not_read(
    path: str, headers: dict[str, str], code: str
) -> None:
    served = endpoint(Keys([]) if code == "unauthorized" else None)
    wire = Wire("POST", path, [IMAGE], headers)
    assert answered(asyncio.run(wire.run(served.app))).code == code
    assert wire.chunks_read == 0


def test_an_identity_encoding_is_none() -> None:
    wire = Wire("POST", CLASSIFY, [IMAGE], {**PNG, "Content-Encoding": "Identity"})
    assert answered(asyncio.run(wire.run(endpoint().app))).status == 200


def test_a_body_that_does_not_come_is_given_up() -> None:
    served = endpoint(body_timeout_s=0.05, timeout_s=1000)
    wire = Wire("POST", CLASSIFY, [IMAGE[:9], IMAGE[9:20]], PNG, stalls=True)
    answer = answered(asyncio.run(wire.run(served.app)))
    assert (answer.status, answer.code) == (408, "body_timeout")
    assert answer.headers["connection"] == "close" and answer.headers["x-frame-options"] == "DENY"
    assert served.codes == ["body_timeout"]


def test_an_answer_that_does_not_come_is_given_up() -> None:
    async def scenario() -> None:
        served = endpoint(body_timeout_s=1000, timeout_s=100)
        served.engine.wait = asyncio.Event()
        request = asyncio.create_task(Wire("POST", CLASSIFY, [IMAGE], PNG).run(served.app))
        await until_asked(served.engine.asked, 1)
        await put_forward(101)
        answer = answered(await asyncio.wait_for(request, 30))
        assert (answer.status, answer.code) == (503, "timed_out")
        assert answer.headers["retry-after"] == "1"
        assert served.engine.cancelled == 1

    asyncio.run(scenario())


class SlowWire(Wire):
    """Sends a chunk every ten seconds."""

    async def receive(self) -> Any:
        await put_forward(10)
        return await super().receive()


def test_the_time_for_the_answer_starts_when_the_body_is_there() -> None:
    wire = SlowWire("POST", CLASSIFY, [IMAGE[:20], IMAGE[20:30], IMAGE[30:40], IMAGE[40:]], PNG)
    assert answered(asyncio.run(wire.run(endpoint(body_timeout_s=60, timeout_s=15).app))).status == 200


def test_a_body_that_trickles_in_is_given_up() -> None:
    wire = SlowWire("POST", CLASSIFY, [IMAGE[:20], IMAGE[20:30], IMAGE[30:40], IMAGE[40:]], PNG)
    answer = answered(asyncio.run(wire.run(endpoint(body_timeout_s=25, timeout_s=15).app)))
    assert (answer.status, answer.code) == (408, "body_timeout")
    assert wire.chunks_read == 2


def test_more_requests_than_may_wait_are_refused_at_once() -> None:
    async def scenario() -> None:
        served = endpoint(max_waiting=2)
        served.engine.wait = asyncio.Event()
        waiting = [asyncio.create_task(Wire("POST", CLASSIFY, [IMAGE], PNG).run(served.app)) for _ in range(2)]
        await until_asked(served.engine.asked, 2)
        wire = Wire("POST", CLASSIFY, [IMAGE], PNG)
        answer = answered(await wire.run(served.app))
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "overloaded", "1")
        assert wire.chunks_read == 0
        for probe in ("/healthz", "/readyz"):
            assert answered(await Wire("GET", probe).run(served.app)).status == 200
        served.engine.wait.set()
        assert [answered(await one).status for one in waiting] == [200, 200]
        assert answered(await Wire("POST", CLASSIFY, [IMAGE], PNG).run(served.app)).status == 200

    asyncio.run(scenario())


def test_requests_that_failed_make_room() -> None:
    async def scenario() -> None:
        served = endpoint(max_waiting=1, timeout_s=100)
        served.engine.failures = [RuntimeError("broken")]
        assert answered(await Wire("POST", CLASSIFY, [IMAGE], PNG).run(served.app)).code == "internal"
        served.engine.wait = asyncio.Event()
        request = asyncio.create_task(Wire("POST", CLASSIFY, [IMAGE], PNG).run(served.app))
        await until_asked(served.engine.asked, 2)
        await put_forward(101)
        assert answered(await request).code == "timed_out"
        assert answered(await Wire("GET", "/v1/objects").run(served.app)).status == 200

    asyncio.run(scenario())


def test_when_the_client_goes_the_work_ends() -> None:
    async def scenario() -> None:
        served = endpoint(max_waiting=1, timeout_s=1000)
        served.engine.wait = asyncio.Event()
        wire = Wire("POST", CLASSIFY, [IMAGE], PNG)
        request = asyncio.create_task(wire.run(served.app))
        await until_asked(served.engine.asked, 1)
        wire.leave.set()
        assert await asyncio.wait_for(request, 30) is None
        assert served.engine.cancelled == 1 and served.codes == []
        assert answered(await Wire("GET", "/v1/objects").run(served.app)).status == 200

    asyncio.run(scenario())


def test_a_client_that_goes_in_the_middle_of_its_body() -> None:
    async def scenario() -> None:
        served = endpoint()
        wire = Wire("POST", CLASSIFY, [IMAGE[:10]], PNG, stalls=True)
        request = asyncio.create_task(wire.run(served.app))
        await turns()
        wire.leave.set()
        assert await request is None
        assert served.codes == [] and served.engine.asked == []

    asyncio.run(scenario())


def test_images_are_decoded_on_few_threads_and_the_wait_for_one_is_limited() -> None:
    async def scenario() -> None:
        served = endpoint(decode_threads=1, timeout_s=100)
        release = asyncio.Event()
        loop = asyncio.get_running_loop()
        held = served.app.state.endpoint.pool.submit(asyncio.run_coroutine_threadsafe(release.wait(), loop).result)
        request = asyncio.create_task(Wire("POST", CLASSIFY, [IMAGE], PNG).run(served.app))
        await turns()
        await put_forward(101)
        assert answered(await request).code == "timed_out"
        release.set()
        await asyncio.wrap_future(held)
        assert answered(await Wire("POST", CLASSIFY, [IMAGE], PNG).run(served.app)).status == 200
        assert len(served.engine.asked) == 1, "what timed out is not decoded afterwards"

    asyncio.run(scenario())


def test_a_defect_of_ours_is_logged_and_says_nothing_to_the_client(caplog: pytest.LogCaptureFixture) -> None:
    served = endpoint()
    served.engine.failures = [ZeroDivisionError("/secret/path")]
    wire = Wire("POST", CLASSIFY, [IMAGE], {**PNG, "X-Request-Id": "abc.1"})
    with caplog.at_level(logging.ERROR):
        answer = answered(asyncio.run(wire.run(served.app)))
    assert (answer.status, answer.headers["x-request-id"]) == (503, "abc.1")
    assert answer.body == (
        b'{"error":{"code":"internal","message":"the endpoint failed; the error was logged","request_id":"abc.1"}}'
    )
    assert "retry-after" not in answer.headers and answer.headers["cache-control"] == "no-store"
    assert served.codes == ["internal"]
    assert "abc.1" in caplog.text and "/secret/path" in caplog.text and "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("given", ["a", "A-1_b.2", "x" * 64])
def test_a_harmless_request_id_is_kept(given: str) -> None:
    answer = answered(asyncio.run(Wire("GET", "/nothing", headers={"X-Request-Id": given}).run(endpoint().app)))
    assert answer.headers["x-request-id"] == given and f'"request_id":"{given}"'.encode() in answer.body


@pytest.mark.parametrize("given", [[], [""], ["x" * 65], ["a b"], ["ä"], ["a\nb"], ["<b>"], ["a", "a"]])
def test_any_other_request_id_is_replaced(given: list[str]) -> None:
    wire = Wire("GET", "/healthz", headers=[("X-Request-Id", one) for one in given])
    answer = answered(asyncio.run(wire.run(endpoint().app)))
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


def test_being_cancelled_from_outside_is_not_swallowed() -> None:
    async def scenario() -> None:
        served = endpoint()
        served.engine.wait = asyncio.Event()
        request = asyncio.create_task(Wire("POST", CLASSIFY, [IMAGE], PNG).run(served.app))
        await until_asked(served.engine.asked, 1)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert served.engine.cancelled == 1

    asyncio.run(scenario())
