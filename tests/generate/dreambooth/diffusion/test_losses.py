from __future__ import annotations

import pytest
import torch

from persrep_ray.generate.dreambooth.diffusion.families import Noised
from persrep_ray.generate.dreambooth.diffusion.losses import masked_errors, min_snr_weights


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_mask_of_ones_is_the_mean_squared_error_of_each_image() -> None:
    prediction, target = random(3, 4, 5, 6), random(3, 4, 5, 6, seed=1)
    errors = masked_errors(prediction, target, torch.ones(3, 1, 5, 6))
    wanted = [torch.nn.functional.mse_loss(one, other) for one, other in zip(prediction, target, strict=True)]
    torch.testing.assert_close(errors, torch.stack(wanted))


def test_what_is_outside_the_mask_has_no_influence() -> None:
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, :2] = 1
    mask[1, :, 1:3, 1:3] = 1
    inside = mask.bool().expand(-1, 3, -1, -1)
    prediction, target = random(2, 3, 4, 4).requires_grad_(), random(2, 3, 4, 4, seed=1)
    errors = masked_errors(prediction, target, mask)
    other = torch.where(inside, target, random(2, 3, 4, 4, seed=2) * 100)
    assert torch.equal(errors, masked_errors(prediction, other, mask))
    errors.sum().backward()
    assert prediction.grad is not None
    assert (prediction.grad[~inside] == 0).all() and (prediction.grad[inside] != 0).all()
    for index in range(2):
        wanted = (prediction - target)[index][inside[index]].square().mean()
        torch.testing.assert_close(errors[index], wanted)


def test_a_partly_covered_latent_counts_by_its_share() -> None:
    prediction, target = torch.tensor([[[[3.0, 1.0]]]]), torch.zeros(1, 1, 1, 2)
    errors = masked_errors(prediction, target, torch.tensor([[[[0.25, 1.0]]]]))
    assert errors.tolist() == [pytest.approx((0.25 * 9 + 1.0 * 1) / 1.25)]


def test_an_empty_mask_is_refused_at_any_position() -> None:
    mask = torch.ones(2, 1, 2, 2)
    mask[1] = 0
    with pytest.raises(ValueError, match="empty"):
        masked_errors(random(2, 3, 2, 2), random(2, 3, 2, 2), mask)


def noised(snr: list[float] | None, *, velocity: bool = False) -> Noised:
    nothing = torch.zeros(1)
    return Noised(nothing, nothing, nothing, None if snr is None else torch.tensor(snr), velocity)


def test_min_snr_weights_are_those_of_the_paper() -> None:
    snr = [0.0, 0.5, 5.0, 20.0]  # zero occurs in schedules that end in pure noise
    assert min_snr_weights(noised(snr), 5.0).tolist() == pytest.approx([1, 1, 1, 0.25])
    assert min_snr_weights(noised(snr, velocity=True), 5.0).tolist() == pytest.approx([0, 0.5 / 1.5, 5 / 6, 5 / 21])
