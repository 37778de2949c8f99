from __future__ import annotations

import numpy as np
import pytest

from persrep_ray.tasks.dense import (
    DensePrediction,
    DenseReference,
    Instance,
    bounding_box,
    coco_metrics,
    crop,
    largest_component,
    make_reference,
    predict,
)

GRID = 12
OBJECT, BACKGROUND = 0, 1  # one-hot features


def grid_with(*blocks: tuple[int, int, int, int], rows: int = GRID, columns: int = GRID) -> np.ndarray:
    """Patches (rows, columns, 3) of background, with the object in blocks (top, left, height, width) of the grid."""
    patches = np.zeros((rows, columns, 3), dtype=np.float32)
    patches[..., BACKGROUND] = 2.0
    for top, left, height, width in blocks:
        patches[top : top + height, left : left + width] = (5.0, 0.0, 0.0)
    return patches


def mask_with(*blocks: tuple[int, int, int, int], scale: int = 10, size: tuple[int, int] = (120, 120)) -> np.ndarray:
    """A mask (H, W) bool that is set in blocks, given in cells of `scale` pixels."""
    mask = np.zeros(size, dtype=bool)
    for block in blocks:
        top, left, height, width = (scale * value for value in block)
        mask[top : top + height, left : left + width] = True
    return mask


def iou(left: np.ndarray, right: np.ndarray) -> float:
    return float((left & right).sum() / (left | right).sum())


class TestReference:
    def test_the_target_is_half_maximum_and_half_mean_under_the_mask(self) -> None:
        patches = grid_with((2, 3, 1, 1))
        mask = mask_with((2, 3, 1, 4))  # one object patch, three background patches
        target = make_reference([patches], [mask]).target
        expected = np.array([1 / 2 + 1 / 8, 1 / 2 + 3 / 8, 0.0])
        np.testing.assert_allclose(target, expected / np.linalg.norm(expected), atol=1e-6)

    def test_the_target_comes_from_the_first_photo_only(self) -> None:
        patches, mask = grid_with((2, 3, 4, 4)), mask_with((2, 3, 4, 4))
        other = grid_with()
        reference = make_reference([patches, other], [mask, mask])
        np.testing.assert_allclose(reference.target, [1.0, 0.0, 0.0], atol=1e-6)
        np.testing.assert_allclose(reference.box_means, [[1, 0, 0], [0, 1, 0]], atol=1e-6)

    def test_the_box_mean_includes_the_background_inside_the_box(self) -> None:
        ell = ((2, 2, 4, 1), (5, 2, 1, 4))  # 7 of the 16 patches of its box
        reference = make_reference([grid_with(*ell)], [mask_with(*ell)])
        np.testing.assert_allclose(reference.target, [1.0, 0.0, 0.0], atol=1e-6)
        np.testing.assert_allclose(reference.box_means, [[7 / 16, 9 / 16, 0.0]], atol=1e-6)

    def test_a_mask_between_patch_centres_takes_the_patch_it_covers_most(self) -> None:
        mask = np.zeros((120, 120), dtype=bool)
        mask[20:23, 30:33] = True  # it lies in the corner of patch (2, 3), far from its centre
        reference = make_reference([grid_with((2, 3, 1, 1))], [mask])
        np.testing.assert_allclose(reference.target, [1.0, 0.0, 0.0], atol=1e-6)
        np.testing.assert_allclose(reference.box_means, [[1.0, 0.0, 0.0]], atol=1e-6)

    def test_photos_may_differ_in_size_and_shape(self) -> None:
        mask = mask_with((2, 3, 4, 4))
        reference = make_reference([grid_with((2, 3, 4, 4))] * 2, [mask, np.repeat(mask, 2, axis=1)])
        np.testing.assert_allclose(reference.box_means, [[1, 0, 0], [1, 0, 0]], atol=1e-6)

    def test_bad_input_is_named(self) -> None:
        patches, mask = grid_with((2, 3, 4, 4)), mask_with((2, 3, 4, 4))
        with pytest.raises(ValueError, match="got 0 and 0"):
            make_reference([], [])
        with pytest.raises(ValueError, match="got 2 and 1"):
            make_reference([patches, patches], [mask])
        with pytest.raises(ValueError, match="mask of train photo 1 is empty"):
            make_reference([patches, patches], [mask, np.zeros_like(mask)])
        with pytest.raises(ValueError, match=r"train photo 0 must be .*, got shape \(12, 3\)"):
            make_reference([patches[0]], [mask])
        with pytest.raises(ValueError, match="train photo 0 have a value that is not finite"):
            make_reference([patches * np.nan], [mask])
        with pytest.raises(ValueError, match="train photo 1 have 2 dimensions, patches of train photo 0 3"):
            make_reference([patches, patches[..., :2]], [mask, mask])


def the_only(prediction: DensePrediction) -> Instance:
    (instance,) = prediction.instances
    return instance


