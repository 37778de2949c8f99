"""Drawing; the fine-tuning before it is in test_object_tuner.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
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
from persrep_ray.generate.dreambooth.generator import DreamBooth
from persrep_ray.generate.types import Chunk, Role, SyntheticImage

Base = Callable[[str], Path]


def in_turn(*scores: float | None) -> Callable[[NDArray[np.uint8]], float | None]:
    """The scores of the pictures in the order in which they are judged."""
    rest = iter(scores)
    return lambda _: next(rest)


def by_picture(image: NDArray[np.uint8]) -> float:
    """About every other picture is rejected, always the same ones."""
    return float(image.astype(int).sum() % 100) / 100


@pytest.fixture(scope="module")
def learnt(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with an object's weights; other ones for each object."""
    root = tmp_path_factory.mktemp("learnt")
    one = model(base("sd"))
    for seed, name in enumerate(COLOURS):
        personalize(one, seed)
        one.save(root / name)
    return lambda name: root / name


@pytest.fixture
def run(tmp_path: Path, base: Base, learnt: Callable[[str], Path]) -> Callable[..., Run]:
    return lambda *names, **changes: Run(tmp_path, base, learnt, *names, **changes)


def request(object_id: str = "red", role: Role = "positive", start: int = 0, count: int = 3) -> Chunk:
    return Chunk(object_id, role, start, count, 7, "dreambooth")


def same(left: Sequence[SyntheticImage], right: Sequence[SyntheticImage]) -> bool:
    def fields(one: SyntheticImage) -> dict[str, Any]:
        return {**vars(one), "image": one.image.tobytes(), "mask": one.mask.tobytes()}

    return [fields(one) for one in left] == [fields(one) for one in right]


def drawn(one: DiffusionModel, image: SyntheticImage, guidance: float) -> NDArray[np.uint8]:
    (picture,) = Sampler(one, SamplingConfig(steps=1), print).draw([Shot(image.prompt or "", image.seed, guidance)])
    return picture


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_positives_show_the_object_of_their_prompts(run: Callable[..., Run], learnt: Callable[[str], Path]) -> None:
    world = run(sampling={"guidance": (4.0,)})
    images = world.dreams().generate(request())
    one = model(Path(world.config.generate.dreambooth.base))
    one.load(learnt("red"))
    for image in images:
        assert np.array_equal(image.image, drawn(one, image, 4.0))
        assert (image.object_id, image.role, image.generator) == ("red", "positive", "dreambooth")
        assert (image.source_id, image.source_photo, image.score) == ("red", None, 1.0)
        assert image.prompt in world.book.positives("red", "mug") and "<new1>" in image.prompt.split()
        assert np.array_equal(image.mask, left_half(image.image))
    assert len({image.seed for image in images}) == len({image.prompt for image in images}) == 3


def test_negatives_are_the_untouched_models(run: Callable[..., Run]) -> None:
    world = run(sampling={"guidance": (4.0,)})
    dreams = world.dreams()
    before = dreams.generate(request(role="negative"))
    dreams.generate(request())  # now an object's weights are in
    images = dreams.generate(request(role="negative"))
    assert same(before, images)
    untouched = model(Path(world.config.generate.dreambooth.base))
    for image in images:
        assert np.array_equal(image.image, drawn(untouched, image, 4.0))
        assert (image.object_id, image.role, image.generator) == ("red", "negative", "dreambooth")
        assert (image.source_id, image.source_photo, image.score) == ("mug", None, None)
        assert image.prompt in world.book.negatives("mug") and "<new1>" not in image.prompt
        assert not image.mask.any()
    assert dreams.report.candidates == {}  # they are not filtered


def test_where_a_request_is_cut_changes_nothing(run: Callable[..., Run]) -> None:
    world = run()
    whole = world.dreams(by_picture).generate(request(count=6))
    assert 0 < len(whole) <= 6
    dreams = world.dreams(by_picture)
    parts = {
        (start, count): dreams.generate(request(start=start, count=count)) for start, count in ((4, 2), (0, 1), (1, 3))
    }
    assert same(whole, [*parts[0, 1], *parts[1, 3], *parts[4, 2]])
    negatives = dreams.generate(request(role="negative", count=4))
    late, early = (dreams.generate(request(role="negative", start=start, count=2)) for start in (2, 0))
    assert same(negatives, [*early, *late])
    assert dreams.generate(request(count=0)) == [] == dreams.generate(request(role="negative", count=0))


