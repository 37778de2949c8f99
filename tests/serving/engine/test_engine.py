"""The engine gives the answers that evaluation computes, for many queries at once, and distinguishes errors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.engines import OBJECTS, REFS, Sample, ask, assert_alike, engine_of, enormous, unseen
from helpers.published import PHOTOS, photo, publish_object, tiny_checkpoint
from PIL import Image
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from persrep_ray.backbones.lora import load_lora
from persrep_ray.config import BackboneConfig, EvaluateConfig, RunConfig
from persrep_ray.data.images import bounded
from persrep_ray.data.objects import Photo
from persrep_ray.evaluate import finders
from persrep_ray.evaluate.photo_cache import PhotoCache
from persrep_ray.registry.registry import Registry
from persrep_ray.serving.engine import features
from persrep_ray.serving.engine.answers import AdapterRef
from persrep_ray.serving.engine.engine import LocalEngine
from persrep_ray.serving.engine.errors import (
    AdapterUnusableError,
    NoMasksError,
    RegistryUnavailableError,
    VersionNotFoundError,
)
from persrep_ray.storage.store import open_store
from persrep_ray.tasks.dense import LONGEST_SIDE, DensePrediction, DenseReference, bounding_box, predict
from persrep_ray.tasks.features import normalize
from persrep_ray.tasks.find import SECOND_LOOKS
from persrep_ray.tasks.keypoints import KeypointModel, describe
from persrep_ray.tasks.model import ObjectModel


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
        patches = cache.exact(one)[1]
        model = ObjectModel.from_arrays(arrays, patches.shape[-1])
        if model is None:
            return predict(DenseReference(arrays["target"], arrays["box_means"]), patches, cache.size(one))
        found = finders.find(cache, "personalized", model, one, patches, [])
        return replace(found, instances=tuple(one for one in found.instances if (one.probability or 0) >= 0.5))


@pytest.fixture
def evaluation(sample: Sample, tmp_path: Path) -> ByEvaluation:
    return ByEvaluation(sample, tmp_path)


def with_model(own: Sample) -> AdapterRef:
    """An object that looks like `REFS[1]`, which was published before there were models, and has one."""
    return publish_object(own.registry, "new", own.config, 1, lora=own.lora, model=True)


class TestAnswersEqualEvaluation:
    @pytest.mark.parametrize("number", [0, 3])
    def test_embed_and_classify(self, sample: Sample, evaluation: ByEvaluation, number: int) -> None:
        engine, ref = engine_of(sample), REFS[number]
        for shown in (number, 4):
            image = unseen(shown)
            embedding = ask(engine, lambda one, image=image: one.embed(ref, image))
            np.testing.assert_allclose(embedding, normalize(evaluation.cls(ref, image)), atol=1e-5)
            assert np.linalg.norm(embedding) == pytest.approx(1) and embedding.dtype == np.float32

            classification = ask(engine, lambda one, image=image: one.classify(ref, image))
            score = evaluation.score(ref, image)
            assert classification.score == pytest.approx(score, abs=1e-5) and classification.threshold == 0.85
            assert classification.probability == pytest.approx(1 / (1 + math.exp(17 - 20 * score)), abs=1e-4)
            assert classification.match == (shown == number)

    def test_compare(self, sample: Sample, evaluation: ByEvaluation) -> None:
        engine, ref = engine_of(sample), REFS[2]
        images = (unseen(2), unseen(5))
        left, right = (normalize(evaluation.cls(ref, image)) for image in images)
        found = ask(engine, lambda one: one.compare(ref, images))
        assert found.same.score == pytest.approx(float(left @ right), abs=1e-5)
        assert not found.same.match and found.same.threshold == 0.85
        scores = [evaluation.score(ref, image) for image in images]
        assert [one.score for one in found.each] == pytest.approx(scores, abs=1e-5)
        assert [one.match for one in found.each] == [True, False]
        alike = ask(engine, lambda one: one.compare(ref, (images[0], images[0])))
        assert alike.same.score == pytest.approx(1, abs=1e-5) and alike.same.match

    @pytest.mark.parametrize("size", [(96, 96), (80, 60), (50, 90), (1500, 1100)])
    @pytest.mark.parametrize("old", [False, True], ids=["finder", "threshold"])
    def test_locate(self, own: Sample, tmp_path: Path, size: tuple[int, int], old: bool) -> None:
        ref = REFS[1] if old else with_model(own)
        engine, evaluation = engine_of(own), ByEvaluation(own, tmp_path)
        image = np.array(Image.fromarray(unseen(1)).resize((size[1], size[0])))
        found = ask(engine, lambda one: one.locate(ref, bounded(image)))
        expected = evaluation.prediction(ref, image)
        np.testing.assert_allclose(found.similarity, expected.similarity, atol=1e-5)
        assert found.size == expected.size and max(found.size) == min(max(size), LONGEST_SIDE)
        assert len(found.instances) == len(expected.instances) == 1
        for one, other in zip(found.instances, expected.instances, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)
            assert one.probability == (None if old else pytest.approx(other.probability, abs=1e-4))
            np.testing.assert_allclose(one.box, other.box, atol=1)
        assert (found.mask() != expected.mask()).mean() < 0.001

    def test_every_copy_of_the_object_is_located_and_none_where_it_is_not(self, own: Sample) -> None:
        engine, ref = engine_of(own), with_model(own)
        image, truth = photo(1, PHOTOS)
        twice = np.concatenate([image, image], axis=1)
        found = ask(engine, lambda one: one.locate(ref, twice))
        assert len(found.instances) == 2
        for one, true in zip(
            sorted(found.instances, key=lambda one: int(one.box[0])),
            (bounding_box(np.pad(truth, ((0, 0), sides))) for sides in ((0, 96), (96, 0))),
            strict=True,
        ):
            np.testing.assert_allclose(one.box, true, atol=12)  # a patch of the view is 14 x 7 pixels of the photo
        probabilities = [one.probability for one in found.instances]
        assert probabilities == sorted(probabilities, reverse=True) and probabilities[-1] >= 0.5
        assert ask(engine, lambda one: one.locate(ref, unseen(4))).instances == ()

    def test_the_finder_looks_a_second_time_at_two_places_at_most(self, own: Sample) -> None:
        engine, ref = engine_of(own), with_model(own)
        many = np.tile(unseen(1), (2, 3, 1))
        encoded: list[int] = []
        encode = engine.encoder.encode
        engine.encoder.encode = lambda rows: encoded.append(len(rows)) or encode(rows)  # type: ignore[method-assign,func-returns-value]
        ask(engine, lambda one: one.locate(ref, many))
        assert sum(encoded) == 1 + SECOND_LOOKS

    def test_keypoints_of_an_image_are_described_once(self, sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
        described: list[int] = []
        monkeypatch.setattr(features, "describe", lambda image: described.append(int(image[0, 0, 0])))
        engine = engine_of(sample)

        async def scenario(one: LocalEngine) -> None:
            images = [np.full((20, 30, 3), shade, np.uint8) for shade in (1, 2, 1, 1)]
            leaving = asyncio.create_task(one.extractor.keypoints(images[0]))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.gather(*(one.extractor.keypoints(image) for image in images))
            await one.extractor.keypoints(images[0].copy())

        ask(engine, scenario)
        assert sorted(described) == [1, 2]

    def test_nothing_is_located_where_nothing_stands_out(self, own: Sample) -> None:
        for ref, size in ((REFS[1], (5, 5)), (with_model(own), (90, 70))):
            grey = np.full((*size, 3), 128, np.uint8)
            found = ask(engine_of(own), lambda one, ref=ref, grey=grey: one.locate(ref, grey))
            assert found.instances == () and found.similarity.shape == (8, 8) and found.size == size


class TestModels:
    """Answers by a version's model are what the model itself says of features and keypoints."""

    def evidence(self, own: Sample, folder: Path, ref: AdapterRef, image: np.ndarray) -> tuple[ObjectModel, float]:
        cache, arrays = ByEvaluation(own, folder).cache(ref)
        model = ObjectModel.from_arrays(arrays, arrays["cls"].shape[-1])
        assert model is not None
        views = cache.views(cache.readable([ByEvaluation(own, folder).photo(image)], "standard"), adapted=True)
        return model, float(model.evidence(views.cls, views.patches)[0])

    def test_classify(self, own: Sample, tmp_path: Path) -> None:
        ref = with_model(own)
        for shown in (1, 4):
            expected = self.evidence(own, tmp_path, ref, unseen(shown))[1]
            found = ask(engine_of(own), lambda one, shown=shown: one.classify(ref, unseen(shown)))
            assert found.evidence == pytest.approx(expected, abs=1e-2) and found.match == (shown == 1)

    def test_keypoints_add_their_evidence_where_they_help(self, own: Sample, tmp_path: Path) -> None:
        print_ = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
        poster = np.array(Image.fromarray(print_).resize((240, 240), Image.Resampling.NEAREST))
        keypoints = KeypointModel.fit([poster], [None])

        def change(miss: float) -> Callable[[dict[str, bytes]], None]:
            def with_keypoints(files: dict[str, bytes]) -> None:
                arrays = load_arrays(files["prototypes.safetensors"])
                arrays |= {f"keypoints.{name}": one for name, one in keypoints.to_arrays().items()}
                arrays["recognize.witness.geometry"] = np.array([3.0, 1.7, miss])
                files["prototypes.safetensors"] = save_arrays(arrays)

            return with_keypoints

        for miss, helps in ((0.1, True), (0.9, False)):  # 0.9: it was not found on the object's other photos
            name = f"poster-{helps}".lower()
            ref = publish_object(own.registry, name, own.config, 1, lora=own.lora, model=True, change=change(miss))
            model, plain = self.evidence(own, tmp_path, ref, poster)
            matches = keypoints.find(describe(poster))
            assert model.uses_geometry == helps and matches[0].inliers > 50
            engine = engine_of(own)
            found = ask(engine, lambda one, ref=ref: one.classify(ref, poster))
            added = model.geometric_evidence(matches)
            assert (added > 5) == helps
            assert found.evidence == pytest.approx(plain + added, abs=1e-2)
            answer = ask(engine, lambda one, name=name: one.identify(poster, [name], top_k=1, exact=True))
            assert [one.ref for one in answer.candidates] == ([ref] if plain + added > 0 else [])


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
            asked = [one.embed(ref, unseen(0)) for ref in REFS[:2]]
            return await asyncio.gather(*asked, one.locate(REFS[1], unseen(1)))

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
                asked.append(one.embed(ref, unseen(shown)))
                asked.append(one.classify(ref, unseen(shown)))
                asked.append(one.locate(ref, unseen(shown)))
                asked.append(one.compare(ref, (unseen(shown), unseen(number))))
        asked += [one.identify(unseen(shown), [""], top_k=3, exact=True) for shown in range(3)]
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
            ask(engine_of(sample), lambda one: one.classify(AdapterRef("cup-0", "v9"), unseen(0)))

    def test_published_without_masks(self, own: Sample) -> None:
        ref = publish_object(own.registry, "bare", own.config, 0, lora=own.lora, masks=False)
        engine = engine_of(own)
        with pytest.raises(NoMasksError, match="object bare, version v1: published without masks"):
            ask(engine, lambda one: one.locate(ref, unseen(0)))
        assert ask(engine, lambda one: one.classify(ref, unseen(0))).match

    def test_made_for_another_backbone(self, own: Sample, caplog: pytest.LogCaptureFixture) -> None:
        other = own.config.to_dict()
        other["backbone"]["name"] = "/elsewhere/vit"
        ref = publish_object(own.registry, "odd", own.config, 0, lora=own.lora, card={"config": other})
        with pytest.raises(AdapterUnusableError) as raised:
            ask(engine_of(own), lambda one: one.classify(ref, unseen(0)))
        assert "elsewhere" not in raised.value.message  # the client learns no path
        assert "object odd, version v1: made for a backbone with name '/elsewhere/vit'" in caplog.text  # the operator

    def test_features_that_overflow(self, own: Sample) -> None:
        ref = publish_object(own.registry, "wild", own.config, 0, lora=own.lora, change=enormous)
        engine = engine_of(own)
        for question in (
            lambda one: one.classify(ref, unseen(0)),
            lambda one: one.embed(ref, unseen(0)),
            lambda one: one.compare(ref, (unseen(0), unseen(1))),
            lambda one: one.locate(ref, unseen(0)),
        ):
            with pytest.raises(AdapterUnusableError, match="object wild, version v1"):
                ask(engine, question)
        assert ask(engine, lambda one: one.classify(REFS[0], unseen(0))).match

    @pytest.mark.parametrize("scale", [1e6, 1e12, 1e17, -1e17])
    def test_a_finder_of_enormous_values(self, own: Sample, scale: float) -> None:
        def change(files: dict[str, bytes]) -> None:
            arrays = load_arrays(files["prototypes.safetensors"])
            parts = ("discriminant.", "find.")
            enlarged = {name: one * np.float32(scale) for name, one in arrays.items() if name.startswith(parts)}
            files["prototypes.safetensors"] = save_arrays({**arrays, **enlarged})

        ref = publish_object(own.registry, "giant", own.config, 1, lora=own.lora, model=True, change=change)
        try:
            found = ask(engine_of(own), lambda one: one.locate(ref, unseen(1)))
        except AdapterUnusableError:
            return
        assert np.isfinite(found.similarity).all() and all(np.isfinite(one.score) for one in found.instances)

    def test_the_registry_is_away(self, own: Sample) -> None:
        engine = engine_of(own)
        ask(engine, lambda one: one.classify(REFS[0], unseen(0)))
        own.registry.rename(own.registry.with_name("away"))
        assert ask(engine, lambda one: one.classify(REFS[0], unseen(0))).match  # is in memory
        with pytest.raises(RegistryUnavailableError):
            ask(engine, lambda one: one.classify(REFS[1], unseen(0)))


