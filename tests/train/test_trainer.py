from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from helpers.two_ranks import train_rank
from helpers.vits import KINDS

from persrep_ray.backbones.backbone import Backbone
from persrep_ray.backbones.lora import LoraBackbone
from persrep_ray.config import CrossValidationConfig, RunConfig, TrainConfig
from persrep_ray.train.batches import TrainInputs
from persrep_ray.train.trainer import TrainedAdapter, Trainer, TrainError

Inputs = Callable[[str], TrainInputs]


def with_train(config: RunConfig, **changes: Any) -> RunConfig:
    train = TrainConfig.model_validate({**config.train.model_dump(), **changes})
    return config.model_copy(update={"train": train})


def ignore(done: int, total: int) -> None:
    pass


def same(first: TrainedAdapter, second: TrainedAdapter) -> bool:
    return all(torch.equal(first.state[name], second.state[name]) for name in first.state)


def test_training_lowers_the_loss_and_moves_the_adapter(
    lora: LoraBackbone, config: RunConfig, make_inputs: Inputs
) -> None:
    trained = Trainer(lora, with_train(config, steps=30)).train(make_inputs("red"), ignore)
    assert np.mean(trained.history[-5:]) < 0.5 * np.mean(trained.history[:5])
    assert any(value.abs().max() > 0 for name, value in trained.state.items() if "lora_B" in name)


def test_only_lora_parameters_change(lora: LoraBackbone, config: RunConfig, make_inputs: Inputs) -> None:
    before = {name: value.clone() for name, value in lora.peft.state_dict().items() if "lora_" not in name}
    Trainer(lora, config).train(make_inputs("red"), ignore)
    after = lora.peft.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("kind", ["siglip_vision_model", "dinov3_vit", "clip_vision_model"])
@pytest.mark.parametrize("token_share", [0.5, 1.0])
def test_families_with_other_tokens_learn_too(
    kind: str, token_share: float, config: RunConfig, make_inputs: Inputs
) -> None:
    torch.manual_seed(0)
    lora = LoraBackbone(Backbone(KINDS[kind].make(), adapted_blocks=2), config.train.lora, base_name="tiny")
    batch = config.train.batch.model_copy(update={"token_share": token_share})
    trained = Trainer(lora, with_train(config, steps=30, batch=batch.model_dump())).train(make_inputs("red"), ignore)
    assert np.mean(trained.history[-5:]) < 0.7 * np.mean(trained.history[:5])


def test_an_adapter_does_not_depend_on_what_was_trained_before(
    lora: LoraBackbone, config: RunConfig, make_inputs: Inputs
) -> None:
    trainer = Trainer(lora, config)
    first = trainer.train(make_inputs("red"), ignore)
    other = trainer.train(make_inputs("blue"), ignore)
    again = trainer.train(make_inputs("red"), ignore)
    assert same(first, again) and first.history == again.history
    assert not same(first, other)


def test_the_seed_decides(lora: LoraBackbone, config: RunConfig, make_inputs: Inputs) -> None:
    first = Trainer(lora, config).train(make_inputs("red"), ignore)
    other = Trainer(lora, config.model_copy(update={"seed": 1})).train(make_inputs("red"), ignore)
    assert not same(first, other)


@pytest.mark.parametrize(
    "changes",
    [{"loss": "info_nce"}, {"loss": "hinge"}, {"embedding": "cls_and_patches"}, {"symmetric": False}],
)
def test_every_choice_of_objective_trains(
    lora: LoraBackbone, config: RunConfig, make_inputs: Inputs, changes: dict[str, Any]
) -> None:
    usual = Trainer(lora, config).train(make_inputs("red"), ignore)
    trained = Trainer(lora, with_train(config, **changes)).train(make_inputs("red"), ignore)
    assert np.isfinite(trained.history).all() and trained.history != usual.history
    assert not same(trained, usual)


def test_progress_counts_images_up_to_the_total(lora: LoraBackbone, config: RunConfig, make_inputs: Inputs) -> None:
    seen: list[tuple[int, int]] = []
    with_folds = with_train(config, cross_validation=CrossValidationConfig(folds=2).model_dump())
    Trainer(lora, with_folds).train(make_inputs("red"), lambda done, total: seen.append((done, total)))
    assert seen[0] == (10, 300) and seen[-1] == (300, 300)  # (2 folds + 1) x 10 steps x 10 images


def test_a_loss_that_is_not_finite_stops_before_the_update(
    lora: LoraBackbone, config: RunConfig, make_inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(lora, config)
    calls = 0

    def broken(anchor: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return anchor.sum() * (torch.nan if calls > 4 else 1.0)  # there are two calls a step, so step 2 fails first

    monkeypatch.setattr(trainer, "_loss", broken)
    with pytest.raises(TrainError, match=r"object red: train: step 2: the loss is nan"):
        trainer.train(make_inputs("red"), ignore)
    assert all(torch.isfinite(value).all() for value in lora.state().values())


def test_an_object_without_photos_is_refused_by_name(
    lora: LoraBackbone, config: RunConfig, make_inputs: Inputs
) -> None:
    inputs = make_inputs("red")
    empty = replace(inputs, photos=())
    with pytest.raises(TrainError, match="object red"):
        Trainer(lora, config).train(empty, ignore)


def test_two_ranks_train_as_one_with_the_same_global_batch(
    lora: LoraBackbone, config: RunConfig, make_inputs: Inputs, tmp_path: Path
) -> None:
    config = with_train(config, embedding="cls_and_patches")
    inputs = make_inputs("red")
    alone = Trainer(lora, config).train(inputs, ignore)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(train_rank, args=(port, config.model_dump(), inputs, str(tmp_path)), nprocs=2)
    for rank in range(2):
        history, state = torch.load(tmp_path / f"{rank}.pt")
        np.testing.assert_allclose(history, alone.history, rtol=1e-4)
        for name, value in alone.state.items():
            torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-4)