def test_objects_are_drawn_with_their_own_weights_in_any_order(run: Callable[..., Run]) -> None:
    world = run("red", "green")
    alone = {name: world.dreams().generate(request(name, count=2)) for name in ("red", "green")}
    dreams = world.dreams()
    for name in ("green", "red", "red", "green"):
        dreams.generate(request("red", "negative", count=1))
        assert same(dreams.generate(request(name, count=2)), alone[name])
    # Not the seed alone: the same picture asked of either.
    shot = [Shot("a photo of <new1> mug", 1, 4.0)]
    pictures = []
    for name in ("red", "green"):
        dreams.generate(request(name, count=1))
        pictures.append(dreams._sampler.draw(shot)[0])
    assert not np.array_equal(*pictures)


def test_prompts_are_gone_through_before_one_comes_again(run: Callable[..., Run]) -> None:
    world = run("red", "green")
    dreams = world.dreams()
    dreams._sampler = Recorded(dreams._sampler, np.zeros((SIDE, SIDE, 3), np.uint8))  # type: ignore[assignment]
    prompts = world.book.positives("red", "mug")
    orders = {}
    for name in ("red", "green"):
        images = dreams.generate(request(name, count=2 * len(prompts)))
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
    picture = np.zeros((sampled, sampled, 3), np.uint8)
    picture[left_half(picture)] = 250
    dreams._sampler = Recorded(dreams._sampler, picture)  # type: ignore[assignment]
    (image,) = dreams.generate(request(count=1))
    assert image.image.shape == (size, size, 3) and image.image.dtype == np.uint8
    assert image.mask.shape == (size, size) and image.mask.dtype == np.bool_
    assert np.array_equal(image.mask, image.image[..., 0] > 125)
    (negative,) = dreams.generate(request(role="negative", count=1))
    assert negative.image.shape == (size, size, 3) and negative.mask.shape == (size, size)


# -- the filter --------------------------------------------------------------------------------------------------------


def test_rejected_pictures_are_drawn_anew_up_to_max_tries(run: Callable[..., Run]) -> None:
    dreams = run("red", filter={"max_tries": 3}).dreams(in_turn(0.1, 0.9, None, 0.8, 0.2, 0.3))
    recorded = dreams._sampler = Recorded(dreams._sampler)  # type: ignore[assignment]
    images = dreams.generate(request(start=5, count=3))
    assert [len(shots) for shots in recorded.asked] == [3, 2, 1]
    shots = [shot for part in recorded.asked for shot in part]
    assert len({shot.seed for shot in shots}) == 6
    assert [image.seed for image in images] == [recorded.asked[1][0].seed, recorded.asked[0][1].seed]  # in order
    assert [image.score for image in images] == [0.8, 0.9]
    assert [image.prompt for image in images] == [recorded.asked[1][0].prompt, recorded.asked[0][1].prompt]
    assert all("<new1>" in shot.prompt for shot in shots)
    rejected = [shots[0], shots[2], shots[4], shots[5]]
    assert dreams.report.candidates == Counter(shot.prompt for shot in shots)
    assert dreams.report.rejected == Counter(shot.prompt for shot in rejected)
    assert dreams.report.best == 0.9


def test_further_tries_draw_other_prompts_too(run: Callable[..., Run]) -> None:
    dreams = run("red", filter={"max_tries": 8}).dreams(lambda _: 0.0)
    recorded = dreams._sampler = Recorded(dreams._sampler, np.zeros((SIDE, SIDE, 3), np.uint8))  # type: ignore[assignment]
    dreams.generate(request(count=1))
    assert len({shots[0].prompt for shots in recorded.asked}) > 4


def test_all_rejected_leaves_no_image_and_a_report(run: Callable[..., Run]) -> None:
    dreams = run("red", filter={"max_tries": 2}).dreams(lambda _: None)
    assert dreams.generate(request(count=2)) == []
    assert dreams.report.candidates.total() == dreams.report.rejected.total() == 4 and dreams.report.best is None
    dreams.generate(request(role="negative", count=1))
    assert dreams.report.candidates.total() == 0  # of the latest request


