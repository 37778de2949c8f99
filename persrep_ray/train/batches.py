"""The views one object trains on, and how a step's batch is drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from persrep_ray.backbones.backbone import KeptPatches
from persrep_ray.config import BatchConfig
from persrep_ray.train.inputs import TrainInputs
from persrep_ray.train.views import ViewStore

_HARDNESS_TEMPERATURE = 0.1  # of cosines: 0.3 less alike is drawn a twentieth as often


@dataclass(frozen=True)
class Pool:
    """Prefix outputs of views in groups: one per own photo, one per photo of another object, and the synthetic ones.

    `positive_photo` (P,) is the own photo each positive was cut from (-1 where unknown), `other_photo` (O,) the
    index of each other photo among its object's: what `without` leaves out together with own photo `heldout`.
    """

    photos: tuple[torch.Tensor, ...]  # (V, T, D) each
    others: tuple[torch.Tensor, ...]
    other_photo: np.ndarray  # (O,)
    other_weight: np.ndarray  # (O,) how often each is drawn, relative to the others
    positives: torch.Tensor  # (P, T, D)
    positive_photo: np.ndarray  # (P,)
    negatives: torch.Tensor  # (M, T, D)
    negative_photo: np.ndarray  # (M,)
    heldout: int | None = None

    def without(self, heldout: int) -> Pool:
        """The pool for a trial that must not see own photo `heldout`, nor the photos of others it is ranked against."""
        return replace(self, heldout=heldout)

    def is_held_out(self, photo: np.ndarray) -> np.ndarray:
        """Which of the photo indices (of own or of other objects) belong to the held-out fold."""
        if self.heldout is None:
            return np.zeros(photo.shape, bool)
        return (photo >= 0) & (photo % len(self.photos) == self.heldout)


def make_pool(store: ViewStore, inputs: TrainInputs, pretrained: Callable[[torch.Tensor], np.ndarray]) -> Pool:
    """Compute (or take from the store) every view that the object's training may draw.

    Args:
        pretrained: the normalised pretrained CLS (D,) of a photo's standard view. Photos that the pretrained features
            take for the object are drawn more often: they are what the adapter has to learn.
    """

    def source_photos(role: str) -> np.ndarray:
        images = inputs.positives if role == "positive" else inputs.negatives
        return np.array([-1 if one.source_photo is None else one.source_photo for one in images], dtype=int)

    seen: dict[str, int] = {}
    other_photo = []
    for photo in inputs.others:
        other_photo.append(seen.get(photo.object_id, 0))
        seen[photo.object_id] = other_photo[-1] + 1
    photos = tuple(store.photo(photo) for photo in inputs.photos)
    others = tuple(store.photo(photo) for photo in inputs.others)
    own = np.stack([pretrained(views) for views in photos])  # (T, D)
    likeness = np.array([float((own @ pretrained(views)).max()) for views in others])
    return Pool(
        photos=photos,
        others=others,
        other_photo=np.array(other_photo, dtype=int),
        other_weight=_hardness(likeness),
        positives=store.synthetic(inputs.positives),
        positive_photo=source_photos("positive"),
        negatives=store.synthetic(inputs.negatives),
        negative_photo=source_photos("negative"),
    )


@dataclass(frozen=True)
class Batch:
    """Images of one step, anchors first, then positives, then negatives; `roles` counts them."""

    hidden: torch.Tensor  # (B, T', D): CLS and special tokens, if any, then the drawn part of the patches
    kept: KeptPatches | None  # which part; None for all of them, in order
    roles: tuple[int, int, int]

    def of_rank(self, rank: int, world_size: int) -> Batch:
        """Every `world_size`-th image of each role."""
        if world_size == 1:
            return self
        starts = np.cumsum((0, *self.roles))
        rows = [np.arange(starts[i] + rank, starts[i + 1], world_size) for i in range(3)]
        picked = torch.from_numpy(np.concatenate(rows))
        kept = self.kept and KeptPatches(self.kept.positions[picked], self.kept.of)
        return Batch(self.hidden[picked], kept, (len(rows[0]), len(rows[1]), len(rows[2])))


class BatchSampler:
    """Draws batches; the same pool and seed give the same batches on every rank.

    Args:
        special_tokens: how many tokens stand before the patches (CLS, registers; none in SigLIP); all are kept.
    """

    def __init__(self, pool: Pool, config: BatchConfig, *, special_tokens: int, seed: int) -> None:
        self._pool = pool
        self._config = config
        self._special = special_tokens
        self._rng = np.random.default_rng(seed)
        own = np.arange(len(pool.photos))
        self._own = own[~pool.is_held_out(own)]
        self._others = np.flatnonzero(~pool.is_held_out(pool.other_photo))
        self._other_weight = pool.other_weight[self._others]
        # A model that was fine-tuned to all photos may draw what the held-out one shows: a trial goes without. Where no
        # positive is left, also because the fold owns every one, views of the other photos take their place.
        knows_all = (pool.positive_photo < 0) & (pool.heldout is not None)
        self._positives = np.flatnonzero(~pool.is_held_out(pool.positive_photo) & ~knows_all)
        negatives = np.flatnonzero(~pool.is_held_out(pool.negative_photo))
        self._negatives = negatives if len(negatives) else np.arange(len(pool.negatives))

    def draw(self) -> Batch:
        """Anchors: views of own photos; positives: synthetic; negatives: synthetic, and views of others' photos."""
        config, pool = self._config, self._pool
        synthetic = round(config.negatives * config.synthetic_negatives)
        if not len(self._others):
            synthetic = config.negatives
        elif not len(self._negatives):
            synthetic = 0
        drawn = [
            *self._views_of(pool.photos, self._own, config.anchors),
            *self._positives_of(config.positives),
            *pool.negatives[self._choice(self._negatives, synthetic)],
            *self._views_of(pool.others, self._others, config.negatives - synthetic, self._other_weight),
        ]
        hidden, kept = self._some_patches(torch.stack(drawn))
        return Batch(hidden, kept, (config.anchors, config.positives, config.negatives))

    def _positives_of(self, count: int) -> Iterable[torch.Tensor]:
        if len(self._positives):
            return self._pool.positives[self._choice(self._positives, count)]
        return self._views_of(self._pool.photos, self._own, count)

    def _choice(self, among: np.ndarray, count: int, weight: np.ndarray | None = None) -> np.ndarray:
        """Without repeats while there are enough."""
        if count == 0:
            return np.array([], dtype=int)
        share = None if weight is None else weight / weight.sum()
        return self._rng.choice(among, count, replace=len(among) < count, p=share)

    def _views_of(
        self, photos: Sequence[torch.Tensor], among: np.ndarray, count: int, weight: np.ndarray | None = None
    ) -> list[torch.Tensor]:
        """A random view of each chosen photo."""
        rows = []
        for index in self._choice(among, count, weight):
            views = photos[index]
            rows.append(views[int(self._rng.integers(len(views)))])
        return rows

    def _some_patches(self, hidden: torch.Tensor) -> tuple[torch.Tensor, KeptPatches | None]:
        """A random part of each image's patch tokens (as FLIP, arXiv 2212.00794): cheaper steps, and augmentation."""
        count, tokens, dim = hidden.shape
        patches = tokens - self._special
        kept = max(1, round(patches * self._config.token_share))
        if kept == patches:
            return hidden, None
        drawn = np.argsort(self._rng.random((count, patches)), axis=1)[:, :kept]
        always = np.broadcast_to(np.arange(self._special), (count, self._special))
        index = torch.from_numpy(np.concatenate([always, drawn + self._special], axis=1)).to(hidden.device)  # (B, T')
        some = hidden.gather(1, index[:, :, None].expand(-1, -1, dim))
        return some, KeptPatches(index[:, self._special :] - self._special, patches)


def _hardness(likeness: np.ndarray) -> np.ndarray:
    """(O,) cosines to weights: half of the draws go to all others evenly, half to those most like the object."""
    if not len(likeness):
        return likeness
    soft = np.exp((likeness - likeness.max()) / _HARDNESS_TEMPERATURE)
    return 0.5 / len(likeness) + 0.5 * soft / soft.sum()
