from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.discs import TRAIN, Naive, adapter, evaluator, lora_slot
from safetensors.numpy import load, save

from persrep_ray.backbones.backbone import Backbone
from persrep_ray.tasks.dense import make_reference
from persrep_ray.tasks.recognize import published_recognizer


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
        np.testing.assert_allclose(prototypes["pretrained_cls"], naive.cls(train), atol=1e-5)
        exact.load(state)
        np.testing.assert_allclose(prototypes["cls"], naive.cls(train), atol=1e-5)
        reference = make_reference([naive.patches(photo) for photo in train], [naive.mask(photo) for photo in train])
        np.testing.assert_allclose(prototypes["target"], reference.target, atol=1e-3)
        np.testing.assert_allclose(prototypes["box_means"], reference.box_means, atol=1e-3)
        assert all(value.dtype == np.float32 for value in prototypes.values())

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

    def test_the_recognizer_of_an_evaluation_is_among_them(self, root: Path) -> None:
        state, under_test = adapter(lora_slot()), evaluator(root)
        recognizers = under_test.evaluate("red", state).recognizers
        recognizer = recognizers["personalized"]
        prototypes = under_test.prototypes("red", state, recognizer=recognizer)
        published = published_recognizer(load(save(prototypes)), prototypes["cls"].shape[1])
        assert published is not None
        expected = recognizer.evidence(prototypes["cls"], {})
        np.testing.assert_allclose(published.evidence(prototypes["cls"], {}), expected, atol=1e-6)

    def test_a_side_without_a_recognizer_has_no_figure_of_it(self, root: Path) -> None:
        state, under_test = adapter(lora_slot()), evaluator(root)
        fitted = under_test.evaluate("red", state)
        given = under_test.evaluate("red", state, recognizers={"personalized": fitted.recognizers["personalized"]})
        assert given.personalized == pytest.approx(fitted.personalized)
        assert fitted.pretrained.keys() - given.pretrained.keys() == {"served.pr_auc"}
