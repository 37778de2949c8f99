"""The models of requests and answers, which also make the OpenAPI description."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from persrep_ray.serving.engine.answers import LEAST_PROBABILITY, MOST_INSTANCES
from persrep_ray.serving.http.errors import STATUS


def _is_a_name(value: str) -> str:
    if value in (".", ".."):
        raise ValueError("'.' and '..' are not allowed")
    return value


ObjectId = Annotated[
    str,
    Path(
        pattern=r"^[A-Za-z0-9._-]{1,128}$",
        description="1 to 128 of the characters `A-Z a-z 0-9 . _ -`, except `.` and `..`.",
        examples=["mug_0"],
    ),
    AfterValidator(_is_a_name),
]
Version = Annotated[
    str | None,
    Query(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="The version to ask; default: the live one."),
    AfterValidator(_is_a_name),
]
After = Annotated[
    str | None,
    Query(pattern=r"^[A-Za-z0-9._-]{1,128}$", description="`next` of the previous page."),
    AfterValidator(_is_a_name),
]


class Answer(BaseModel):
    """The base of all answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ObjectVersion(Answer):
    object_id: str = Field(examples=["mug_0"])
    version: str = Field(examples=["3f9ac2d41b07"], description="a version never changes once it is published")


class ObjectList(Answer):
    objects: list[ObjectVersion] = Field(description="sorted by id")
    next: str | None = Field(
        description="the value of `after` for the next page; null on the last page", examples=["mug_0"]
    )


class Calibration(Answer):
    """probability = 1 / (1 + exp(-(slope · score + intercept)))"""

    slope: FiniteFloat = Field(examples=[17.5])
    intercept: FiniteFloat = Field(examples=[-9.1])
    positives: int = Field(description="images of the object used for calibration", examples=[19])
    others: int = Field(description="images of other objects used for calibration", examples=[61])
    true_positive_rate: FiniteFloat = Field(description="share of the positives that match", examples=[0.95])
    false_positive_rate: FiniteFloat = Field(description="share of the others that match", examples=[0.02])


class ObjectCard(ObjectVersion):
    versions: list[str] = Field(description="all published versions, sorted by name", examples=[["3f9ac2d41b07"]])
    category: str | None = Field(examples=["mug"])
    threshold: FiniteFloat = Field(
        description="the lowest cosine of two images that show the object, by which `compare` answers", examples=[0.52]
    )
    calibration: Calibration | None
    metrics: dict[str, dict[str, FiniteFloat]] = Field(
        description="measured at publication, with the pretrained and with the personalized features",
        examples=[{"pretrained": {"classification.pr_auc": 0.61}, "personalized": {"classification.pr_auc": 0.84}}],
    )


class Embedding(ObjectVersion):
    embedding: list[FiniteFloat] = Field(description="of unit length", examples=[[0.6, 0.8]])


_SCORE = "largest cosine to the object's photos, -1 to 1"
_Threshold = Annotated[
    FiniteFloat | None,
    Field(
        description="the lowest score that counts as a match, if an earlier release published the object, else null",
        examples=[0.52],
    ),
]


class Classification(ObjectVersion):
    score: FiniteFloat = Field(description=_SCORE, examples=[0.71])
    probability: FiniteFloat = Field(description="that the image shows the object, 0 to 1", examples=[0.96])
    threshold: _Threshold
    match: bool = Field(
        description="whether the probability is at least 0.5; where there is a threshold, whether the score reaches it"
    )


class Box(Answer):
    box: list[int] = Field(
        min_length=4,
        max_length=4,
        description="[x, y, width, height] in pixels of the upright image",
        examples=[[120, 40, 300, 280]],
    )
    score: FiniteFloat = Field(description="how much the place looks like the object", examples=[0.63])
    probability: FiniteFloat | None = Field(
        description="that this is the object, 0 to 1; null for objects that an earlier release published",
        examples=[0.94],
    )


_PLACES = (
    f"highest probability first; places below {LEAST_PROBABILITY} are left out, and the list is empty if the object is "
    "not there"
)


class Detection(ObjectVersion):
    boxes: list[Box] = Field(max_length=MOST_INSTANCES, description=_PLACES)


_Size = Annotated[list[int], Field(min_length=2, max_length=2)]  # not a tuple: few tools know its schema, `prefixItems`


class RleMask(Answer):
    """COCO's compressed run lengths, which pycocotools reads."""

    size: _Size = Field(description="[height, width] of the upright image", examples=[[4, 6]])
    counts: str = Field(examples=["52203"])


