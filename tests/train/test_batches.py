from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_backbone

from persrep_ray.config import BatchConfig, DataConfig, ViewsConfig
from persrep_ray.train.batches import Batch, BatchSampler, Pool, TrainInputs, make_pool
from persrep_ray.train.views import ViewStore

TOKENS = 1 + 9


def views(value: float, count: int = 2) -> torch.Tensor:
    """The whole part of every number tells its group, the fraction the index of its token."""
    index = torch.arange(TOKENS) / 100
    return (value + index).repeat(count, 1)[:, :, None].repeat(1, 1, 4)


def pool(**changes: object) -> Pool:
    parts: dict[str, object] = {
        "photos": (views(0), views(1), views(2)),
        "distractors": (views(10), views(11), views(12)),
        "distractor_photo": np.array([0, 1, 2]),
        "distractor_weight": np.ones(3),
        "positives": views(20, count=6),
        "positive_photo": np.array([0, 1, 2, 0, 1, 2]),
        "negatives": views(30, count=6),
        "negative_photo": np.array([0, 1, 2, 0, -1, -1]),
    }
    return Pool(**{**parts, **changes})  # type: ignore[arg-type]


CONFIG = BatchConfig(anchors=3, positives=4, negatives=8, synthetic_negatives=0.5, token_share=1.0)


def groups(batch: Batch) -> list[int]:
    return [int(value) for value in batch.hidden[:, 0, 0]]


def test_roles_are_in_order_and_have_the_configured_shares() -> None:
    batch = BatchSampler(pool(), CONFIG, special_tokens=1, seed=0).draw()
    kinds = [group // 10 for group in groups(batch)]
    assert kinds == [0] * 3 + [2] * 4 + [3] * 4 + [1] * 4
    assert batch.roles == (3, 4, 8) and batch.hidden.shape == (15, TOKENS, 4)


def test_the_seed_decides_the_batches() -> None:
    first, again, other = (BatchSampler(pool(), CONFIG, special_tokens=1, seed=seed) for seed in (0, 0, 1))
    for _ in range(3):
        a, b, c = first.draw(), again.draw(), other.draw()
        assert torch.equal(a.hidden, b.hidden)
    assert not torch.equal(a.hidden, c.hidden)


def test_a_fold_never_draws_what_is_held_out() -> None:
    marked = torch.arange(6.0)[:, None, None].repeat(1, TOKENS, 4)
    fold = pool(positives=200 + marked, negatives=300 + marked).without(1)
    sampler = BatchSampler(fold, CONFIG, special_tokens=1, seed=0)
    drawn = {group for _ in range(40) for group in groups(sampler.draw())}
    assert {0, 2} <= drawn and 1 not in drawn  # photo 1 of the object
    assert {10, 12} <= drawn and 11 not in drawn  # photo 1 of another object
    assert {200, 202, 203, 205} <= drawn and not {201, 204} & drawn  # positives cut from photo 1 of the object
    assert {300, 302, 303, 304, 305} <= drawn and 301 not in drawn  # a negative cut from photo 1 of another object


def test_a_fold_leaves_out_positives_that_may_show_the_held_out_photo() -> None:
    marked = torch.arange(6.0)[:, None, None].repeat(1, TOKENS, 4)

    def drawn(positive_photo: list[int], held_out: int | None) -> set[int]:
        fold = pool(positives=200 + marked, positive_photo=np.array(positive_photo))
        if held_out is not None:
            fold = fold.without(held_out)
        sampler = BatchSampler(fold, CONFIG, special_tokens=1, seed=0)
        batches = [groups(sampler.draw()) for _ in range(40)]
        return {group for batch in batches for group in batch[CONFIG.anchors : CONFIG.anchors + CONFIG.positives]}

    some_sampled = [0, 1, 2, -1, -1, -1]
    assert drawn(some_sampled, held_out=1) == {200, 202}
    assert drawn(some_sampled, held_out=None) == {200, 201, 202, 203, 204, 205}
    assert drawn([-1] * 6, held_out=1) == {0, 2}, "views of the other photos"
    assert drawn([1] * 6, held_out=1) == {0, 2}, "every positive is held out"


def test_without_distractors_all_negatives_are_synthetic_and_vice_versa() -> None:
    no_others = pool(distractors=(), distractor_photo=np.array([], dtype=int), distractor_weight=np.array([]))
    assert {group // 10 for group in groups(BatchSampler(no_others, CONFIG, special_tokens=1, seed=0).draw())[7:]} == {
        3
    }
    no_negatives = pool(negatives=views(30, count=0), negative_photo=np.array([], dtype=int))
    assert {
        group // 10 for group in groups(BatchSampler(no_negatives, CONFIG, special_tokens=1, seed=0).draw())[7:]
    } == {1}


def test_token_share_keeps_cls_and_draws_other_patches_for_each_image() -> None:
    config = CONFIG.model_copy(update={"token_share": 0.34})
    sampler = BatchSampler(pool(), config, special_tokens=1, seed=0)
    first, second = sampler.draw(), sampler.draw()
    assert first.hidden.shape == (15, 1 + 3, 4)
    token = (first.hidden[:, :, 0] % 1 * 100).round()  # the index of the token
    assert (token[:, 0] == 0).all() and (token[:, 1:] > 0).all()
    assert all(len(set(row.tolist())) == 4 for row in token)  # no token twice
    assert len({tuple(row.tolist()) for row in token}) > 1
    assert not torch.equal(token, (second.hidden[:, :, 0] % 1 * 100).round())
    assert first.kept is not None and first.kept.of == 9
    assert torch.equal(first.kept.positions, token[:, 1:].long() - 1)  # in the grid of patches


def test_token_share_of_a_vit_without_special_tokens() -> None:
    config = CONFIG.model_copy(update={"token_share": 0.5})
    batch = BatchSampler(pool(), config, special_tokens=0, seed=0).draw()
    assert batch.hidden.shape == (15, 5, 4) and batch.kept is not None and batch.kept.of == TOKENS
    assert torch.equal(batch.kept.positions, (batch.hidden[:, :, 0] % 1 * 100).round().long())
    assert (batch.kept.positions == 0).any()  # the first patch is treated like the rest


def test_a_full_token_share_leaves_the_patches_in_place() -> None:
    assert BatchSampler(pool(), CONFIG, special_tokens=1, seed=0).draw().kept is None


def test_ranks_share_the_batch_without_overlap() -> None:
    config = BatchConfig(anchors=2, positives=4, negatives=4, token_share=0.5)
    batch = BatchSampler(pool(), config, special_tokens=1, seed=0).draw()
    parts = [batch.of_rank(rank, 2) for rank in range(2)]
    assert [part.roles for part in parts] == [(1, 2, 2), (1, 2, 2)]
    together = torch.cat([part.hidden for part in parts]).flatten(1)
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, batch.hidden.flatten(1).tolist()))
    for part in parts:
        assert part.kept is not None
        assert torch.equal(part.kept.positions + 1, (part.hidden[:, 1:, 0] % 1 * 100).round().long())


