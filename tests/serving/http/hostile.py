"""Requests that mean no good, for any server of the HTTP interface: the same ones for the same seed.

None of them may be answered by a 5xx but 503, nor by the code `internal`, nor slow the others down.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

from PIL import Image

TASKS = ("embed", "classify", "detect", "segment", "compare")
IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
BOUNDARY = "----hostile"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@dataclass(frozen=True)
class Hostile:
    """A request: `path` is percent-encoded as it goes over the wire, and may have a query; `kind` is for messages."""

    kind: str
    method: str
    path: str
    body: bytes = field(default=b"", repr=False)
    headers: tuple[tuple[str, str], ...] = ()


def hostile_requests(seed: int, count: int, object_id: str = "mug") -> Iterator[Hostile]:
    """`count` requests, all kinds in turn; `object_id` is an object that exists."""
    rng = random.Random(seed)
    for index in range(count):
        yield KINDS[index % len(KINDS)](rng, object_id)


def _task(rng: random.Random, object_id: str) -> str:
    return rng.choice([*(f"/v1/objects/{object_id}/{task}" for task in TASKS), "/v1/identify"])


def _upload(rng: random.Random, object_id: str, kind: str, data: bytes) -> Hostile:
    """`data` sent as an image, in one of the three ways."""
    path = _task(rng, object_id)
    names = ("image", "other") if path.endswith("compare") else ("image",)
    way = rng.choice(["raw", "form", "json"])
    if way == "raw":
        return Hostile(kind, "POST", path, data, (("Content-Type", rng.choice(IMAGE_TYPES)),))
    if way == "form":
        return Hostile(kind, "POST", path, _form(*[(name, data) for name in names]), (("Content-Type", FORM),))
    text = json.dumps(dict.fromkeys(names, base64.b64encode(data).decode())).encode()
    return Hostile(kind, "POST", path, text, (("Content-Type", "application/json"),))


def _form(*parts: tuple[str, bytes]) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\n'
    return b"".join((head % name).encode() + data + b"\r\n" for name, data in parts) + f"--{BOUNDARY}--\r\n".encode()


@cache
def _good(image_format: str) -> bytes:
    buffer = io.BytesIO()
    noise = Image.frombytes("RGB", (60, 40), random.Random(0).randbytes(60 * 40 * 3))
    noise.save(buffer, image_format)
    return buffer.getvalue()


def _any_good(rng: random.Random) -> bytes:
    return _good(rng.choice(["JPEG", "PNG", "WEBP"]))


def _truncated(rng: random.Random, object_id: str) -> Hostile:
    data = _any_good(rng)
    return _upload(rng, object_id, "a truncated image", data[: rng.randrange(len(data))])


def _garbled(rng: random.Random, object_id: str) -> Hostile:
    data = bytearray(_any_good(rng))
    for _ in range(rng.randint(1, 12)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return _upload(rng, object_id, "a garbled image", bytes(data))


def _bomb(rng: random.Random, object_id: str) -> Hostile:
    kind = rng.choice(list(BOMBS))
    return _upload(rng, object_id, kind, BOMBS[kind]())


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@cache
def _huge_png(side: int) -> bytes:
    """Of the header's side, all zero: a thousandth of its pixels' size."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    rows = zlib.compress(bytes(min(side, 2000) * (3 * min(side, 2000) + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


@cache
def _text_png(kind: bytes, prefix: bytes, many: int) -> bytes:
    """Text chunks that unpack to a thousand times their size."""
    good = _good("PNG")
    bomb = _chunk(kind, prefix + zlib.compress(bytes(1_000_000), 9))
    return good[:33] + bomb * many + good[33:]


@cache
def _endless_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3000, 2000)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last_scan * 200 + data[-2:]


