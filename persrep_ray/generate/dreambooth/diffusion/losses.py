"""Losses of fine-tuning, per image."""

from __future__ import annotations

import torch

from persrep_ray.generate.dreambooth.diffusion.families import Noised


def masked_errors(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean squared error (B,) over what `mask` covers; what is outside of the mask has no influence.

    `prediction` and `target` (B, C, h, w); `mask` (B, 1, h, w) in 0..1, the share of each latent that is covered.
    Raises ValueError for an image whose mask is empty.
    """
    weight = mask.flatten(1).sum(dim=1)  # (B,)
    if not bool((weight > 0).all()):
        raise ValueError("the mask of an image is empty")
    squared = (prediction.float() - target.float()).square().mean(dim=1, keepdim=True)  # (B, 1, h, w)
    return (squared * mask).flatten(1).sum(dim=1) / weight


def min_snr_weights(noised: Noised, gamma: float) -> torch.Tensor:
    """Weights (B,) by signal-to-noise ratio (Hang et al., arXiv 2303.09556); flow matching has no such ratio."""
    assert noised.snr is not None, "the settings are checked when the model is loaded"
    if noised.predicts_velocity:
        return noised.snr.clamp(max=gamma) / (noised.snr + 1)
    return (gamma / noised.snr).clamp(max=1.0)
