"""The routes below /v1: each checks the key, then the object, then reads the images, then asks the engine.

In this order, no body is read for a caller without a key or about an object that does not exist.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import ValidationError

from persrep_ray.config import DataConfig, HttpConfig
from persrep_ray.serving.engine.answers import AdapterRef, Engine
from persrep_ray.serving.engine.catalog import Catalog
from persrep_ray.serving.engine.errors import AdapterUnusableError, ObjectNotFoundError, VersionNotFoundError
from persrep_ray.serving.http import drawing, intake, schemas
from persrep_ray.serving.http.auth import Access, Keys
from persrep_ray.serving.http.errors import RequestError
from persrep_ray.serving.http.schemas import After, ObjectId, Version, image_body, responses
from persrep_ray.tasks.dense import DensePrediction, Instance

_T = TypeVar("_T")
_ANY = ("unauthorized", "bad_request", "overloaded", "timed_out", "internal", "registry_unavailable")
_OBJECT = (*_ANY, "object_not_found")
_IMAGE = ("body_timeout", "body_too_large", "image_too_large", "unsupported_media_type", "bad_image")
_QUERY = (*_OBJECT, "version_not_found", *_IMAGE, "adapter_unusable")

router = APIRouter(prefix="/v1")
_key = HTTPBearer(auto_error=False, scheme_name="key", description="Needed if the endpoint was started with keys.")


@dataclass(frozen=True)
class Endpoint:
    """What all routes share."""

    http: HttpConfig
    engine: Engine
    catalog: Catalog
    keys: Keys
    pool: ThreadPoolExecutor  # decodes and draws images; the number of its threads bounds the memory

    def ref(self, access: Access, object_id: str, version: str | None) -> AdapterRef:
        """The adapter of a version, of the live one by default.

        Raises the same `ObjectNotFoundError` whether there is no such object or the key gives no access to it.
        """
        live = self.catalog.live(object_id)
        if live is None or not access.sees(object_id):
            raise ObjectNotFoundError(f"there is no object {object_id}")
        return AdapterRef(object_id, version or live)

    async def ask(
        self, access: Access, object_id: str, version: str | None, question: Callable[[AdapterRef], Awaitable[_T]]
    ) -> tuple[AdapterRef, _T]:
        """The adapter that answered, and its answer. If the live version is deleted meanwhile, it asks the new one."""
        ref = self.ref(access, object_id, version)
        try:
            return ref, await question(ref)
        except VersionNotFoundError:
            if version is not None:
                raise
        ref = self.ref(access, object_id, None)
        try:
            return ref, await question(ref)
        except VersionNotFoundError:
            raise ObjectNotFoundError(f"there is no object {object_id}") from None

    async def images(self, request: Request, names: Sequence[str]) -> list[intake.DecodedImage]:
        """The images in the request's body. Raises `RequestError`."""
        body_kind = intake.body_kind(request, names)
        body = await intake.read_body(request, self.http.max_body_bytes)
        limits = DataConfig(max_pixels=self.http.max_pixels, max_bytes=self.http.max_body_bytes)
        return await self.in_pool(lambda: intake.images(body, body_kind, limits))

    async def in_pool(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)


async def _endpoint(request: Request) -> Endpoint:
    endpoint: Endpoint = request.app.state.endpoint
    return endpoint


_Here = Annotated[Endpoint, Depends(_endpoint)]


async def _access(here: _Here, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_key)]) -> Access:
    access = here.keys.access(given.credentials if given else None)
    if access is None:
        raise RequestError("unauthorized", "a valid key is needed: Authorization: Bearer <key>")
    return access


_Caller = Annotated[Access, Depends(_access)]


@router.get("/objects", summary="List objects", responses=responses(*_ANY))
async def list_objects(
    here: _Here,
    caller: _Caller,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: After = None,
) -> schemas.ObjectList:
    """The objects that the key gives access to, page by page."""
    ids = here.catalog.objects(caller.prefixes)
    start = 0 if after is None else bisect.bisect_right(ids, after)
    page = ids[start : start + limit]
    live = [(object_id, here.catalog.live(object_id)) for object_id in page]
    return schemas.ObjectList(
        objects=[schemas.ObjectVersion(object_id=object_id, version=version) for object_id, version in live if version],
        next=page[-1] if start + limit < len(ids) else None,
    )


