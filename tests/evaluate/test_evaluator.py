from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import COLOURS, shape, tiny_backbone

from persrep_ray.backbones.backbone import Backbone
from persrep_ray.backbones.lora import LoraBackbone, State
from persrep_ray.config import BackboneConfig, EvaluateConfig, RunConfig
from persrep_ray.data.images import read_mask, read_rgb, resize_square, standard_view
from persrep_ray.data.objects import Manifest, Photo, load_manifest
from persrep_ray.data.others import choose_others
from persrep_ray.evaluate import classification, retrieval
from persrep_ray.evaluate.dense import coco_metrics, make_reference, predict
from persrep_ray.evaluate.evaluator import EvaluateError, Evaluation, Evaluator
from persrep_ray.evaluate.summary import METRICS, flatten
from persrep_ray.evaluate.threshold import serving_threshold
from persrep_ray.report.contact_sheet import contact_sheet

SIZE, DENSE = 56, 112
TRAIN, TEST = 2, 3


def config(**evaluate: Any) -> RunConfig:
    return RunConfig(
        backbone=BackboneConfig(image_size=SIZE, precision="float32"),
        evaluate=EvaluateConfig(**{"dense_size": DENSE, "batch_size": 2, **evaluate}),
    )


def save(root: Path, folder: str, object_id: str, index: int, image: np.ndarray, mask: np.ndarray | None) -> None:
    for name, array in ((folder, image), (f"{folder}_masks", mask)):
        if array is not None:
            path = root / name / object_id / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three coloured discs in the reference layout, no photo of another one's shape; all with masks."""
    for number, (object_id, colour) in enumerate(COLOURS.items()):
        for index in range(TRAIN + TEST):
            image, mask = shape(colour, seed=10 * number + index)
            height = 48 + 4 * index  # a photo is no square
            part = "train" if index < TRAIN else "test"
            save(tmp_path, part, object_id, index, image[:height], mask[:height])
    return tmp_path


def manifest_of(root: Path) -> Manifest:
    return load_manifest(root, RunConfig().data)


def lora_slot(**options: Any) -> LoraBackbone:
    lora = LoraBackbone(tiny_backbone(), RunConfig().train.lora, base_name="tiny")
    with torch.no_grad():  # the initial weights hardly tell two photos apart
        generator = torch.Generator().manual_seed(0)
        for parameter in lora.backbone.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    lora.reset(0)
    return lora


def adapter(lora: LoraBackbone, seed: int = 1) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) * 0.4 for name, value in lora.state().items()}


def evaluator(root: Path, lora: LoraBackbone | None = None, **options: Any) -> Evaluator:
    manifest = manifest_of(root)
    cache = {"cache_bytes": options.pop("cache_bytes")} if "cache_bytes" in options else {}

    def masks(object_id: str) -> list[np.ndarray | None]:
        photos = manifest.objects[object_id].train
        return [read_mask(photo.mask, RunConfig().data) if photo.mask else None for photo in photos]

    return Evaluator(lora or lora_slot(), manifest, masks, config(**options), **cache)


