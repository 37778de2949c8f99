from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.tiny import COLOURS, shape, tiny_backbone

from persrep_ray.backbones.lora import LoraBackbone
from persrep_ray.config import BatchConfig, CrossValidationConfig, LoraSection, RunConfig, TrainConfig, ViewsConfig
from persrep_ray.data.images import encode_jpeg, encode_png_mask
from persrep_ray.data.objects import Photo
from persrep_ray.generate.types import Role, SyntheticImage
from persrep_ray.train.batches import TrainInputs


@pytest.fixture
def config() -> RunConfig:
    return RunConfig.model_validate(
        {
            "backbone": {"image_size": 56, "precision": "float32"},
            "train": TrainConfig(
                lora=LoraSection(r=4, alpha=8.0),
                batch=BatchConfig(anchors=2, positives=4, negatives=4, token_share=0.5),
                views=ViewsConfig(per_photo=2),
                cross_validation=CrossValidationConfig(folds=0),
                learning_rate=5e-3,
                steps=10,
            ),
        }
    )


@pytest.fixture
def lora(config: RunConfig) -> LoraBackbone:
    return LoraBackbone(tiny_backbone(), config.train.lora, base_name="tiny")


@pytest.fixture
def make_inputs(tmp_path: Path) -> Callable[[str], TrainInputs]:
    def photos(object_id: str) -> tuple[Photo, ...]:
        made = []
        for index in range(3):
            image, mask = shape(COLOURS[object_id], seed=index)
            path = tmp_path / f"{object_id}-{index}.jpg"
            path.write_bytes(encode_jpeg(image))
            path.with_suffix(".png").write_bytes(encode_png_mask(mask))
            made.append(Photo(object_id, path, path.with_suffix(".png"), None))
        return tuple(made)

    def synthetic(object_id: str, role: Role, source: str, index: int) -> SyntheticImage:
        image, mask = shape(COLOURS[source], seed=100 + index)
        return SyntheticImage(object_id, role, "cut_paste", None, index, None, source, index % 3, image, mask)

    def inputs(object_id: str) -> TrainInputs:
        others = [other for other in COLOURS if other != object_id]
        return TrainInputs(
            object_id=object_id,
            photos=photos(object_id),
            distractors=tuple(photo for other in others for photo in photos(other)),
            distractor_photo=(0, 1, 2) * len(others),
            positives=[synthetic(object_id, "positive", object_id, i) for i in range(6)],
            negatives=[synthetic(object_id, "negative", others[i % 2], i) for i in range(6)],
        )

    return inputs
