"""Which images an object gets, and how they are cut into chunks."""

from __future__ import annotations

import pytest

from persrep_ray.config import RunConfig, load_config
from persrep_ray.generate.schedule import calibration_chunks, chunks, training_chunks


def small(*overrides: str) -> RunConfig:
    return load_config("debug", overrides)


def test_chunks_cover_every_image_once() -> None:
    config = small(
        "generate.positives=5", "generate.negatives=4", "generate.chunk_size=2", "generate.calibration_images=3"
    )
    assert [(chunk.role, chunk.start, chunk.count) for chunk in chunks("mug", config)] == [
        ("positive", 0, 2),
        ("positive", 2, 2),
        ("positive", 4, 1),
        ("negative", 0, 2),
        ("negative", 2, 2),
        ("positive", 5, 2),
        ("positive", 7, 1),
        ("negative", 4, 2),
        ("negative", 6, 1),
    ]


@pytest.mark.parametrize("calibration", [0, 1, 5])
def test_calibration_images_are_in_chunks_that_training_never_sees(calibration: int) -> None:
    overrides = ["generate.positives=5", "generate.negatives=4", "generate.chunk_size=4"]
    config = small(*overrides, f"generate.calibration_images={calibration}")
    trained, held_out = training_chunks("mug", config), calibration_chunks("mug", config)
    assert trained == training_chunks("mug", small(*overrides))
    for role, first in (("positive", 5), ("negative", 4)):
        images = [image for chunk in held_out[role] for image in range(chunk.start, chunk.start + chunk.count)]
        assert images == list(range(first, first + calibration))
        assert not {chunk.start for chunk in held_out[role]} & {chunk.start for chunk in trained[role]}


@pytest.mark.parametrize(
    ("generator", "pasted", "sampled"), [("cut_paste", 12, 0), ("dreambooth", 0, 12), ("combined", 9, 3)]
)
def test_each_generator_has_its_share_of_the_images(generator: str, pasted: int, sampled: int) -> None:
    config = small(
        *(f"generate.generator={generator}", "generate.dreambooth_share=0.25", "generate.positives=12"),
        *("generate.chunk_size=4", "generate.calibration_images=4"),
    )
    trained, held_out = training_chunks("mug", config)["positive"], calibration_chunks("mug", config)["positive"]
    counts = {
        name: sum(chunk.count for chunk in trained if chunk.generator == name) for name in ("cut_paste", "dreambooth")
    }
    assert counts == {"cut_paste": pasted, "dreambooth": sampled}
    indices = [index for chunk in (*trained, *held_out) for index in range(chunk.start, chunk.start + chunk.count)]
    assert indices == list(range(16)), "no image twice, none left out"
