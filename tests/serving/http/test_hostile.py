"""Every hostile request to the application gets an answer, and never the error of a defect."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import unquote

import pytest
from serving.http.fakes import Wire, encoded, endpoint
from serving.http.hostile import KINDS, hostile_requests

from persrep_ray.serving.http.errors import STATUS

# Pillow also warns about some of what is refused here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")


def test_no_hostile_request_gets_through() -> None:
    async def scenario() -> dict[str, int]:
        served = endpoint(max_body_bytes=2_000_000, max_pixels=8_000_000)
        codes: dict[str, int] = {}
        for request in hostile_requests(seed=0, count=40 * len(KINDS)):
            path, mark, query = request.path.partition("?")
            decoded = unquote(path, errors="replace") + mark + query
            answer = await Wire(request.method, decoded, [request.body], request.headers).run(served.app)
            assert answer is not None, request
            if answer.status >= 400:
                error = json.loads(answer.body)["error"]
                assert answer.status == STATUS[error["code"]] and error["code"] != "internal", (request, error)
                codes[error["code"]] = codes.get(error["code"], 0) + 1
            else:
                assert answer.status == 200, request
            assert answer.headers["x-content-type-options"] == "nosniff", request
        good = Wire("POST", "/v1/identify", [encoded()], {"Content-Type": "image/png"})
        answer = await good.run(served.app)
        assert answer is not None and answer.status == 200
        return codes

    codes = asyncio.run(scenario())
    expected = {"bad_image", "bad_request", "not_found", "method_not_allowed", "unsupported_media_type"}
    assert {*expected, "image_too_large"} <= set(codes), "the requests are not what they should be"


def test_the_same_seed_gives_the_same_requests() -> None:
    first, again = list(hostile_requests(3, 50)), list(hostile_requests(3, 50))
    assert first == again and first != list(hostile_requests(4, 50))
