"""Contrastive LoRA training of one object, in plain PyTorch. No Ray in here.

The recipe is that of "Personalized Representation from Personalized Generation" (arXiv 2412.16156): anchors are views
of the object's real photos, positives are its synthetic images, and negatives show other objects. Four things differ:
the prefix is computed once per view, a step sees a random part of the patches, positives are anchors too, and held-out
photos decide how strongly the adapter acts (`cross_validation.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed.nn.functional as differentiable
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from persrep_ray.backbones.backbone import KeptPatches
from persrep_ray.backbones.lora import LoraBackbone, State, scaled
from persrep_ray.config import RunConfig
from persrep_ray.train.batches import BatchSampler, Pool, TrainInputs, make_pool
from persrep_ray.train.cross_validation import FoldScore, choose_strength, normalized_cls, plan_folds, score_fold
from persrep_ray.train.losses import make_loss
from persrep_ray.train.views import ViewStore

Progress = Callable[[int, int], None]


class TrainError(ValueError):
    """The training of one object failed; the message names the object, the step and the cause."""


@dataclass(frozen=True)
class TrainedAdapter:
    """`state` already acts at `strength`; `history` is the loss of every step of the final training."""

    state: State
    strength: float
    history: list[float]
    cross_validation: dict[str, Any]


class _Embedder(nn.Module):
    """The suffix as a module, because DDP needs one: hidden (B,T,D) -> CLS (B,D) and patches (B,N,D)."""

    def __init__(self, lora: LoraBackbone) -> None:
        super().__init__()
        self.model = lora.peft
        self._suffix = lora.backbone.suffix

    def forward(self, hidden: torch.Tensor, kept: KeptPatches | None) -> tuple[torch.Tensor, torch.Tensor]:
        features = self._suffix(hidden, kept)
        return features.cls, features.patches


class Trainer:
    """Trains one object after another on one backbone, and keeps the views of photos that objects share.

    With several ranks, each of them calls `train` with the same inputs. The images of a step are split over the ranks
    and their embeddings are gathered, so the loss is the one that a single rank computes on the whole batch.
    """

    def __init__(self, lora: LoraBackbone, config: RunConfig, *, rank: int = 0, world_size: int = 1) -> None:
        self._lora = lora
        self._config = config.train
        self._seed = config.seed
        self._rank = rank
        self._world_size = world_size
        self._loss = make_loss(config.train)
        self._store = ViewStore(
            lora.backbone, config.train.views, config.data, size=config.backbone.image_size, seed=config.seed
        )
        embedder = _Embedder(lora)
        # There are no buffers to synchronise, and the LoRA starts equal on all ranks because it is drawn from one seed.
        self._embedder: nn.Module = (
            embedder if world_size == 1 else DistributedDataParallel(embedder, broadcast_buffers=False)
        )

    def train(self, inputs: TrainInputs, progress: Progress) -> TrainedAdapter:
        """Trains the object's adapter and decides its strength.

        Args:
            progress: called after every step with the number of images done and of all images, those of the folds
                included.

        Raises:
            TrainError: a loss is not finite, or there is nothing to train on.
        """
        if not inputs.photos or not len(inputs.positives) or not (len(inputs.negatives) or inputs.distractors):
            raise TrainError(f"object {inputs.object_id}: train: no photos, no positives or no negatives")
        self._lora.reset(self._seed)  # a fresh adapter is the identity, so the pool sees the pretrained features
        pool = make_pool(self._store, inputs, self._pretrained)
        folds = plan_folds(pool, self._config.cross_validation)
        per_step = self._config.batch.anchors + self._config.batch.positives + self._config.batch.negatives
        total = per_step * self._config.steps * (len(folds) + 1)
        done = 0

        def step_done() -> None:
            nonlocal done
            done += per_step
            progress(done, total)

        scores: list[list[FoldScore]] = []
        for number, held_out in enumerate(folds, start=1):
            self._fit(pool.without(held_out), inputs.object_id, seed=self._seed + number, step_done=step_done)
            scores.append(self._score_strengths(pool, held_out))
        strength, report = choose_strength(scores, self._config.cross_validation)
        history = self._fit(pool, inputs.object_id, seed=self._seed, step_done=step_done)
        return TrainedAdapter(scaled(self._lora.state(), strength), strength, history, report)

    def _fit(self, pool: Pool, object_id: str, *, seed: int, step_done: Callable[[], None]) -> list[float]:
        """Trains a fresh adapter on `pool` and leaves it in the slot. Returns the loss of every step."""
        config = self._config
        torch.manual_seed(seed)  # LoRA dropout
        self._lora.reset(seed)
        self._lora.train()
        parameters = list(self._lora.parameters.values())
        optimizer = torch.optim.AdamW(
            parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )
        sampler = BatchSampler(pool, config.batch, special_tokens=self._lora.backbone.special_tokens, seed=seed)
        history = []
        for step in range(config.steps):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _schedule(step, config.steps)
            batch = sampler.draw()
            part = batch.of_rank(self._rank, self._world_size)
            cls, patches = self._embedder(part.hidden.to(self._lora.backbone.device), part.kept)
            loss = self._objective(cls, patches, part.roles)
            if not torch.isfinite(loss):
                raise TrainError(f"object {object_id}: train: step {step}: the loss is {loss.item()}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            history.append(float(loss.item()))
            step_done()
        self._lora.train(False)
        return history

    def _objective(self, cls: torch.Tensor, patches: torch.Tensor, roles: Sequence[int]) -> torch.Tensor:
        """The loss of the whole batch, from this rank's part (B, D), (B, N, D) of it."""
        embedding = cls if self._config.embedding == "cls" else torch.cat([cls, patches.mean(dim=1)], dim=-1)
        anchor, positive, negative = (self._gathered(part) for part in embedding.split(list(roles)))
        loss = self._loss(anchor, positive, negative)
        if self._config.symmetric:
            loss = (loss + self._loss(positive, anchor, negative)) / 2
        return loss

    def _gathered(self, part: torch.Tensor) -> torch.Tensor:
        if self._world_size == 1:
            return part
        # DDP averages gradients over ranks and the gather's backward sums them: the result is one rank's gradient.
        return torch.cat(list(differentiable.all_gather(part)))

    def _pretrained(self, views: torch.Tensor) -> np.ndarray:
        return normalized_cls(self._lora.backbone, views[:1])[0]

    @torch.no_grad()
    def _score_strengths(self, pool: Pool, held_out: int) -> list[FoldScore]:
        """Scores the adapter in the slot on the held-out photos, at each candidate strength."""
        state = self._lora.state()
        scores = []
        for strength in self._config.cross_validation.strengths:
            self._lora.load(scaled(state, strength))
            scores.append(score_fold(self._lora.backbone, pool, held_out))
        return scores


def _schedule(step: int, steps: int) -> float:
    """The share of the learning rate at `step`: a linear warm-up over the first tenth, times half a cosine."""
    warmup = max(1, steps // 10)
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
