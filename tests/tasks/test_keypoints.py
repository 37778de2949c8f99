from __future__ import annotations

import cv2
import numpy as np
import pytest

from persrep_ray.tasks.keypoints import MOST_KEYPOINTS, MOST_PHOTOS, KeypointModel, describe

WIDTH, HEIGHT = 140, 200


def print_of(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A printed surface: coloured shapes of many sizes."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), rng.integers(60, 200, 3), np.uint8)
    for _ in range(height * width // 200):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        axes = (int(rng.integers(2, 14)), int(rng.integers(2, 9)))
        cv2.ellipse(image, centre, axes, int(rng.integers(0, 180)), 0, 360, colour, cv2.FILLED)
    return cv2.GaussianBlur(image, (0, 0), 0.8)


def scene_with(*placed: tuple[np.ndarray, np.ndarray], size: tuple[int, int] = (420, 640)) -> np.ndarray:
    """A plain wall with photos, each laid onto it by an affine map (2, 3)."""
    scene = np.full((*size, 3), 127, np.uint8)
    for photo, where in placed:
        cv2.warpAffine(photo, where, size[::-1], scene, cv2.INTER_AREA, cv2.BORDER_TRANSPARENT)
    return scene


def at(x: float, y: float, zoom: float = 1.0, degrees: float = 0.0) -> np.ndarray:
    turn = cv2.getRotationMatrix2D((0, 0), degrees, zoom)
    return turn + np.array([[0, 0, x], [0, 0, y]])


def model_of(*photos: np.ndarray, **options: object) -> KeypointModel:
    return KeypointModel.fit(photos, [None] * len(photos), **options)  # type: ignore[arg-type]


def test_it_finds_every_copy_with_its_outline() -> None:
    photo = print_of(0)
    scene = scene_with((photo, at(30, 40)), (photo, at(250, 100, 1.4)), (photo, at(500, 390, 0.8, 120)))
    found = sorted(model_of(photo).find(describe(scene)), key=lambda match: float(match.outline[:, 0].min()))
    assert len(found) == 3
    corners = np.array([[0, 0, 1], [WIDTH, 0, 1], [WIDTH, HEIGHT, 1], [0, HEIGHT, 1]])
    for match, where in zip(found, (at(30, 40), at(250, 100, 1.4), at(500, 390, 0.8, 120)), strict=True):
        np.testing.assert_allclose(match.outline, corners @ where.T, atol=3)
        assert match.correlation > 0.9
    assert found[0].box == pytest.approx([30, 40, WIDTH, HEIGHT], abs=3)
    assert found[0].mask(scene.shape[:2]).sum() == pytest.approx(WIDTH * HEIGHT, rel=0.03)


def test_the_outline_is_that_of_the_mask_whatever_its_shape() -> None:
    photo, mask = print_of(1), np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(mask, (70, 90), (50, 80), 20, 0, 360, 1, cv2.FILLED)
    scene = scene_with((photo, at(200, 60, 1.2)))
    (found,) = KeypointModel.fit([photo], [mask.astype(bool)]).find(describe(scene))
    truth = cv2.warpAffine(mask, at(200, 60, 1.2), (640, 420)).astype(bool)
    mask_found = found.mask((420, 640))
    assert (mask_found & truth).sum() / (mask_found | truth).sum() > 0.95


def test_an_instance_cut_by_the_border_has_the_box_of_the_part_that_is_seen() -> None:
    photo = print_of(2)
    (found,) = model_of(photo).find(describe(scene_with((photo, at(-60, 100, 1.2)))))
    assert found.box == pytest.approx([0, 100, WIDTH * 1.2 - 60, HEIGHT * 1.2], abs=4)
    assert found.outline[:, 0].min() == pytest.approx(-60, abs=4)


def test_it_is_found_in_perspective() -> None:
    photo = print_of(3)
    corners = np.float32([[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]])
    seen = np.float32([[200, 60], [360, 100], [355, 310], [205, 380]])
    scene = cv2.warpPerspective(photo, cv2.getPerspectiveTransform(corners, seen), (640, 420))
    (found,) = model_of(photo).find(describe(scene))
    np.testing.assert_allclose(found.outline, seen, atol=4)


def test_what_is_not_there_is_not_found() -> None:
    assert model_of(print_of(4)).find(describe(scene_with((print_of(5), at(30, 40)), (print_of(6), at(300, 40))))) == []


def test_plain_things_have_no_keypoints_and_are_not_found() -> None:
    plain = np.full((90, 60, 3), 130, np.uint8)
    model = model_of(plain)
    assert len(model) == 0
    assert model.find(describe(scene_with((print_of(5), at(30, 40))))) == []
    assert model_of(print_of(5)).find(describe(plain)) == []
    assert KeypointModel.from_arrays(model.to_arrays()).find(describe(plain)) == []


@pytest.fixture(scope="module")
def products() -> tuple[np.ndarray, np.ndarray]:
    """Two products that share the upper half of their prints."""
    logo = print_of(7, 100)
    return np.concatenate([logo, print_of(8, 100)]), np.concatenate([logo, print_of(9, 100)])


class TestLogo:
    def test_the_photo_laid_into_the_image_tells_them_apart(self, products: tuple[np.ndarray, np.ndarray]) -> None:
        scene = describe(scene_with((products[0], at(30, 40)), (products[1], at(300, 40))))
        right, wrong = sorted(model_of(products[0]).find(scene), key=lambda match: int(match.box[0]))
        assert right.correlation > 0.9
        assert wrong.correlation < 0.7
        assert right.score > 2 * wrong.score

    def test_what_other_objects_have_too_hardly_counts(self, products: tuple[np.ndarray, np.ndarray]) -> None:
        scene = describe(scene_with((products[1], at(300, 40))))
        (before,) = model_of(products[0]).find(scene)
        (after,) = model_of(products[0], others=[[describe(products[1])]]).find(scene)
        assert after.score < 0.5 * before.score

    def test_what_is_on_several_photos_of_the_object_counts_more(self) -> None:
        carton = print_of(10)
        photos = [scene_with((print_of(20 + i), at(0, 0)), (carton, at(150, 20)), size=(220, 300)) for i in range(2)]
        model = model_of(*photos)
        (on_shelf,) = model.find(describe(scene_with((carton, at(100, 100)))))
        (background,) = model.find(describe(scene_with((print_of(20), at(100, 100)))))
        assert on_shelf.score / on_shelf.inliers > 1.3 * background.score / background.inliers


def test_arrays_make_the_same_model() -> None:
    model = model_of(print_of(0), print_of(1))
    again = KeypointModel.from_arrays(model.to_arrays())
    scene = describe(scene_with((print_of(0), at(30, 40)), (print_of(1), at(300, 40, 1, 30))))
    one, two = model.find(scene), again.find(scene)
    assert [match.photo for match in one] == [match.photo for match in two] and len(one) == 2
    for left, right in zip(one, two, strict=True):
        np.testing.assert_allclose(left.outline, right.outline, atol=0.5)


def test_the_model_is_small_however_many_photos_there_are() -> None:
    photos = [print_of(seed, 40, 40) for seed in range(7)]
    arrays = model_of(*photos).to_arrays()
    assert len(arrays["counts"]) == MOST_PHOTOS
    assert arrays["counts"].sum() <= MOST_KEYPOINTS
    assert sum(array.nbytes for array in model_of(print_of(0, 512, 512)).to_arrays().values()) < 150_000


def test_the_same_images_give_the_same_result() -> None:
    photo, scene = print_of(0), scene_with((print_of(0), at(30, 40, 1, 10)), (print_of(0), at(300, 40)))
    results = []
    for seed in (1, 2):
        cv2.setRNGSeed(seed)
        results.append(np.stack([match.outline for match in model_of(photo).find(describe(scene))]))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (700, 2), (3, 3)])