@cache
def _animation(image_format: str) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (300, 300), (shade, 0, 0)) for shade in range(100)]
    frames[0].save(buffer, image_format, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@cache
def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("image.png"), bytes(5_000_000), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "a PNG that says it has 3.6 gigapixels": lambda: _huge_png(60_000),
    "a PNG of the largest sides there are": lambda: _huge_png(2**31 - 1),
    "a PNG of fewer rows than it says": lambda: _huge_png(4_000),
    "a zTXt bomb": lambda: _text_png(b"zTXt", b"a\0\0", 1),
    "a hundred zTXt bombs": lambda: _text_png(b"zTXt", b"a\0\0", 100),
    "an iTXt bomb": lambda: _text_png(b"iTXt", b"a\0\1\0\0\0", 1),
    "an iCCP bomb": lambda: _text_png(b"iCCP", b"a\0\0", 1),
    "a JPEG of many scans": _endless_jpeg,
    "an animated WebP": lambda: _animation("WEBP"),
    "an animated PNG": lambda: _animation("PNG"),
    "a zip file": _zip,
    "an SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "a PostScript file": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file\n",
    "nothing": lambda: b"",
}


def _wrong_type(rng: random.Random, object_id: str) -> Hostile:
    wrong = [
        "",
        "text/plain",
        "image/gif",
        "image/png, text/html",
        "application/x-www-form-urlencoded",
        "multipart/mixed",
    ]
    wrong += ["application/json; charset=utf-16", "*/*", "\xff\xfe", "image/", "a" * 4000, "image/png" + ";" * 4000]
    wrong += ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "b" * 400]
    headers = [("Content-Type", rng.choice([*wrong, *IMAGE_TYPES]))]
    body = _any_good(rng)
    if rng.random() < 0.4:
        headers.append(("Content-Encoding", rng.choice(["gzip", "deflate", "br", "gzip, gzip", "identity, gzip", ""])))
        body = gzip.compress(bytes(1_000_000), mtime=0)
    return Hostile("a wrong type", "POST", _task(rng, object_id), body, tuple(headers))


