from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import vits
from helpers.tiny import COLOURS, shape
from numpy.typing import NDArray
from PIL import Image

from persrep_ray.config import BackboneConfig, FilterConfig, GenerateConfig, RunConfig
from persrep_ray.generate.dreambooth.filter import LikenessFilter, Match, cut_out, masked_crop
from persrep_ray.masks.grabcut import MaskError

GREY = (124, 116, 104)
RED, GREEN, BLUE = (COLOURS[name] for name in ("red", "green", "blue"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    vits.save("dinov2", folder)
    return folder


def config(vit: Path, **settings: Any) -> RunConfig:
    return RunConfig(
        backbone=BackboneConfig(name=str(vit), image_size=56, adapted_blocks=1, precision="float32"),
        generate=GenerateConfig(filter=FilterConfig(**settings)),
    )


def plain() -> NDArray[np.uint8]:
    """An image of nothing."""
    return np.full((64, 64, 3), 128, np.uint8)


class ByColour:
    """Masks a disc that `shape` has drawn, whose colours differ clearly from the noise around it."""

    def refer(self, image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
        return None

    def mask(self, image: NDArray[np.uint8], reference: None = None) -> NDArray[np.bool_]:
        mask = np.abs(image.astype(int) - 125).max(axis=2) > 60
        if not mask.any():
            raise MaskError("no foreground")
        return mask


def mean_colour(crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Takes the place of a backbone: the mean difference from grey as a unit vector."""
    means = np.stack([(crop.astype(np.float32) - GREY).mean(axis=(0, 1)) for crop in crops])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def by_colour(vit: Path, **settings: Any) -> LikenessFilter:
    one = LikenessFilter(config(vit, **settings))
    one._masker, one._embed = ByColour(), mean_colour  # type: ignore[assignment]
    return one


# -- the crop ----------------------------------------------------------------------------------------------------------


def test_the_crop_is_only_the_object_centred_on_grey() -> None:
    image = np.full((60, 90, 3), 30, np.uint8)
    mask = np.zeros((60, 90), np.bool_)
    mask[10:20, 40:80] = True
    image[mask] = RED
    crop = masked_crop(image, mask, side=200)
    assert (crop.shape, crop.dtype) == ((200, 200, 3), np.uint8)
    red = (crop == RED).all(axis=2)
    assert ((crop == GREY).all(axis=2) | red).all()  # nothing of the background of 30
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert (columns[0], columns[-1]) == (10, 189)  # a margin of 5 % at both ends of the longer side
    assert (rows[0], rows[-1]) == (77, 121)  # 45 of 180, as the box is


def test_holes_are_grey_and_large_objects_are_scaled_down() -> None:
    image = np.full((400, 400, 3), RED, np.uint8)
    mask = np.ones((400, 400), np.bool_)
    mask[150:250, 150:250] = False
    crop = masked_crop(image, mask)
    assert crop.shape == (224, 224, 3)
    assert (crop[112, 112] == GREY).all() and (crop[30, 30] == RED).all() and (crop[2, 2] == GREY).all()


def test_a_single_pixel_and_a_line_have_crops() -> None:
    mask = np.zeros((50, 50), np.bool_)
    mask[7, 9] = True
    image = np.full((50, 50, 3), RED, np.uint8)
    assert (masked_crop(image, mask, side=20)[1:19, 1:19] == RED).all()
    mask[7] = True
    assert (masked_crop(image, mask, side=20) == RED).any()


# -- the match -------------------------------------------------------------------------------------------------------


def judged(one: LikenessFilter, *images: NDArray[np.uint8]) -> list[bool]:
    return [one.accepts(match) for match in one.match(images)]


def test_the_object_passes_and_another_colour_does_not(vit: Path) -> None:
    one = by_colour(vit, threshold=0.5)
    one.set_object([shape(RED, seed) for seed in range(3)], [shape(GREEN, 5), shape(BLUE, 6)])
    images = [shape(RED, 9)[0], shape(GREEN, 8)[0], plain(), shape(RED, 7)[0]]
    matches = one.match(images)
    assert [one.accepts(match) for match in matches] == [True, False, False, True]
    assert matches[2] == Match(None, None)
    for image, match in zip(images, matches, strict=True):
        if match.mask is not None:
            assert np.array_equal(match.mask, ByColour().mask(image))
    assert judged(one) == [] and judged(one, plain()) == [False]

    one.set_object([shape(GREEN, seed) for seed in range(3)], [shape(RED, 5), shape(BLUE, 6)])
    assert judged(one, *images) == [False, True, False, False]


def test_the_scale_is_set_by_distractors_and_by_the_photos_themselves(vit: Path) -> None:
    """0 is how alike others are to the most similar photo on average, and 1 how alike the photos are to each other."""
    one = by_colour(vit)
    photos = [shape(colour, seed) for seed, colour in enumerate([(200, 40, 40), (220, 90, 40), (200, 40, 90)])]
    others = [shape(GREEN, 5), shape(BLUE, 6)]
    one.set_object(photos, others)
    assert np.mean(one.likeness(others)) == pytest.approx(0, abs=1e-5)
    own, other = (mean_colour([masked_crop(*image) for image in images]) for images in (photos, others))
    alike = np.array([(own[i] @ np.delete(own, i, axis=0).T).max() for i in range(3)]).mean()
    zero = (other @ own.T).max(axis=1).mean()
    probe = shape((210, 60, 70), 8)
    cosine = (mean_colour([masked_crop(*probe)]) @ own.T).max()
    assert one.likeness([probe]) == [pytest.approx((cosine - zero) / (alike - zero), rel=1e-4)]
    (match,) = one.match([probe[0]])
    assert match.score == pytest.approx(one.likeness([probe])[0], rel=1e-4)


def test_a_single_photo_without_distractors_leaves_the_cosine_as_it_is(vit: Path) -> None:
    one = by_colour(vit)
    photo, probe = shape(RED, 0), shape(GREEN, 1)
    one.set_object([photo], [])
    cosine = float(np.prod([mean_colour([masked_crop(*image)])[0] for image in (photo, probe)], axis=0).sum())
    assert one.likeness([photo, probe]) == pytest.approx([1, cosine], abs=1e-5)


def test_distractors_that_are_just_as_alike_give_a_finite_scale(vit: Path) -> None:
    one = by_colour(vit, threshold=0.5)
    one.set_object([shape(RED, 0), shape(RED, 1)], [shape(RED, 2)])
    assert np.isfinite(one.likeness([shape(GREEN, 3), shape(RED, 4)])).all()
    assert judged(one, shape(RED, 4)[0], shape(GREEN, 3)[0]) == [False, False]  # nothing tells the two objects apart


def test_the_threshold_is_the_least_likeness_that_passes(vit: Path) -> None:
    for threshold, passes in ((0.49, True), (0.5, True), (0.51, False)):
        assert by_colour(vit, threshold=threshold).accepts(Match(0.5, None)) is passes
        assert not by_colour(vit, threshold=threshold).accepts(Match(None, None))
    everything = by_colour(vit, threshold=None)
    assert everything.accepts(Match(-9.0, None)) and everything.accepts(Match(None, None))


def test_other_objects_without_a_foreground_are_left_out(vit: Path) -> None:
    image, mask = shape(RED, 0)
    ((kept, found),) = by_colour(vit).masked([plain(), image])
    assert kept is image and np.array_equal(found, mask)


def test_with_a_backbone_and_its_own_masks(vit: Path) -> None:
    one = LikenessFilter(config(vit, threshold=0.5))
    one.set_object([shape(RED, seed) for seed in range(3)], [shape(GREEN, 5), shape(BLUE, 6)])
    image, truth = shape(RED, 9)
    matches = one.match([image, plain(), shape(GREEN, 8)[0]])
    assert [one.accepts(match) for match in matches] == [True, False, False]
    found = matches[0].mask
    assert found is not None and (found & truth).sum() > 0.9 * (found | truth).sum()


# -- what compares -----------------------------------------------------------------------------------------------------


def likeness(one: LikenessFilter) -> float:
    """The likeness of green to red, which is the cosine itself."""
    one.set_object([shape(RED, 0)], [])
    return one.likeness([shape(GREEN, 1)])[0]


def test_the_filter_may_have_another_backbone_than_the_run(vit: Path, tmp_path: Path) -> None:
    vits.save("clip_vision_model", tmp_path)
    as_the_run = likeness(LikenessFilter(config(tmp_path)))
    own = likeness(LikenessFilter(config(vit, backbone=str(tmp_path))))
    assert own == as_the_run != likeness(LikenessFilter(config(vit)))


def test_dreamsim_is_used_if_it_is_configured(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Model:
        def embed(self, images: torch.Tensor) -> torch.Tensor:
            assert images.shape[1:] == (3, 8, 8)
            return images.mean(dim=(2, 3)) * 5  # not of unit length

    def preprocess(image: Image.Image) -> torch.Tensor:
        pixels = np.asarray(image.resize((8, 8), Image.Resampling.BOX), np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1)[None]

    def dreamsim(**options: Any) -> tuple[Model, Callable[[Image.Image], torch.Tensor]]:
        asked.append(options)
        return Model(), preprocess

    module = ModuleType("dreamsim")
    module.dreamsim = dreamsim  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dreamsim", module)
    found = likeness(LikenessFilter(config(vit, metric="dreamsim")))
    assert asked == [{"pretrained": True, "device": "cpu"}]
    red, green = (masked_crop(*shape(colour, seed)).mean(axis=(0, 1)) for seed, colour in enumerate((RED, GREEN)))
    cosine = red @ green / np.linalg.norm(red) / np.linalg.norm(green)
    assert found == pytest.approx(cosine, abs=1e-3)


def test_a_cutout_is_small_and_gives_the_same_crop_as_its_photo(vit: Path) -> None:
    image = np.full((900, 1200, 3), 128, np.uint8)
    mask = np.zeros((900, 1200), np.bool_)
    mask[100:700, 500:800] = True
    image[mask] = RED
    part, covered = cut_out(image, mask)
    assert part.shape == (224, 112, 3) and covered.all() and (part == RED).all()
    assert np.abs(masked_crop(part, covered).astype(int) - masked_crop(image, mask)).mean() < 1
    speck = np.zeros((900, 1200), np.bool_)
    speck[5, 7] = True
    assert cut_out(image, speck)[1].tolist() == [[True]]
