from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.discs import TRAIN, Naive, adapter, evaluator, lora_slot
from safetensors.numpy import load, save

from persrep_ray.backbones.backbone import Backbone
from persrep_ray.evaluate.evaluator import MOST_PROTOTYPES
from persrep_ray.tasks.dense import make_reference
from persrep_ray.tasks.find import MOST_PHOTOS as MOST_SAMPLES
from persrep_ray.tasks.find import Sample, fit_finder
from persrep_ray.tasks.keypoints import MOST_KEYPOINTS, KeypointModel
from persrep_ray.tasks.keypoints import MOST_PHOTOS as MOST_KEYPOINT_PHOTOS
from persrep_ray.tasks.model import ObjectModel
from persrep_ray.tasks.patches import PatchModel
from persrep_ray.tasks.recognize import Recognizer


class TestPrototypes:
    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_are_exact_whatever_the_precision_and_the_cache(self, root: Path, precision: str) -> None:
        exact = lora_slot()
        backbone = Backbone(exact.backbone.model, adapted_blocks=2, precision=precision)
        exact.backbone._autocast, backbone._autocast = False, precision == "bfloat16"
        lora = lora_slot()
        lora.backbone._autocast = precision == "bfloat16"
        state = adapter(lora)
        under_test = evaluator(root, lora)
        under_test.evaluate("red", state)
        prototypes = under_test.prototypes("red", state)
        assert lora.backbone._autocast == (precision == "bfloat16")

        exact.train(False)
        naive = Naive(root, exact.backbone)
        train = naive.objects["red"].train
        np.testing.assert_allclose(prototypes["pretrained_cls"], naive.cls(train), rtol=1e-3, atol=1e-5)
        exact.load(state)
        np.testing.assert_allclose(prototypes["cls"], naive.cls(train), rtol=1e-3, atol=1e-5)
        reference = make_reference([naive.patches(photo) for photo in train], [naive.mask(photo) for photo in train])
        np.testing.assert_allclose(prototypes["target"], reference.target, atol=1e-3)
        np.testing.assert_allclose(prototypes["box_means"], reference.box_means, atol=1e-3)

        again = evaluator(root, lora).prototypes("red", state)  # the names of versions depend on these bytes
        assert all(again[name].tobytes() == value.tobytes() for name, value in prototypes.items())

    def test_pretrained_features_are_the_same_under_any_adapter(self, root: Path) -> None:
        under_test = evaluator(root)
        first, second = (under_test.prototypes("red", adapter(lora_slot(), seed)) for seed in (1, 2))
        assert first["pretrained_cls"].tobytes() == second["pretrained_cls"].tobytes()
        assert np.abs(first["cls"] - second["cls"]).max() > 0.01

    def test_without_masks_there_is_only_cls(self, root: Path) -> None:
        (root / "train_masks").rename(root / "elsewhere")
        assert evaluator(root).prototypes("red", adapter(lora_slot())).keys() == {"cls", "pretrained_cls"}

    def test_a_photo_without_a_mask_still_has_its_cls(self, root: Path) -> None:
        (root / "train_masks" / "red" / "0.png").unlink()
        prototypes = evaluator(root).prototypes("red", adapter(lora_slot()))
        assert (len(prototypes["cls"]), len(prototypes["box_means"])) == (TRAIN, TRAIN - 1)
        assert len(prototypes["pretrained_cls"]) == TRAIN

    def test_the_model_of_an_evaluation_is_among_them(self, root: Path) -> None:
        state, under_test = adapter(lora_slot()), evaluator(root)
        model = under_test.evaluate("red", state).model
        assert model is not None
        prototypes = under_test.prototypes("red", state, model)
        published = ObjectModel.from_arrays(load(save(prototypes)), prototypes["cls"].shape[1])
        assert published is not None
        cls = prototypes["cls"].astype(np.float32)
        patches = np.random.default_rng(0).normal(size=(len(cls), 4, 4, cls.shape[1])).astype(np.float32)
        np.testing.assert_allclose(published.evidence(cls, patches), model.evidence(cls, patches), atol=1e-4)

    @pytest.mark.parametrize("mode", ["threshold", "discriminant"])
    def test_a_published_model_gives_the_same_figures_of_its_side(self, root: Path, mode: str) -> None:
        state, under_test = adapter(lora_slot()), evaluator(root, mode=mode)
        fitted = under_test.evaluate("red", state)
        given = under_test.evaluate("red", state, published=fitted.model)
        assert given.personalized == pytest.approx(fitted.personalized)
        lacking = {name.split(".")[0] for name in fitted.pretrained.keys() - given.pretrained.keys()}
        assert lacking == ({"served"} if mode == "threshold" else {"served", "detection", "segmentation", "paper"})


def test_a_version_of_many_photos_and_all_models_takes_at_most_256_kilobytes() -> None:
    """What a version holds beside its adapter, at the widths of the embedded backbone and at all limits."""
    width, random = 384, np.random.default_rng(0)
    photos = [random.integers(0, 255, (400, 400, 3), np.uint8) for _ in range(MOST_KEYPOINT_PHOTOS)]
    rows = random.normal(size=(40, width)).astype(np.float32)
    others = random.normal(size=(300, width)).astype(np.float32)
    grids = random.normal(size=(40, 16, 16, width)).astype(np.float32)
    patches = PatchModel.fit(grids, [None] * 40, grids[:5])
    recognizer = Recognizer.fit(
        rows,
        others,
        [str(index // 3) for index in range(300)],
        synthetic_positives=rows[:0],
        synthetic_others=rows[:0],
        held_out={},
        patches=patches.against(patches.matches(grids[:5])),
    )
    mask = np.arange(64 * 64).reshape(64, 64) < 1000
    samples = [Sample(np.zeros((64, 64, 3), np.uint8), grid, mask) for grid in grids[:MOST_SAMPLES]]
    finder = fit_finder(samples, [], lambda crops, _: np.zeros(len(crops)))
    keypoints = KeypointModel.fit(photos, [None] * len(photos))
    assert len(keypoints) >= MOST_KEYPOINTS - MOST_KEYPOINT_PHOTOS
    arrays = ObjectModel(recognizer, finder, keypoints).to_arrays()
    arrays |= {name: rows[:MOST_PROTOTYPES].astype(np.float16) for name in ("cls", "pretrained_cls", "box_means")}
    arrays["target"] = rows[0]
    assert 200_000 < len(save(arrays)) <= 256 * 1024
