from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.discs import TEST, Naive, adapter, config, lora_slot, manifest_of, same, save
from helpers.tiny import COLOURS, shape
from helpers.tiny_sam import save_tiny_sam

from persrep_ray.backbones.lora import LoraBackbone
from persrep_ray.config import MaskConfig, RunConfig, SamConfig
from persrep_ray.data.images import read_mask, read_rgb
from persrep_ray.data.objects import Photo
from persrep_ray.evaluate.evaluator import Evaluator
from persrep_ray.evaluate.finders import LabelledImage
from persrep_ray.evaluate.persam import PersamPhotos
from persrep_ray.masks.grabcut import MaskError
from persrep_ray.masks.sam import SamImage, SamSegmenter
from persrep_ray.masks.sam_checkpoint import SamError
from persrep_ray.tasks.dense import DensePrediction, DenseReference, make_reference, predict
from persrep_ray.tasks.metrics import METRICS, SIDES

STEPS = 30


@pytest.fixture
def sam(root: Path) -> Path:
    return save_tiny_sam(root.parent / "sam")


def persam_config(sam: Path) -> RunConfig:
    masks = MaskConfig(sam=SamConfig(name=str(sam), weight_steps=STEPS))
    return config(mode="persam").model_copy(update={"masks": masks})


def persam_evaluator(root: Path, sam: Path, lora: LoraBackbone | None = None, **options: Any) -> Evaluator:
    manifest = manifest_of(root)

    def masks(object_id: str) -> list[np.ndarray | None]:
        return [photo.mask and read_mask(photo.mask, RunConfig().data) for photo in manifest.objects[object_id].train]

    return Evaluator(lora or lora_slot(), manifest, masks, persam_config(sam), **options)


class NaivePersam(Naive):
    """Runs SAM and learns its weights again for each photo."""

    def __init__(self, root: Path, lora: LoraBackbone, sam: Path) -> None:
        super().__init__(root, lora.backbone)
        self.sam = SamSegmenter(SamConfig(name=str(sam), weight_steps=STEPS))

    def predict(self, reference: DenseReference, photo: Photo, first_train: Photo) -> DensePrediction:
        train = self.sam.embed(read_rgb(first_train.path, self.limits))
        map_of_train = self.patches(first_train) / np.linalg.norm(
            self.patches(first_train).astype(np.float32), axis=-1, keepdims=True
        )
        weights = self.sam.learn_weights(train, map_of_train @ reference.target, self.mask(first_train))
        image = read_rgb(photo.path, self.limits)

        def find(similarity: np.ndarray, size: tuple[int, int]) -> np.ndarray:
            return self.sam.segment(self.sam.embed(image), similarity, weights)

        return predict(reference, self.patches(photo), (image.shape[0], image.shape[1]), find)


