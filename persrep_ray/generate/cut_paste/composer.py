"""Cut and paste: the pixels of the object in new scenes (Dwibedi et al., arXiv 1708.01642; Ghiasi et al., 2012.07177).

A positive shows the object, a negative shows another object in the same kind of scene. Half of the pasted negatives are
counterparts: they repeat the scene, pose and light of the positive with the same index with another object, so that
nothing but the object tells the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from persrep_ray.config import DataConfig, GenerateConfig
from persrep_ray.generate.cut_paste.backgrounds import Backgrounds
from persrep_ray.generate.cut_paste.compositing import (
    FloatImage,
    Layer,
    Sprite,
    blur_layer,
    drop_shadow,
    ground_shadow,
    make_sprite,
    paste,
    shade,
    warp,
)
from persrep_ray.generate.cut_paste.cutouts import Cutout
from persrep_ray.generate.cut_paste.occluders import occluder
from persrep_ray.generate.cut_paste.photometric import finish, relight
from persrep_ray.generate.cut_paste.photos import PhotoPool
from persrep_ray.generate.cut_paste.placement import beside, draw_pose, pose_matrix
from persrep_ray.generate.types import Chunk, SyntheticImage, image_seed

_DISTRACTOR = 0.35  # probability
_MOST_BEHIND = 0.35  # share of the smaller object that may be hidden
_SHADOW = 0.65  # probability
_UPRIGHT = 15.0  # degrees; an object that leans less may cast its shadow on the ground


class Composer:
    """Composes the images of objects from cutouts of all of them.

    A negative's `source_id` is the id of the object it shows, the stem of the negative photo it was cropped from, or
    `background` if it shows a scene without an object, because there is no other object and no photo.
    """

    def __init__(
        self,
        config: GenerateConfig,
        cutouts: Mapping[str, Sequence[Cutout]],
        categories: Mapping[str, str | None],
        backgrounds: Backgrounds,
        negatives: PhotoPool,
        limits: DataConfig,
    ) -> None:
        self._config = config
        self._limits = limits
        self._cutouts = {object_id: tuple(cutouts[object_id]) for object_id in sorted(cutouts) if cutouts[object_id]}
        self._ids = tuple(self._cutouts)
        self._sprites: dict[tuple[str, int], Sprite] = {}
        self._categories = dict(categories)
        by_category: dict[str, list[str]] = {}
        for object_id in self._ids:
            category = self._categories.get(object_id)
            if category is not None:
                by_category.setdefault(category, []).append(object_id)
        self._ids_by_category = {category: tuple(ids) for category, ids in by_category.items()}
        self._ids_outside: dict[str, tuple[str, ...]] = {}
        self._backgrounds = backgrounds
        self._negatives = negatives

    def compose(self, chunk: Chunk) -> list[SyntheticImage]:
        """The images of the chunk. Raises ValueError for positives of an object without a cutout."""
        make = self._positive if chunk.role == "positive" else self._negative
        return [make(chunk, index) for index in chunk.indices]

    def _positive(self, chunk: Chunk, index: int) -> SyntheticImage:
        own = len(self._cutouts.get(chunk.object_id, ()))
        if own == 0:
            raise ValueError(f"object {chunk.object_id}: generate: no photo gave a cutout to paste")
        seed = image_seed(chunk.seed, chunk.object_id, "positive", index)
        sprite = self._sprite(chunk.object_id, index % own)
        image, mask = self._scene(seed, chunk.object_id, sprite)
        return _result(chunk, seed, sprite.cutout, image, mask)

    def _negative(self, chunk: Chunk, index: int) -> SyntheticImage:
        seed = image_seed(chunk.seed, chunk.object_id, "negative", index)
        rng = np.random.default_rng([seed, 0])
        turn = index
        if len(self._negatives):
            if index % 2:
                stem, image = self._negatives.crop(rng, self._config.image_size)
                return _result(chunk, seed, stem, image, np.zeros(image.shape[:2], np.bool_))
            turn = index // 2
        is_counterpart = turn % 2 == 0
        scene = image_seed(chunk.seed, chunk.object_id, "positive", index) if is_counterpart else seed
        other = self._negative_sprite(rng, chunk.object_id)
        image, mask = self._scene(scene, chunk.object_id, other)
        return _result(chunk, seed, "background" if other is None else other.cutout, image, mask)

    def _negative_sprite(self, rng: np.random.Generator, object_id: str) -> Sprite | None:
        """A cutout of another object, of the same category in a share of the draws; None if there is no other."""
        category = self._categories.get(object_id)
        alike = self._ids_by_category.get(category, ()) if category is not None else ()
        wants_alike = rng.random() < self._config.same_category
        if category is None or not _has_another(alike, object_id):
            return self._sprite_among(rng, self._ids, object_id)
        return self._sprite_among(rng, alike if wants_alike else self._outside(category) or alike, object_id)

    def _outside(self, category: str) -> tuple[str, ...]:
        """The ids of objects of other categories."""
        if category not in self._ids_outside:
            inside = set(self._ids_by_category[category])
            self._ids_outside[category] = tuple(object_id for object_id in self._ids if object_id not in inside)
        return self._ids_outside[category]

    def _sprite_among(self, rng: np.random.Generator, ids: Sequence[str], without: str) -> Sprite | None:
        """A sprite of a random object of `ids` except `without`; None if that leaves no object."""
        if not _has_another(ids, without):
            return None
        object_id = without
        while object_id == without:
            object_id = ids[int(rng.integers(len(ids)))]
        return self._sprite(object_id, int(rng.integers(len(self._cutouts[object_id]))))

    def _sprite(self, object_id: str, number: int) -> Sprite:
        """Sprites are made when they are first needed, because a chunk uses few of them."""
        key = object_id, number
        if key not in self._sprites:
            self._sprites[key] = make_sprite(self._cutouts[object_id][number], self._config.image_size)
        return self._sprites[key]

    def _scene(self, seed: int, object_id: str, sprite: Sprite | None) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The image that `seed` stands for with `sprite` in it, and the mask of the sprite's visible pixels.

        Each step draws from its own random stream, so that another sprite does not change the rest of the scene.
        """
        size = self._config.image_size
        ground, clutter, place, light, shadow, front, camera = (
            np.random.default_rng([seed, stream]) for stream in range(1, 8)
        )
        canvas = self._backgrounds.sample(ground, size).astype(np.float32)
        visible = np.zeros((size, size), np.float32)
        if sprite is not None:
            pose = draw_pose(place, self._config)
            layer = relight(light, warp(sprite, pose_matrix(pose, sprite.cutout, size), size), canvas)
            if clutter.random() < _DISTRACTOR:
                self._add_distractors(clutter, canvas, object_id, layer)
            _cast_shadow(shadow, canvas, layer, upright=abs(pose.rotation) < _UPRIGHT)
            paste(canvas, layer)
            visible = layer.whole_alpha(size)
            if front.random() < self._config.occlusion:
                cover = self._occluder(front, object_id, layer)
                if cover is not None:
                    paste(canvas, cover)
                    visible[cover.place] *= 1 - cover.alpha
        return finish(camera, canvas, self._limits), visible > 0.5

    def _occluder(self, rng: np.random.Generator, object_id: str, target: Layer) -> Layer | None:
        another = self._sprite_among(rng, self._ids, object_id)
        return occluder(rng, target, another, self._backgrounds, self._config)

    def _add_distractors(self, rng: np.random.Generator, canvas: FloatImage, object_id: str, target: Layer) -> None:
        """Pastes one or two other objects beside the place of the target, partly behind it or out of focus."""
        size = canvas.shape[0]
        for _ in range(1 + int(rng.random() < 0.3)):
            other = self._sprite_among(rng, self._ids, object_id)
            if other is None:
                return
            pose = beside(rng, draw_pose(rng, self._config), target.place, size)
            layer = warp(other, pose_matrix(pose, other.cutout, size), size)
            hidden = float((layer.alpha * target.whole_alpha(size)[layer.place]).sum())
            if hidden > _MOST_BEHIND * min(float(layer.alpha.sum()), float(target.alpha.sum())):
                continue
            layer = relight(rng, layer, canvas)
            if rng.random() < 0.3:
                layer = blur_layer(layer, size * rng.uniform(0.004, 0.012))
            _cast_shadow(rng, canvas, layer, upright=abs(pose.rotation) < _UPRIGHT)
            paste(canvas, layer)


def _has_another(ids: Sequence[str], object_id: str) -> bool:
    return len(ids) > 1 or (len(ids) == 1 and ids[0] != object_id)


def _cast_shadow(rng: np.random.Generator, canvas: FloatImage, layer: Layer, upright: bool) -> None:
    """Sometimes darkens the canvas where the layer blocks the light."""
    wanted, on_ground, strength = rng.random() < _SHADOW, rng.random() < 0.7, rng.uniform(0.25, 0.7)
    if wanted:
        cast = ground_shadow if upright and on_ground else drop_shadow
        shade(canvas, cast(rng, layer, canvas.shape[0]), strength)


def _result(
    chunk: Chunk, seed: int, source: Cutout | str, image: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> SyntheticImage:
    source_id, photo = (source.object_id, source.photo) if isinstance(source, Cutout) else (source, None)
    return SyntheticImage(chunk.object_id, chunk.role, "cut_paste", None, seed, None, source_id, photo, image, mask)
