"""Every kind of image file decodes to the same upright RGB, and every kind of broken file raises `ImageError`."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import heic
from PIL import Image, ImageCms, ImageOps

from persrep_ray.config import DataConfig
from persrep_ray.data.images import (
    ImageError,
    ImageTooLargeError,
    bounded,
    check_header,
    check_pixels,
    decode_bounded,
    decode_mask,
    decode_rgb,
    encode_jpeg,
    encode_png_mask,
    read_bounded,
    read_mask,
    read_mask_of,
    read_rgb,
    resize_square,
    standard_view,
)

# Pillow also warns about some of the files that are refused or skipped here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

LIMITS = DataConfig()
PHOTO = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(image: Image.Image | np.ndarray, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, image_format, **options)
    return buffer.getvalue()


def rgb(data: bytes, limits: DataConfig = LIMITS) -> np.ndarray:
    return decode_rgb(data, limits, "here")


@pytest.mark.parametrize(("image_format", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_decode_exactly_whatever_the_suffix(
    tmp_path: Path, image_format: str, options: dict[str, bool]
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(PHOTO, image_format, **options))
    image = read_rgb(path, LIMITS)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, PHOTO)
    image[:] = 0  # the array belongs to the caller and is writable


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    grey = np.array([[0, 257, 32896, 65535]], np.uint16)
    np.testing.assert_array_equal(rgb(encoded(grey))[0, :, 0], [0, 1, 128, 255])


def test_grey_palette_and_one_bit_become_rgb() -> None:
    grey = PHOTO[:, :, 0]
    np.testing.assert_array_equal(rgb(encoded(grey)), np.repeat(grey[:, :, None], 3, axis=2))
    few = Image.fromarray(PHOTO // 128 * 255)
    np.testing.assert_array_equal(rgb(encoded(few.quantize(8))), np.array(few.quantize(8).convert("RGB")))
    np.testing.assert_array_equal(rgb(encoded(grey > 127))[:, :, 1], np.where(grey > 127, 255, 0))


def test_cmyk_jpeg_is_not_inverted() -> None:
    image = rgb(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    np.testing.assert_allclose(image, np.broadcast_to([255, 0, 0], (8, 8, 3)), atol=3)


def test_transparency_is_laid_over_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    np.testing.assert_array_equal(rgb(encoded(image)), [[[255, 0, 0], [255, 255, 255]]])
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 50, 60, 70])
    palette.putpixel((1, 0), 1)
    np.testing.assert_array_equal(rgb(encoded(palette, transparency=0)), [[[255] * 3, [50, 60, 70]]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for image_format in ("JPEG", "PNG", "WEBP"):
        data = encoded(PHOTO, image_format, exif=exif)
        expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        np.testing.assert_array_equal(rgb(data), expected)
        (tmp_path / "photo").write_bytes(data)
        assert check_pixels(tmp_path / "photo", LIMITS).size == expected.shape[:2]


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01"]
)
def test_broken_exif_leaves_the_photo_as_stored(exif: bytes) -> None:
    assert rgb(encoded(PHOTO, "JPEG", exif=exif)).shape == PHOTO.shape


def test_only_the_first_image_of_an_animation_is_read() -> None:
    second = Image.fromarray(255 - PHOTO)
    data = encoded(PHOTO, "PNG", save_all=True, append_images=[second])
    np.testing.assert_array_equal(rgb(data), PHOTO)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_file_truncated_anywhere_is_an_error_for_every_reader(tmp_path: Path, image_format: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    data = encoded(noise, image_format)
    path = tmp_path / "photo.jpg"
    for length in [*range(0, len(data) - 32, 97), len(data) - 32]:
        path.write_bytes(data[:length])
        for read in (read_rgb, read_bounded, read_mask, check_pixels):
            with pytest.raises(ImageError, match=r"photo\.jpg: ."):
                read(path, LIMITS)


def test_garbled_files_raise_nothing_but_image_errors() -> None:
    rng = np.random.default_rng(2)
    noise = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for image_format in ("JPEG", "PNG", "WEBP", "BMP"):
        original = np.frombuffer(encoded(noise, image_format, exif=exif), np.uint8)
        for _ in range(150):
            garbled = original.copy()
            garbled[rng.integers(0, len(garbled), 6)] = rng.integers(0, 256, 6)
            for decode in (decode_rgb, decode_mask):
                try:
                    decode(garbled.tobytes(), DataConfig(max_pixels=10_000), "here")
                except ImageError as error:
                    assert str(error).startswith("here: ")


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"P6 1 1 255\n\0\0\0"])
def test_data_that_is_not_an_image_is_an_error(data: bytes) -> None:
    with pytest.raises(ImageError, match="here: not a JPEG, PNG, WebP, BMP, HEIC or AVIF image"):
        rgb(data)


def test_other_formats_are_refused_even_where_pillow_reads_them() -> None:
    for image_format in ("GIF", "TIFF", "PPM"):
        with pytest.raises(ImageError, match="not a JPEG"):
            rgb(encoded(PHOTO, image_format))


def test_pixel_limit_is_checked_on_the_header_alone(tmp_path: Path) -> None:
    limits = DataConfig(max_pixels=54)
    assert rgb(encoded(PHOTO), limits).shape == (6, 9, 3)
    with pytest.raises(ImageError, match="10 x 6 pixels, the limit is 54"):
        rgb(encoded(np.zeros((6, 10, 3), np.uint8)), limits)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    # The first is a decompression bomb of 10 GB; the second is just below Pillow's limit and above ours.
    for side in (60_000, 13_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        bomb = tmp_path / "bomb.png"
        bomb.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"no pixels here"))
        for read in (read_rgb, read_mask, check_pixels, check_header):
            with pytest.raises(ImageError, match=r"bomb\.png: .*pixels"):
                read(bomb, LIMITS)


def test_a_text_chunk_bomb_is_refused() -> None:
    body = b"Comment\0\0" + zlib.compress(bytes(4_000_000), 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    data = encoded(PHOTO)
    with pytest.raises(ImageError, match="here: "):
        rgb(data[:33] + chunk + data[33:])


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = encoded(np.zeros((64, 64, 3), np.uint8), "JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    assert rgb(data[:-2] + last_scan * 10 + data[-2:]).shape == (64, 64, 3)
    with pytest.raises(ImageError, match="a JPEG of more than 256 scans"):
        rgb(data[:-2] + last_scan * 300 + data[-2:])


def test_a_larger_jpeg_may_have_fewer_scans() -> None:
    data = encoded(np.zeros((2500, 2500), np.uint8), "JPEG", progressive=True)
    scans, last_scan = data.count(b"\xff\xda"), data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match="a JPEG of 161 scans of 2500 x 2500 pixels"):
        rgb(data[:-2] + last_scan * (161 - scans) + data[-2:])
    assert rgb(data).shape == (2500, 2500, 3)


@pytest.mark.parametrize("tail", [b"film" * 300_000, b"\xff\xda\0\x02" * 300, None])
def test_what_follows_a_jpeg_is_not_read(tail: bytes | None) -> None:
    data = encoded(PHOTO, "JPEG", progressive=True)
    np.testing.assert_array_equal(rgb(data + (tail or data * 30)), rgb(data))


def test_scans_are_not_counted_within_segments() -> None:
    data = encoded(PHOTO, "JPEG")
    comment = b"\xff\xda" * 500
    segment = b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment
    np.testing.assert_array_equal(rgb(data[:2] + segment + data[2:]), rgb(data))
    with pytest.raises(ImageError, match="a JPEG of more than 10,000 segments"):
        rgb(data[:2] + b"\xff\xfe\0\x02" * 10_001 + data[2:])


RAMP = np.stack([np.tile(np.linspace(0, 255, 160), (120, 1))] * 3, axis=2).astype(np.uint8)


def test_a_jpeg_over_the_limit_is_decoded_at_a_fraction_of_its_size(tmp_path: Path) -> None:
    for most, size in [(19_200, (120, 160)), (19_199, (60, 80)), (4_799, (30, 40)), (300, (15, 20))]:
        limits = DataConfig(max_pixels=most)
        (tmp_path / "photo").write_bytes(encoded(RAMP, "JPEG", quality=95))
        image = read_rgb(tmp_path / "photo", limits)
        assert image.shape[:2] == check_pixels(tmp_path / "photo", limits).size == size
        np.testing.assert_allclose(image[0, :, 0], np.linspace(0, 255, size[1]), atol=8)
    with pytest.raises(ImageTooLargeError, match="160 x 120 pixels, the limit is 299 in all"):
        rgb(encoded(RAMP, "JPEG"), DataConfig(max_pixels=299))


def test_a_jpeg_that_is_in_memory_as_a_whole_while_it_is_decoded_is_not_divided() -> None:
    limits = DataConfig(max_pixels=19_199)
    with pytest.raises(ImageTooLargeError, match="160 x 120 pixels"):
        rgb(encoded(RAMP, "JPEG", progressive=True), limits)
    data = bytearray(encoded(RAMP, "JPEG"))
    data[data.index(b"\xff\xda") + 4] = 1  # a first scan of one channel announces others
    with pytest.raises(ImageTooLargeError):
        rgb(bytes(data), limits)


def test_a_camera_of_200_megapixels_is_read() -> None:
    image = Image.new("L", (16_320, 12_240), 200)  # Pillow's own limit is 179 megapixels
    found = decode_bounded(encoded(image, "JPEG"), LIMITS, "here")
    assert found.size == (12_240, 16_320) and found.pixels.shape == (960, 1280, 3) and (found.pixels == 200).all()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_bounded_images_are_the_same_however_large_they_are_stored(image_format: str) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    data = encoded(np.repeat(np.repeat(RAMP, 3, axis=0), 3, axis=1), image_format, quality=95, exif=turned)
    found = decode_bounded(data, LIMITS, "here", longest=100)
    assert found.size == (480, 360) and found.pixels.shape == (100, 75, 3)
    np.testing.assert_allclose(found.pixels.astype(int), bounded(rgb(data), 100), atol=3)


def test_heic_is_read_upright() -> None:
    quarters = np.array(heic.COLOURS).reshape(2, 2, 3)
    for data, expected in [(heic.UPRIGHT, quarters), (heic.TURNED, np.rot90(quarters, -1))]:
        image = rgb(data)
        assert image.shape[:2] == ((48, 64) if data is heic.UPRIGHT else (64, 48))
        centres = image[image.shape[0] // 4 :: image.shape[0] // 2, image.shape[1] // 4 :: image.shape[1] // 2]
        np.testing.assert_allclose(centres, expected, atol=12)
    for length in range(12, len(heic.UPRIGHT), 31):
        with pytest.raises(ImageError, match=r"here: ."):
            rgb(heic.UPRIGHT[:length])
    with pytest.raises(ImageTooLargeError, match="64 x 48 pixels"):
        rgb(heic.UPRIGHT, DataConfig(max_pixels=64 * 48 - 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_is_read_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(RAMP, "AVIF", quality=95, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(rgb(data), np.array(expected))


def swapped_profile() -> bytes:
    """An RGB profile that takes red for blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in [(b"rXYZ", b"????"), (b"bXYZ", b"rXYZ"), (b"????", b"bXYZ")]:
        profile = profile.replace(old, new, 1)
    return profile.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))