def test_distractors_are_drawn_by_their_weight() -> None:
    sampler = BatchSampler(pool(distractor_weight=np.array([1.0, 0.0, 3.0])), CONFIG, special_tokens=1, seed=0)
    drawn = [group for _ in range(100) for group in groups(sampler.draw())[11:]]
    assert drawn.count(11) == 0 and 2 < drawn.count(12) / drawn.count(10) < 4.5


def test_photos_and_negatives_of_one_source_photo_are_held_out_together(
    make_inputs: Callable[[str], TrainInputs],
) -> None:
    """The neighbours lend photos 1 and 2 of their three, which count as their first and second."""
    inputs = make_inputs("red")
    kept = [i for i, index in enumerate(inputs.distractor_photo) if index]
    inputs = replace(
        inputs,
        distractors=tuple(inputs.distractors[i] for i in kept),
        distractor_photo=tuple(inputs.distractor_photo[i] for i in kept),
        checks=inputs.distractors[:1],
    )
    store = ViewStore(tiny_backbone(), ViewsConfig(per_photo=1), DataConfig(), size=56, seed=0)
    made = make_pool(store, inputs, lambda views: np.ones(4) / 2)
    assert made.distractor_photo.tolist() == [0, 1, 0, 1]
    assert [image.source_photo for image in inputs.negatives] == [0, 1, 2, 0, 1, 2]
    assert made.negative_photo[[1, 2, 4, 5]].tolist() == [0, 1, 0, 1]
    assert len(made.checks) == 1 and torch.equal(made.checks[0], store.photo(inputs.checks[0])[0])


def test_things_of_the_bank_are_never_held_out(make_inputs: Callable[[str], TrainInputs]) -> None:
    inputs = make_inputs("red")
    thing = "bank:cup_0"
    inputs = replace(
        inputs,
        distractors=tuple(replace(photo, object_id=thing) for photo in inputs.distractors[:1]),
        distractor_photo=(0,),
        negatives=[replace(image, source_id=thing, source_photo=0) for image in inputs.negatives],
    )
    store = ViewStore(tiny_backbone(), ViewsConfig(per_photo=1), DataConfig(), size=56, seed=0)
    fold = make_pool(store, inputs, lambda views: np.ones(4) / 2).without(0)
    assert not fold.is_held_out(fold.distractor_photo).any() and not fold.is_held_out(fold.negative_photo).any()


def test_an_object_with_many_photos_is_drawn_as_often_as_its_neighbours(
    make_inputs: Callable[[str], TrainInputs],
) -> None:
    inputs = make_inputs("red")  # three photos of each neighbour; one of them lends a single photo
    inputs = replace(inputs, distractors=inputs.distractors[2:], distractor_photo=inputs.distractor_photo[2:])
    store = ViewStore(tiny_backbone(), ViewsConfig(per_photo=1), DataConfig(), size=56, seed=0)
    made = make_pool(store, inputs, lambda views: np.ones(4) / 2)  # all are equally alike
    even = np.array([1 / 2, 1 / 6, 1 / 6, 1 / 6])
    assert made.distractor_weight == pytest.approx(0.5 * even + 0.5 / 4)