def test_leaving_clients_give_back_everything(sample: Sample) -> None:
    engine = engine_of(sample, encoder={"bank_bytes": 1})

    async def scenario(one: LocalEngine) -> None:
        for number in range(3):
            await one.identify(unseen(3), [""], top_k=1, exact=True)
            before = len(asyncio.all_tasks())
            queries = [
                asyncio.create_task(one.identify(unseen(3), [""], top_k=1, exact=True)),
                asyncio.create_task(one.classify(REFS[number], unseen(3))),
                asyncio.create_task(one.compare(REFS[number], (unseen(2), unseen(3)))),
            ]
            for _ in range(4 * number):
                await asyncio.sleep(0)
            for query in queries:
                query.cancel()
            await asyncio.wait(queries)
            await one.classify(REFS[0], unseen(0))  # loads and batches that went on are through
            while len(asyncio.all_tasks()) > before or len(one.bank):
                await asyncio.sleep(0)
        assert one.bank.nbytes == 0

    ask(engine, scenario)


def test_the_embedded_backbone_from_end_to_end(tmp_path: Path) -> None:
    config = RunConfig(backbone=BackboneConfig(image_size=112), evaluate=EvaluateConfig(dense_size=112))  # bfloat16
    one = Sample(tmp_path / "registry", config, load_lora(config))
    wrong, right = (publish_object(one.registry, f"mug-{number}", config, number, lora=one.lora) for number in (0, 3))
    image, truth = photo(3, PHOTOS)

    async def questions(engine: LocalEngine) -> Any:
        return await asyncio.gather(
            engine.embed(right, image),
            engine.classify(right, image),
            engine.classify(wrong, image),
            engine.locate(right, image),
            engine.identify(image, [""], top_k=2, exact=False),
        )

    embedding, own, others, located, found = ask(engine_of(one), questions)
    evaluation = ByEvaluation(one, tmp_path)
    assert float(embedding @ normalize(evaluation.cls(right, image))) > 0.9995  # bfloat16, rounded in another order
    assert own.score == pytest.approx(evaluation.score(right, image), abs=0.005) and own.score > others.score
    assert (located.mask() & truth).sum() / (located.mask() | truth).sum() > 0.5
    assert found.tried == 2
