from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.probes import FRONT, GROUND, HAND, patches, tiny_probes
from helpers.tiny import COLOURS, shape
from helpers.tiny_sam import save_tiny_sam

from persrep_ray.config import MaskConfig, RunConfig, SamConfig
from persrep_ray.masks.grabcut import MaskError, mask_from_saliency
from persrep_ray.masks.images import ImageMasker
from persrep_ray.masks.sam import SamSegmenter
from persrep_ray.masks.sam_checkpoint import SamError

IMAGE, TRUTH = (array[:80] for array in shape(COLOURS["red"], seed=0, size=120))
SALIENCY = TRUTH.astype(np.float32)


def masker(name: str, method: Any) -> ImageMasker:
    """A masker whose network is a fake that sees the truth."""

    def look(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert image is IMAGE
        return SALIENCY, patches(GROUND)

    made: Any = ImageMasker(RunConfig(masks=MaskConfig(method=method, working_size=96, sam=SamConfig(name=name))))
    made.look = look
    made._probes = tiny_probes()
    return made


class TestEmbedded:
    def test_a_mask_is_made_by_saliency_and_grabcut_and_needs_no_reference(self) -> None:
        expected = mask_from_saliency(IMAGE, SALIENCY, MaskConfig(working_size=96))
        under_test = masker("no-such-sam", "embedded")
        assert under_test.refer(IMAGE, TRUTH) is None
        assert np.array_equal(under_test.mask(IMAGE), expected)

    def test_nothing_found(self) -> None:
        under_test: Any = masker("no-such-sam", "embedded")
        under_test.look = lambda image: (np.zeros((20, 20), np.float32), patches(GROUND))
        with pytest.raises(MaskError, match="no foreground found"):
            under_test.mask(IMAGE)

    def test_an_image_that_a_package_fills_is_masked_as_a_whole(self) -> None:
        under_test: Any = masker("no-such-sam", "embedded")
        under_test.look = lambda image: (SALIENCY, patches(FRONT))
        assert under_test.mask(IMAGE).shape == (80, 120) and under_test.mask(IMAGE).all()

    def test_a_hand_is_left_out(self) -> None:
        seen = patches(GROUND)
        seen[np.arange(256) % 16 >= 8] = HAND  # the right half
        under_test: Any = masker("no-such-sam", "embedded")
        under_test.look = lambda image: (SALIENCY, seen)
        mask = under_test.mask(IMAGE)
        assert mask[TRUTH & (np.arange(120) < 45)].mean() > 0.8
        assert mask[:, 75:].mean() < 0.02


class TestSam:
    def prompts(self, under_test: Any) -> list[np.ndarray]:
        """Records where the point on the object is, in pixels of the photo, in each later call of SAM."""
        points: list[np.ndarray] = []

        def record(model: Any, args: Any, kwargs: dict[str, Any]) -> None:
            points.append((kwargs["input_points"][0, 0, 0].numpy() + 0.5) * 120 / 64)

        under_test._sam._model.register_forward_pre_hook(record, with_kwargs=True)
        return points

    def test_sam_looks_for_what_the_reference_shows(self, tmp_path: Path) -> None:
        under_test = masker(str(save_tiny_sam(tmp_path / "sam")), "sam")
        reference = under_test.refer(IMAGE, TRUTH)
        assert reference is not None
        plain = SamSegmenter(SamConfig(name=str(tmp_path / "sam")))
        assert np.array_equal(
            under_test.mask(IMAGE, reference),
            plain.segment_like(plain.embed(IMAGE), plain.refer(plain.embed(IMAGE), TRUTH)),
        )

    def test_without_a_reference_the_prompt_lies_well_inside_of_what_is_salient(self, tmp_path: Path) -> None:
        under_test = masker(str(save_tiny_sam(tmp_path / "sam")), "sam")
        points = self.prompts(under_test)
        mask = under_test.mask(IMAGE)
        assert mask.shape == (80, 120) and mask.dtype == np.bool_
        depth = cv2.distanceTransform(TRUTH.astype(np.uint8), cv2.DIST_L2, 3)
        x, y = points[0].astype(int)
        assert depth[y, x] > 0.7 * depth.max()  # all of the disc is equally salient

    def test_a_checkpoint_that_does_not_exist_is_an_error_when_it_is_needed(self, tmp_path: Path) -> None:
        under_test = masker(str(tmp_path / "absent"), "sam")
        with pytest.raises(SamError, match="absent"):
            under_test.mask(IMAGE)