def test_images_of_any_size_are_described(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    model_of(print_of(0)).find(describe(image))
    model_of(image).find(describe(print_of(0)))


@pytest.mark.parametrize(
    ("photos", "masks"),
    [
        ([], []),
        ([print_of(0)], []),
        ([print_of(0)], [np.zeros((HEIGHT, WIDTH), bool)]),
        ([print_of(0)], [np.ones((HEIGHT, WIDTH + 1), bool)]),
    ],
)
def test_photos_and_masks_that_do_not_fit_are_refused(photos: list[np.ndarray], masks: list[np.ndarray | None]) -> None:
    with pytest.raises(ValueError, match="mask"):
        KeypointModel.fit(photos, masks)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return model_of(print_of(0), print_of(1)).to_arrays()


class TestHostileArrays:
    def test_each_array_is_needed(self, arrays: dict[str, np.ndarray]) -> None:
        for name in arrays:
            with pytest.raises(ValueError, match=rf"keypoints\.{name}"):
                KeypointModel.from_arrays({other: array for other, array in arrays.items() if other != name})

    @pytest.mark.parametrize("name", ["points", "scales", "angles", "weights", "outlines"])
    @pytest.mark.parametrize("value", [np.nan, np.inf, -20])
    def test_values_out_of_range(self, arrays: dict[str, np.ndarray], name: str, value: float) -> None:
        bad = arrays[name].copy()
        bad.flat[-1] = value
        with pytest.raises(ValueError, match=rf"keypoints\.{name}"):
            KeypointModel.from_arrays({**arrays, name: bad})

    @pytest.mark.parametrize(
        ("name", "bad"),
        [
            ("counts", np.array([-1, 5], np.int32)),
            ("counts", np.array([2**30, 2**30], np.int32)),
            ("counts", np.array([], np.int32)),
            ("counts", np.array(7, np.int32)),
            ("corners", np.array([2, 6], np.int32)),
            ("corners", np.array([8], np.int32)),
            ("descriptors", np.zeros((3, 128), np.uint8)),
            ("descriptors", np.zeros((3, 127), np.float32)),
            ("outlines", np.zeros((8, 2), np.float32)),  # no extent
            ("thumbnails", np.zeros((2, 31, 32, 3), np.uint8)),
        ],
    )
    def test_shapes_and_counts(self, arrays: dict[str, np.ndarray], name: str, bad: np.ndarray) -> None:
        with pytest.raises(ValueError, match="keypoints"):
            KeypointModel.from_arrays({**arrays, name: bad})
