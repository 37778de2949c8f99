from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.text_to_image import PROMPT, equal, examples, fine_tuned, slot, task, trainee, unexpected, wrap
from helpers.tiny_diffusion import SAVERS

from persrep_ray.config import SamplingConfig
from persrep_ray.generate.dreambooth.diffusion.examples import Examples
from persrep_ray.generate.dreambooth.diffusion.families import Conditions, Noised
from persrep_ray.generate.dreambooth.diffusion.fine_tuning import probe
from persrep_ray.generate.dreambooth.diffusion.sampling import Sampler, Shot

Base = Callable[[str], Path]


# -- learning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", SAVERS)
def test_the_object_is_learned(base: Base, family: str, method: str) -> None:
    rate = 1e-2 if method == "lora" else 2e-3
    one = trainee(base(family), method=method, steps=16, batch_size=2, learning_rate=rate)
    fresh = probe(one, task(one))
    result = fine_tuned(one)
    assert len(result.loss) == 16 and result.prior_loss == [] and np.isfinite(result.loss).all()
    before, after = result.probe
    assert before == fresh and after == probe(one, task(one))
    assert after < (0.99 if method == "lora" else 0.9) * before
    assert result.optimizer == "AdamW" and result.micro_batch == 2


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_half_precision_does_nearly_the_same(base: Base, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 is the default; it is forced here even on CPUs that only emulate it and would compute in float32."""
    monkeypatch.setattr("persrep_ray.generate.dreambooth.diffusion.model.computes_bfloat16", lambda device: True)
    losses, images = [], []
    for precision in ("float32", "bfloat16"):
        one = trainee(base(family), precision=precision, steps=2)
        losses.append(fine_tuned(one, prior=1))
        assert all(value.dtype == torch.float32 for value in one.parameters.values())
        sampler = Sampler(one, SamplingConfig(steps=2), unexpected)
        images.append(sampler.draw([Shot(PROMPT, 1, 4.0)])[0].astype(int))
    assert losses[1].loss == pytest.approx(losses[0].loss, rel=0.05) and losses[1].loss != losses[0].loss
    assert losses[1].prior_loss == pytest.approx(losses[0].prior_loss, rel=0.05)
    assert 0 < np.abs(images[0] - images[1]).mean() < 8


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_cpu_without_instructions_for_half_precision_computes_in_full(
    base: Base, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persrep_ray.generate.dreambooth.diffusion.model.computes_bfloat16", lambda device: False)
    full, half = (fine_tuned(trainee(base("sd"), precision=one, steps=2)) for one in ("float32", precision))
    assert half == full


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_seed_decides(base: Base, method: str) -> None:
    one = trainee(base("sd"), method=method)
    first = fine_tuned(one), slot(one)
    other = fine_tuned(one, seed=1), slot(one)
    again = fine_tuned(one), slot(one)  # what was in the model before does not matter
    assert equal(first[1], again[1]) and first[0] == again[0]
    assert not equal(first[1], other[1]) and first[0].loss != other[0].loss
    elsewhere = trainee(base("sd"), method=method)
    fine_tuned(elsewhere)
    assert equal(slot(elsewhere), first[1])


def test_only_the_slot_changes(base: Base) -> None:
    one = trainee(base("sd"))
    before = {
        (name, key): value.clone()
        for name in ("unet", "text_encoder", "vae")
        for key, value in getattr(one.pipe, name).named_parameters()
        if "lora" not in key
    }
    fine_tuned(one)
    for (name, key), value in before.items():
        assert torch.equal(dict(getattr(one.pipe, name).named_parameters())[key], value)
    assert not one.pipe.unet.training and not one.pipe.text_encoder.training


def test_the_learning_rate_follows_the_method(base: Base) -> None:
    """The first step of Adam moves each weight by the rate, whatever its gradient is."""
    for method, rate in (("lora", 1e-4), ("full", 2e-6)):
        one = trainee(base("sd"), method=method, learning_rate="auto", steps=1)
        one.reset(0)
        before = slot(one)
        fine_tuned(one)
        moved = max(float((value - before[name]).abs().max()) for name, value in slot(one).items())
        assert moved == pytest.approx(rate, rel=0.2)


def test_text_encoders_that_are_not_trained_are_called_once(base: Base) -> None:
    counts = []
    for trained, steps in ((False, 2), (False, 5), (True, 5)):
        one = trainee(base("sd"), train_text_encoder=trained, steps=steps)
        calls: list[None] = []
        one.pipe.text_encoder.register_forward_pre_hook(lambda *_, calls=calls: calls.append(None))
        fine_tuned(one, prior=2)
        counts.append(len(calls))
    assert counts[0] == counts[1] == counts[2] - 4


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_photos_count_within_their_masks_and_class_images_as_a_whole(base: Base) -> None:
    one = trainee(base("sd"), batch_size=2)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1

    def off_by(noised: Noised, answer: torch.Tensor) -> torch.Tensor:
        return noised.target + torch.where(mask > 0, 1.0, 3.0) + 0 * answer

    wrap(one, off_by)
    photos = examples(one)
    masked = Examples(photos.latents, mask.expand(3, -1, -1, -1), photos.photo)
    result = fine_tuned(one, photos=masked, prior=2)
    assert result.loss == pytest.approx([1.0] * 3) and result.prior_loss == pytest.approx([5.0] * 3)
    unmasked = Examples(photos.latents, torch.ones(3, 1, 4, 4), photos.photo)
    assert fine_tuned(one, photos=unmasked, prior=2).loss == pytest.approx([5.0] * 3)


def test_masks_change_what_is_learned_and_the_probe(base: Base) -> None:
    one = trainee(base("sd"))
    masked = fine_tuned(one), slot(one)
    photos = examples(one)
    whole = fine_tuned(one, photos=Examples(photos.latents, torch.ones_like(photos.masks), photos.photo)), slot(one)
    assert not equal(masked[1], whole[1])
    assert masked[0].loss != whole[0].loss and masked[0].probe[0] != whole[0].probe[0]


def test_class_images_count_by_their_weight(base: Base) -> None:
    weights = []
    for prior_weight in (1.0, 5.0):
        one = trainee(base("sd"), prior_weight=prior_weight)
        result = fine_tuned(one, prior=4)
        assert len(result.loss) == len(result.prior_loss) == 3 and result.micro_batch == 2
        weights.append((result.loss[0], result.prior_loss[0], slot(one)))
    assert (
        weights[0][:2] == weights[1][:2]
    )  # in the first step, before anything is learned; the reported losses are not weighted
    assert not equal(weights[0][2], weights[1][2])
    assert fine_tuned(one).prior_loss == []


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
    fine_tuned(one, prior=3)
    torch.testing.assert_close(seen, [torch.stack([instance, instance, of_class, of_class])])


def test_min_snr_weights_time_steps(base: Base) -> None:
    plain, weighted = (fine_tuned(trainee(base("sd"), min_snr_gamma=gamma)).loss for gamma in (None, 1e-3))
    assert weighted[0] < plain[0]  # at the same noise and weights
    with pytest.raises(ValueError, match="flow matching"):
        fine_tuned(trainee(base("flux"), min_snr_gamma=5.0))


def test_the_probe_looks_at_the_first_crop_of_each_photo(base: Base) -> None:
    one = trainee(base("sd"))
    once, often = examples(one), examples(one, crops=3)
    first = Examples(often.latents[::3], often.masks[::3], once.photo)
    assert probe(one, task(one, photos=often)) == probe(one, task(one, photos=first))
    other = Examples(often.latents[1::3] * 2, often.masks[1::3], once.photo)
    assert probe(one, task(one, photos=other)) != probe(one, task(one, photos=first))