def test_the_filter_compares_with_the_objects_photos_and_others(run: Callable[..., Run]) -> None:
    dreams = run().dreams()
    for name in ("red", "red", "green", "red"):
        dreams.generate(request(name, count=1))
    judged = dreams._filter.objects  # type: ignore[attr-defined]
    assert len(judged) == 3
    for (photos, others), name in zip(judged, ("red", "green", "red"), strict=True):
        for (image, mask), index in zip(photos, (0, 1), strict=True):  # the third has no mask
            wanted = shape(COLOURS[name], index)
            assert np.array_equal(image, wanted[0]) and np.array_equal(mask, wanted[1])
        colours = sorted(tuple(int(value) for value in image[mask][0]) for image, mask in others)
        assert colours == sorted(colour for other, colour in COLOURS.items() if other != name)


def test_a_lone_object_is_compared_with_its_class_images(run: Callable[..., Run]) -> None:
    world = run("red")
    drawn_before = [np.full((SIDE, SIDE, 3), value, np.uint8) for value in (10, 200)]
    for index, image in enumerate(drawn_before):
        file = world.folder.class_images("a photo of a mug") / f"{index:05d}.png"
        world.folder.write_file(file, encode_png(image))
    dreams = world.dreams()
    dreams.generate(request(count=1))
    ((_, others),) = dreams._filter.objects  # type: ignore[attr-defined]
    assert [image.tolist() for image, _ in others] == [image.tolist() for image in drawn_before]


def test_with_the_filter_itself(run: Callable[..., Run], tmp_path: Path) -> None:
    """The object's own photo passes, another object's and a picture of nothing do not."""
    vits.save("dinov2", tmp_path / "vit")
    world = run(filter={"threshold": 0.5, "max_tries": 1}, dreambooth={"resolution": 64}, image_size=64)
    backbone = BackboneConfig(name=str(tmp_path / "vit"), image_size=56, adapted_blocks=1, precision="float32")
    settings = world.config.model_copy(update={"backbone": backbone})
    dreams = DreamBooth(settings, world.manifest, world.folder, world.book, print)
    pictures = {name: shape(colour, 9) for name, colour in COLOURS.items()}
    found = {}
    for name, (picture, _) in {**pictures, "nothing": (np.full((64, 64, 3), 128, np.uint8), None)}.items():
        dreams._sampler = Recorded(dreams._sampler, picture)  # type: ignore[assignment]
        found[name] = dreams.generate(request(count=1))
    assert [len(found[name]) for name in ("red", "green", "blue", "nothing")] == [1, 0, 0, 0]
    (image,) = found["red"]
    assert image.score is not None and image.score >= 0.5
    mask = pictures["red"][1]
    assert (image.mask & mask).sum() > 0.9 * (image.mask | mask).sum()


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_weights_that_do_not_fit_name_their_folder_and_leave_the_others_be(
    run: Callable[..., Run], base: Base, tmp_path: Path
) -> None:
    world = run("red", "green")
    dreams = world.dreams()
    before = dreams.generate(request("red", count=1))
    world.folder.generator("green").unlink()
    with pytest.raises(DiffusionError, match=str(world.folder.generator("green"))):
        dreams.generate(request("green"))
    model(base("sd"), rank=3).save(world.folder.generator("green"))
    with pytest.raises(DiffusionError, match=str(world.folder.generator("green"))):
        dreams.generate(request("green"))
    assert same(dreams.generate(request("red", count=1)), before)


def test_an_object_whose_photos_fail_is_not_taken_for_the_one_before(run: Callable[..., Run]) -> None:
    """Else the next chunk of red would be judged by, or drawn with, half of green."""
    world = run("red", "green")
    dreams = world.dreams()
    before = dreams.generate(request("red", count=1))
    photo = world.manifest.objects["green"].train[0].path
    content = photo.read_bytes()
    photo.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=str(photo)):
        dreams.generate(request("green", count=1))
    photo.write_bytes(content)
    assert same(dreams.generate(request("red", count=1)), before)
    assert same(dreams.generate(request("green", count=1)), world.dreams().generate(request("green", count=1)))


def test_an_object_without_a_category_fails_by_name(run: Callable[..., Run]) -> None:
    with pytest.raises(ValueError, match="object blue: generate: DreamBooth needs its category"):
        run().dreams().generate(request("blue"))


def test_the_category_of_the_settings_stands_in(run: Callable[..., Run]) -> None:
    dreams = run("blue", dreambooth={"category": "toy"}).dreams()
    (image,) = dreams.generate(request("blue", "negative", count=1))
    assert image.source_id == "toy" and image.prompt is not None and " toy" in image.prompt
