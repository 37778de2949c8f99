from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.discs import TEST, TRAIN, adapter, evaluator, lora_slot, same
from helpers.tiny import COLOURS

from persrep_ray.evaluate import recognizers


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
        photos = len(COLOURS) * (TRAIN + 2 * TEST) + len(recognizers.cohort_photos())
        dense_only_of_own_train = TRAIN
        assert computed == photos + dense_only_of_own_train
        under_test.evaluate("red", adapter(lora, 2))
        assert computed == photos + dense_only_of_own_train
        under_test.evaluate("blue", adapter(lora, 2))  # all photos are known, but not the patches of its train photos
        assert computed == photos + 2 * dense_only_of_own_train

    @pytest.mark.parametrize("budget", [0, 30_000, 200_000])
    def test_stays_within_its_budget(self, root: Path, budget: int) -> None:
        under_test = evaluator(root, cache_bytes=budget)
        under_test.evaluate("red", adapter(lora_slot()))
        kept = under_test._cache._kept
        assert sum(tensor.untyped_storage().nbytes() for tensor in kept._values.values()) == kept._used <= budget
        assert budget < 30_000 or kept._used > budget / 2