@router.get(
    "/objects/{object_id}",
    summary="Show an object",
    responses=responses(*_OBJECT, "version_not_found", "adapter_unusable", versioned=True),
)
async def show_object(
    here: _Here, caller: _Caller, response: Response, object_id: ObjectId, version: Version = None
) -> schemas.ObjectCard:
    """What was recorded when the version was published."""
    ref, card = await here.ask(caller, object_id, version, lambda ref: here.catalog.card(ref.object_id, ref.version))
    versions = await here.catalog.versions(object_id)
    response.headers["X-Adapter-Version"] = ref.version
    try:
        return schemas.ObjectCard(
            **_named(ref),
            versions=versions,
            **{name: card.get(name) for name in ("category", "threshold", "calibration", "metrics")},
        )
    except ValidationError as error:
        named = f"object {ref.object_id}, version {ref.version}"
        raise AdapterUnusableError(f"{named}: its card is damaged; delete and publish the object again") from error


@router.delete(
    "/objects/{object_id}",
    summary="Delete an object",
    status_code=204,
    responses=responses(*_OBJECT, "not_allowed", success=204),
)
async def delete_object(here: _Here, caller: _Caller, object_id: ObjectId) -> None:
    """Removes the object with all its versions. The key must allow it."""
    here.ref(caller, object_id, None)
    if not caller.may_delete:
        raise RequestError("not_allowed", "this key does not allow deleting")
    await here.catalog.delete(object_id)


@router.post(
    "/objects/{object_id}/embed",
    summary="Embed an image",
    responses=responses(*_QUERY, versioned=True),
    openapi_extra=image_body(["image"]),
)
async def embed(
    here: _Here, caller: _Caller, request: Request, response: Response, object_id: ObjectId, version: Version = None
) -> schemas.Embedding:
    """The image's features under the object's adapter."""
    here.ref(caller, object_id, version)
    (image,) = await here.images(request, ["image"])
    ref, embedding = await here.ask(caller, object_id, version, lambda ref: here.engine.embed(ref, image.pixels))
    response.headers["X-Adapter-Version"] = ref.version
    return schemas.Embedding(**_named(ref), embedding=embedding.tolist())


@router.post(
    "/objects/{object_id}/classify",
    summary="Does the image show the object?",
    responses=responses(*_QUERY, versioned=True),
    openapi_extra=image_body(["image"]),
)
async def classify(
    here: _Here, caller: _Caller, request: Request, response: Response, object_id: ObjectId, version: Version = None
) -> schemas.Classification:
    """Compares the image to the object's photos."""
    here.ref(caller, object_id, version)
    (image,) = await here.images(request, ["image"])
    ref, classification = await here.ask(
        caller, object_id, version, lambda ref: here.engine.classify(ref, image.pixels)
    )
    response.headers["X-Adapter-Version"] = ref.version
    return schemas.Classification(
        **_named(ref),
        score=classification.score,
        probability=classification.probability,
        threshold=classification.threshold,
        match=classification.match,
    )


@router.post(
    "/objects/{object_id}/detect",
    summary="Where in the image is the object?",
    responses=responses(*_QUERY, "object_without_masks", versioned=True),
    openapi_extra=image_body(["image"]),
)
async def detect(
    here: _Here, caller: _Caller, request: Request, response: Response, object_id: ObjectId, version: Version = None
) -> schemas.Detection:
    """The object's boxes in pixels of the upright image."""
    ref, found, size = await _locate(here, caller, request, object_id, version)
    response.headers["X-Adapter-Version"] = ref.version
    boxes = await here.in_pool(lambda: [schemas.Box(**_place(one)) for one in _enlarged(found, size)])
    return schemas.Detection(**_named(ref), boxes=boxes)


