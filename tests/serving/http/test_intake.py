"""Images from request bodies: every malformed body gets its error code, fast."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
from helpers import heic
from PIL import Image
from serving.http.fakes import encoded

from persrep_ray.config import DataConfig
from persrep_ray.serving.http.errors import RequestError
from persrep_ray.serving.http.intake import BodyKind, DecodedImage, images

# Pillow also warns about some of what is refused here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

LIMITS = DataConfig(max_pixels=10_000, max_bytes=4_000_000)
IMAGE = encoded(30, 20)
TEXT = base64.b64encode(IMAGE).decode()
BOUNDARY = b"XyZ"


def taken(body: bytes, media_type: str = "image/png", names: tuple[str, ...] = ("image",)) -> list[DecodedImage]:
    return images(body, BodyKind(media_type, BOUNDARY, names), LIMITS)


def refused(body: bytes, media_type: str = "image/png", names: tuple[str, ...] = ("image",)) -> str:
    """The code and the message of the error."""
    with pytest.raises(RequestError) as caught:
        taken(body, media_type, names)
    return f"{caught.value.code}: {caught.value.message}"


def form(*parts: tuple[str, bytes], end: bytes = b"--XyZ--\r\n") -> bytes:
    """A form of parts, each a header line and a content."""
    return b"".join(b"--XyZ\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts) + end


def field(name: str) -> str:
    return f'Content-Disposition: form-data; name="{name}"; filename="../../etc/passwd"'


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_size(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"no pixels here")


def test_images_come_in_the_order_of_their_names_with_their_sizes() -> None:
    image, other = encoded(30, 20, grey=10), encoded(5, 7, grey=20)
    as_json = json.dumps({"other": base64.b64encode(other).decode(), "image": base64.b64encode(image).decode()})
    as_form = form((field("other"), other), (field("image"), image))
    for body, kind in [(as_form, "multipart/form-data"), (as_json.encode(), "application/json")]:
        first, second = taken(body, kind, ("image", "other"))
        assert (first.size, second.size) == ((20, 30), (7, 5))
        assert (first.pixels == 10).all() and (second.pixels == 20).all()


def test_binary_content_of_a_form_is_kept_to_the_byte() -> None:
    tricky = IMAGE + b"\r\n--XyZ\r--XyZ-\r\n--Xy\r\n\r\n"  # behind an image's end; none of it is the boundary
    (image,) = taken(form(("content-disposition: form-data; name=image\r\nX-Other: 1", tricky)), "multipart/form-data")
    assert image.size == (20, 30)


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (form(), "image is missing"),
        (form((field("other"), IMAGE)), "unknown field; allowed: image"),
        (form((field("IMAGE"), IMAGE)), "unknown field"),
        (form(("Content-Disposition: form-data", IMAGE)), "unknown field"),
        (form(("Content-Type: image/png", IMAGE)), "unknown field"),
        (form((field("image"), IMAGE), (field("image"), IMAGE)), "the form has more than 1 fields"),
        (form((field("image"), IMAGE), end=b""), "its last boundary is missing"),
        (form((field("image"), IMAGE))[:-10], "its last boundary is missing"),
        (form((field("image"), IMAGE), end=b"--XyZ"), "its last boundary is missing"),
        (b"", "its last boundary is missing"),
        (b"--other\r\n" + IMAGE, "not valid multipart"),
        (IMAGE, "not valid multipart"),
        (form(("A" * 100_000 + ": b", IMAGE)), "not valid multipart"),
        (form(("A: " + "b" * 100_000, IMAGE)), "not valid multipart"),
        (form(("A: b\r\n" * 10_000 + field("image"), IMAGE)), "not valid multipart"),
        (form(("no colon", IMAGE)), "not valid multipart"),
        (form(*[(field("image"), b"")] * 50_000), "the form has more than 1 fields"),
    ],
)
def test_bad_forms(body: bytes, cause: str) -> None:
    answer = refused(body, "multipart/form-data")
    assert answer.startswith("bad_request: ") and cause in answer


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"", "not JSON in UTF-8"),
        (b'{"image": "', "not JSON in UTF-8"),
        (b"\xff\xfe{\x00}\x00", "not JSON in UTF-8"),
        (b'{"image": "\xff"}', "not JSON in UTF-8"),
        (b'{"image": ' + b"9" * 5000 + b"}", "not JSON in UTF-8"),
        (b"[]", "not a JSON object"),
        (b'"image"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "image is missing"),
        (b'{"image": "AAAA", "image": "AAAA"}', "image occurs twice"),
        (b'{"image": "AAAA", "url": "http://localhost/"}', "unknown field; allowed: image"),
        (b'{"image": null}', "image: must be base64"),
        (b'{"image": ["AAAA"]}', "image: must be base64"),
        (b'{"image": {"image": "AAAA"}}', "image: must be base64"),
        (b'{"image": 1e999}', "image: must be base64"),
        (b'{"image": "AAA"}', "image: must be base64"),
        (b'{"image": "AA\\nAA"}', "image: must be base64"),
        (b'{"image": "AA-_"}', "image: must be base64"),
        (b'{"image": "data:image/png;base64,AAAA"}', "image: must be base64"),
        (b'{"image": "\\ud800AAA"}', "image: must be base64"),
        ('{"image": "äää="}'.encode(), "image: must be base64"),
        (b"[" * 1_000_000, "too many parts"),
        (b'{"image":' * 100_000, "too many parts"),
        (b"[" + b"[]," * 1_000_000 + b"[]]", "too many parts"),
        (b'{"image": [' + b"0," * 1_000_000 + b"0]}", "too many parts"),
    ],
)
def test_bad_json(body: bytes, cause: str) -> None:
    answer = refused(body, "application/json")
    assert answer.startswith("bad_request: ") and cause in answer


def test_json_may_be_spaced_and_escaped_as_anywhere() -> None:
    escaped = TEXT.replace("/", "\\/").replace("A", "\\u0041")
    (image,) = taken(f' {{ "image" :\n"{escaped}" }} '.encode(), "application/json")
    assert image.size == (20, 30)


def test_messages_name_the_image_of_several() -> None:
    body = json.dumps({"image": TEXT, "other": base64.b64encode(b"none").decode()}).encode()
    assert refused(body, "application/json", ("image", "other")).startswith("bad_image: other: ")


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))


def saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"GIF89a" + bytes(100),
        saved(NOISE, "BMP"),
        saved(NOISE, "GIF"),
        saved(NOISE, "TIFF"),
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"PK\x03\x04" + bytes(1000),
        saved(NOISE, "JPEG")[:-400],
        saved(NOISE, "PNG")[:-400],
        saved(NOISE, "WEBP")[:-400],
        IMAGE[:33] + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(4_000_000), 9)) + IMAGE[33:],
        IMAGE[:33] + chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(4_000_000), 9)) + IMAGE[33:],
        png_of_size(30, 20),
        png_of_size(0, 20),
    ],
)
def test_what_is_no_image(body: bytes) -> None:
    assert refused(body) == "bad_image: image: not a readable JPEG, PNG, WebP, HEIC or AVIF image"


@pytest.mark.parametrize("sides", [(101, 100), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (10_001, 1)])
def test_images_of_too_many_pixels_are_refused_by_their_header(sides: tuple[int, int]) -> None:
    assert refused(png_of_size(*sides)).startswith("image_too_large: image: ")


def test_an_image_of_exactly_the_limit_is_taken() -> None:
    assert taken(encoded(100, 100))[0].size == (100, 100)


def test_a_jpeg_of_many_scans_of_many_pixels_is_refused() -> None:
    data = encoded(64, 64, image_format="JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    assert refused(data[:-2] + last_scan * 300 + data[-2:]).startswith("bad_image: ")


def test_of_an_animation_the_first_image_counts() -> None:
    frames = [Image.new("RGB", (50, 50), (shade, shade, shade)) for shade in range(200)]
    for image_format in ("WEBP", "PNG"):
        data = saved(frames[10], image_format, save_all=True, append_images=frames, lossless=True)
        (image,) = taken(data)
        assert image.size == (50, 50) and (image.pixels == 10).all()


def test_photos_of_phones_are_taken() -> None:
    (image,) = taken(heic.TURNED)
    assert image.size == (64, 48) and image.pixels.shape == (64, 48, 3)
    film = saved(NOISE, "JPEG") + b"\xff\xda\xff\xda" * 1000
    assert taken(film)[0].size == (40, 56)
    large = Image.new("RGB", (300, 200), (9, 90, 200))
    (image,) = taken(saved(large, "JPEG", quality=95))  # more pixels than the limit: decoded at a fraction of its size
    assert image.size == (200, 300) and image.pixels.shape == (50, 75, 3)
    np.testing.assert_allclose(image.pixels.astype(int), np.broadcast_to([9, 90, 200], (50, 75, 3)), atol=4)


def test_sixteen_bits_become_eight() -> None:
    (image,) = taken(saved(Image.fromarray(np.full((20, 30), 257 * 99, np.uint16)), "PNG"))
    assert (image.pixels == 99).all()
