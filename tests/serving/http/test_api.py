"""The HTTP interface, path by path."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco
from PIL import Image
from serving.http.calls import (
    CALIBRATION,
    HEADERS,
    IMAGE,
    IMAGE_ADDRESSES,
    MUG,
    OTHER,
    base64_of,
    error_code,
    post,
)
from serving.http.fakes import encoded, endpoint

from persrep_ray.config import DataConfig
from persrep_ray.data.images import decode_mask
from persrep_ray.serving.engine import errors
from persrep_ray.serving.engine.answers import AdapterRef, Classification
from persrep_ray.serving.engine.errors import RegistryUnavailableError, VersionNotFoundError
from persrep_ray.serving.http.auth import Keys


def test_classify() -> None:
    served = endpoint()
    response = post(served, "/v1/objects/mug/classify", IMAGE)
    assert response.status_code == 200
    expected = {"score": 0.4, "probability": 0.7, "threshold": 0.25, "match": True}
    assert response.json() == pytest.approx({**MUG, **expected})
    assert response.headers["x-adapter-version"] == "v2"
    assert {name: response.headers[name] for name in HEADERS} == HEADERS
    assert served.codes == []


def test_an_object_with_a_recognizer_has_no_threshold() -> None:
    served = endpoint()

    async def classify(*_: object) -> Classification:
        return Classification(score=0.4, probability=0.7, evidence=0.85)

    served.engine.classify = classify  # type: ignore[method-assign]
    answer = post(served, "/v1/objects/mug/classify", IMAGE).json()
    assert answer == {**MUG, "score": 0.4, "probability": 0.7, "threshold": None, "match": True}


def test_embed() -> None:
    response = post(endpoint(), "/v1/objects/mug/embed", IMAGE)
    embedding = response.json()["embedding"]
    assert response.json() == {**MUG, "embedding": embedding}
    np.testing.assert_allclose(embedding, [0.4, 0.84**0.5], rtol=1e-6)
    assert response.headers["x-adapter-version"] == "v2"


def test_detect() -> None:
    served = endpoint()
    response = post(served, "/v1/objects/mug/detect", IMAGE)
    box = {"box": [14, 0, 16, 20], "score": pytest.approx(0.4), "probability": pytest.approx(0.2)}
    assert response.json() == {**MUG, "boxes": [box]}
    assert served.engine.asked == [(AdapterRef("mug", "v2"), (20, 30))]
    assert response.headers["x-adapter-version"] == "v2"
    for found in (0, 3):
        served.engine.found = found
        assert post(served, "/v1/objects/mug/detect", IMAGE).json() == {**MUG, "boxes": [box] * found}


@pytest.mark.parametrize(("width", "height", "asked"), [(4000, 3000, (960, 1280)), (1, 2000, (1280, 1))])
def test_the_engine_gets_a_bounded_image_and_boxes_fit_the_whole_one(
    width: int, height: int, asked: tuple[int, int]
) -> None:
    served = endpoint()
    (box,) = post(served, "/v1/objects/mug/detect", encoded(width, height)).json()["boxes"]
    assert served.engine.asked == [(AdapterRef("mug", "v2"), asked)]
    assert box["box"] == [width // 2, 0, width - width // 2, height]


def test_boxes_and_masks_are_in_pixels_of_the_upright_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    served = endpoint()
    response = post(served, "/v1/objects/mug/segment", encoded(30, 20, image_format="JPEG", exif=exif))
    assert served.engine.asked == [(AdapterRef("mug", "v2"), (30, 20))]
    (found,) = response.json()["instances"]
    assert found["mask"]["size"] == [30, 20] and found["box"] == [10, 0, 10, 30]


def test_segment_gives_run_lengths_of_the_image() -> None:
    response = post(endpoint(), "/v1/objects/mug/segment", IMAGE)
    answer = response.json()
    (found,) = answer["instances"]
    mask = coco.decode({"size": found["mask"]["size"], "counts": found["mask"]["counts"].encode()})
    np.testing.assert_array_equal(mask, np.repeat([[0] * 14 + [1] * 16], 20, axis=0))
    place = {"box": [14, 0, 16, 20], "score": pytest.approx(0.4), "probability": pytest.approx(0.2)}
    assert answer == {**MUG, "instances": [{**place, "mask": found["mask"]}], "similarity": None}
    assert set(found["mask"]) == {"size", "counts"}
    assert response.headers["x-adapter-version"] == "v2"


def test_segment_gives_a_png_of_the_box_and_the_similarity() -> None:
    answer = post(endpoint(), "/v1/objects/mug/segment?mask=png&similarity=true", IMAGE).json()
    (found,) = answer["instances"]
    assert set(found["mask"]) == {"png"}
    mask = decode_mask(base64.b64decode(found["mask"]["png"]), DataConfig(), "the mask")
    assert mask.shape == (20, 16) and mask.all()
    similarity = Image.open(io.BytesIO(base64.b64decode(answer["similarity"]["png"])))
    assert similarity.mode == "L" and answer["similarity"]["size"] == [2, 2]
    np.testing.assert_array_equal(np.array(similarity), [[0, 85], [170, 255]])


@pytest.mark.parametrize("query", ["", "?mask=png"])
def test_segment_where_nothing_is_found(query: str) -> None:
    served = endpoint()
    served.engine.found = 0
    answer = post(served, f"/v1/objects/mug/segment{query}", IMAGE).json()
    assert answer == {**MUG, "instances": [], "similarity": None}


def test_compare() -> None:
    response = post(endpoint(), "/v1/objects/mug/compare", IMAGE, OTHER)
    expected = {"same": True, "similarity": 0.8, "probability": 0.9, "threshold": 0.25}
    answer = response.json()
    assert answer.pop("scores") == pytest.approx([0.4, 0.2]), "in the order image, other"
    assert answer == pytest.approx({**MUG, **expected})
    assert response.headers["x-adapter-version"] == "v2"


def test_identify() -> None:
    served = endpoint()
    answer = post(served, "/v1/identify?top_k=3&exact=true", IMAGE).json()
    candidate = {**MUG, "score": 0.4, "probability": 0.7, "threshold": 0.25}
    assert answer["candidates"] == [pytest.approx(candidate)]
    assert (answer["searched"], answer["tried"]) == (7, 3)
    post(served, "/v1/identify", IMAGE)
    assert served.engine.asked == [(("",), 3, True), (("",), 5, False)]


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("address", IMAGE_ADDRESSES)
def test_all_ways_to_send_an_image_say_the_same(address: str, image_format: str) -> None:
    served = endpoint()
    names = ("image", "other") if address.endswith("compare") else ("image",)
    data = encoded(image_format=image_format)
    form = served.client.post(address, files=dict.fromkeys(names, ("a.txt", data, "text/plain")))
    text = served.client.post(address, json=dict.fromkeys(names, base64_of(data)))
    assert form.status_code == text.status_code == 200
    assert form.json() == text.json()
    if len(names) == 1:
        for kind in (
            "image/jpg",
            "image/png",
            "Image/WebP; x=y",
            "application/octet-stream",
        ):  # the content decides, not what is said of it
            raw = served.client.post(address, content=data, headers={"Content-Type": kind})
            assert raw.json() == form.json()
    else:
        raw = served.client.post(address, content=data, headers={"Content-Type": "image/png"})
        assert error_code(raw) == "unsupported_media_type"


def test_an_object() -> None:
    served = endpoint()
    metrics = {"pretrained": {"classification.pr_auc": 0.5}, "personalized": {"classification.pr_auc": 0.75}}
    served.catalog.cards = {"category": "mug", "calibration": CALIBRATION, "metrics": metrics}
    response = served.client.get("/v1/objects/mug")
    assert response.json() == {
        **MUG,
        "versions": ["v1", "v2"],
        "category": "mug",
        "threshold": 0.25,
        "calibration": CALIBRATION,
        "metrics": metrics,
    }
    assert response.headers["x-adapter-version"] == "v2"
    pinned = served.client.get("/v1/objects/mug?version=v1")
    assert pinned.json()["version"] == pinned.headers["x-adapter-version"] == "v1"
    assert error_code(served.client.get("/v1/objects/mug?version=v9")) == "version_not_found"


@pytest.mark.parametrize("card", [{"threshold": None}, {"threshold": float("nan")}, {"metrics": []}, {"category": 3}])
def test_a_damaged_card(card: dict[str, Any]) -> None:
    served = endpoint()
    served.catalog.cards = card
    response = served.client.get("/v1/objects/mug")
    assert error_code(response) == "adapter_unusable"
    assert "retry-after" not in response.headers


def test_objects_are_listed_page_by_page() -> None:
    client = endpoint().client
    assert client.get("/v1/objects").json() == {
        "objects": [MUG, {"object_id": "shop_cup", "version": "v1"}, {"object_id": "shop_tin", "version": "v1"}],
        "next": None,
    }
    seen: list[str] = []
    after: str | None = None
    for _ in range(3):
        page = client.get("/v1/objects", params={"limit": 1} | ({"after": after} if after else {})).json()
        seen += [one["object_id"] for one in page["objects"]]
        after = page["next"]
    assert seen == ["mug", "shop_cup", "shop_tin"] and after is None
    assert client.get("/v1/objects?after=nothing_of_this_name&limit=1").json()["objects"][0]["object_id"] == "shop_cup"


@pytest.mark.parametrize("address", IMAGE_ADDRESSES[:-1])
def test_a_pinned_version_is_what_is_asked(address: str) -> None:
    served = endpoint()
    images = (IMAGE, OTHER) if address.endswith("compare") else (IMAGE,)
    response = post(served, f"{address}?version=v1", *images)
    assert response.json()["version"] == response.headers["x-adapter-version"] == "v1"
    assert "v1" in repr(served.engine.asked[0])
    served.engine.failures = [VersionNotFoundError("gone")]
    assert error_code(post(served, f"{address}?version=v1", *images)) == "version_not_found"
    assert served.engine.failures == [], "a pinned version is not asked again"


def test_a_live_version_that_vanishes_is_looked_up_again() -> None:
    served = endpoint()
    served.engine.failures = [VersionNotFoundError("gone")]
    original = served.catalog.live
    answers = iter(["v2", "v2", "v3"])  # before the body is read, after it, and when v2 was gone
    served.catalog.live = lambda object_id: next(answers)  # type: ignore[method-assign]
    response = post(served, "/v1/objects/mug/classify", IMAGE)
    assert response.json()["version"] == response.headers["x-adapter-version"] == "v3"
    assert served.engine.asked == [AdapterRef("mug", "v2"), AdapterRef("mug", "v3")]

    served.catalog.live = original  # type: ignore[method-assign]
    served.engine.failures = [VersionNotFoundError("gone")] * 2
    assert error_code(post(served, "/v1/objects/mug/classify", IMAGE)) == "object_not_found"
    assert served.engine.failures == []


def test_probes_and_pages_need_no_key() -> None:
    client = endpoint(Keys([])).client
    for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz"):
        assert client.get(path).status_code == 200
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_not_ready() -> None:
    client = endpoint(ready=lambda: False).client
    response = client.get("/readyz")
    assert error_code(response) == "not_ready" and response.headers["retry-after"] == "1"
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("kind", errors.ERRORS.values())
def test_what_the_engine_cannot_answer(kind: type[errors.QueryError]) -> None:
    served = endpoint()
    served.engine.failures = [kind("the cause")] * 2
    response = post(served, "/v1/objects/mug/detect", IMAGE)
    pinned_none = kind is VersionNotFoundError
    assert error_code(response) == ("object_not_found" if pinned_none else kind.code)
    assert pinned_none or response.json()["error"]["message"] == "the cause"
    retry = kind.code in ("overloaded", "timed_out", "registry_unavailable")
    assert response.headers.get("retry-after") == ("1" if retry else None)
    assert served.codes == [response.json()["error"]["code"]]


def test_a_registry_that_was_never_reached() -> None:
    served = endpoint()
    served.catalog.failures = [RegistryUnavailableError("the registry has not been reached yet")]
    assert error_code(served.client.get("/v1/objects/nothing")) == "registry_unavailable"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/objects/%2e%2e/embed",
        "/v1/objects/%2e/embed",
        "/v1/objects/a%00b/embed",
        "/v1/objects/a%0a/embed",
        "/v1/objects/m%C3%BCg/embed",
        "/v1/objects/a%20b/embed",
        f"/v1/objects/{'x' * 129}/embed",
        "/v1/objects/mug/embed?version=..",
        "/v1/objects/mug/embed?version=a%2Fb",
        "/v1/objects/mug/embed?version=",
        f"/v1/objects/mug/embed?version={'x' * 65}",
        "/v1/objects/mug/segment?mask=jpg",
        "/v1/objects/mug/segment?similarity=perhaps",
        "/v1/identify?top_k=0",
        "/v1/identify?top_k=101",
        "/v1/identify?top_k=five",
        "/v1/identify?exact=2",
    ],
)
def test_bad_names_and_parameters(path: str) -> None:
    served = endpoint()
    response = post(served, path, IMAGE)
    assert error_code(response) == "bad_request"
    field = path.partition("?")[2].partition("=")[0] or "object_id"
    assert response.json()["error"]["message"].startswith(f"{field}: ")
    assert served.engine.asked == []


@pytest.mark.parametrize("path", ["/v1/objects?limit=0", "/v1/objects?limit=1001", "/v1/objects?after=a/b"])
def test_bad_parameters_of_the_list(path: str) -> None:
    assert error_code(endpoint().client.get(path)) == "bad_request"


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/v1",
        "/v1/",
        "/v1/objects/",
        "/v1/objects//embed",
        "/v1/objects/mug/",
        "/v1/objects/a%2Fb",
        "/docs/",
        "/v1/objects/x/y",
    ],
)
def test_no_such_address(path: str) -> None:
    response = endpoint().client.get(path, follow_redirects=False)
    assert error_code(response) == "not_found"
    assert {name: response.headers[name] for name in HEADERS} == HEADERS


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/objects/mug", "DELETE, GET"),
        ("GET", "/v1/objects/mug/embed", "POST"),
        ("POST", "/healthz", "GET"),
        ("DELETE", "/", "GET"),
        ("OPTIONS", "/v1/identify", "POST"),
    ],
)
def test_no_such_method(method: str, path: str, allowed: str) -> None:
    response = endpoint().client.request(method, path)
    assert error_code(response) == "method_not_allowed"
    assert response.headers["allow"] == allowed
