"""Requests, keys and checks that the tests of the HTTP interface share."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import httpx2
from serving.http.fakes import Endpoint, encoded

from persrep_ray.serving.http.auth import KeyEntry
from persrep_ray.serving.http.errors import STATUS

IMAGE = encoded(grey=102)  # of brightness 0.4
OTHER = encoded(grey=51)  # 0.2
CALIBRATION = {
    **{"slope": 9.5, "intercept": -3.0, "positives": 5, "others": 7},
    **{"true_positive_rate": 1.0, "false_positive_rate": 0.0},
}
MUG = {"object_id": "mug", "version": "v2"}
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
IMAGE_ADDRESSES = [*(f"/v1/objects/mug/{task}" for task in ("embed", "classify", "detect", "segment", "compare"))]
IMAGE_ADDRESSES += ["/v1/identify"]


def key(secret: str, *prefixes: str, delete: bool = False) -> KeyEntry:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return KeyEntry(name=secret, sha256=digest, prefixes=prefixes, delete=delete)


KEYS = [key("all", ""), key("shop", "shop_", "store_"), key("shop admin", "shop_", delete=True)]


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def post(served: Endpoint, path: str, *images: bytes, **options: Any) -> httpx2.Response:
    """Posts `images` as a form."""
    files = dict(zip(("image", "other"), images, strict=False))
    return served.client.post(path, files=files, **options)


def error_code(response: httpx2.Response) -> str:
    """The code of an error answer, after a check of its format and status."""
    error = response.json()["error"]
    assert response.json() == {"error": error} and set(error) == {"code", "message", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"] and error["message"]
    assert response.status_code == STATUS[error["code"]]
    code: str = error["code"]
    return code
