from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.discs import (
    TEST,
    TRAIN,
    Naive,
    adapter,
    config,
    evaluator,
    lora_slot,
    manifest_of,
    same,
    same_calibration,
    save,
)
from helpers.tiny import COLOURS, shape, tiny_backbone

from persrep_ray.backbones.lora import LoraBackbone
from persrep_ray.config import RunConfig
from persrep_ray.evaluate.evaluator import EvaluateError, Evaluator
from persrep_ray.evaluate.examples import pack, unpack
from persrep_ray.evaluate.finders import LabelledImage
from persrep_ray.tasks import classification
from persrep_ray.tasks.metrics import METRICS


@pytest.mark.parametrize("most", [2000, 2])
@pytest.mark.parametrize("object_id", COLOURS)
def test_equals_a_naive_computation(root: Path, object_id: str, most: int) -> None:
    lora = lora_slot()
    state = adapter(lora)
    labelled = [
        LabelledImage(*shape(COLOURS["red"], seed=seed, size=size)) for seed, size in ((70, 64), (71, 80), (72, 64))
    ]
    synthetic = [one.image for one in labelled]
    evaluation = evaluator(root, most_photos=most).evaluate(
        object_id, state, synthetic_positives=labelled[:1], synthetic_others=labelled[1:]
    )
    naive = Naive(root, lora.backbone)
    pretrained, _ = naive.metrics(object_id, most, synthetic)
    lora.load(state)
    personalized, calibration = naive.metrics(object_id, most, synthetic)
    assert tuple(evaluation.pretrained) == METRICS[:11]
    assert evaluation.pretrained == pytest.approx(pretrained, abs=1e-6)
    assert evaluation.personalized == pytest.approx(personalized, abs=1e-6)
    same_calibration(evaluation.calibration, calibration)
    assert pretrained != personalized


def test_a_fresh_adapter_changes_nothing(root: Path) -> None:
    lora = lora_slot()
    evaluation = evaluator(root, lora).evaluate("red", lora.state())
    assert evaluation.pretrained == evaluation.personalized
    assert evaluation.examples
    for example in evaluation.examples:
        np.testing.assert_array_equal(example.similarity["pretrained"], example.similarity["personalized"])


def test_dropout_is_off(root: Path) -> None:
    options = RunConfig().train.lora.model_copy(update={"dropout": 0.5})
    dropping = LoraBackbone(tiny_backbone(), options, base_name="tiny")
    dropping.reset(0)
    state = adapter(dropping)
    dropping.train()
    under_test = evaluator(root, dropping)
    same(under_test.evaluate("red", state), under_test.evaluate("red", state))


def test_splits_are_evaluated_apart(root: Path) -> None:
    annotations = {
        f"{object_id}/{index}.png": {
            "class": object_id,
            "split": "test",
            "test_split": "pose" if index == 2 else "in_distribution",
        }
        for object_id in COLOURS
        for index in range(TRAIN, TRAIN + TEST)
    }
    (root / "pods_image_annos.json").write_text(json.dumps(annotations))
    lora = lora_slot()
    state = adapter(lora)
    by_split = evaluator(root).evaluate("red", state).by_split
    assert set(by_split) == {"in_distribution", "pose"}
    for object_id in COLOURS:  # only the split "pose" remains
        for index in (3, 4):
            (root / "test" / object_id / f"{index}.png").unlink()
    alone = evaluator(root).evaluate("red", state)
    for side, whole in (("pretrained", alone.pretrained), ("personalized", alone.personalized)):
        assert by_split["pose"][side] == pytest.approx(whole)


class TestExamples:
    def test_photos_of_the_object_precede_the_most_alike_distractor_of_each_side(self, root: Path) -> None:
        lora = lora_slot()
        state = adapter(lora)
        examples = evaluator(root).evaluate("red", state).examples
        own, distractors = examples[:TEST], examples[TEST:]
        assert [example.title.split()[0] for example in own] == ["red/2.png", "red/3.png", "red/4.png"]
        assert [example.photo for example in own] == [root / "test" / "red" / f"{i}.png" for i in (2, 3, 4)]
        assert all(example.truth is not None for example in own)
        assert all(one.truth is None and one.title.startswith("another object: ") for one in distractors)

        naive = Naive(root, lora.backbone)
        photos = [photo for other in ("green", "blue") for photo in naive.objects[other].test]
        train = naive.objects["red"].train
        hardest = photos[int(classification.scores(naive.cls(train), naive.cls(photos)).argmax())]
        assert f"{hardest.object_id}/{hardest.path.name}" in distractors[0].title
        assert len({example.title for example in distractors}) == 2

    def test_they_are_few(self, root: Path) -> None:
        for index in range(10, 20):
            save(root, "test", "red", index, *shape(COLOURS["red"], seed=index))
        (root / "test_masks" / "red" / "2.png").unlink()
        examples = evaluator(root).evaluate("red", adapter(lora_slot())).examples
        assert len(examples) == 8
        assert not any("red/2.png" in example.title for example in examples)  # photos with a truth come first

    def test_they_survive_storage(self, root: Path) -> None:
        examples = evaluator(root).evaluate("red", adapter(lora_slot())).examples
        entries, arrays = pack(examples)
        again = unpack(json.loads(json.dumps(entries)), arrays, RunConfig().data)
        assert len(again) == len(examples) > TEST
        for one, other in zip(again, examples, strict=True):
            assert (one.photo, one.title) == (other.photo, other.title)
            np.testing.assert_equal(
                (one.truth, one.similarity, one.found), (other.truth, other.similarity, other.found)
            )


class TestErrors:
    def test_an_unknown_object(self, root: Path) -> None:
        with pytest.raises(EvaluateError, match="object mug: evaluate: not among the objects"):
            evaluator(root).evaluate("mug", {})

    def test_an_adapter_that_does_not_fit(self, root: Path) -> None:
        with pytest.raises(EvaluateError, match="object red: evaluate: adapter lacks tensors"):
            evaluator(root).evaluate("red", {})

    def test_masks_that_do_not_fit_the_photos(self, root: Path) -> None:
        under_test = Evaluator(lora_slot(), manifest_of(root), lambda object_id: [None], config())
        with pytest.raises(EvaluateError, match="object red: evaluate: 1 masks for 2 train photos"):
            under_test.evaluate("red", adapter(lora_slot()))

    def test_features_that_are_not_finite(self, root: Path) -> None:
        lora = lora_slot()
        state = {name: torch.full_like(value, 1e30) for name, value in lora.state().items()}
        with pytest.raises(EvaluateError, match=r"object red: evaluate: .*not finite"):
            evaluator(root, lora).evaluate("red", state)
        with pytest.raises(EvaluateError, match=r"object red: evaluate: .*not finite"):
            evaluator(root, lora).prototypes("red", state)
