from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from text_to_image import PROMPT, equal, model, slot
from tiny import COLOURS, shape
from tiny_diffusion import SAVERS

from persrep_ray.generate.diffusion.examples import Examples, make_examples
from persrep_ray.generate.diffusion.families import Conditions, Noised
from persrep_ray.generate.diffusion.model import DiffusionError, DiffusionModel
from persrep_ray.generate.diffusion.tuning import Task, Tuned, probe, tune

Base = Callable[[str], Path]


def trainee(base: Path, **changes: Any) -> DiffusionModel:
    return model(base, trains=True, **{"steps": 3, "learning_rate": 1e-2, **changes})


def examples(one: DiffusionModel, *, crops: int = 1) -> Examples:
    return make_examples(one, [shape(COLOURS["red"], index) for index in range(3)], crops=crops, seed=0)


def task(one: DiffusionModel, *, prior: int = 0, seed: int = 0, **changes: Any) -> Task:
    generator = torch.Generator().manual_seed(9)
    photos = examples(one)
    others = torch.randn((prior, *photos.latents.shape[1:]), generator=generator) if prior else None
    return Task(
        **{
            "name": "object mug",
            "photos": photos,
            "prompt": PROMPT,
            "class_latents": others,
            "class_prompt": "a mug",
            "seed": seed,
            **changes,
        }
    )


def unexpected(text: str) -> None:
    raise AssertionError(text)


def tuned(one: DiffusionModel, **changes: Any) -> Tuned:
    return tune(one, task(one, **changes), unexpected)


# -- learning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", SAVERS)
def test_the_object_is_learnt(base: Base, family: str, method: str) -> None:
    rate = 1e-2 if method == "lora" else 2e-3
    one = trainee(base(family), method=method, steps=16, batch_size=2, learning_rate=rate)
    fresh = probe(one, task(one))
    result = tuned(one)
    assert len(result.loss) == 16 and result.prior_loss == [] and np.isfinite(result.loss).all()
    before, after = result.probe
    assert before == fresh and after == probe(one, task(one))
    assert after < (0.99 if method == "lora" else 0.9) * before
    assert result.optimizer == "AdamW" and result.micro_batch == 2


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_seed_decides(base: Base, method: str) -> None:
    one = trainee(base("sd"), method=method)
    first = tuned(one), slot(one)
    other = tuned(one, seed=1), slot(one)
    again = tuned(one), slot(one)  # what the model held before is of no account
    assert equal(first[1], again[1]) and first[0] == again[0]
    assert not equal(first[1], other[1]) and first[0].loss != other[0].loss
    elsewhere = trainee(base("sd"), method=method)
    tuned(elsewhere)
    assert equal(slot(elsewhere), first[1])


def test_nothing_but_the_slot_is_changed(base: Base) -> None:
    one = trainee(base("sd"))
    before = {
        (name, key): value.clone()
        for name in ("unet", "text_encoder", "vae")
        for key, value in getattr(one.pipe, name).named_parameters()
        if "lora" not in key
    }
    tuned(one)
    for (name, key), value in before.items():
        assert torch.equal(dict(getattr(one.pipe, name).named_parameters())[key], value)
    assert not one.pipe.unet.training and not one.pipe.text_encoder.training


def test_the_learning_rate_follows_the_method(base: Base) -> None:
    """Adam's first step moves each weight by the rate, whatever its gradient."""
    for method, rate in (("lora", 1e-4), ("full", 2e-6)):
        one = trainee(base("sd"), method=method, learning_rate="auto", steps=1)
        one.reset(0)
        before = slot(one)
        tuned(one)
        moved = max(float((value - before[name]).abs().max()) for name, value in slot(one).items())
        assert moved == pytest.approx(rate, rel=0.2)


def test_text_encoders_that_are_not_trained_are_asked_once(base: Base) -> None:
    counts = []
    for trained, steps in ((False, 2), (False, 5), (True, 5)):
        one = trainee(base("sd"), train_text_encoder=trained, steps=steps)
        calls: list[None] = []
        one.pipe.text_encoder.register_forward_pre_hook(lambda *_, calls=calls: calls.append(None))
        tuned(one, prior=2)
        counts.append(len(calls))
    assert counts[0] == counts[1] == counts[2] - 4


# -- the loss ----------------------------------------------------------------------------------------------------------


def wrap(one: DiffusionModel, change: Callable[[Noised, torch.Tensor], torch.Tensor]) -> None:
    """The denoiser's answer becomes `change` of it while the model is trained; the probe sees the true one."""
    predict = one.predict

    def changed(noised: Noised, conditions: Conditions) -> torch.Tensor:
        answer = predict(noised, conditions)
        return change(noised, answer) if torch.is_grad_enabled() else answer

    one.predict = changed  # type: ignore[method-assign]


def test_photos_count_within_their_masks_and_class_images_as_a_whole(base: Base) -> None:
    one = trainee(base("sd"), batch_size=2)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1

    def off_by(noised: Noised, answer: torch.Tensor) -> torch.Tensor:
        return noised.target + torch.where(mask > 0, 1.0, 3.0) + 0 * answer

    wrap(one, off_by)
    photos = examples(one)
    masked = Examples(photos.latents, mask.expand(3, -1, -1, -1), photos.photo)
    result = tuned(one, photos=masked, prior=2)
    assert result.loss == pytest.approx([1.0] * 3) and result.prior_loss == pytest.approx([5.0] * 3)
    unmasked = Examples(photos.latents, torch.ones(3, 1, 4, 4), photos.photo)
    assert tuned(one, photos=unmasked, prior=2).loss == pytest.approx([5.0] * 3)


