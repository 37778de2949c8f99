"""What an object is trained on: its inputs, the pool of their views, and the batches drawn from the pool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from persrep_ray.backbones.backbone import KeptPatches
from persrep_ray.config import BatchConfig
from persrep_ray.data.bank import is_thing
from persrep_ray.data.objects import Photo
from persrep_ray.generate.types import SyntheticImage
from persrep_ray.train.views import ViewStore

_HARDNESS_TEMPERATURE = 0.1  # of cosines: a photo that is less alike by 0.3 is drawn a twentieth as often


@dataclass(frozen=True)
class TrainInputs:
    """What the training of one object starts from.

    `photos` show the object, `distractors` other objects; `distractor_photo` are their indices among the train photos
    of their objects. `positives` and `negatives` are synthetic images in the order of their index. `checks` are photos
    that show anything else. They are never trained on, and the held-out photos are told from them, too.
    """

    object_id: str
    photos: tuple[Photo, ...]
    distractors: tuple[Photo, ...]
    distractor_photo: tuple[int, ...]
    positives: Sequence[SyntheticImage]
    negatives: Sequence[SyntheticImage]
    checks: tuple[Photo, ...] = ()


@dataclass(frozen=True)
class Pool:
    """Prefix outputs of views, grouped: a group per photo of the object, per photo of another object, and per role.

    `positive_photo` is the index, among the object's photos, of the photo that each positive was cut from, and -1 if
    there is none. `distractor_photo` counts each distractor among those of its object, and `negative_photo` says from
    which of them a negative was cut; it is -1 for what no fold holds out. `without` leaves these out together with the
    object's photo of that index.
    `checks` are standard views of photos that are never trained on.
    """

    photos: tuple[torch.Tensor, ...]  # (V, T, D) each
    distractors: tuple[torch.Tensor, ...]
    distractor_photo: np.ndarray  # (O,)
    distractor_weight: np.ndarray  # (O,) how often each is drawn, relative to the others
    positives: torch.Tensor  # (P, T, D)
    positive_photo: np.ndarray  # (P,)
    negatives: torch.Tensor  # (M, T, D)
    negative_photo: np.ndarray  # (M,)
    checks: tuple[torch.Tensor, ...] = ()  # (T, D) each
    held_out: int | None = None

    def without(self, held_out: int) -> Pool:
        """The pool of a fold, which sees neither this photo of the object nor the photos that it is ranked against."""
        return replace(self, held_out=held_out)

    def is_held_out(self, photo: np.ndarray) -> np.ndarray:
        """Whether each photo index, of this object or another one, is held out: bool of the same shape."""
        if self.held_out is None:
            return np.zeros(photo.shape, bool)
        return (photo >= 0) & (photo % len(self.photos) == self.held_out)


def make_pool(store: ViewStore, inputs: TrainInputs, pretrained: Callable[[torch.Tensor], np.ndarray]) -> Pool:
    """Computes every view that the object's training may draw, or takes it from the store.

    Args:
        pretrained: returns the normalised pretrained CLS (D,) of a photo's standard view. Photos that the pretrained
            features take for the object are drawn more often, because the adapter has to learn to tell them apart.
    """

    of_object: Counter[str] = Counter()
    number: dict[tuple[str, int], int] = {}  # (other object, index of its photo) -> count among the distractors
    for photo, index in zip(inputs.distractors, inputs.distractor_photo, strict=True):
        # A thing of the bank is never held out: other things of it check the fold, and most have a single photo.
        number[photo.object_id, index] = -1 if is_thing(photo.object_id) else of_object[photo.object_id]
        of_object[photo.object_id] += 1
    positive_photo = [-1 if one.source_photo is None else one.source_photo for one in inputs.positives]
    negative_photo = [
        -1 if one.source_photo is None else number.get((one.source_id, one.source_photo), one.source_photo)
        for one in inputs.negatives
    ]
    photos = tuple(store.photo(photo) for photo in inputs.photos)
    distractors = tuple(store.photo(photo) for photo in inputs.distractors)
    own = np.stack([pretrained(views) for views in photos])  # (T, D)
    likeness = np.array([float((own @ pretrained(views)).max()) for views in distractors])
    return Pool(
        photos=photos,
        distractors=distractors,
        distractor_photo=np.array(list(number.values()), dtype=int),
        distractor_weight=_hardness(likeness, np.array([of_object[photo.object_id] for photo in inputs.distractors])),
        positives=store.synthetic(inputs.positives),
        positive_photo=np.array(positive_photo, dtype=int),
        negatives=store.synthetic(inputs.negatives),
        negative_photo=np.array(negative_photo, dtype=int),
        checks=tuple(store.standard(photo) for photo in inputs.checks),
    )


@dataclass(frozen=True)
class Batch:
    """The images of one step: anchors, then positives, then negatives; `roles` counts each."""

    hidden: torch.Tensor  # (B, T', D): the special tokens, if there are any, then the drawn patches
    kept: KeptPatches | None  # which patches were drawn; None for all of them, in order
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
    """Draws batches. The same pool and seed give the same batches on every rank.

    Args:
        special_tokens: how many tokens precede the patches (CLS and registers; SigLIP has none). All of them are kept.
    """

    def __init__(self, pool: Pool, config: BatchConfig, *, special_tokens: int, seed: int) -> None:
        self._pool = pool
        self._config = config
        self._special = special_tokens
        self._rng = np.random.default_rng(seed)
        own = np.arange(len(pool.photos))
        self._own = own[~pool.is_held_out(own)]
        self._distractors = np.flatnonzero(~pool.is_held_out(pool.distractor_photo))
        self._distractor_weight = pool.distractor_weight[self._distractors]
        # A generator that was fine-tuned to all photos may show what is in the held-out photo, so a fold leaves out
        # positives that were not cut from a known photo. If none remains, views of the other photos take their place.
        knows_all = (pool.positive_photo < 0) & (pool.held_out is not None)
        self._positives = np.flatnonzero(~pool.is_held_out(pool.positive_photo) & ~knows_all)
        negatives = np.flatnonzero(~pool.is_held_out(pool.negative_photo))
        self._negatives = negatives if len(negatives) else np.arange(len(pool.negatives))

    def draw(self) -> Batch:
        """Anchors are views of the object's photos, negatives are synthetic images and views of distractors."""
        config, pool = self._config, self._pool
        synthetic = round(config.negatives * config.synthetic_negatives)
        if not len(self._distractors):
            synthetic = config.negatives
        elif not len(self._negatives):
            synthetic = 0
        drawn = [
            *self._views_of(pool.photos, self._own, config.anchors),
            *self._positives_of(config.positives),
            *pool.negatives[self._choice(self._negatives, synthetic)],
            *self._views_of(pool.distractors, self._distractors, config.negatives - synthetic, self._distractor_weight),
        ]
        hidden, kept = self._some_patches(torch.stack(drawn))
        return Batch(hidden, kept, (config.anchors, config.positives, config.negatives))

    def _positives_of(self, count: int) -> Iterable[torch.Tensor]:
        if len(self._positives):
            return self._pool.positives[self._choice(self._positives, count)]
        return self._views_of(self._pool.photos, self._own, count)

    def _choice(self, among: np.ndarray, count: int, weight: np.ndarray | None = None) -> np.ndarray:
        """Draws indices, without repetition if there are enough."""
        if count == 0:
            return np.array([], dtype=int)
        share = None if weight is None else weight / weight.sum()
        return self._rng.choice(among, count, replace=len(among) < count, p=share)

    def _views_of(
        self, photos: Sequence[torch.Tensor], among: np.ndarray, count: int, weight: np.ndarray | None = None
    ) -> list[torch.Tensor]:
        """Draws photos, and a random view of each."""
        rows = []
        for index in self._choice(among, count, weight):
            views = photos[index]
            rows.append(views[int(self._rng.integers(len(views)))])
        return rows

    def _some_patches(self, hidden: torch.Tensor) -> tuple[torch.Tensor, KeptPatches | None]:
        """Keeps a random part of each image's patches (as FLIP, arXiv 2212.00794): it saves time and augments."""
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


def _hardness(likeness: np.ndarray, photos: np.ndarray) -> np.ndarray:
    """Weights from cosines (O,): half of the draws are spread evenly over objects, half go to the photos most alike.

    `photos` (O,) is the number of photos of each one's object.
    """
    if not len(likeness):
        return likeness
    even, soft = 1 / photos, np.exp((likeness - likeness.max()) / _HARDNESS_TEMPERATURE)
    return 0.5 * even / even.sum() + 0.5 * soft / soft.sum()
