"""How images are sampled; test_object_fine_tuner.py tests the fine-tuning that comes before."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import vits
from helpers.dreams import Recorded, Run, left_half
from helpers.text_to_image import SIDE, model, personalize
from helpers.tiny import COLOURS, shape
from numpy.typing import NDArray

from persrep_ray.config import BackboneConfig, SamplingConfig
from persrep_ray.data.images import encode_png
from persrep_ray.generate.dreambooth.diffusion.loading import DiffusionError
from persrep_ray.generate.dreambooth.diffusion.model import DiffusionModel
from persrep_ray.generate.dreambooth.diffusion.sampling import Sampler, Shot
from persrep_ray.generate.dreambooth.object_sampler import ObjectSampler
from persrep_ray.generate.types import Chunk, Role, SyntheticImage
from persrep_ray.storage.store import NotFoundError

Base = Callable[[str], Path]


def in_turn(*scores: float | None) -> Callable[[NDArray[np.uint8]], float | None]:
    """The scores of images, in the order in which they are compared."""
    rest = iter(scores)
    return lambda _: next(rest)


def by_content(image: NDArray[np.uint8]) -> float:
    """Rejects about half of the images, always the same ones."""
    return float(image.astype(int).sum() % 100) / 100


@pytest.fixture(scope="module")
def learned(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with an object's weights, different for each object."""
    root = tmp_path_factory.mktemp("learned")
    one = model(base("sd"))
    for seed, name in enumerate(COLOURS):
        personalize(one, seed)
        one.save(root / name)
    return lambda name: root / name


@pytest.fixture
def run(tmp_path: Path, base: Base, learned: Callable[[str], Path]) -> Callable[..., Run]:
    return lambda *names, **changes: Run(tmp_path, base, learned, *names, **changes)


def chunk(object_id: str = "red", role: Role = "positive", start: int = 0, count: int = 3) -> Chunk:
    return Chunk(object_id, role, start, count, 7, "dreambooth")


def images_of(sampler: ObjectSampler, chunk: Chunk) -> list[SyntheticImage]:
    return sampler.sample(chunk)[0]


def same(left: Sequence[SyntheticImage], right: Sequence[SyntheticImage]) -> bool:
    def fields(one: SyntheticImage) -> dict[str, Any]:
        return {**vars(one), "image": one.image.tobytes(), "mask": one.mask.tobytes()}

    return [fields(one) for one in left] == [fields(one) for one in right]


def drawn(one: DiffusionModel, image: SyntheticImage, guidance: float) -> NDArray[np.uint8]:
    (pixels,) = Sampler(one, SamplingConfig(steps=1), print).draw([Shot(image.prompt or "", image.seed, guidance)])
    return pixels


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_positives_show_the_object_of_their_prompts(run: Callable[..., Run], learned: Callable[[str], Path]) -> None:
    world = run(sampling={"guidance": (4.0,)})
    images = images_of(world.dreams(), chunk())
    one = model(Path(world.config.generate.dreambooth.base))
    one.load(learned("red"))
    for image in images:
        assert np.array_equal(image.image, drawn(one, image, 4.0))
        assert (image.object_id, image.role, image.generator) == ("red", "positive", "dreambooth")
        assert (image.source_id, image.source_photo, image.score) == ("red", None, 1.0)
        assert image.prompt in world.prompts.positives("red", "mug") and "<new1>" in image.prompt.split()
        assert np.array_equal(image.mask, left_half(image.image))
    assert len({image.seed for image in images}) == len({image.prompt for image in images}) == 3


def test_negatives_are_drawn_by_the_untouched_model(run: Callable[..., Run]) -> None:
    world = run(sampling={"guidance": (4.0,)})
    dreams = world.dreams()
    before = images_of(dreams, chunk(role="negative"))
    images_of(dreams, chunk())  # now an object's weights are in
    images = images_of(dreams, chunk(role="negative"))
    assert same(before, images)
    untouched = model(Path(world.config.generate.dreambooth.base))
    for image in images:
        assert np.array_equal(image.image, drawn(untouched, image, 4.0))
        assert (image.object_id, image.role, image.generator) == ("red", "negative", "dreambooth")
        assert (image.source_id, image.source_photo, image.score) == ("mug", None, None)
        assert image.prompt in world.prompts.negatives("mug") and "<new1>" not in image.prompt
        assert not image.mask.any()
    assert dreams.sample(chunk(role="negative"))[1].candidates == {}, "negatives are not filtered"


def test_it_does_not_matter_where_chunks_are_cut(run: Callable[..., Run]) -> None:
    world = run()
    whole = images_of(world.dreams(by_content), chunk(count=6))
    assert 0 < len(whole) <= 6
    dreams = world.dreams(by_content)
    parts = {
        (start, count): images_of(dreams, chunk(start=start, count=count)) for start, count in ((4, 2), (0, 1), (1, 3))
    }
    assert same(whole, [*parts[0, 1], *parts[1, 3], *parts[4, 2]])
    negatives = images_of(dreams, chunk(role="negative", count=4))
    late, early = (images_of(dreams, chunk(role="negative", start=start, count=2)) for start in (2, 0))
    assert same(negatives, [*early, *late])
    assert images_of(dreams, chunk(count=0)) == [] == images_of(dreams, chunk(role="negative", count=0))


