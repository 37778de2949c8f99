"""Images from request bodies. All input is hostile, so each limit is checked before the work that it limits."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from persrep_ray.config import DataConfig
from persrep_ray.data.images import ImageError, ImageTooLargeError, decode_bounded
from persrep_ray.serving.http.errors import RequestError

FORMATS = ("JPEG", "PNG", "WebP", "HEIC", "AVIF")
_IMAGE_TYPE = re.compile(r"image/[a-z0-9][a-z0-9.+-]*|application/octet-stream")  # the content decides what it is
_LONGEST_CONTENT_TYPE = 512
_MOST_BRACKETS = 32  # brackets and commas in a JSON body; base64 has none, and an object of two texts needs three


@dataclass(frozen=True)
class BodyKind:
    """The declared type of a body, and the names of the images in it."""

    media_type: str
    boundary: bytes
    names: tuple[str, ...]


@dataclass(frozen=True)
class DecodedImage:
    """An image (h, w, 3) uint8, upright and bounded, and its (H, W) as it was sent."""

    pixels: np.ndarray
    size: tuple[int, int]


def body_kind(request: Request, names: Sequence[str]) -> BodyKind:
    """The kind of body that the headers declare. Raises `RequestError` if it cannot hold images of these names."""
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RequestError("unsupported_media_type", "the body must not be compressed (Content-Encoding)")
    content_type = request.headers.get("content-type", "")
    # A longer header is an attack: the time to parse it grows with the square of its length.
    kind, options = parse_options_header(content_type if len(content_type) <= _LONGEST_CONTENT_TYPE else "")
    media_type = kind.decode("latin-1").lower()
    forms = ("multipart/form-data", "application/json")
    if media_type not in forms and not (len(names) == 1 and _IMAGE_TYPE.fullmatch(media_type)):
        allowed = (*(("image/*", "application/octet-stream") if len(names) == 1 else ()), *forms)
        raise RequestError("unsupported_media_type", f"Content-Type must be one of {', '.join(allowed)}")
    boundary = options.get(b"boundary", b"")
    if media_type == "multipart/form-data" and not boundary:
        raise RequestError("bad_request", "Content-Type: multipart/form-data has no boundary")
    return BodyKind(media_type, boundary, tuple(names))


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body. A body whose declared size is too large is not read, any other one is read up to the limit."""
    too_large = RequestError("body_too_large", f"the body is larger than {max_bytes:,} bytes")
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal():
        raise RequestError("bad_request", "Content-Length is not a number")
    if len(announced) > 18 or int(announced) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


def images(body: bytes, kind: BodyKind, limits: DataConfig) -> list[DecodedImage]:
    """The images in a body in the order of `kind.names`. It blocks. Raises `RequestError`."""
    if kind.media_type == "application/json":
        files = _from_json(body, kind.names)
    elif kind.media_type == "multipart/form-data":
        files = _from_multipart(body, kind.boundary, kind.names)
    else:
        files = {kind.names[0]: body}
    found = []
    for name in kind.names:  # one after the other: only one is decoded at a time
        try:
            found.append(DecodedImage(*decode_bounded(files.pop(name), limits, name, FORMATS)))
        except ImageTooLargeError as error:
            raise RequestError("image_too_large", str(error)) from error
        except ImageError as error:  # its message may have internals of a decoder
            formats = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
            raise RequestError("bad_image", f"{name}: not a readable {formats} image") from error
    return found


def _from_json(body: bytes, names: Sequence[str]) -> dict[str, bytes]:
    """The files in `{"image": "<base64>"}`.

    A limit on brackets keeps out deep nesting, and lists of a million lists, which take thirty times their size in
    memory.
    """
    if sum(body.count(bracket) for bracket in b"[{,") > _MOST_BRACKETS:
        raise RequestError("bad_request", "the body is not the expected JSON object: it has too many parts")
    try:
        pairs = json.loads(body.decode(), object_pairs_hook=_Pairs)
    except ValueError:
        raise RequestError("bad_request", "the body is not JSON in UTF-8") from None
    if not isinstance(pairs, _Pairs):
        raise RequestError("bad_request", "the body is not a JSON object")
    texts = _once_each(pairs, names)
    files = {}
    for name, text in texts.items():
        try:
            if not isinstance(text, str):
                raise ValueError
            files[name] = base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            message = f"{name}: must be base64 text without line breaks and without a data: prefix"
            raise RequestError("bad_request", message) from None
    return files


class _Pairs(list[tuple[str, Any]]):
    """A JSON object, in which a name may occur twice."""


def _from_multipart(body: bytes, boundary: bytes, names: Sequence[str]) -> dict[str, bytes]:
    """The files in a form."""
    form = _Form(len(names))
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
    except FormParserError:
        raise RequestError("bad_request", "the body is not valid multipart/form-data") from None
    if not form.complete:
        raise RequestError("bad_request", "the body is not complete multipart/form-data: its last boundary is missing")
    return {name: bytes(data) for name, data in _once_each(form.parts, names).items()}


class _Form:
    """Collects the parts of a form during parsing."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._header = b""
        self._value = b""
        self._disposition = b""
        self.parts: list[tuple[str, bytearray]] = []
        self.complete = False

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._header = self._value = self._disposition = b""
        if len(self.parts) == self._most:
            raise RequestError("bad_request", f"the form has more than {self._most} fields")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self.parts.append((options.get(b"name", b"").decode("utf-8", "replace"), bytearray()))

    def _data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1][1].extend(memoryview(data)[start:end])

    def _end(self) -> None:
        self.complete = True


def _once_each(pairs: Sequence[tuple[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """`pairs` as a mapping. Raises `RequestError` unless each of `names` occurs once, and no other name."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name not in names:
            raise RequestError("bad_request", f"unknown field; allowed: {', '.join(names)}")
        if name in found:
            raise RequestError("bad_request", f"{name} occurs twice")
        found[name] = value
    for name in names:
        if name not in found:
            raise RequestError("bad_request", f"{name} is missing")
    return found
