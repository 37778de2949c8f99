"""A finder on made-up features: the object, a look-alike and the ground each have a direction of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from persrep_ray.tasks.dense import DensePrediction
from persrep_ray.tasks.find import SECOND_LOOKS, Finder, Sample, fit_finder, look
from persrep_ray.tasks.keypoints import GeometricMatch

GRID, WIDTH, SIDE = 12, 8, 240
COLOURS = {"ground": (90, 120, 90), "object": (220, 40, 40), "alike": (220, 140, 40)}
Block = tuple[int, int, int, int]  # top, left, height, width in patches


def sample(seed: int, objects: Sequence[Block] = (), alike: Sequence[Block] = ()) -> Sample:
    """An image of coloured blocks, whose patches have the directions of their colours, and noise."""
    random = np.random.default_rng(seed)
    image = np.full((SIDE, SIDE, 3), COLOURS["ground"], np.uint8)
    patches = random.normal(scale=0.1, size=(GRID, GRID, WIDTH)).astype(np.float32)
    patches[..., 0] += 1
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    step = SIDE // GRID
    for blocks, colour, direction in ((alike, "alike", (1, 0.5)), (objects, "object", (1, 1.0))):
        for top, left, height, width in blocks:
            inside = np.s_[top : top + height, left : left + width]
            patches[inside][..., direction[0]] += direction[1]
            pixels = np.s_[top * step : (top + height) * step, left * step : (left + width) * step]
            image[pixels] = COLOURS[colour]
            mask[pixels] = colour == "object"
    return Sample(image, patches, mask)


def recognise(images: Sequence[np.ndarray], cut_from: int | None = None) -> np.ndarray:
    """An image is as like the object as the colour of its middle, from 0.4 downwards."""
    colour = np.array(COLOURS["object"])
    thirds = [len(image) // 3 for image in images]
    middles = [image[third:-third, third:-third].mean(axis=(0, 1)) for image, third in zip(images, thirds, strict=True)]
    return np.array([0.4 - np.abs(middle - colour).max() / 100 for middle in middles])


def search(finder: Finder, one: Sample) -> DensePrediction:
    proposals = finder.propose(one.image, one.patches)
    crops = finder.crops(one.image, proposals)
    assert len(crops) <= SECOND_LOOKS
    return finder.decide(one.image, proposals, recognise(crops))


@pytest.fixture(scope="module")
def finder() -> Finder:
    photos = [sample(seed, [(3, 3, 5, 5)]) for seed in (0, 1)]
    positives = [sample(seed, [(seed % 5, seed % 6, 4, 5)], [(8, 8, 3, 3)]) for seed in range(2, 10)]
    negatives = [sample(seed, [], [(seed % 5, seed % 6, 4, 4)]) for seed in range(10, 18)]
    return fit_finder(photos, [*positives, *negatives], recognise)


def test_each_copy_is_an_instance_with_true_edges(finder: Finder) -> None:
    one = sample(50, [(1, 1, 4, 4), (7, 6, 4, 5)])
    found = search(finder, one)
    likely = [instance for instance in found.instances if instance.probability and instance.probability >= 0.5]
    assert len(likely) == 2
    np.testing.assert_allclose(
        sorted(tuple(one.box) for one in likely), [(20, 20, 80, 80), (120, 140, 100, 80)], atol=4
    )
    mask = found.mask()
    assert mask is not None and (mask & one.mask).sum() / (mask | one.mask).sum() > 0.95
    assert found.similarity.shape == (GRID, GRID) and np.abs(found.similarity).max() <= 1


def test_a_look_alike_ranks_below_the_object_and_is_not_it(finder: Finder) -> None:
    found = search(finder, sample(51, [(1, 1, 4, 4)], [(7, 6, 4, 5)]))
    np.testing.assert_allclose(found.instances[0].box, (20, 20, 80, 80), atol=4)
    assert [one.score for one in found.instances] == sorted((one.score for one in found.instances), reverse=True)
    alone = search(finder, sample(52, [], [(7, 6, 4, 5)]))
    assert alone.mask() is None


def test_nothing_there_is_an_empty_answer(finder: Finder) -> None:
    found = search(finder, sample(54))
    assert found.mask() is None


def test_a_single_photo_and_no_synthetic_image_are_enough() -> None:
    alone = fit_finder([sample(0, [(3, 3, 5, 5)])], [], recognise)
    found = search(alone, sample(55, [(1, 1, 4, 4)]))
    np.testing.assert_allclose(found.instances[0].box, [20, 20, 80, 80], atol=16)


class TestArrays:
    def test_they_make_the_same_finder(self, finder: Finder) -> None:
        again = Finder.from_arrays(finder.to_arrays(), WIDTH)
        assert again is not None and again.nbytes == finder.nbytes > 0
        for seed in (56, 57):
            one = sample(seed, [(1, 1, 4, 4)], [(7, 6, 4, 5)])
            for left, right in zip(search(finder, one).instances, search(again, one).instances, strict=True):
                np.testing.assert_array_equal(left.box, right.box)
                assert left.score == pytest.approx(right.score, abs=1e-5)

    def test_a_version_without_masks_has_none(self) -> None:
        assert Finder.from_arrays({"cls": np.ones((2, WIDTH), np.float32)}, WIDTH) is None

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("discriminant.direction", np.ones(3, np.float32), r"discriminant.direction is float32 \(3,\)"),
            ("discriminant.origin", None, "discriminant.origin is missing"),
            ("discriminant.cut", np.array([np.nan], np.float32), "discriminant.cut has a value that is not a finite"),
            ("find.appearance", np.ones((0, WIDTH), np.float32), "find.appearance is float32"),
            ("find.appearance", np.ones((900, WIDTH), np.float32), "more than 8 rows"),
            ("find.appearance", np.full((2, WIDTH), 1e30, np.float32), "find.appearance has a value that is not a"),
            ("find.weights", np.ones(4, np.int32), "find.weights is int32"),
        ],
    )
    def test_damaged_ones_are_refused(self, finder: Finder, name: str, value: np.ndarray | None, message: str) -> None:
        arrays = {key: array for key, array in finder.to_arrays().items() if key != name}
        if value is not None:
            arrays[name] = value
        with pytest.raises(ValueError, match=message):
            Finder.from_arrays(arrays, WIDTH)


def match(box: Block, score: float) -> GeometricMatch:
    left, top, width, height = box
    corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    return GeometricMatch(np.array(corners, np.float32), np.array(box, np.int32), 20, 0.9, score, 0)


class TestGeometry:
    """Keypoints that agree make a place more probable; a few that do not suffice never make it less so."""

    @pytest.mark.parametrize("score", [5.0, 8.0, 15.9])
    def test_few_keypoints_never_count_against_the_object(self, finder: Finder, score: float) -> None:
        one = sample(60, [(1, 1, 4, 4)])
        alone = search(finder, one).instances[0].score
        proposals = finder.propose(one.image, one.patches, [match((20, 20, 80, 80), score)])
        best = finder.decide(one.image, proposals, recognise(finder.crops(one.image, proposals))).instances[0]
        np.testing.assert_allclose(best.box, (20, 20, 80, 80), atol=2)
        assert best.score > min(alone, 0.5)

    def test_many_find_what_the_patches_do_not_see(self, finder: Finder) -> None:
        one = sample(61)
        proposals = finder.propose(one.image, one.patches, [match((100, 100, 60, 60), 100.0)])
        best = finder.decide(one.image, proposals, recognise(finder.crops(one.image, proposals))).instances[0]
        np.testing.assert_allclose(best.box, (100, 100, 60, 60), atol=2)
        assert best.probability is not None and best.probability > 0.9


def test_what_only_its_patches_take_for_the_object_fails_the_second_look(finder: Finder) -> None:
    one = sample(62, [(1, 1, 4, 4)])
    proposals = finder.propose(one.image, one.patches)
    looks = recognise(finder.crops(one.image, proposals))
    assert finder.decide(one.image, proposals, looks).mask() is not None
    assert finder.decide(one.image, proposals, looks - 0.8).mask() is None


def test_features_that_do_not_fit_are_refused(finder: Finder) -> None:
    one = sample(58, [(1, 1, 4, 4)])
    with pytest.raises(ValueError, match="the discriminant 8"):
        finder.propose(one.image, one.patches[..., :3])
    proposals = finder.propose(one.image, one.patches)
    with pytest.raises(ValueError, match="second look are not finite"):
        finder.decide(one.image, proposals, np.full(1, np.nan))


def test_a_look_shows_the_object_in_its_middle_whatever_lies_outside() -> None:
    image = np.arange(100 * 80 * 3, dtype=np.uint32).reshape(100, 80, 3).astype(np.uint8)
    mask = np.zeros((50, 40), dtype=bool)
    mask[0:10, 0:6] = True  # in the corner; the mask has half the pixels
    crop = look(image, mask)
    assert crop.shape == (28, 28, 3)
    middle = image[10, 6]
    assert (np.abs(crop.astype(int) - middle).sum(axis=2) == 0)[12:17, 12:17].any()
