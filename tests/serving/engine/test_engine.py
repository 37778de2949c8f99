"""The engine gives the answers that evaluation computes, for many queries at once, and distinguishes errors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.engines import OBJECTS, REFS, Sample, ask, assert_alike, dense, engine_of, enormous, standard
from helpers.published import DENSE, PHOTOS, SIZE, photo, publish_object, tiny_checkpoint
from PIL import Image
from safetensors.numpy import load as load_arrays

from persrep_ray.backbones.lora import load_lora
from persrep_ray.config import BackboneConfig, EvaluateConfig, RunConfig
from persrep_ray.data.images import resize_square, standard_view
from persrep_ray.data.objects import Photo
from persrep_ray.evaluate.photo_cache import PhotoCache
from persrep_ray.registry.registry import Registry
from persrep_ray.serving.engine.answers import AdapterRef
from persrep_ray.serving.engine.engine import LocalEngine
from persrep_ray.serving.engine.errors import (
    AdapterUnusableError,
    NoMasksError,
    RegistryUnavailableError,
    VersionNotFoundError,
)
from persrep_ray.storage.store import open_store
from persrep_ray.tasks.dense import DensePrediction, DenseReference, bounding_box, predict
from persrep_ray.tasks.features import normalize


class ByEvaluation:
    """The results of the evaluation code for an image file and a published adapter."""

    def __init__(self, sample: Sample, folder: Path) -> None:
        self.sample, self.folder = sample, folder

    def photo(self, image: np.ndarray, name: str = "photo") -> Photo:
        path = self.folder / f"{name}.png"
        Image.fromarray(image).save(path)
        return Photo("any", path, None, None)

    def cache(self, ref: AdapterRef) -> tuple[PhotoCache, dict[str, np.ndarray]]:
        files = Registry(open_store(self.sample.registry)).files(ref.object_id, ref.version)
        prototypes = load_arrays(files.pop("prototypes.safetensors"))
        del files["card.json"]
        self.sample.lora.load_files(files)
        return PhotoCache(self.sample.lora, self.sample.config, 2**24), prototypes

    def cls(self, ref: AdapterRef, image: np.ndarray) -> np.ndarray:
        cache, _ = self.cache(ref)
        photos = cache.readable([self.photo(image)], "standard")
        return cache.cls(photos, adapted=True)[0]

    def score(self, ref: AdapterRef, image: np.ndarray) -> float:
        cls = self.cls(ref, image)
        return float((normalize(self.cache(ref)[1]["cls"]) @ normalize(cls)).max())

    def prediction(self, ref: AdapterRef, image: np.ndarray) -> DensePrediction:
        cache, arrays = self.cache(ref)
        (one,) = cache.readable([self.photo(image)], None)
        reference = DenseReference(arrays["target"], arrays["box_means"])
        return predict(reference, cache.exact(one)[1], cache.size(one))


@pytest.fixture
def evaluation(sample: Sample, tmp_path: Path) -> ByEvaluation:
    return ByEvaluation(sample, tmp_path)


class TestAnswersEqualEvaluation:
    @pytest.mark.parametrize("number", [0, 3])
    def test_embed_and_classify(self, sample: Sample, evaluation: ByEvaluation, number: int) -> None:
        engine, ref = engine_of(sample), REFS[number]
        for shown in (number, 4):
            image, view = photo(shown, PHOTOS)[0], standard(shown)
            embedding = ask(engine, lambda one, view=view: one.embed(ref, view))
            np.testing.assert_allclose(embedding, normalize(evaluation.cls(ref, image)), atol=1e-5)
            assert np.linalg.norm(embedding) == pytest.approx(1) and embedding.dtype == np.float32

            classification = ask(engine, lambda one, view=view: one.classify(ref, view))
            score = evaluation.score(ref, image)
            assert classification.score == pytest.approx(score, abs=1e-5) and classification.threshold == 0.85
            assert classification.probability == pytest.approx(1 / (1 + math.exp(17 - 20 * score)), abs=1e-4)
            assert classification.match == (shown == number)

    def test_compare(self, sample: Sample, evaluation: ByEvaluation) -> None:
        engine, ref = engine_of(sample), REFS[2]
        images = [photo(2, PHOTOS)[0], photo(5, PHOTOS)[0]]
        left, right = (normalize(evaluation.cls(ref, image)) for image in images)
        views = (standard(2), standard(5))
        found = ask(engine, lambda one: one.compare(ref, views))
        assert found.same.score == pytest.approx(float(left @ right), abs=1e-5)
        assert not found.same.match and found.same.threshold == 0.85
        scores = [evaluation.score(ref, image) for image in images]
        assert [one.score for one in found.each] == pytest.approx(scores, abs=1e-5)
        assert [one.match for one in found.each] == [True, False]
        alike = ask(engine, lambda one: one.compare(ref, (views[0], views[0])))
        assert alike.same.score == pytest.approx(1, abs=1e-5) and alike.same.match

    @pytest.mark.parametrize("size", [(96, 96), (80, 60), (50, 90)])
    def test_locate(self, sample: Sample, evaluation: ByEvaluation, size: tuple[int, int]) -> None:
        engine, ref = engine_of(sample), REFS[1]
        image = photo(1, PHOTOS)[0][: size[0], : size[1]]
        view = resize_square(image, DENSE)
        found = ask(engine, lambda one: one.locate(ref, view, size))
        expected = evaluation.prediction(ref, image)
        np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-5)
        (instance,) = expected.instances
        assert found.box == tuple(instance.box) and found.score == pytest.approx(instance.score, abs=1e-5)
        assert found.mask.shape == size and found.mask.dtype == bool
        assert (found.mask != expected.mask()).mean() < 0.001

    def test_locate_on_a_large_image_is_told_in_its_own_pixels(self, sample: Sample, evaluation: ByEvaluation) -> None:
        engine, ref, size = engine_of(sample), REFS[1], (1500, 1100)
        small = Image.fromarray(photo(1, PHOTOS)[0])
        image = np.array(small.resize((size[1], size[0])))
        found = ask(engine, lambda one: one.locate(ref, resize_square(image, DENSE), size))
        expected = evaluation.prediction(ref, image)  # at most 640 pixels high
        (instance,), mask = expected.instances, expected.mask()
        assert mask is not None and mask.shape == (640, 469)
        assert found.mask.shape == size
        enlarged = cv2.resize(mask.astype(np.uint8), (1100, 1500), interpolation=cv2.INTER_NEAREST)
        assert (found.mask != enlarged).mean() < 1e-4  # searched at that size, as in evaluation, then enlarged
        scale = np.array([1100 / 469, 1500 / 640, 1100 / 469, 1500 / 640])
        np.testing.assert_allclose(found.box, instance.box * scale, atol=2.5)
        left, top, width, height = bounding_box(found.mask)  # type: ignore[misc]
        x, y, w, h = found.box
        assert 0 <= x <= left + 1 and 0 <= y <= top + 1 and x + w <= 1100 and y + h <= 1500
        assert left + width <= x + w + 1 and top + height <= y + h + 1

    def test_nothing_is_located_where_nothing_stands_out(self, sample: Sample) -> None:
        grey = np.full((DENSE, DENSE, 3), 128, np.uint8)
        found = ask(engine_of(sample), lambda one: one.locate(REFS[1], grey, (5, 5)))
        assert found.box is None and found.mask is None and found.score == -1
        assert found.similarity.shape == (8, 8)

    def test_the_views_have_the_sides_of_evaluation(self, sample: Sample) -> None:
        assert asyncio.run(engine_of(sample).view_sides()) == (SIZE, DENSE)


class TestOtherFamilies:
    @pytest.fixture(scope="class", params=["siglip", "dinov3_vit"])
    def sample(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sample:
        root = tmp_path_factory.mktemp(request.param)
        config = tiny_checkpoint(root / "vit", kind=request.param)
        lora = load_lora(config)
        for number in range(2):
            publish_object(root / "registry", REFS[number].object_id, config, number, lora=lora)
        return Sample(root / "registry", config, lora)

    def test_answers_equal_evaluation(self, sample: Sample, evaluation: ByEvaluation) -> None:
        engine = engine_of(sample)

        async def both(one: LocalEngine) -> list[Any]:
            asked = [one.embed(ref, standard(0)) for ref in REFS[:2]]
            return await asyncio.gather(*asked, one.locate(REFS[1], dense(1), (96, 96)))

        *embeddings, located = ask(engine, both)
        for ref, embedding in zip(REFS[:2], embeddings, strict=True):
            expected = normalize(evaluation.cls(ref, photo(0, PHOTOS)[0]))
            np.testing.assert_allclose(embedding, expected, atol=1e-5)
        assert np.abs(embeddings[0] - embeddings[1]).max() > 1e-3
        similarity = evaluation.prediction(REFS[1], photo(1, PHOTOS)[0]).similarity
        np.testing.assert_allclose(located.similarity, similarity, atol=1e-5)


def test_many_mixed_queries_at_once_are_all_answered_right(sample: Sample) -> None:
    # With a bank that holds two adapters, so that they come and go all the time.
    engine = engine_of(sample, encoder={"batch_rows": 5, "bank_bytes": 2 * 60_000, "load_threads": 2})

    def questions(one: LocalEngine) -> list[Coroutine[Any, Any, Any]]:
        asked: list[Coroutine[Any, Any, Any]] = []
        for number, ref in enumerate(REFS):
            for shown in (number, (number + 1) % OBJECTS):
                asked.append(one.embed(ref, standard(shown)))
                asked.append(one.classify(ref, standard(shown)))
                asked.append(one.locate(ref, dense(shown), (96, 96)))
                asked.append(one.compare(ref, (standard(shown), standard(number))))
        asked += [one.identify(standard(shown), [""], top_k=3, exact=True) for shown in range(3)]
        return asked

    async def alone(one: LocalEngine) -> list[Any]:
        return [await question for question in questions(one)]

    async def together(one: LocalEngine) -> list[Any]:
        return await asyncio.gather(*questions(one))

    expected, found = ask(engine, alone), ask(engine, together)
    assert len(found) == OBJECTS * 8 + 3
    for left, right in zip(found, expected, strict=True):
        assert_alike(left, right)
    assert engine.bank.nbytes <= 2 * 60_000 and len(engine.bank) > 0


class TestErrors:
    def test_no_such_version(self, sample: Sample) -> None:
        with pytest.raises(VersionNotFoundError):
            ask(engine_of(sample), lambda one: one.classify(AdapterRef("cup-0", "v9"), standard(0)))

    def test_published_without_masks(self, own: Sample) -> None:
        ref = publish_object(own.registry, "bare", own.config, 0, lora=own.lora, masks=False)
        engine = engine_of(own)
        with pytest.raises(NoMasksError, match="object bare, version v1: published without masks"):
            ask(engine, lambda one: one.locate(ref, dense(0), (9, 9)))
        assert ask(engine, lambda one: one.classify(ref, standard(0))).match

    def test_made_for_another_backbone(self, own: Sample, caplog: pytest.LogCaptureFixture) -> None:
        other = own.config.to_dict()
        other["backbone"]["name"] = "/elsewhere/vit"
        ref = publish_object(own.registry, "odd", own.config, 0, lora=own.lora, card={"config": other})
        with pytest.raises(AdapterUnusableError) as raised:
            ask(engine_of(own), lambda one: one.classify(ref, standard(0)))
        assert "elsewhere" not in raised.value.message  # the client learns no path
        assert "object odd, version v1: made for a backbone with name '/elsewhere/vit'" in caplog.text  # the operator

    def test_features_that_overflow(self, own: Sample) -> None:
        ref = publish_object(own.registry, "wild", own.config, 0, lora=own.lora, change=enormous)
        engine = engine_of(own)
        for question in (
            lambda one: one.classify(ref, standard(0)),
            lambda one: one.embed(ref, standard(0)),
            lambda one: one.compare(ref, (standard(0), standard(1))),
            lambda one: one.locate(ref, dense(0), (9, 9)),
        ):
            with pytest.raises(AdapterUnusableError, match="object wild, version v1"):
                ask(engine, question)
        assert ask(engine, lambda one: one.classify(REFS[0], standard(0))).match

    def test_the_registry_is_away(self, own: Sample) -> None:
        engine = engine_of(own)
        ask(engine, lambda one: one.classify(REFS[0], standard(0)))
        own.registry.rename(own.registry.with_name("away"))
        assert ask(engine, lambda one: one.classify(REFS[0], standard(0))).match  # is in memory
        with pytest.raises(RegistryUnavailableError):
            ask(engine, lambda one: one.classify(REFS[1], standard(0)))


def test_leaving_clients_give_back_everything(sample: Sample) -> None:
    engine = engine_of(sample, encoder={"bank_bytes": 1})

    async def scenario(one: LocalEngine) -> None:
        for number in range(3):
            await one.identify(standard(3), [""], top_k=1, exact=True)
            before = len(asyncio.all_tasks())
            queries = [
                asyncio.create_task(one.identify(standard(3), [""], top_k=1, exact=True)),
                asyncio.create_task(one.classify(REFS[number], standard(3))),
                asyncio.create_task(one.compare(REFS[number], (standard(2), standard(3)))),
            ]
            for _ in range(4 * number):
                await asyncio.sleep(0)
            for query in queries:
                query.cancel()
            await asyncio.wait(queries)
            await one.classify(REFS[0], standard(0))  # loads and batches that went on are through
            while len(asyncio.all_tasks()) > before or len(one.bank):
                await asyncio.sleep(0)
        assert one.bank.nbytes == 0

    ask(engine, scenario)


def test_the_embedded_backbone_from_end_to_end(tmp_path: Path) -> None:
    config = RunConfig(backbone=BackboneConfig(image_size=112), evaluate=EvaluateConfig(dense_size=112))  # bfloat16
    one = Sample(tmp_path / "registry", config, load_lora(config))
    wrong, right = (publish_object(one.registry, f"mug-{number}", config, number, lora=one.lora) for number in (0, 3))
    image, truth = photo(3, PHOTOS)
    standard, dense = standard_view(image, 112), resize_square(image, 112)

    async def questions(engine: LocalEngine) -> Any:
        return await asyncio.gather(
            engine.embed(right, standard),
            engine.classify(right, standard),
            engine.classify(wrong, standard),
            engine.locate(right, dense, (96, 96)),
            engine.identify(standard, [""], top_k=2, exact=False),
        )

    embedding, own, others, located, found = ask(engine_of(one), questions)
    evaluation = ByEvaluation(one, tmp_path)
    assert float(embedding @ normalize(evaluation.cls(right, image))) > 0.9995  # bfloat16, rounded in another order
    assert own.score == pytest.approx(evaluation.score(right, image), abs=0.005) and own.score > others.score
    assert (located.mask & truth).sum() / (located.mask | truth).sum() > 0.5
    assert found.tried == 2