def _path(rng: random.Random, object_id: str) -> Hostile:
    tricks = ["..", ".", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%2e%2e%2f%2e%2e", "..%5c..%5cx", "%00", f"{object_id}%00"]
    tricks += [
        f"{object_id}%2f..%2f{object_id}",
        "%c0%ae%c0%ae",
        "%25%32%65",
        "%ff%fe",
        "~root",
        "%20",
        "%0d%0aX-A:%20b",
    ]
    tricks += [
        "a" * 129,
        "a" * 6000,
        "%F0%9F%92%A9",
        "*",
        "{object_id}",
        "%24%7Bjndi:x%7D",
        "'%20or%201=1--",
        "...",
        "%",
    ]
    name = rng.choice(tricks)
    tail = rng.choice(["", "/embed", "/classify", "/segment", "/../../identify", "/", "//embed", ";v=1", "/embed/x"])
    query = rng.choice(
        ["", "?version=..", "?version=..%2f..", "?version=%00", "?version=" + "v" * 500, "?version=a&version="]
    )
    path = rng.choice([f"/v1/objects/{name}{tail}{query}", f"/{name}", f"//{name}/v1", f"/v1/objects?after={name}"])
    method = rng.choice(["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND"])
    body = _any_good(rng) if method == "POST" else b""
    return Hostile("a tricky path", method, path, body, (("Content-Type", "image/png"),))


def _query(rng: random.Random, object_id: str) -> Hostile:
    values = ["", "0", "-1", "1e9", "NaN", "9" * 400, "true", "null", "[]", "%00", "%ff", "..", "a;b", "%F0%9F%92%A9"]
    names = ["limit", "after", "version", "top_k", "exact", "mask", "similarity", "x" * 300, "%00", ""]
    query = "&".join(f"{rng.choice(names)}={rng.choice(values)}" for _ in range(rng.randint(1, 30)))
    if rng.random() < 0.5:
        return Hostile("a bad query", "GET", f"/v1/objects{rng.choice(['', '/' + object_id])}?{query}")
    headers = (("Content-Type", "image/png"),)
    return Hostile("a bad query", "POST", f"{_task(rng, object_id)}?{query}", _any_good(rng), headers)


def _broken_form(rng: random.Random, object_id: str) -> Hostile:
    good = _any_good(rng)
    whole = _form(("image", good))
    line = f"--{BOUNDARY}\r\n".encode()
    cut = rng.randrange(len(whole))
    bodies = [
        whole[:cut],
        whole[:cut] + rng.randbytes(20) + whole[cut:],
        _form(*[("image", b"")] * 2000),
        _form(("image", good), ("image", good), ("image", good)),
        _form((rng.choice(["", "IMAGE", "image\x00", "../image", "a" * 3000]), good)),
        line * 5000,
        line + b"A: b\r\n" * 5000,
        line + b"A" * 200_000,
        line + b"Content-Disposition: form-data; " + b'name="image";' * 200 + b"\r\n\r\n",
        line + b"Content-Disposition: form-data; name*=utf-8''image%00; name=\"\xff\"\r\n\r\n" + good,
        b"\r\n" * 100_000,
        b"-" * 100_000,
        b"",
    ]
    return Hostile("a broken form", "POST", _task(rng, object_id), rng.choice(bodies), (("Content-Type", FORM),))


def _broken_json(rng: random.Random, object_id: str) -> Hostile:
    text = base64.b64encode(_any_good(rng)).decode()
    depth = rng.choice([100, 5_000, 200_000])
    bodies: list[bytes] = [
        b"[" * depth,
        b'{"image":' * depth + b"1" + b"}" * depth,
        b"[" + b"[]," * depth + b"[]]",
        b'{"image": "' + b"\\ud800" * 1000 + b'"}',
        b'{"image": ' + b"9" * depth + b"}",
        json.dumps({"image": text})[: rng.randrange(len(text))].encode(),
        json.dumps({"image": text}).encode("utf-16"),
        json.dumps({"image": f"data:image/png;base64,{text}"}).encode(),
        json.dumps({"image": text, "other": text, "url": "http://127.0.0.1/"}).encode(),
        json.dumps(
            {"image": rng.choice([None, 1, 1.5, True, [text], {"image": text}, "", "=", "é", "A" * 5])}
        ).encode(),
        f'{{"image": "{text}", "image": "{text}"}}'.encode(),
        b'{"image": "\xff\xc0\xaf"}',
        b'\xef\xbb\xbf{"image": "AAAA"}',
        b'{"image": NaN}',
        b'{"__proto__": {"image": "AAAA"}}',
        rng.randbytes(200),
    ]
    headers = (("Content-Type", "application/json"),)
    return Hostile("broken JSON", "POST", _task(rng, object_id), rng.choice(bodies), headers)


def _headers(rng: random.Random, object_id: str) -> Hostile:
    odd = [
        ("X-Request-Id", rng.choice(["a" * 10_000, "\xff\xfe", "a b", "<script>", "${jndi:ldap://x}", "a,b"])),
        (
            "Authorization",
            rng.choice(["Bearer", "Bearer " + "x" * 8000, "Basic eA==", "Bearer \xff", "bearer prk_", "\xa0"]),
        ),
        ("X-" + "a" * 3000, "b" * 8000),
        ("Cookie", "a=b; " * 1500),
        ("X-Forwarded-For", "127.0.0.1, " * 500),
        ("Forwarded", "for=_hidden;host=evil"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("Range", "bytes=0-,0-,0-"),
        ("Accept", "a/" + "b" * 5000),
        ("Origin", "null"),
    ]
    chosen = rng.sample(odd, rng.randint(1, 3))
    if rng.random() < 0.5:
        path = rng.choice(["/", "/docs", "/healthz", "/readyz", "/openapi.json", "/v1/objects", "/nothing"])
        return Hostile("odd headers", "GET", path, b"", tuple(chosen))
    headers = (("Content-Type", "image/png"), *chosen)
    return Hostile("odd headers", "POST", _task(rng, object_id), _any_good(rng), headers)


KINDS = (
    _truncated,
    _garbled,
    _bomb,
    _wrong_type,
    _path,
    _query,
    _broken_form,
    _broken_json,
    _headers,
)
