"""The OpenAPI description matches the application, and the pages need no other host."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks
from serving.http.fakes import encoded, endpoint

from persrep_ray.serving.http.errors import STATUS

IMAGES = [encoded(image_format=image_format) for image_format in ("JPEG", "PNG", "WEBP")]
BAD_IMAGES = [b"", b"none", IMAGES[0][:-9], IMAGES[1][:40]]
OBJECT_ADDRESSES = [
    f"/v1/objects/{{object_id}}/{task}" for task in ("embed", "classify", "detect", "segment", "compare")
]


def images() -> st.SearchStrategy[bytes]:
    return st.sampled_from(IMAGES * 3 + BAD_IMAGES)


for _media_type in ("image/jpeg", "image/png", "image/webp", "image/heic", "image/avif"):
    schemathesis.openapi.media_type(_media_type, images())
schemathesis.openapi.format("binary", images())
schemathesis.openapi.format("byte", images().map(lambda data: base64.b64encode(data).decode()))


OPERATIONS = [("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/v1/objects"), ("POST", "/v1/identify")]
OPERATIONS += [("GET", "/v1/objects/{object_id}"), ("DELETE", "/v1/objects/{object_id}")]
OPERATIONS += [("POST", address) for address in OBJECT_ADDRESSES]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_are_as_described(method: str, path: str) -> None:
    api = schemathesis.openapi.from_asgi("/openapi.json", endpoint().app)

    @settings(
        max_examples=20,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=api[path][method].as_strategy(), exists=st.booleans())
    def check(case: schemathesis.Case, exists: bool) -> None:
        if exists and "object_id" in case.path_parameters:
            case.path_parameters["object_id"] = "mug"  # no example would ever meet one that exists
        case.call_and_validate(
            checks=[
                schemathesis.checks.not_a_server_error,
                checks.status_code_conformance,
                checks.content_type_conformance,
                checks.response_headers_conformance,
                checks.response_schema_conformance,
            ]
        )

    check()


def test_every_address_is_described_with_its_bodies_and_errors() -> None:
    document = endpoint().client.get("/openapi.json").json()
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == set(OPERATIONS)
    for path in [*OBJECT_ADDRESSES, "/v1/identify"]:
        operation = document["paths"][path]["post"]
        kinds = {"multipart/form-data", "application/json"}
        if not path.endswith("compare"):
            kinds |= {"image/jpeg", "image/png", "image/webp", "image/heic", "image/avif"}
        assert set(operation["requestBody"]["content"]) == kinds and operation["requestBody"]["required"]
        assert operation["security"] == [{"key": []}]
        assert {"200", "401", "408", "413", "415", "422", "503"} <= set(operation["responses"])
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    error = document["components"]["schemas"]["ErrorDetail"]["properties"]["code"]
    assert error["enum"] == list(STATUS)
    described_errors = {
        name
        for methods in document["paths"].values()
        for method in methods.values()
        for answer in method["responses"].values()
        for name in re.findall("`([a-z_]+)`", answer.get("description", ""))
    }
    assert described_errors == set(STATUS) - {"not_found", "method_not_allowed"}


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_need_no_other_host_and_run_nothing_but_their_own(path: str) -> None:
    response = endpoint().client.get(path)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    page, policy = response.text, response.headers["content-security-policy"]
    assert not re.search(r"""(src|href|action)\s*=\s*["']?\s*(https?:)?//|@import|url\(\s*["']?(https?:)?//""", page)
    assert not re.search(r"""\son[a-z]+\s*=\s*["']|\sstyle\s*=\s*["']|javascript:""", page), "the policy forbids these"
    for kind in ("script", "style"):
        for inline in re.findall(f"<{kind}[^>]*>(.*?)</{kind}>", page, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in next(part for part in policy.split("; ") if part.startswith(kind))
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    assert policy.startswith("default-src 'none'; ") and "frame-ancestors 'none'" in policy
