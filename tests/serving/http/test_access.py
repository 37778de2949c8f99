"""Access: keys, prefixes and deleting."""

from __future__ import annotations

import httpx2
import pytest
from serving.http.calls import (
    IMAGE,
    IMAGE_ADDRESSES,
    KEYS,
    OTHER,
    bearer,
    error_code,
    post,
)
from serving.http.fakes import endpoint

from persrep_ray.serving.http.auth import Keys


def without_request_id(response: httpx2.Response) -> tuple[int, dict[str, str], str]:
    request_id = response.headers["x-request-id"]
    headers = {name: value for name, value in response.headers.items() if name != "x-request-id"}
    return response.status_code, headers, response.text.replace(request_id, "")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/objects/mug"),
        ("GET", "/v1/objects/mug?version=v1"),
        ("GET", "/v1/objects/mug?version=v9"),
        ("DELETE", "/v1/objects/mug"),
        *[("POST", address) for address in IMAGE_ADDRESSES[:-1]],
        ("POST", "/v1/objects/mug/classify?version=v1"),
    ],
)
@pytest.mark.parametrize("secret", ["shop", "shop admin"])
def test_an_object_beyond_the_keys_prefixes_is_no_object(method: str, path: str, secret: str) -> None:
    served = endpoint(Keys(KEYS))

    def ask() -> httpx2.Response:
        files = {"image": IMAGE, "other": OTHER} if method == "POST" else None
        return served.client.request(method, path, files=files, headers=bearer(secret))

    hidden = ask()
    assert error_code(hidden) == "object_not_found"
    assert served.engine.asked == [] and "mug" in served.catalog.published
    del served.catalog.published["mug"]
    assert without_request_id(ask()) == without_request_id(hidden)


def test_a_key_sees_its_own_objects_alone() -> None:
    served = endpoint(Keys(KEYS))
    listed = served.client.get("/v1/objects?limit=1", headers=bearer("shop")).json()
    assert listed == {"objects": [{"object_id": "shop_cup", "version": "v1"}], "next": "shop_cup"}
    assert post(served, "/v1/objects/shop_cup/classify", IMAGE, headers=bearer("shop")).status_code == 200
    assert post(served, "/v1/identify", IMAGE, headers=bearer("shop")).status_code == 200
    assert served.engine.asked[1][0] == ("shop_", "store_")


def test_deleting() -> None:
    served = endpoint(Keys(KEYS))
    assert error_code(served.client.delete("/v1/objects/shop_cup", headers=bearer("shop"))) == "not_allowed"
    assert "shop_cup" in served.catalog.published
    response = served.client.delete("/v1/objects/shop_cup", headers=bearer("shop admin"))
    assert (response.status_code, response.content) == (204, b"")
    assert "shop_cup" not in served.catalog.published
    assert error_code(served.client.delete("/v1/objects/shop_cup", headers=bearer("shop admin"))) == "object_not_found"


def test_without_keys_nobody_may_delete() -> None:
    assert error_code(endpoint().client.delete("/v1/objects/mug")) == "not_allowed"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic all", "Bearer all all", "all"]
)
def test_without_a_valid_key_there_is_nothing(header: str | None) -> None:
    client = endpoint(Keys(KEYS)).client
    addresses = [("GET", "/v1/objects"), ("GET", "/v1/objects/mug"), ("DELETE", "/v1/objects/mug")]
    addresses += [("GET", "/v1/objects?limit=0"), *(("POST", address) for address in IMAGE_ADDRESSES)]
    for method, path in addresses:
        response = client.request(method, path, headers={} if header is None else {"Authorization": header})
        assert error_code(response) == "unauthorized"
        assert response.headers["www-authenticate"] == "Bearer"