SWAPPED = swapped_profile()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_an_embedded_profile_is_applied(image_format: str) -> None:
    image = Image.new("RGB", (16, 16), (200, 60, 20))
    found = rgb(encoded(image, image_format, quality=95, icc_profile=SWAPPED))
    np.testing.assert_allclose(found, np.broadcast_to([20, 60, 200], (16, 16, 3)), atol=6)


def test_a_profile_keeps_transparency_and_goes_with_a_palette() -> None:
    image = Image.new("RGBA", (2, 1), (200, 60, 20, 255))
    image.putpixel((1, 0), (200, 60, 20, 0))
    found = rgb(encoded(image, icc_profile=SWAPPED)).astype(int)
    np.testing.assert_allclose(found, [[[20, 60, 200], [255, 255, 255]]], atol=2)
    palette = Image.new("RGB", (2, 1), (200, 60, 20)).quantize(2)
    np.testing.assert_allclose(rgb(encoded(palette, icc_profile=SWAPPED))[0, 0].astype(int), [20, 60, 200], atol=2)


@pytest.mark.parametrize("profile", [b"", b"garbage", SWAPPED[:200], SWAPPED.replace(b"RGB ", b"CMYK", 1)])
def test_a_profile_that_is_broken_or_of_other_channels_leaves_the_colours(profile: bytes) -> None:
    np.testing.assert_array_equal(rgb(encoded(PHOTO, icc_profile=profile)), PHOTO)