def same(left: Evaluation, right: Evaluation) -> None:
    assert left.personalized == pytest.approx(right.personalized, abs=1e-6)
    assert left.pretrained == pytest.approx(right.pretrained, abs=1e-6)
    assert left.threshold == pytest.approx(right.threshold, abs=1e-5)
    assert [row.title for row in left.tests] == [row.title for row in right.tests]
    for one, other in zip(left.tests, right.tests, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_allclose(one.personalized_similarity, other.personalized_similarity, atol=1e-3)


class Naive:
    """The same figures, photo by photo, nothing batched and nothing kept."""

    def __init__(self, root: Path, backbone: Backbone) -> None:
        self.objects = manifest_of(root).objects
        self.backbone = backbone
        self.limits = RunConfig().data

    @torch.no_grad()
    def features(self, square: np.ndarray) -> Any:
        return self.backbone.suffix(self.backbone.prefix(self.backbone.pixels([square], len(square))))

    def cls(self, photos: Sequence[Photo]) -> np.ndarray:
        squares = [standard_view(read_rgb(photo.path, self.limits), SIZE) for photo in photos]
        return np.stack([self.features(square).cls[0].numpy() for square in squares])

    def patches(self, photo: Photo) -> np.ndarray:
        square = resize_square(read_rgb(photo.path, self.limits), DENSE)
        grid = DENSE // self.backbone.patch_size
        return self.features(square).patches[0].half().numpy().reshape(grid, grid, -1)

    def mask(self, photo: Photo) -> np.ndarray:
        assert photo.mask is not None
        return read_mask(photo.mask, self.limits)

    def metrics(self, object_id: str, most: int) -> tuple[dict[str, float], float]:
        own = self.objects[object_id]
        others = [self.objects[other] for other in choose_others(object_id, dict.fromkeys(self.objects), 9, seed=0)]
        gallery = [*own.train, *[photo for other in others for photo in other.train][:most]]
        tests = [*own.test, *[photo for other in others for photo in other.test][:most]]
        train, known, seen = self.cls(own.train), self.cls(gallery), self.cls(tests)
        is_own = np.array([photo.object_id == object_id for photo in tests])
        relevant = np.array([photo.object_id == object_id for photo in gallery])

        reference = make_reference([self.patches(photo) for photo in own.train], [self.mask(p) for p in own.train])
        predictions, truths = [], []
        for photo in tests:
            image = read_rgb(photo.path, self.limits)
            predictions.append(predict(reference, self.patches(photo), image.shape[:2]))
            truths.append(self.mask(photo) if photo.object_id == object_id else None)
        tasks = {
            "classification": {"pr_auc": classification.pr_auc(train, seen, is_own)},
            "retrieval": retrieval.scores(seen[is_own], known, relevant),
            **coco_metrics(predictions, truths),
        }
        return flatten(tasks), serving_threshold(train, known[~relevant])


@pytest.mark.parametrize("most", [2000, 2])
@pytest.mark.parametrize("object_id", COLOURS)
def test_equals_a_naive_computation(root: Path, object_id: str, most: int) -> None:
    lora = lora_slot()
    state = adapter(lora)
    evaluation = evaluator(root, most_photos=most).evaluate(object_id, state)
    naive = Naive(root, lora.backbone)
    pretrained, _ = naive.metrics(object_id, most)
    lora.load(state)
    personalized, threshold = naive.metrics(object_id, most)
    assert tuple(evaluation.pretrained) == METRICS
    assert evaluation.pretrained == pytest.approx(pretrained, abs=1e-6)
    assert evaluation.personalized == pytest.approx(personalized, abs=1e-6)
    assert evaluation.threshold == pytest.approx(threshold, abs=1e-5)
    assert pretrained != personalized


def test_a_fresh_adapter_changes_nothing(root: Path) -> None:
    lora = lora_slot()
    evaluation = evaluator(root, lora).evaluate("red", lora.state())
    assert evaluation.pretrained == evaluation.personalized
    for row in evaluation.tests:
        np.testing.assert_array_equal(row.pretrained_similarity, row.personalized_similarity)


def test_dropout_is_off(root: Path) -> None:
    options = RunConfig().train.lora.model_copy(update={"dropout": 0.5})
    dropping = LoraBackbone(tiny_backbone(), options, base_name="tiny")
    dropping.reset(0)
    state = adapter(dropping)
    dropping.train()
    under_test = evaluator(root, dropping)
    same(under_test.evaluate("red", state), under_test.evaluate("red", state))


class TestCache:
    def test_changes_no_result(self, root: Path) -> None:
        lora = lora_slot()
        cached, tight, bare = (evaluator(root, cache_bytes=size) for size in (2**30, 30_000, 0))
        for object_id, seed in (("red", 1), ("blue", 2), ("red", 1)):
            state = adapter(lora, seed)
            expected = bare.evaluate(object_id, state)
            same(cached.evaluate(object_id, state), expected)
            same(tight.evaluate(object_id, state), expected)

    def test_computes_a_prefix_once_for_all_adapters(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lora = lora_slot()
        computed = 0
        prefix = lora.backbone.prefix

        def counting(pixels: torch.Tensor) -> torch.Tensor:
            nonlocal computed
            computed += len(pixels)
            return prefix(pixels)

        monkeypatch.setattr(lora.backbone, "prefix", counting)
        under_test = evaluator(root, lora)
        under_test.evaluate("red", adapter(lora, 1))
        photos, dense_only_of_own_train = len(COLOURS) * (TRAIN + 2 * TEST), TRAIN
        assert computed == photos + dense_only_of_own_train
        under_test.evaluate("red", adapter(lora, 2))
        assert computed == photos + dense_only_of_own_train
        under_test.evaluate("blue", adapter(lora, 2))  # all photos are known, but not its train photos' patches
        assert computed == photos + 2 * dense_only_of_own_train

    @pytest.mark.parametrize("budget", [0, 30_000, 200_000])
    def test_stays_within_its_budget(self, root: Path, budget: int) -> None:
        under_test = evaluator(root, cache_bytes=budget)
        under_test.evaluate("red", adapter(lora_slot()))
        kept = under_test._cache._kept
        assert sum(tensor.untyped_storage().nbytes() for tensor in kept._tensors.values()) == kept._used <= budget
        assert budget < 30_000 or kept._used > budget / 2


class TestAbsentTasks:
    def test_no_test_photos(self, root: Path) -> None:
        (root / "test").rename(root / "elsewhere")
        evaluation = evaluator(root).evaluate("red", adapter(lora_slot()))
        assert evaluation.pretrained == evaluation.personalized == {}
        assert evaluation.tests == ()
        assert -1 < evaluation.threshold < 1

    @pytest.mark.parametrize("masks", ["train_masks", "test_masks"])
    def test_no_masks_no_dense_tasks(self, root: Path, masks: str) -> None:
        (root / masks).rename(root / "elsewhere")
        evaluation = evaluator(root).evaluate("red", adapter(lora_slot()))
        assert {name.split(".")[0] for name in evaluation.personalized} == {"classification", "retrieval"}
        assert len(evaluation.tests) == (0 if masks == "train_masks" else TEST + 2)

    def test_nothing_to_tell_the_object_from(self, root: Path) -> None:
        evaluation = evaluator(root, most_photos=0).evaluate("red", adapter(lora_slot()))
        assert {name.split(".")[0] for name in evaluation.personalized} == {"detection", "segmentation"}
        assert len(evaluation.tests) == TEST


class TestDensePhotos:
    def test_own_photos_without_a_mask_are_left_out(self, root: Path) -> None:
        lora = lora_slot()
        state = adapter(lora)
        (root / "test_masks" / "red" / "2.png").unlink()
        with_two = evaluator(root).evaluate("red", state)
        (root / "test" / "red" / "2.png").unlink()
        without = evaluator(root).evaluate("red", state)
        for name in METRICS[4:]:
            assert with_two.personalized[name] == pytest.approx(without.personalized[name])

    def test_others_take_part_with_their_masked_photos_if_they_have_some(self, root: Path) -> None:
        under_test = evaluator(root)
        looked_at = _looked_at(under_test, "red", adapter(lora_slot()))
        assert looked_at == {"red": TEST, "green": TEST, "blue": TEST}
        (root / "test_masks" / "green" / "2.png").unlink()
        for path in (root / "test_masks" / "blue").iterdir():
            path.unlink()
        looked_at = _looked_at(evaluator(root), "red", adapter(lora_slot()))
        assert looked_at == {"red": TEST, "green": TEST - 1, "blue": TEST}

    def test_masks_of_large_photos_are_scaled_down_with_them(self, root: Path) -> None:
        lora = lora_slot()
        image, mask = shape(COLOURS["red"], seed=99, size=800)
        save(root, "test", "red", 7, image[:500], mask[:500])
        evaluation = evaluator(root).evaluate("red", adapter(lora))
        row = next(row for row in evaluation.tests if "red/7.png" in row.title)
        assert row.image.shape == (400, 640, 3)
        assert row.truth_mask is not None and row.truth_mask.shape == (400, 640)
        assert row.truth_mask.mean() == pytest.approx(mask[:500].mean(), abs=0.01)
        assert evaluation.personalized["detection.f1"] + evaluation.pretrained["detection.f1"] > 0


def _looked_at(under_test: Evaluator, object_id: str, state: State) -> dict[str, int]:
    """Per object, how many of its photos the dense tasks of `object_id` were computed on."""
    found: dict[str, int] = {}
    scan = under_test._scan

    def spying(own: Any, photos: Any, references: Any = None) -> Any:
        scans = scan(own, photos, references)
        for one in scans["personalized"].seen:
            if one.outcome:
                found[one.photo.object_id] = found.get(one.photo.object_id, 0) + 1
        return scans

    under_test._scan = spying  # type: ignore[method-assign]
    under_test.evaluate(object_id, state)
    return found


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
    for object_id in COLOURS:  # what is left is the split "pose"
        for index in (3, 4):
            (root / "test" / object_id / f"{index}.png").unlink()
    alone = evaluator(root).evaluate("red", state)
    for side, whole in (("pretrained", alone.pretrained), ("personalized", alone.personalized)):
        assert by_split["pose"][side] == pytest.approx(whole)


class TestRows:
    def test_own_photos_then_the_most_alike_of_either_side(self, root: Path, tmp_path: Path) -> None:
        lora = lora_slot()
        state = adapter(lora)
        rows = evaluator(root).evaluate("red", state).tests
        own, others = rows[:TEST], rows[TEST:]
        assert [row.title.split()[0] for row in own] == ["red/2.png", "red/3.png", "red/4.png"]
        assert all(row.truth_mask is not None for row in own)
        assert all(row.truth_mask is None and row.title.startswith("another object: ") for row in others)

        naive = Naive(root, lora.backbone)
        photos = [photo for other in ("green", "blue") for photo in naive.objects[other].test]
        train = naive.objects["red"].train
        hardest = photos[int(classification.scores(naive.cls(train), naive.cls(photos)).argmax())]
        assert f"{hardest.object_id}/{hardest.path.name}" in others[0].title
        assert len({row.title for row in others}) == 2

        contact_sheet(
            "red", train=[], positives=[], negatives=[], tests=rows, title_metrics="", out=tmp_path / "sheet.jpg"
        )

    def test_are_few(self, root: Path) -> None:
        for index in range(10, 20):
            save(root, "test", "red", index, *shape(COLOURS["red"], seed=index))
        (root / "test_masks" / "red" / "2.png").unlink()
        rows = evaluator(root).evaluate("red", adapter(lora_slot())).tests
        assert len(rows) == 8
        assert not any("red/2.png" in row.title for row in rows)  # those with a truth come first


class TestUnreadable:
    def test_test_photos_are_left_out_and_reported_once(self, root: Path) -> None:
        state = adapter(lora_slot())
        under_test = evaluator(root)
        broken = [root / "test" / "red" / "2.png", root / "test" / "green" / "3.png"]
        for path in broken:
            path.write_bytes(path.read_bytes()[:200])
        found = under_test.evaluate("red", state)
        under_test.evaluate("blue", state)
        assert sorted(problem.path for problem in under_test.problems) == sorted(broken)
        assert {problem.object_id for problem in under_test.problems} == {"red", "green"}
        for path in broken:
            path.unlink()
        same(found, evaluator(root).evaluate("red", state))

    def test_a_broken_truth_counts_as_none(self, root: Path) -> None:
        state = adapter(lora_slot())
        under_test = evaluator(root)
        mask = root / "test_masks" / "red" / "2.png"
        mask.write_bytes(b"no mask")
        found = under_test.evaluate("red", state)
        assert [problem.path for problem in under_test.problems] == [mask]
        mask.unlink()
        expected = evaluator(root).evaluate("red", state)
        assert found.personalized == pytest.approx(expected.personalized)

    def test_no_train_photo_is_an_error_of_this_object_alone(self, root: Path) -> None:
        state = adapter(lora_slot())
        under_test = evaluator(root)
        for path in (root / "train" / "red").iterdir():
            path.write_bytes(b"no photo")
        with pytest.raises(EvaluateError, match="object red: evaluate: no train photo can be read"):
            under_test.evaluate("red", state)
        with pytest.raises(EvaluateError, match="object red: evaluate: no train photo can be read"):
            under_test.prototypes("red", state)
        assert under_test.evaluate("blue", state).personalized


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

        exact.load(state)
        exact.train(False)
        naive = Naive(root, exact.backbone)
        train = naive.objects["red"].train
        np.testing.assert_allclose(prototypes["cls"], naive.cls(train), atol=1e-5)
        reference = make_reference([naive.patches(photo) for photo in train], [naive.mask(photo) for photo in train])
        np.testing.assert_allclose(prototypes["target"], reference.target, atol=1e-3)
        np.testing.assert_allclose(prototypes["box_means"], reference.box_means, atol=1e-3)
        assert all(value.dtype == np.float32 for value in prototypes.values())

        again = evaluator(root, lora).prototypes("red", state)  # versions are named by these bytes
        assert all(again[name].tobytes() == value.tobytes() for name, value in prototypes.items())

    def test_without_masks_there_is_cls_alone(self, root: Path) -> None:
        (root / "train_masks").rename(root / "elsewhere")
        assert evaluator(root).prototypes("red", adapter(lora_slot())).keys() == {"cls"}

    def test_a_photo_without_a_mask_still_has_its_cls(self, root: Path) -> None:
        (root / "train_masks" / "red" / "0.png").unlink()
        prototypes = evaluator(root).prototypes("red", adapter(lora_slot()))
        assert (len(prototypes["cls"]), len(prototypes["box_means"])) == (TRAIN, TRAIN - 1)


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