class TestPredict:
    reference = make_reference([grid_with((2, 3, 4, 4))], [mask_with((2, 3, 4, 4))])

    def test_it_finds_the_object_with_a_score_of_one(self) -> None:
        prediction = predict(self.reference, grid_with((6, 5, 4, 5)), (120, 120))
        found, mask = the_only(prediction), prediction.mask()
        assert mask is not None and mask.shape == (120, 120) and mask.dtype == bool
        assert iou(mask, mask_with((6, 5, 4, 5))) > 0.9
        np.testing.assert_allclose(found.box, [50, 60, 50, 40], atol=2)
        assert found.score == pytest.approx(1.0) and found.probability is None
        np.testing.assert_allclose(prediction.similarity, mask_with((6, 5, 4, 5), scale=1, size=(12, 12)), atol=1e-6)

    def test_it_maps_back_to_a_photo_that_is_not_square(self) -> None:
        prediction = predict(self.reference, grid_with((6, 5, 4, 5)), (120, 360))
        assert prediction.size == (120, 360)
        np.testing.assert_allclose(the_only(prediction).box, [150, 60, 150, 40], atol=6)

    def test_the_score_is_the_best_over_the_train_photos(self) -> None:
        # Like the box of the second train photo, the box of the prediction holds 7 object patches of 16.
        ell = ((2, 2, 4, 1), (5, 2, 1, 4))
        whole = make_reference([grid_with((2, 3, 4, 4))], [mask_with((2, 3, 4, 4))])
        with_ell = make_reference(
            [grid_with((2, 3, 4, 4)), grid_with(*ell)], [mask_with((2, 3, 4, 4)), mask_with(*ell)]
        )
        photo = grid_with(*ell)
        assert the_only(predict(whole, photo, (120, 120))).score == pytest.approx(7 / np.hypot(7, 9), abs=1e-6)
        assert the_only(predict(with_ell, photo, (120, 120))).score == pytest.approx(1.0)

    def test_the_mask_is_the_largest_component_and_the_box_surrounds_all(self) -> None:
        prediction = predict(self.reference, grid_with((1, 1, 3, 3), (7, 6, 4, 4)), (120, 120))
        mask = prediction.mask()
        assert mask is not None and iou(mask, mask_with((7, 6, 4, 4))) > 0.9
        np.testing.assert_allclose(the_only(prediction).box, [10, 10, 90, 100], atol=2)

    def test_components_below_100_pixels_are_dropped(self) -> None:
        # A patch is 5 x 5 pixels on the small photo and 25 x 25 on the large photo.
        assert predict(self.reference, grid_with((4, 4, 1, 1)), (60, 60)).instances == ()
        assert predict(self.reference, grid_with((4, 4, 1, 1)), (300, 300)).mask() is not None

    def test_nothing_found_is_no_instance(self) -> None:
        prediction = predict(self.reference, grid_with(), (120, 120))
        assert prediction.instances == () and prediction.mask() is None
        assert prediction.similarity.shape == (GRID, GRID)

    def test_the_length_of_features_does_not_matter(self) -> None:
        photo = grid_with((6, 5, 4, 5))
        lengths = np.random.default_rng(0).uniform(0.1, 9, size=(GRID, GRID, 1)).astype(np.float32)
        plain, scaled = (predict(self.reference, patches, (120, 120)) for patches in (photo, photo * lengths))
        np.testing.assert_array_equal(plain.mask(), scaled.mask())
        assert the_only(plain).score == pytest.approx(the_only(scaled).score)

    def test_the_grid_need_not_be_square(self) -> None:
        patches = grid_with((2, 10, 4, 5), rows=8, columns=20)
        prediction = predict(self.reference, patches, (80, 200))
        np.testing.assert_allclose(the_only(prediction).box, [100, 20, 50, 40], atol=2)

    def test_features_of_another_backbone_are_refused(self) -> None:
        with pytest.raises(ValueError, match="patches of the photo have 2 dimensions, the reference 3"):
            predict(self.reference, grid_with()[..., :2], (120, 120))


def found(mask: np.ndarray, score: float, box: np.ndarray | None = None) -> DensePrediction:
    """One instance, in the box of its mask if no other is given."""
    box = bounding_box(mask) if box is None else box
    assert box is not None
    similarity = np.zeros((GRID, GRID), dtype=np.float32)
    return DensePrediction((Instance(box, crop(mask, box), score),), similarity, mask.shape)


class TestPrediction:
    def test_its_mask_is_that_of_the_probable_instances(self) -> None:
        left, right = mask_with((0, 0, 2, 2)), mask_with((4, 4, 5, 5))
        instances = [
            Instance(box, crop(mask, box), 0.5, probability)
            for mask, probability in ((left, 0.7), (right, 0.4))
            if (box := bounding_box(mask)) is not None
        ]
        prediction = DensePrediction(tuple(instances), np.zeros((1, 1), np.float32), (120, 120))
        np.testing.assert_array_equal(prediction.mask(), left)
        np.testing.assert_array_equal(prediction.mask(least=0.3), left | right)
        assert prediction.mask(least=0.8) is None