def test_of_a_stereo_photo_the_first_picture_is_read() -> None:
    second = Image.fromarray(255 - PHOTO)
    data = encoded(PHOTO, "MPO", save_all=True, append_images=[second])
    np.testing.assert_array_equal(rgb(data), rgb(encoded(PHOTO, "JPEG")))


def test_formats_can_be_excluded() -> None:
    formats = ("JPEG", "PNG", "WebP")
    np.testing.assert_array_equal(decode_rgb(encoded(PHOTO), LIMITS, "here", formats), PHOTO)
    with pytest.raises(ImageError, match="here: not a JPEG, PNG or WebP image"):
        decode_rgb(encoded(PHOTO, "BMP"), LIMITS, "here", formats)


def test_an_image_that_is_too_large_is_told_apart_from_a_damaged_image() -> None:
    for limits in (DataConfig(max_pixels=53), DataConfig(max_bytes=10)):
        with pytest.raises(ImageTooLargeError):
            rgb(encoded(PHOTO), limits)
    with pytest.raises(ImageError) as caught:
        rgb(encoded(PHOTO)[:-60], LIMITS)
    assert not isinstance(caught.value, ImageTooLargeError)


def test_byte_limit_is_checked_before_reading(tmp_path: Path) -> None:
    huge = tmp_path / "huge.jpg"
    with huge.open("wb") as file:
        file.truncate(1 << 40)  # the file is sparse, so it takes no space
    with pytest.raises(ImageError, match=r"huge\.jpg: 1,099,511,627,776 bytes, the limit is 67,108,864"):
        read_rgb(huge, LIMITS)
    with pytest.raises(ImageError, match="more than 10 bytes"):
        rgb(encoded(PHOTO), DataConfig(max_bytes=10))


