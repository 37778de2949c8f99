"""Evaluation with photos and masks that are missing or broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.discs import DENSE, TEST, TRAIN, adapter, evaluator, lora_slot, same, save
from helpers.tiny import COLOURS, shape

from persrep_ray.backbones.backbone import Features
from persrep_ray.backbones.lora import State
from persrep_ray.evaluate.evaluator import EvaluateError, Evaluator
from persrep_ray.tasks.metrics import METRICS


class TestAbsentTasks:
    def test_no_test_photos(self, root: Path) -> None:
        (root / "test").rename(root / "elsewhere")
        evaluation = evaluator(root).evaluate("red", adapter(lora_slot()))
        assert evaluation.pretrained == evaluation.personalized == {}
        assert evaluation.examples == ()
        assert -1 < evaluation.calibration.threshold < 1

    @pytest.mark.parametrize("masks", ["train_masks", "test_masks"])
    def test_no_masks_no_dense_tasks(self, root: Path, masks: str) -> None:
        (root / masks).rename(root / "elsewhere")
        evaluation = evaluator(root).evaluate("red", adapter(lora_slot()))
        assert {name.split(".")[0] for name in evaluation.personalized} == {"classification", "served", "retrieval"}
        assert len(evaluation.examples) == (0 if masks == "train_masks" else TEST + 2)

    def test_nothing_to_tell_the_object_from(self, root: Path) -> None:
        evaluation = evaluator(root, most_photos=0).evaluate("red", adapter(lora_slot()))
        assert {name.split(".")[0] for name in evaluation.personalized} == {"detection", "segmentation"}
        assert len(evaluation.examples) == TEST


class TestDensePhotos:
    def test_without_a_truth_only_the_examples_are_searched(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (root / "test_masks" / "red").rename(root / "elsewhere")
        for index in range(10, 30):
            save(root, "test", "blue", index, *shape(COLOURS["blue"], seed=index))
        lora = lora_slot()
        dense_forwards = 0
        suffix = lora.backbone.suffix

        def counting(hidden: torch.Tensor) -> Features:
            nonlocal dense_forwards
            if hidden.shape[1] == 1 + (DENSE // lora.backbone.patch_size) ** 2:
                dense_forwards += len(hidden)
            return suffix(hidden)

        monkeypatch.setattr(lora.backbone, "suffix", counting)
        evaluation = evaluator(root, lora).evaluate("red", adapter(lora))
        assert len(evaluation.examples) == TEST + 2
        assert dense_forwards == 2 * (TRAIN + len(evaluation.examples))  # both sides

    def test_photos_of_the_object_without_a_mask_are_left_out(self, root: Path) -> None:
        lora = lora_slot()
        state = adapter(lora)
        (root / "test_masks" / "red" / "2.png").unlink()
        with_two = evaluator(root).evaluate("red", state)
        (root / "test" / "red" / "2.png").unlink()
        without = evaluator(root).evaluate("red", state)
        for name in METRICS[5:11]:
            assert with_two.personalized[name] == pytest.approx(without.personalized[name])

    def test_other_objects_take_part_with_their_masked_photos_if_they_have_any(self, root: Path) -> None:
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
        (example,) = (one for one in evaluation.examples if "red/7.png" in one.title)
        assert example.truth is not None and example.truth.shape == (400, 640)
        assert example.truth.mean() == pytest.approx(mask[:500].mean(), abs=0.01)
        assert evaluation.personalized["detection.f1"] + evaluation.pretrained["detection.f1"] > 0


def _looked_at(under_test: Evaluator, object_id: str, state: State) -> dict[str, int]:
    """How many photos of each object the dense tasks of `object_id` look at."""
    found: dict[str, int] = {}
    scan = under_test._scan

    def spying(own: Any, photos: Any, references: Any = None, models: Any = None, watch: Any = None) -> Any:
        scans = scan(own, photos, references, models, watch)
        for one in scans["personalized"].seen:
            if one.outcome:
                found[one.photo.object_id] = found.get(one.photo.object_id, 0) + 1
        return scans

    under_test._scan = spying  # type: ignore[method-assign]
    under_test.evaluate(object_id, state)
    return found


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

    def test_only_the_object_without_a_train_photo_fails(self, root: Path) -> None:
        state = adapter(lora_slot())
        under_test = evaluator(root)
        for path in (root / "train" / "red").iterdir():
            path.write_bytes(b"no photo")
        with pytest.raises(EvaluateError, match="object red: evaluate: no train photo can be read"):
            under_test.evaluate("red", state)
        with pytest.raises(EvaluateError, match="object red: evaluate: no train photo can be read"):
            under_test.prototypes("red", state)
        assert under_test.evaluate("blue", state).personalized
