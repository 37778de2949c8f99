"""Fine-tuning when memory runs out or numbers are not finite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.text_to_image import equal, fine_tuned, slot, task, trainee, wrap

from persrep_ray.generate.dreambooth.diffusion.families import Noised
from persrep_ray.generate.dreambooth.diffusion.fine_tuning import fine_tune
from persrep_ray.generate.dreambooth.diffusion.loading import DiffusionError
from persrep_ray.generate.dreambooth.diffusion.model import DiffusionModel

Base = Callable[[str], Path]


class Exhausted:
    """Memory runs out at the calls with these numbers, in their forward or in their backward pass."""

    def __init__(self, one: DiffusionModel, *calls: int, backward: bool = False) -> None:
        self.rows: list[int] = []
        self._calls, self._backward = calls, backward
        wrap(one, self._change)

    def _change(self, noised: Noised, answer: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(answer))
        if len(self.rows) - 1 in self._calls:
            if not self._backward:
                self._raise()
            answer.register_hook(self._raise)
        return answer

    def _raise(self, *_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_that_ran_out_of_memory_is_repeated_in_parts(base: Base, backward: bool) -> None:
    one = trainee(base("sd"), batch_size=2, learning_rate=1e-3)
    wanted = fine_tuned(one, prior=2), slot(one)
    # In the second step all four fail, then the second half of them, and then they are computed one by one.
    exhausted = Exhausted(one, 1, 3, backward=backward)
    said: list[str] = []
    result = fine_tune(one, task(one, prior=2), said.append)
    assert exhausted.rows == [4, 4, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1]
    assert [text.partition("memory; ")[2] for text in said] == [
        "going on with 2 images at a time",
        "going on with 1 images at a time",
    ]
    assert all(text.startswith("object mug: ") for text in said)
    assert result.micro_batch == 1
    assert result.loss == pytest.approx(wanted[0].loss, rel=1e-4)
    assert result.prior_loss == pytest.approx(wanted[0].prior_loss, rel=1e-4)
    for name, value in slot(one).items():
        torch.testing.assert_close(value, wanted[1][name], rtol=0, atol=5e-5, msg=name)


def test_a_step_that_failed_leaves_nothing_for_the_next_object(base: Base) -> None:
    one = trainee(base("sd"), batch_size=2)
    wanted = fine_tuned(one), slot(one)
    Exhausted(one, 0, 2)  # both images fail, then the second; the gradients of the first exist by then
    with pytest.raises(DiffusionError):
        fine_tune(one, task(one), lambda _: None)
    assert fine_tuned(one) == wanted[0] and equal(slot(one), wanted[1])


def test_no_memory_for_a_single_image_names_the_object(base: Base) -> None:
    one = trainee(base("sd"))
    Exhausted(one, 1)
    with pytest.raises(DiffusionError, match="object mug: out of memory at a single image of 32 px"):
        fine_tuned(one)
    assert not one.pipe.unet.training


def test_other_errors_are_passed_on(base: Base) -> None:
    one = trainee(base("sd"), batch_size=2)

    def broken(noised: Noised, answer: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    wrap(one, broken)
    with pytest.raises(RuntimeError, match="shapes"):
        fine_tuned(one)


@pytest.mark.parametrize("prior", [0, 2])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(base: Base, bad: float, prior: int) -> None:
    one = trainee(base("sd"), steps=2)
    fine_tuned(one, prior=prior)
    wanted = slot(one)
    one = trainee(base("sd"), steps=4)
    calls: list[None] = []

    def spoilt(noised: Noised, answer: torch.Tensor) -> torch.Tensor:
        calls.append(None)
        if len(calls) == 3:
            answer = answer.clone()
            answer[-1, 0, 1, 1] = bad  # in the class image, if there is one
        return answer

    wrap(one, spoilt)
    with pytest.raises(DiffusionError, match="object mug: the loss is not finite at step 2 of 4"):
        fine_tuned(one, prior=prior)
    assert equal(slot(one), wanted)


def test_a_gradient_that_is_not_finite_in_the_last_step_is_an_error(base: Base) -> None:
    one = trainee(base("sd"), steps=1)

    def spoilt(noised: Noised, answer: torch.Tensor) -> torch.Tensor:
        answer.register_hook(lambda gradient: gradient * torch.inf)
        return answer

    wrap(one, spoilt)
    with pytest.raises(DiffusionError, match="object mug: the loss is not finite after the last step"):
        fine_tuned(one)


def test_the_8_bit_optimizer_needs_a_gpu(base: Base) -> None:
    one, plain = trainee(base("sd"), adam_8bit=True), trainee(base("sd"))
    said: list[str] = []
    result = fine_tune(one, task(one), said.append)
    fine_tuned(plain)
    assert result.optimizer == "AdamW" and equal(slot(one), slot(plain))
    assert len(said) == 1 and said[0].startswith("generate.dreambooth.adam_8bit: ")