def test_special_files_are_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    for path, cause in [
        (tmp_path / "pipe.jpg", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path / "folder.jpg", "Is a directory"),
        (tmp_path / "absent.jpg", "No such file or directory"),
        (tmp_path / "loop.jpg", "Too many levels of symbolic links"),
    ]:
        for read in (read_rgb, read_mask, check_pixels, check_header):
            with pytest.raises(ImageError) as caught:
                read(path, LIMITS)
            assert str(caught.value) == f"{path}: {cause}"


def test_check_header_accepts_a_file_that_only_decoding_can_refute(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(PHOTO)[:-60])
    check_header(path, LIMITS)
    with pytest.raises(ImageError):
        check_pixels(path, LIMITS)


def test_check_pixels_reads_a_reduced_jpeg_to_its_end(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (200, 301, 3), dtype=np.uint8)
    data = encoded(noise, "JPEG")
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    assert check_pixels(path, LIMITS).size == (200, 301)
    path.write_bytes(data[:-400])
    with pytest.raises(ImageError, match="truncated"):
        check_pixels(path, LIMITS)


def with_orientation(image: np.ndarray, image_format: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, image_format, exif=exif)


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """What a viewer shows of an image that is stored with this orientation."""
    return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(with_orientation(image, "PNG", orientation)))))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_lies_on_its_photo_or_is_refused(tmp_path: Path, orientation: int) -> None:
    photo, path = tmp_path / "photo.jpg", tmp_path / "mask.png"
    photo.write_bytes(with_orientation(PHOTO, "JPEG", orientation))
    stored = np.zeros((6, 9), np.uint8)
    stored[:2, :5] = 255
    upright = turned(stored, orientation) > 0
    drawings = {"upright": upright * np.uint8(255), "stored": stored}
    for drawn, image in drawings.items():
        path.write_bytes(encoded(image))
        if orientation in (2, 3, 4):  # both have the same size
            with pytest.raises(
                ImageError, match=rf"mask\.png: the photo is turned by its EXIF orientation \({orientation}\)"
            ):
                read_mask_of(photo, path, LIMITS)
        else:
            np.testing.assert_array_equal(read_mask_of(photo, path, LIMITS), upright, drawn)
    path.write_bytes(with_orientation(stored, "PNG", orientation))
    if orientation > 1:  # it says itself how it was drawn
        np.testing.assert_array_equal(read_mask_of(photo, path, LIMITS), upright)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(with_orientation(PHOTO, "JPEG", 6))
    (tmp_path / "mask").write_bytes(encoded(np.full((6, 8), 255, np.uint8)))
    with pytest.raises(ImageError, match=r"mask: the mask has 8 x 6 pixels, but its photo 6 x 9"):
        read_mask_of(tmp_path / "photo", tmp_path / "mask", LIMITS)