class TestCocoMetrics:
    truth = mask_with((2, 3, 4, 4))
    nothing = DensePrediction((), np.zeros((GRID, GRID), dtype=np.float32), (120, 120))

    def test_perfect_is_one(self) -> None:
        metrics = coco_metrics([found(self.truth, 0.4), self.nothing], [[self.truth], []])
        assert metrics == {task: {"map": 1.0, "map50": 1.0, "f1": 1.0} for task in ("detection", "segmentation")}

    def test_several_copies_on_a_photo(self) -> None:
        other = mask_with((7, 7, 4, 4))
        both = DensePrediction(
            (*found(other, 0.9).instances, *found(self.truth, 0.8).instances), np.zeros((1, 1), np.float32), (120, 120)
        )
        metrics = coco_metrics([both], [[self.truth, other]])
        assert metrics["detection"]["map"] == metrics["segmentation"]["map"] == 1.0
        metrics = coco_metrics([found(self.truth, 0.8)], [[self.truth, other]])
        assert metrics["detection"]["map50"] == metrics["segmentation"]["map50"] == pytest.approx(51 / 101)

    def test_a_distractor_that_outranks_halves_map(self) -> None:
        distractor = np.ones((50, 40), dtype=bool)  # on a photo of another size; as large as the truth
        metrics = coco_metrics([found(self.truth, 0.4), found(distractor, 0.5)], [[self.truth], []])
        for task in metrics.values():
            assert [task["map"], task["map50"]] == pytest.approx([0.5, 0.5])

    def test_boxes_and_masks_are_scored_apart(self) -> None:
        ring = self.truth.copy()
        ring[30:60, 40:70] = False  # 700 of 1,600 pixels remain in the same box; the truth has no hole
        metrics = coco_metrics([found(ring, 0.4)], [[self.truth]])
        assert metrics["detection"]["map"] == 1.0
        assert metrics["segmentation"]["map"] == 0.0

    def test_the_true_box_surrounds_the_whole_mask_and_the_true_mask_is_its_largest_part(self) -> None:
        truth = mask_with((1, 1, 2, 2), (5, 5, 4, 4))
        whole = np.array([10, 10, 80, 80], dtype=np.int32)
        metrics = coco_metrics([found(mask_with((5, 5, 4, 4)), 0.4, whole)], [[truth]])
        assert metrics["detection"]["map"] == metrics["segmentation"]["map"] == 1.0

    def test_bad_input_is_named(self) -> None:
        with pytest.raises(ValueError, match="1 predictions for 2 ground truths"):
            coco_metrics([self.nothing], [[self.truth], []])
        with pytest.raises(ValueError, match=r"photo 0: prediction of size \(2, 2\), ground truth \(120, 120\)"):
            coco_metrics([found(np.ones((2, 2), dtype=bool), 0.4)], [[self.truth]])
        with pytest.raises(ValueError, match="photo 0: the ground truth mask is empty"):
            coco_metrics([self.nothing], [[np.zeros((120, 120), dtype=bool)]])
        with pytest.raises(ValueError, match="no photo has a ground truth"):
            coco_metrics([self.nothing], [[]])


def test_from_reference_to_metrics() -> None:
    reference = make_reference([grid_with((2, 3, 4, 4))] * 3, [mask_with((2, 3, 4, 4))] * 3)
    assert isinstance(reference, DenseReference)
    blocks = [(1, 1, 5, 5), (4, 2, 6, 6), (0, 6, 7, 5)]
    predictions = [predict(reference, grid_with(block), (240, 240)) for block in blocks]
    truths = [[mask_with(block, scale=20, size=(240, 240))] for block in blocks]
    metrics = coco_metrics(predictions, truths)
    for task in metrics.values():
        assert task["map50"] == 1.0
        assert task["map"] > 0.85


def test_bounding_box() -> None:
    mask = np.zeros((8, 9), dtype=bool)
    assert bounding_box(mask) is None
    mask[3, 4] = True
    np.testing.assert_array_equal(bounding_box(mask), [4, 3, 1, 1])
    mask[7, 0] = True
    np.testing.assert_array_equal(bounding_box(mask), [0, 3, 5, 5])


def test_the_largest_component_stays_and_its_holes_are_filled() -> None:
    mask = mask_with((0, 0, 2, 2), (4, 4, 5, 5))
    mask[60:70, 60:70] = False
    np.testing.assert_array_equal(largest_component(mask), mask_with((4, 4, 5, 5)))
    np.testing.assert_array_equal(largest_component(np.zeros((5, 6), dtype=bool)), np.zeros((5, 6), dtype=bool))