def test_each_object_is_drawn_with_its_weights_in_any_order(run: Callable[..., Run]) -> None:
    world = run("red", "green")
    alone = {name: images_of(world.dreams(), chunk(name, count=2)) for name in ("red", "green")}
    dreams = world.dreams()
    for name in ("green", "red", "red", "green"):
        images_of(dreams, chunk("red", "negative", count=1))
        assert same(images_of(dreams, chunk(name, count=2)), alone[name])
    # The seeds differ, too, so the same shot is drawn for both.
    shot = [Shot("a photo of <new1> mug", 1, 4.0)]
    drawn_images = []
    for name in ("red", "green"):
        images_of(dreams, chunk(name, count=1))
        drawn_images.append(dreams._sampler.draw(shot)[0])
    assert not np.array_equal(*drawn_images)


def test_all_prompts_are_used_before_any_is_repeated(run: Callable[..., Run]) -> None:
    world = run("red", "green")
    dreams = world.dreams()
    dreams._sampler = Recorded(dreams._sampler, np.zeros((SIDE, SIDE, 3), np.uint8))  # type: ignore[assignment]
    prompts = world.prompts.positives("red", "mug")
    orders = {}
    for name in ("red", "green"):
        images = images_of(dreams, chunk(name, count=2 * len(prompts)))
        orders[name] = [image.prompt for image in images]
        assert sorted(orders[name][: len(prompts)]) == sorted(prompts)
        assert orders[name][len(prompts) :] == orders[name][: len(prompts)]
    assert orders["red"] != orders["green"]
    guidances = Counter(shot.guidance for shots in dreams._sampler.asked for shot in shots)  # type: ignore[attr-defined]
    assert set(guidances) == {4.0, 7.5} and min(guidances.values()) > 0.3 * guidances.total()


@pytest.mark.parametrize(("size", "sampled"), [(32, 64), (96, 64), (64, 64)])
def test_images_have_the_size_of_the_run_and_masks_stay_aligned(
    run: Callable[..., Run], size: int, sampled: int
) -> None:
    dreams = run("red", image_size=size, sampling={"size": sampled}).dreams()
    pixels = np.zeros((sampled, sampled, 3), np.uint8)
    pixels[left_half(pixels)] = 250
    dreams._sampler = Recorded(dreams._sampler, pixels)  # type: ignore[assignment]
    (image,) = images_of(dreams, chunk(count=1))
    assert image.image.shape == (size, size, 3) and image.image.dtype == np.uint8
    assert image.mask.shape == (size, size) and image.mask.dtype == np.bool_
    assert np.array_equal(image.mask, image.image[..., 0] > 125)
    (negative,) = images_of(dreams, chunk(role="negative", count=1))
    assert negative.image.shape == (size, size, 3) and negative.mask.shape == (size, size)


# -- the filter --------------------------------------------------------------------------------------------------------


def test_rejected_images_are_drawn_again_up_to_max_tries(run: Callable[..., Run]) -> None:
    dreams = run("red", filter={"max_tries": 3}).dreams(in_turn(0.1, 0.9, None, 0.8, 0.2, 0.3))
    recorded = dreams._sampler = Recorded(dreams._sampler)  # type: ignore[assignment]
    images, report = dreams.sample(chunk(start=5, count=3))
    assert [len(shots) for shots in recorded.asked] == [3, 2, 1]
    shots = [shot for part in recorded.asked for shot in part]
    assert len({shot.seed for shot in shots}) == 6
    assert [image.seed for image in images] == [recorded.asked[1][0].seed, recorded.asked[0][1].seed]  # in order
    assert [image.score for image in images] == [0.8, 0.9]
    assert [image.prompt for image in images] == [recorded.asked[1][0].prompt, recorded.asked[0][1].prompt]
    assert all("<new1>" in shot.prompt for shot in shots)
    rejected = [shots[0], shots[2], shots[4], shots[5]]
    assert report.candidates == Counter(shot.prompt for shot in shots)
    assert report.rejected == Counter(shot.prompt for shot in rejected)
    assert report.best == 0.9


def test_later_tries_use_other_prompts(run: Callable[..., Run]) -> None:
    dreams = run("red", filter={"max_tries": 8}).dreams(lambda _: 0.0)
    recorded = dreams._sampler = Recorded(dreams._sampler, np.zeros((SIDE, SIDE, 3), np.uint8))  # type: ignore[assignment]
    images_of(dreams, chunk(count=1))
    assert len({shots[0].prompt for shots in recorded.asked}) > 4


def test_all_rejected_leaves_no_image_and_a_report(run: Callable[..., Run]) -> None:
    dreams = run("red", filter={"max_tries": 2}).dreams(lambda _: None)
    images, report = dreams.sample(chunk(count=2))
    assert images == [] and report.candidates.total() == report.rejected.total() == 4 and report.best is None