class PngMask(Answer):
    png: str = Field(description="base64 of a one-bit PNG of the size of the box")


class Instance(Box):
    mask: RleMask | PngMask


class SimilarityMap(Answer):
    png: str = Field(description="base64 of an 8-bit grey PNG; 0 to 255 are cosines from -1 to 1")
    size: _Size = Field(description="[height, width] of the map, which covers the whole image", examples=[[24, 24]])


class Segmentation(ObjectVersion):
    instances: list[Instance] = Field(max_length=MOST_INSTANCES, description=_PLACES)
    similarity: SimilarityMap | None = Field(description="null unless asked for")


class Comparison(ObjectVersion):
    same: bool = Field(description="whether the similarity is at or above the threshold")
    similarity: FiniteFloat = Field(description="cosine of the two images, -1 to 1", examples=[0.8])
    probability: FiniteFloat = Field(description="the similarity, calibrated, 0 to 1", examples=[0.97])
    threshold: FiniteFloat = Field(examples=[0.52])
    scores: list[FiniteFloat] = Field(
        min_length=2,
        max_length=2,
        description="for `image` and for `other`: " + _SCORE,
        examples=[[0.7, 0.66]],
    )


class Candidate(ObjectVersion):
    score: FiniteFloat = Field(description=_SCORE, examples=[0.71])
    probability: FiniteFloat = Field(
        description="that the image shows this object and no other, 0 to 1; what is missing to 1 is none of them",
        examples=[0.96],
    )
    threshold: _Threshold


class Identification(Answer):
    candidates: list[Candidate] = Field(
        description="objects that are at least as probable as none of them, most probable first"
    )
    searched: int = Field(description="objects that the key gives access to", examples=[240])
    tried: int = Field(description="objects whose adapter was tried", examples=[16])


class Status(Answer):
    status: str = Field(examples=["ok"])


class ErrorDetail(Answer):
    code: str = Field(json_schema_extra={"enum": list(STATUS)}, examples=["object_not_found"])
    message: str = Field(examples=["there is no object mug_0"])
    request_id: str = Field(description="the value of X-Request-Id; quote it when you ask for help")


class Error(Answer):
    error: ErrorDetail


_HEADERS: dict[str, Any] = {
    "X-Request-Id": {
        "description": "The id that you sent, if it has 1 to 64 of the characters `A-Z a-z 0-9 . _ -`, else a new one.",
        "schema": {"type": "string"},
        "required": True,
    }
}
_VERSION_HEADER = {
    "X-Adapter-Version": {"description": "The version that answered.", "schema": {"type": "string"}, "required": True}
}
_RETRY = {"Retry-After": {"description": "Seconds; absent if a retry cannot help.", "schema": {"type": "string"}}}


def responses(*codes: str, success: int = 200, versioned: bool = False) -> dict[int | str, dict[str, Any]]:
    """A route's `responses`: the headers of its success, and the errors of these codes, by status."""
    documented: dict[int | str, dict[str, Any]] = {
        success: {"headers": {**_HEADERS, **(_VERSION_HEADER if versioned else {})}}
    }
    for status in sorted({STATUS[code] for code in codes}):
        names = [f"`{code}`" for code in codes if STATUS[code] == status]
        headers = {**_HEADERS, **(_RETRY if status == 503 else {})}
        documented[status] = {"model": Error, "description": ", ".join(names), "headers": headers}
    return documented


def image_body(names: Sequence[str]) -> dict[str, Any]:
    """A route's `openapi_extra`: the ways to send one image, or several images by name."""
    binary = {"type": "string", "format": "binary"}
    base64 = {"type": "string", "format": "byte", "description": "base64 of a JPEG, PNG, WebP, HEIC or AVIF file"}

    def fields(of: dict[str, Any]) -> dict[str, Any]:
        shape = {"type": "object", "required": list(names), "additionalProperties": False}
        return {"schema": {**shape, "properties": dict.fromkeys(names, of)}}

    content: dict[str, Any] = {"multipart/form-data": fields(binary), "application/json": fields(base64)}
    if len(names) == 1:
        raw = ("image/jpeg", "image/png", "image/webp", "image/heic", "image/avif")  # any image/* will do
        content = {**{kind: {"schema": binary} for kind in raw}, **content}
    return {"requestBody": {"required": True, "content": content}}