def test_a_square_photo_that_is_turned_needs_a_mask_that_says_how_it_was_drawn(tmp_path: Path) -> None:
    stored = np.zeros((8, 8), np.uint8)
    stored[:2] = 255
    (tmp_path / "photo").write_bytes(with_orientation(np.zeros((8, 8, 3), np.uint8), "JPEG", 6))
    (tmp_path / "mask").write_bytes(encoded(stored))
    with pytest.raises(ImageError, match="EXIF orientation"):
        read_mask_of(tmp_path / "photo", tmp_path / "mask", LIMITS)
    (tmp_path / "mask").write_bytes(with_orientation(stored, "PNG", 6))
    expected = turned(stored, 6) > 0
    np.testing.assert_array_equal(read_mask_of(tmp_path / "photo", tmp_path / "mask", LIMITS), expected)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_a_mask_is_divided_like_its_photo(tmp_path: Path, image_format: str, orientation: int) -> None:
    inside = np.zeros((121, 163), np.uint8)
    inside[40:100, 20:90] = 255
    (tmp_path / "photo").write_bytes(with_orientation(inside[:, :, None].repeat(3, axis=2), "JPEG", orientation))
    (tmp_path / "mask").write_bytes(with_orientation(inside, image_format, orientation))
    limits = DataConfig(max_pixels=163 * 121 // 4 + 200)
    image = read_rgb(tmp_path / "photo", limits)
    assert sorted(image.shape[:2]) == [61, 82]
    mask = read_mask_of(tmp_path / "photo", tmp_path / "mask", limits)
    assert (mask != (image[:, :, 0] > 127)).mean() < 0.005


def test_a_mask_may_take_the_memory_of_a_photo_but_no_more() -> None:
    limits = DataConfig(max_pixels=100)
    assert decode_mask(encoded(np.full((20, 20), 255, np.uint8)), limits, "here").shape == (10, 10)
    for image in (np.full((20, 21), 255, np.uint8), np.full((20, 20, 3), 255, np.uint8)):
        with pytest.raises(ImageTooLargeError):
            decode_mask(encoded(image), limits, "here")


def test_mask_is_read_from_a_file_and_survives_a_round_trip(tmp_path: Path) -> None:
    mask = np.random.default_rng(4).random((13, 21)) > 0.5
    path = tmp_path / "mask.png"
    path.write_bytes(encode_png_mask(mask))
    np.testing.assert_array_equal(read_mask(path, LIMITS), mask)


def test_jpeg_round_trip_is_close() -> None:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    image = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 80, np.uint8)], axis=2)
    np.testing.assert_allclose(rgb(encode_jpeg(image)).astype(int), image, atol=8)
    assert len(encode_jpeg(image, quality=30)) < len(encode_jpeg(image))


@pytest.mark.parametrize("shape", [(480, 640, 3), (5, 700, 3), (3, 3, 3), (1, 1, 3)])
def test_resize_square_shows_the_whole_image(shape: tuple[int, int, int]) -> None:
    halves = np.zeros(shape, np.uint8)
    halves[:, shape[1] // 2 :] = (200, 100, 50)
    square = resize_square(halves, 32)
    assert square.shape == (32, 32, 3) and square.dtype == np.uint8
    np.testing.assert_array_equal(square[:, -1], np.tile([200, 100, 50], (32, 1)))
    if shape[1] > 1:
        np.testing.assert_array_equal(square[:, 0], 0)


def test_resize_square_does_not_alias() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (256, 128))[:, :, None].repeat(3, axis=2)
    np.testing.assert_allclose(resize_square(stripes, 64)[:, 2:-2].astype(int), 127, atol=2)


@pytest.mark.parametrize(
    ("size", "shrunk"), [((1280, 700), (1280, 700)), ((2560, 1400), (1280, 700)), ((3, 40_000), (1, 1280))]
)
def test_bounded_images_keep_their_shape_and_never_grow(size: tuple[int, int], shrunk: tuple[int, int]) -> None:
    image = np.full((*size, 3), (10, 20, 30), np.uint8)
    found = bounded(image)
    assert found.shape == (*shrunk, 3) and found.dtype == np.uint8 and (found == (10, 20, 30)).all()
    assert found is image or size != shrunk


def test_bounded_images_are_means_of_areas() -> None:
    stripes = np.tile(np.array([0, 200], np.uint8), (4, 1280))[:, :, None].repeat(3, axis=2)
    assert (bounded(stripes) == 100).all()


@pytest.mark.parametrize("shape", [(1, 200_000), (200_000, 1)])
def test_a_standard_view_of_a_strip_is_of_its_middle(shape: tuple[int, int]) -> None:
    strip = np.zeros((*shape, 3), np.uint8)
    strip.reshape(-1, 3)[99_990:100_010] = 255
    view = standard_view(strip, 64)  # scaled as a whole, it would take 3 GB
    assert view.shape == (64, 64, 3) and view.min() == 255


def test_an_error_survives_pickling_so_that_a_ray_worker_can_raise_it(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        read_rgb(tmp_path / "absent.jpg", LIMITS)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