@pytest.fixture
def discs(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAM finds discs of three radii near the middle, shifted a little to the point: it is right more often."""

    def decode(self: Any, image: SamImage, points: torch.Tensor, **prompts: Any) -> tuple[torch.Tensor, torch.Tensor]:
        y, x = np.mgrid[1:64:2, 1:64:2]
        middle = np.array([image.extent[1], image.extent[0]]) / 2
        centre = middle + 0.15 * (points[0].numpy() - middle)
        distance = torch.from_numpy(np.hypot(x - centre[0], y - centre[1])).float()
        return torch.stack([radius - distance for radius in (8, 12, 18)]), torch.tensor([0.1, 0.2, 0.3])

    monkeypatch.setattr(SamSegmenter, "_decode", decode)


def test_equals_a_naive_computation(root: Path, sam: Path, discs: None) -> None:
    lora = lora_slot()
    state = adapter(lora)
    labelled = [LabelledImage(*shape(COLOURS["red"], seed=seed)) for seed in (70, 71)]
    evaluation = persam_evaluator(root, sam).evaluate(
        "red", state, synthetic_positives=labelled[:1], synthetic_others=labelled[1:]
    )
    naive = NaivePersam(root, lora, sam)
    synthetic = [one.image for one in labelled]
    pretrained, _ = naive.metrics("red", 2000, synthetic)
    lora.load(state)
    personalized, _ = naive.metrics("red", 2000, synthetic)
    assert tuple(evaluation.pretrained) == METRICS[:11]
    assert evaluation.pretrained == pytest.approx(pretrained, abs=1e-6)
    assert evaluation.personalized == pytest.approx(personalized, abs=1e-6)
    assert 0 < personalized["segmentation.map"] != pretrained["segmentation.map"] > 0


def test_the_examples_show_what_sam_finds(root: Path, sam: Path) -> None:
    image, mask = shape(COLOURS["red"], seed=99, size=800)
    save(root, "test", "red", 7, image[:500], mask[:500])
    lora = lora_slot()
    examples = persam_evaluator(root, sam, lora).evaluate("red", lora.state()).examples
    naive = NaivePersam(root, lora, sam)
    own = naive.objects["red"]
    reference = make_reference([naive.patches(photo) for photo in own.train], [naive.mask(p) for p in own.train])
    for photo, example in zip(own.test[:TEST], examples, strict=False):
        expected = naive.predict(reference, photo, own.train[0]).mask()
        assert expected is not None
        for side in SIDES:  # a fresh adapter changes nothing
            np.testing.assert_array_equal(example.found[side], expected)
    (large,) = (example for example in examples if "red/7.png" in example.title)
    assert large.found["pretrained"] is not None and large.found["pretrained"].shape == (400, 640)


def test_each_side_learns_its_weights_from_the_first_train_photo(
    root: Path, sam: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned_on: list[tuple[int, int]] = []
    used: list[np.ndarray | None] = []
    segment = SamSegmenter.segment

    def learning(self: Any, image: SamImage, similarity: np.ndarray, mask: np.ndarray) -> np.ndarray:
        learned_on.append(image.size)
        return np.array([len(learned_on), 0, 0], np.float32)

    def segmenting(self: Any, image: SamImage, similarity: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        used.append(weights)
        return segment(self, image, similarity, weights)

    monkeypatch.setattr(SamSegmenter, "learn_weights", learning)
    monkeypatch.setattr(SamSegmenter, "segment", segmenting)
    persam_evaluator(root, sam).evaluate("red", adapter(lora_slot()))
    assert learned_on == [(48, 64)] * 2
    assert {weights[0] for weights in used if weights is not None} == {1, 2} and all(one is not None for one in used)


class TestCache:
    @pytest.fixture
    def embedded(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Grows by one for each photo that SAM embeds."""
        calls: list[int] = []
        embed = SamSegmenter.embed

        def counting(self: Any, image: np.ndarray) -> SamImage:
            calls.append(1)
            return embed(self, image)

        monkeypatch.setattr(SamSegmenter, "embed", counting)
        return calls

    def test_a_photo_is_embedded_once_for_all_adapters_and_objects(
        self, root: Path, sam: Path, embedded: list[int]
    ) -> None:
        lora = lora_slot()
        under_test = persam_evaluator(root, sam, lora)
        under_test.evaluate("red", adapter(lora, 1))
        tests, first_train_photo = len(COLOURS) * TEST, 1
        assert len(embedded) == tests + first_train_photo
        under_test.evaluate("red", adapter(lora, 2))
        assert len(embedded) == tests + first_train_photo
        under_test.evaluate("blue", adapter(lora, 2))
        assert len(embedded) == tests + 2 * first_train_photo

    def test_stays_within_its_half_of_the_budget(self, root: Path, sam: Path, embedded: list[int]) -> None:
        state = adapter(lora_slot())
        whole = persam_evaluator(root, sam).evaluate("red", state)
        one = 32 * 8 * 8 * 2
        under_test = persam_evaluator(root, sam, cache_bytes=2 * (3 * one + 1))
        same(under_test.evaluate("red", state), whole)
        assert under_test._persam is not None
        kept = under_test._persam._kept
        assert sum(image.nbytes for image in kept._values.values()) == kept._used == 3 * one


class TestNothingFound:
    def test_by_sam(self, root: Path, sam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def nothing(self: Any, *arguments: Any) -> np.ndarray:
            raise MaskError("nothing")

        monkeypatch.setattr(SamSegmenter, "segment", nothing)
        evaluation = persam_evaluator(root, sam).evaluate("red", adapter(lora_slot()))
        assert evaluation.personalized["detection.map"] == evaluation.personalized["segmentation.map"] == 0
        assert all(example.found == {"pretrained": None, "personalized": None} for example in evaluation.examples)

    def test_where_all_patches_are_alike(self, root: Path, sam: Path) -> None:
        photo = manifest_of(root).objects["red"].test[0]
        photos = PersamPhotos(persam_config(sam), 2**20)
        flat = np.full((8, 8), 0.5, np.float32)
        assert photos.learn_weights(photo, flat, np.ones((56, 64), bool)) is None
        reference = DenseReference(target=np.array([1, 0], np.float32), box_means=np.array([[1, 0]], np.float32))
        prediction = predict(reference, np.ones((8, 8, 2)), (56, 64), photos.find(photo, None))
        assert prediction.instances == ()


def test_a_checkpoint_that_cannot_be_loaded_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(SamError, match=f"SAM {tmp_path / 'absent'}: neither a local folder nor available from the hub"):
        persam_evaluator(root, tmp_path / "absent")
