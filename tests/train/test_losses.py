from __future__ import annotations

import math

import pytest
import torch

from persrep_ray.config import TrainConfig
from persrep_ray.train.losses import dense_info_nce, hinge, info_nce, info_nce_multi_positive, make_loss

# Unit vectors on the axes: cosines are 1 or 0, so every loss can be worked out by hand.
X, Y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
E = math.e


def test_info_nce_by_hand() -> None:
    # anchor X; positives X (cosine 1) and Y (0); negative Y (0); temperature 1
    loss = info_nce(X, torch.cat([X, Y]), Y, temperature=1.0)
    expected = (-math.log(E / (E + 1)) - math.log(1 / 2)) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_info_nce_multi_positive_by_hand() -> None:
    loss = info_nce_multi_positive(X, torch.cat([X, Y]), Y, temperature=1.0)
    assert loss.item() == pytest.approx(-math.log((E + 1) / (E + 2)), abs=1e-6)


def test_hinge_by_hand() -> None:
    # triplets: (X, X, Y): 0.5 - 1 + 0 < 0; (X, Y, Y): 0.5 - 0 + 0 = 0.5
    assert hinge(X, torch.cat([X, Y]), Y, margin=0.5).item() == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["info_nce", "info_nce_multi_positive", "hinge"])
def test_losses_ignore_length_and_order_and_fall_as_the_positive_nears(name: str) -> None:
    loss = make_loss(TrainConfig(loss=name))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    anchor, positive, negative = (torch.randn(n, 8, generator=generator) for n in (3, 4, 5))
    value = loss(anchor, positive, negative)
    assert value.ndim == 0
    assert loss(2 * anchor, 3 * positive, 4 * negative).item() == pytest.approx(value.item(), rel=1e-5)
    assert loss(anchor.flip(0), positive.flip(0), negative.flip(0)).item() == pytest.approx(value.item(), rel=1e-5)
    assert loss(anchor[:1], anchor[:1], negative) < loss(anchor[:1], positive, negative)


def test_one_positive_makes_both_info_nce_the_same() -> None:
    generator = torch.Generator().manual_seed(1)
    anchor, positive, negative = (torch.randn(n, 8, generator=generator) for n in (3, 1, 5))
    together = info_nce_multi_positive(anchor, positive, negative)
    assert info_nce(anchor, positive, negative).item() == pytest.approx(together.item(), rel=1e-6)


def test_small_temperatures_do_not_overflow() -> None:
    assert torch.isfinite(info_nce(X, Y, X, temperature=1e-3))
    assert torch.isfinite(info_nce_multi_positive(X, Y, X, temperature=1e-3))


def test_dense_loss_by_hand() -> None:
    # one anchor patch on the object (X); a positive with one object patch (X) and one beside it (Y); a negative patch Y
    tokens = [X[None], torch.cat([X, Y])[None], Y[None]]
    shares = [torch.tensor([[1.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0]])]
    loss = dense_info_nce(tokens, shares, temperature=1.0)
    assert loss.item() == pytest.approx(-math.log(E / (E + 1)), abs=1e-6)


def test_dense_loss_is_zero_where_no_mask_is_known() -> None:
    tokens = [X[None].clone().requires_grad_(), torch.cat([X, Y])[None], Y[None]]
    loss = dense_info_nce(tokens, [torch.full((1, 1), torch.nan), torch.zeros(1, 2), torch.zeros(1, 1)])
    loss.backward()
    assert loss.item() == 0 and tokens[0].grad is not None