def test_masks_change_what_is_learnt_and_the_probe(base: Base) -> None:
    one = trainee(base("sd"))
    masked = tuned(one), slot(one)
    photos = examples(one)
    whole = tuned(one, photos=Examples(photos.latents, torch.ones_like(photos.masks), photos.photo)), slot(one)
    assert not equal(masked[1], whole[1])
    assert masked[0].loss != whole[0].loss and masked[0].probe[0] != whole[0].probe[0]


def test_class_images_weigh_in(base: Base) -> None:
    weights = []
    for prior_weight in (1.0, 5.0):
        one = trainee(base("sd"), prior_weight=prior_weight)
        result = tuned(one, prior=4)
        assert len(result.loss) == len(result.prior_loss) == 3 and result.micro_batch == 2
        weights.append((result.loss[0], result.prior_loss[0], slot(one)))
    assert weights[0][:2] == weights[1][:2]  # of the first step, before anything is learnt; reported unweighted
    assert not equal(weights[0][2], weights[1][2])
    assert tuned(one).prior_loss == []


def test_photos_and_class_images_have_their_own_prompts(base: Base) -> None:
    one = trainee(base("sd"), batch_size=2, steps=1)
    instance, of_class = one.encode_prompts([PROMPT, "a mug"])["text"]
    seen: list[torch.Tensor] = []
    predict = one.predict

    def watched(noised: Noised, conditions: Conditions) -> torch.Tensor:
        if torch.is_grad_enabled():
            seen.append(conditions["text"].detach())
        return predict(noised, conditions)

    one.predict = watched  # type: ignore[method-assign]
    tuned(one, prior=3)
    torch.testing.assert_close(seen, [torch.stack([instance, instance, of_class, of_class])])


def test_min_snr_weights_the_steps(base: Base) -> None:
    plain, weighted = (tuned(trainee(base("sd"), min_snr_gamma=gamma)).loss for gamma in (None, 1e-3))
    assert weighted[0] < plain[0]  # at the same noise and weights
    with pytest.raises(ValueError, match="flow matching"):
        tuned(trainee(base("flux"), min_snr_gamma=5.0))


def test_the_probe_looks_at_the_first_crop_of_each_photo(base: Base) -> None:
    one = trainee(base("sd"))
    once, often = examples(one), examples(one, crops=3)
    first = Examples(often.latents[::3], often.masks[::3], once.photo)
    assert probe(one, task(one, photos=often)) == probe(one, task(one, photos=first))
    other = Examples(often.latents[1::3] * 2, often.masks[1::3], once.photo)
    assert probe(one, task(one, photos=other)) != probe(one, task(one, photos=first))


# -- what goes wrong ---------------------------------------------------------------------------------------------------


class Exhausted:
    """Memory runs out at the calls of these numbers: in the forward pass, or in the backward pass of them."""

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
def test_a_step_that_ran_out_of_memory_is_done_again_in_parts(base: Base, backward: bool) -> None:
    one = trainee(base("sd"), batch_size=2, learning_rate=1e-3)
    wanted = tuned(one, prior=2), slot(one)
    # The second step: all four, of two times two the second, then one by one.
    exhausted = Exhausted(one, 1, 3, backward=backward)
    said: list[str] = []
    result = tune(one, task(one, prior=2), said.append)
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
    wanted = tuned(one), slot(one)
    Exhausted(one, 0, 2)  # both images, then the second of them: the gradients of the first are there
    with pytest.raises(DiffusionError):
        tune(one, task(one), lambda _: None)
    assert tuned(one) == wanted[0] and equal(slot(one), wanted[1])


def test_no_memory_for_a_single_image_names_the_object(base: Base) -> None:
    one = trainee(base("sd"))
    Exhausted(one, 1)
    with pytest.raises(DiffusionError, match="object mug: out of memory at a single image of 32 px"):
        tuned(one)
    assert not one.pipe.unet.training


def test_other_errors_are_passed_on(base: Base) -> None:
    one = trainee(base("sd"), batch_size=2)

    def broken(noised: Noised, answer: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    wrap(one, broken)
    with pytest.raises(RuntimeError, match="shapes"):
        tuned(one)


@pytest.mark.parametrize("prior", [0, 2])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_ends_it_before_the_weights_change(base: Base, bad: float, prior: int) -> None:
    one = trainee(base("sd"), steps=2)
    tuned(one, prior=prior)
    wanted = slot(one)
    one = trainee(base("sd"), steps=4)
    calls: list[None] = []

    def spoilt(noised: Noised, answer: torch.Tensor) -> torch.Tensor:
        calls.append(None)
        if len(calls) == 3:
            answer = answer.clone()
            answer[-1, 0, 1, 1] = bad  # of the class image, where there is one
        return answer

    wrap(one, spoilt)
    with pytest.raises(DiffusionError, match="object mug: the loss is not finite at step 2 of 4"):
        tuned(one, prior=prior)
    assert equal(slot(one), wanted)


def test_a_gradient_that_is_not_finite_at_the_last_step_is_no_success(base: Base) -> None:
    one = trainee(base("sd"), steps=1)

    def spoilt(noised: Noised, answer: torch.Tensor) -> torch.Tensor:
        answer.register_hook(lambda gradient: gradient * torch.inf)
        return answer

    wrap(one, spoilt)
    with pytest.raises(DiffusionError, match="object mug: the loss is not finite after the last step"):
        tuned(one)


def test_the_8_bit_optimizer_needs_a_gpu(base: Base) -> None:
    one, plain = trainee(base("sd"), adam_8bit=True), trainee(base("sd"))
    said: list[str] = []
    result = tune(one, task(one), said.append)
    tuned(plain)
    assert result.optimizer == "AdamW" and equal(slot(one), slot(plain))
    assert len(said) == 1 and said[0].startswith("generate.dreambooth.adam_8bit: ")
