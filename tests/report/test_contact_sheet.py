from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from persrep_ray.report.contact_sheet import WIDTH, TestRow, contact_sheet, heat_pair

TRUTH, PRETRAINED, PERSONALIZED = (60, 220, 110), (255, 150, 40), (60, 190, 255)


def photo(height: int = 60, width: int = 80, grey: int = 90) -> np.ndarray:
    return np.full((height, width, 3), grey, dtype=np.uint8)


def mask(height: int = 60, width: int = 80) -> np.ndarray:
    inside = np.zeros((height, width), dtype=bool)
    inside[height // 4 : height // 2, width // 4 : width // 2] = True
    return inside


def row(**changes: object) -> TestRow:
    values: dict[str, object] = {
        "image": photo(),
        "pretrained_similarity": np.linspace(0.1, 0.4, 12, dtype=np.float32).reshape(3, 4),
        "personalized_similarity": np.linspace(-0.2, 0.9, 12, dtype=np.float32).reshape(3, 4),
        "truth_mask": mask(),
        "title": "mug/03.jpg  0.41 → 0.92",
    }
    return TestRow(**{**values, **changes})  # type: ignore[arg-type]


def encoded(**changes: object) -> bytes:
    """The sheet, whose sections are empty unless given."""
    values: dict[str, object] = {"train": [], "positives": [], "negatives": [], "tests": [], "title_metrics": ""}
    return contact_sheet("mug", **{**values, **changes})  # type: ignore[arg-type]


def make(**changes: object) -> Image.Image:
    with Image.open(io.BytesIO(encoded(**changes))) as sheet:
        assert sheet.format == "JPEG"
        return sheet.convert("RGB")


def has(sheet: Image.Image, colour: tuple[int, int, int]) -> bool:
    """Whether the colour is on the sheet, up to the errors of JPEG."""
    return bool((np.abs(np.asarray(sheet).astype(int) - colour).max(axis=2) < 24).any())


def test_a_whole_sheet() -> None:
    full = make(
        train=[(photo(), mask()), (photo(80, 60), mask(80, 60))],
        positives=[photo(64, 64)] * 9,
        negatives=[photo(64, 64)] * 3,
        tests=[row(), row(truth_mask=None, pretrained_mask=mask(), personalized_mask=mask())],
        title_metrics="PR-AUC 0.31 → 0.43",
    )
    assert full.width == WIDTH
    assert all(has(full, colour) for colour in (TRUTH, PRETRAINED, PERSONALIZED))


def test_empty_sections_are_left_out() -> None:
    heights = [
        make(**sections).height
        for sections in ({}, {"positives": [photo()]}, {"positives": [photo()], "negatives": [photo()]})
    ]
    assert heights[2] - heights[1] == heights[1] - heights[0] > 0


def test_outlines_show_what_is_known() -> None:
    flat = np.zeros((2, 2), dtype=np.float32)  # its colour is the darkest, which no outline has
    bare = {"pretrained_similarity": flat, "personalized_similarity": flat + 0, "truth_mask": None}
    sheet = make(tests=[row(**bare)])
    tiles = sheet.crop((0, 230, WIDTH, sheet.height))  # below the colour bar
    assert not any(has(tiles, colour) for colour in (TRUTH, PRETRAINED, PERSONALIZED))
    sheet = make(tests=[row(**bare, pretrained_mask=mask())])
    tiles = sheet.crop((0, 240, WIDTH, sheet.height))
    assert has(tiles, PRETRAINED) and not has(tiles, PERSONALIZED)


def test_both_maps_share_one_scale() -> None:
    low, middle, high = (np.full((2, 2), value, dtype=np.float32) for value in (-0.2, 0.3, 0.8))
    pretrained, personalized, scale = heat_pair(
        row(pretrained_similarity=np.hstack([low, middle]), personalized_similarity=np.hstack([high, middle]))
    )
    assert scale == pytest.approx((-0.2, 0.8))
    np.testing.assert_array_equal(pretrained[:, -1], personalized[:, -1])  # the same cosine, the same colour
    assert pretrained[0, 0, 2] > pretrained[0, 0, 0]  # the smallest is blue
    assert personalized[0, 0, 0] > personalized[0, 0, 2]  # the largest is red
    assert pretrained.shape == personalized.shape == (60, 80, 3)


def test_flat_maps_are_drawn() -> None:
    flat = np.zeros((2, 2), dtype=np.float32)
    pretrained, personalized, scale = heat_pair(row(pretrained_similarity=flat, personalized_similarity=flat))
    assert scale == (0.0, 0.0)
    np.testing.assert_array_equal(pretrained, personalized)


@pytest.mark.parametrize("size", [(400, 3), (3, 400), (1, 1)])
def test_extreme_photos_fit(size: tuple[int, int]) -> None:
    changes = {"image": photo(*size), "truth_mask": np.ones(size, dtype=bool)}
    sheet = make(train=[(photo(*size), np.ones(size, dtype=bool))], tests=[row(**changes)])
    assert sheet.height < 1400


def test_a_long_title_is_cut() -> None:
    long = make(tests=[row(title="x" * 500)], title_metrics="0.1 → 0.2  " * 60)
    margin = np.asarray(long)[90:180, WIDTH - 40 :]
    assert margin.min() > 200  # the right margin is empty


def test_a_mask_of_another_photo_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask of shape \(4, 4\) does not belong to a photo of shape \(60, 80, 3\)"):
        make(train=[(photo(), np.ones((4, 4), dtype=bool))])


def test_the_same_input_gives_the_same_bytes() -> None:
    assert encoded(tests=[row()]) == encoded(tests=[row()])