def test_the_filter_compares_with_photos_of_the_object_and_of_others(run: Callable[..., Run]) -> None:
    dreams = run().dreams()
    for name in ("red", "red", "green", "red"):
        images_of(dreams, chunk(name, count=1))
    judged = dreams._filter.objects  # type: ignore[attr-defined]
    assert len(judged) == 3
    for (photos, distractors), name in zip(judged, ("red", "green", "red"), strict=True):
        for (image, mask), index in zip(photos, (0, 1), strict=True):  # the third has no mask
            wanted = shape(COLOURS[name], index)
            assert np.array_equal(image, wanted[0]) and np.array_equal(mask, wanted[1])
        colours = sorted(tuple(int(value) for value in image[mask][0]) for image, mask in distractors)
        assert colours == sorted(colour for other, colour in COLOURS.items() if other != name)


def test_a_lone_object_is_compared_with_its_class_images(run: Callable[..., Run]) -> None:
    world = run("red")
    drawn_before = [np.full((SIDE, SIDE, 3), value, np.uint8) for value in (10, 200)]
    for index, image in enumerate(drawn_before):
        key = f"{world.folder.class_images('a photo of a mug')}{index:05d}.png"
        world.folder.store.write(key, encode_png(image))
    dreams = world.dreams()
    images_of(dreams, chunk(count=1))
    ((_, distractors),) = dreams._filter.objects  # type: ignore[attr-defined]
    assert [image.tolist() for image, _ in distractors] == [image.tolist() for image in drawn_before]


def test_with_the_filter_itself(run: Callable[..., Run], tmp_path: Path) -> None:
    """A photo of the object passes; a photo of another object and an image of nothing do not."""
    vits.save("dinov2", tmp_path / "vit")
    world = run(filter={"threshold": 0.5, "max_tries": 1}, dreambooth={"resolution": 64}, image_size=64)
    backbone = BackboneConfig(name=str(tmp_path / "vit"), image_size=56, adapted_blocks=1, precision="float32")
    settings = world.config.model_copy(update={"backbone": backbone})
    dreams = ObjectSampler(replace(world.context, config=settings))
    shapes = {name: shape(colour, 9) for name, colour in COLOURS.items()}
    found = {}
    for name, (pixels, _) in {**shapes, "nothing": (np.full((64, 64, 3), 128, np.uint8), None)}.items():
        dreams._sampler = Recorded(dreams._sampler, pixels)  # type: ignore[assignment]
        found[name] = images_of(dreams, chunk(count=1))
    assert [len(found[name]) for name in ("red", "green", "blue", "nothing")] == [1, 0, 0, 0]
    (image,) = found["red"]
    assert image.score is not None and image.score >= 0.5
    mask = shapes["red"][1]
    assert (image.mask & mask).sum() > 0.9 * (image.mask | mask).sum()


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_weights_that_do_not_fit_are_named_and_do_not_affect_other_objects(
    run: Callable[..., Run], base: Base, tmp_path: Path
) -> None:
    world = run("red", "green")
    dreams = world.dreams()
    before = images_of(dreams, chunk("red", count=1))
    shutil.rmtree(world.weights("green"))
    with pytest.raises(NotFoundError, match=str(world.weights("green"))):
        images_of(dreams, chunk("green"))
    model(base("sd"), rank=3).save(world.weights("green"))
    with pytest.raises(DiffusionError, match=str(world.weights("green"))):
        images_of(dreams, chunk("green"))
    assert same(images_of(dreams, chunk("red", count=1)), before)


def test_an_object_whose_photos_fail_is_not_taken_for_the_one_before(run: Callable[..., Run]) -> None:
    """Otherwise the next chunk of red would be compared or drawn with a part of green."""
    world = run("red", "green")
    dreams = world.dreams()
    before = images_of(dreams, chunk("red", count=1))
    photo = world.manifest.objects["green"].train[0].path
    content = photo.read_bytes()
    photo.write_bytes(b"no image")
    with pytest.raises(ValueError, match=str(photo)):
        images_of(dreams, chunk("green", count=1))
    photo.write_bytes(content)
    assert same(images_of(dreams, chunk("red", count=1)), before)
    assert same(images_of(dreams, chunk("green", count=1)), images_of(world.dreams(), chunk("green", count=1)))


def test_an_object_without_a_category_fails_by_name(run: Callable[..., Run]) -> None:
    with pytest.raises(ValueError, match="object blue: generate: DreamBooth needs its category"):
        images_of(run().dreams(), chunk("blue"))


def test_the_configured_category_is_used_for_objects_without_one(run: Callable[..., Run]) -> None:
    dreams = run("blue", dreambooth={"category": "toy"}).dreams()
    (image,) = images_of(dreams, chunk("blue", "negative", count=1))
    assert image.source_id == "toy" and image.prompt is not None and " toy" in image.prompt