@router.post(
    "/objects/{object_id}/segment",
    summary="Which pixels are the object?",
    responses=responses(*_QUERY, "object_without_masks", versioned=True),
    openapi_extra=image_body(["image"]),
)
async def segment(
    here: _Here,
    caller: _Caller,
    request: Request,
    response: Response,
    object_id: ObjectId,
    version: Version = None,
    mask: Annotated[
        Literal["rle", "png"], Query(description="COCO's run lengths for the image, or a PNG of the box.")
    ] = "rle",
    similarity: Annotated[bool, Query(description="Whether to return the patch similarities, too.")] = False,
) -> schemas.Segmentation:
    """The object's boxes and masks in pixels of the upright image."""
    ref, found, size = await _locate(here, caller, request, object_id, version)

    def draw() -> schemas.Segmentation:
        instances = [
            schemas.Instance(**_place(one), mask=drawing.as_rle(one, size) if mask == "rle" else drawing.as_png(one))
            for one in _enlarged(found, size)
        ]
        return schemas.Segmentation(
            **_named(ref),
            instances=instances,
            similarity=drawing.as_map(found.similarity) if similarity else None,
        )

    response.headers["X-Adapter-Version"] = ref.version
    return await here.in_pool(draw)


@router.post(
    "/objects/{object_id}/compare",
    summary="Do two images show the same object?",
    responses=responses(*_QUERY, versioned=True),
    openapi_extra=image_body(["image", "other"]),
)
async def compare(
    here: _Here, caller: _Caller, request: Request, response: Response, object_id: ObjectId, version: Version = None
) -> schemas.Comparison:
    """Compares two images to each other under the object's adapter, and each of them to the object."""
    here.ref(caller, object_id, version)
    image, other = await here.images(request, ["image", "other"])
    ref, comparison = await here.ask(
        caller, object_id, version, lambda ref: here.engine.compare(ref, (image.pixels, other.pixels))
    )
    response.headers["X-Adapter-Version"] = ref.version
    return schemas.Comparison(
        **_named(ref),
        same=comparison.same.match,
        similarity=comparison.same.score,
        probability=comparison.same.probability,
        threshold=comparison.same.threshold,
        scores=[one.score for one in comparison.each],
    )


@router.post(
    "/identify",
    summary="Which objects does the image show?",
    responses=responses(*_ANY, *_IMAGE),
    openapi_extra=image_body(["image"]),
)
async def identify(
    here: _Here,
    caller: _Caller,
    request: Request,
    top_k: Annotated[int, Query(ge=1, le=100, description="The largest number of objects to return.")] = 5,
    exact: Annotated[bool, Query(description="Whether to try all adapters, which is slow but misses none.")] = False,
) -> schemas.Identification:
    """The objects that outweigh "none of them", among those that the key gives access to."""
    (image,) = await here.images(request, ["image"])
    found = await here.engine.identify(image.pixels, caller.prefixes, top_k=top_k, exact=exact)
    candidates = [
        schemas.Candidate(
            **_named(one.ref),
            score=one.classification.score,
            probability=one.classification.probability,
            threshold=one.classification.threshold,
        )
        for one in found.candidates
    ]
    return schemas.Identification(candidates=candidates, searched=found.searched, tried=found.tried)


async def _locate(
    here: Endpoint, caller: Access, request: Request, object_id: str, version: str | None
) -> tuple[AdapterRef, DensePrediction, tuple[int, int]]:
    """The adapter that answered, what it found, and the (H, W) of the image as it was sent."""
    here.ref(caller, object_id, version)
    (image,) = await here.images(request, ["image"])
    ref, found = await here.ask(caller, object_id, version, lambda ref: here.engine.locate(ref, image.pixels))
    return ref, found, image.size


def _enlarged(found: DensePrediction, size: tuple[int, int]) -> Iterator[Instance]:
    """The instances in pixels of `size`, one after the other: only one mask is in memory at full size."""
    return (drawing.enlarged(one, found.size, size) for one in found.instances)


def _place(instance: Instance) -> dict[str, Any]:
    return {"box": instance.box.tolist(), "score": instance.score, "probability": instance.probability}


def _named(ref: AdapterRef) -> dict[str, str]:
    return {"object_id": ref.object_id, "version": ref.version}
