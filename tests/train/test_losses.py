from __future__ import annotations

import math

import pytest
import torch

from persrep_ray.config import TrainConfig
from persrep_ray.train.losses import hinge, info_nce, info_nce_multi_positive, make_loss

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
