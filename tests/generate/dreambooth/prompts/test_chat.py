"""An endpoint that fails, refuses, stalls or lies, and one that is configured wrongly."""

from __future__ import annotations

import json
import time

import pytest
from helpers.language_model import (
    KEY,
    Answer,
    Server,
    Sleeps,
    content,
    drip,
    drip_headers,
    failure,
    raw,
    scenes,
    silence,
    writer_of,
)

from persrep_ray.config import ConfigError, PromptConfig
from persrep_ray.generate.dreambooth.prompts import chat
from persrep_ray.generate.dreambooth.prompts.chat import ChatEndpoint
from persrep_ray.generate.dreambooth.prompts.writer import OpenAiWriter


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (raw(200, b"<!doctype html><title>Log in</title>", Content_Type="text/html"), "sent no chat completion"),
        (raw(200, b""), "sent no chat completion"),
        (raw(200, b"[" * 100_000), "sent no chat completion"),
        (raw(200, b"\xff\xfe"), "sent no chat completion"),
        (raw(200, b'{"choices": []}'), "sent no chat completion"),
        (raw(200, b'{"choices": [{"message": {"content": null}}]}'), "sent no chat completion"),
        (content("<html><body>[Sorry]</body></html>"), "sent no usable prompt"),
        (content(json.dumps(["a photo of <new1> mug", "a photo of a mug"])), "sent no usable prompt"),
        (content("[" * 100_000), "sent no usable prompt"),
        (raw(500), "answered 500 Internal Server Error"),
        (raw(599), "answered 599"),
        (raw(429), "answered 429 Too Many Requests"),
        (lambda handler: None, "broke off: RemoteDisconnected"),
        (lambda handler: handler.wfile.write(b"SSH-2.0\r\n\r\n"), "broke off: BadStatusLine"),
    ],
)
def test_what_may_go_well_later_is_tried_again(server: Server, answer: Answer, cause: str) -> None:
    server.answers = [answer]
    assert failure(writer_of(server)) == f"the language model at {server.host} {cause} after 3 attempts"
    assert len(server.requests) == 3
    server.answers += [answer, answer, answer, scenes(0, 4)]
    assert len(writer_of(server).write("mug", "rigid", 4)) == 4


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (401, "answered 401 Unauthorized (check PERSREP_LLM_API_KEY)"),
        (403, "answered 403 Forbidden (check PERSREP_LLM_API_KEY)"),
        (404, "answered 404 Not Found (check PERSREP_LLM_URL and PERSREP_LLM_MODEL)"),
        (400, "answered 400 Bad Request"),
    ],
)
def test_what_will_not_go_well_later_is_asked_once(server: Server, status: int, cause: str) -> None:
    server.answers = [raw(status, f"your key {KEY} is wrong".encode())]
    assert failure(writer_of(server)) == f"the language model at {server.host} {cause} after 1 attempt"
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(server: Server, status: int) -> None:
    with Server() as other:
        server.answers = [raw(status, Location=f"http://{other.host}/v1/chat/completions")]
        assert f"answered {status} " in (message := failure(writer_of(server)))
        assert "redirects are not followed; check PERSREP_LLM_URL" in message
        other.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.socket.accept()  # nobody has knocked there


@pytest.mark.parametrize("answer", [silence, drip, drip_headers])
def test_the_time_limit_holds_for_the_whole_answer(server: Server, answer: Answer) -> None:
    server.answers = [answer]
    started = time.monotonic()
    message = failure(writer_of(server, attempts=2, timeout_s=0.2))
    assert message == f"the language model at {server.host} timed out after 2 attempts"
    assert time.monotonic() - started < 5


def test_a_giant_answer_is_not_read_to_its_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_MAX_BYTES", 100_000)
    server.answers = [raw(200, b" " * 100_001)]
    assert "sent more than 100,000 bytes after 1 attempt" in failure(writer_of(server, attempts=1))


def test_nobody_listens(server: Server) -> None:
    with Server() as gone:
        pass
    assert "cannot be reached: [Errno" in failure(writer_of(gone))


def test_waits_double_and_a_server_may_ask_for_more(server: Server) -> None:
    sleeps = Sleeps()
    refused = [
        raw(500),
        raw(500),
        raw(429, Retry_After="20"),
        raw(429, Retry_After="86400"),
        raw(503, Retry_After="soon"),
    ]
    server.answers = [*refused, scenes(0, 3), scenes(3, 4)]
    assert len(writer_of(server, attempts=7, sleep=sleeps).write("mug", "rigid", 4)) == 4
    assert sleeps == [1, 2, 20, 60, 16]  # and none before a question for what is missing


# --- the environment --------------------------------------------------------------------------------------------------


def test_the_endpoint_comes_from_the_environment(server: Server) -> None:
    server.answers = [scenes(0, 1)]
    environ = {
        "PERSREP_LLM_URL": f"http://{server.host}/v1",
        "PERSREP_LLM_MODEL": "m",
        "PERSREP_LLM_API_KEY": f"{KEY}\n",
    }
    OpenAiWriter.from_environment(PromptConfig(source="llm"), environ).write("mug", "rigid", 1)
    _, headers, body = server.requests[0]
    assert (headers["Authorization"], body["model"]) == (f"Bearer {KEY}", "m")


@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        ({}, "PERSREP_LLM_URL and PERSREP_LLM_MODEL"),
        ({"PERSREP_LLM_URL": "http://h/v1", "PERSREP_LLM_MODEL": " "}, "PERSREP_LLM_MODEL"),
        ({"PERSREP_LLM_MODEL": "m"}, "PERSREP_LLM_URL"),
    ],
)
def test_missing_variables_are_named(environ: dict[str, str], missing: str) -> None:
    with pytest.raises(ConfigError, match=rf"generate\.prompts.source=llm needs the environment variables? {missing}$"):
        OpenAiWriter.from_environment(PromptConfig(source="llm"), environ)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h/v1",
        "file:///etc/passwd",
        "h/v1",
        "http://",
        "http://h:port/v1",
        "http://[::1/v1",
        "http://h h/v1",
        "http://h/\r\nX: y",
        f"http://me:{KEY}@h/v1",
        f"http://h/v1?key={KEY}",
        f"http://h/v1#{KEY}",
    ],
)
def test_a_wrong_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^PERSREP_LLM_URL must ") as caught:
        ChatEndpoint(url, "m", None, 1)
    assert KEY not in str(caught.value)


def test_a_key_that_would_add_headers_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match=r"^PERSREP_LLM_API_KEY contains") as caught:
        ChatEndpoint("http://h/v1", "m", f"{KEY}\r\nX: y", 1)
    assert KEY not in str(caught.value)
