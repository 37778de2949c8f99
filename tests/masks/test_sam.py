from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers.tiny_sam import SIDE, save_tiny_sam, tiny_sam

from persrep_ray.config import SamConfig
from persrep_ray.masks import sam
from persrep_ray.masks.grabcut import MaskError
from persrep_ray.masks.sam import SamImage, SamSegmenter, mask_loss

GRID = 32  # of the logits


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_sam(tmp_path_factory.mktemp("sam") / "tiny")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint that the test may damage."""
    return save_tiny_sam(tmp_path / "sam")


def segmenter(folder: Path, steps: int = 20) -> SamSegmenter:
    return SamSegmenter(SamConfig(name=str(folder), weight_steps=steps))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def peaks(shape: tuple[int, int], most: tuple[int, int], least: tuple[int, int]) -> np.ndarray:
    similarity = np.zeros(shape, np.float32)
    similarity[most], similarity[least] = 1, -1
    return similarity


def rectangle(left: int, top: int, right: int, bottom: int) -> torch.Tensor:
    """Logits (32, 32), positive from `left` to before `right`; a cell is 2 pixels of the square."""
    logits = torch.full((GRID, GRID), -4.0)
    logits[top:bottom, left:right] = 4.0
    return logits


class FakeSam:
    """Answers each call with the next of `rounds`, three masks and which of them is best, and records the prompts."""

    def __init__(self, *rounds: tuple[Sequence[torch.Tensor], int]) -> None:
        self.prompts: list[dict[str, Any]] = []
        self._rounds = iter(rounds)

    def __call__(self, **prompts: Any) -> Any:
        self.prompts.append(prompts)
        logits, best = next(self._rounds)
        ratings = torch.zeros(1, 1, 3)
        ratings[..., best] = 1
        return SimpleNamespace(pred_masks=torch.stack(list(logits))[None, None], iou_scores=ratings)


def answering(checkpoint: Path, *rounds: tuple[Sequence[torch.Tensor], int], steps: int = 20) -> Any:
    under_test: Any = segmenter(checkpoint, steps)
    under_test._model = FakeSam(*rounds)
    return under_test


NOTHING = torch.full((GRID, GRID), -4.0)
COARSE, MIDDLE, FINE = rectangle(2, 2, 30, 18), rectangle(6, 4, 20, 14), rectangle(8, 6, 16, 12)
LANDSCAPE = SamImage(torch.ones(32, 8, 8).half(), extent=(40, SIDE), size=(80, 128))
MAP = peaks((5, 8), (1, 2), (4, 7))


class TestEmbedding:
    @pytest.mark.parametrize("size", [(90, 130), (130, 90), (64, 64)])
    def test_preprocessing_equals_that_of_the_checkpoint(self, checkpoint: Path, size: tuple[int, int]) -> None:
        processor = transformers.SamImageProcessorPil.from_pretrained(checkpoint)
        self._compare(processor, checkpoint, noise(*size))

    def test_without_a_preprocessor_colours_are_normalised_as_in_training(self, folder: Path) -> None:
        (folder / "preprocessor_config.json").unlink()
        square = {"height": SIDE, "width": SIDE}
        processor = transformers.SamImageProcessorPil(size={"longest_edge": SIDE}, pad_size=square)
        self._compare(processor, folder, noise(90, 130))

    def _compare(self, processor: Any, folder: Path, image: np.ndarray) -> None:
        inputs = processor(images=image, return_tensors="pt")
        expected = tiny_sam().eval().get_image_embeddings(inputs["pixel_values"])[0]
        embedded = segmenter(folder).embed(image)
        torch.testing.assert_close(embedded.embedding.float(), expected, atol=5e-3, rtol=5e-3)
        assert embedded.extent == tuple(inputs["reshaped_input_sizes"][0].tolist())
        assert embedded.size == image.shape[:2]


class TestSegment:
    def test_points_are_the_middles_of_the_most_and_the_least_similar_cell(self, checkpoint: Path) -> None:
        under_test = answering(checkpoint, *[([COARSE] * 3, 0)] * 3)
        under_test.segment(LANDSCAPE, MAP)
        for prompts in under_test._model.prompts:
            # A cell is 8 x 8 pixels of the square; the middle of the first pixel is 0.
            assert prompts["input_points"].tolist() == [[[[19.5, 11.5], [59.5, 35.5]]]]
            assert prompts["input_labels"].tolist() == [[[1, 0]]]

    def test_a_mask_is_refined_by_itself_and_then_also_by_its_box(self, checkpoint: Path) -> None:
        under_test = answering(
            checkpoint,
            ([NOTHING, COARSE, NOTHING], 1),
            ([NOTHING, NOTHING, MIDDLE], 2),
            ([FINE, NOTHING, NOTHING], 0),
        )
        mask = under_test.segment(LANDSCAPE, MAP)
        first, second, third = under_test._model.prompts
        assert first["input_masks"] is None and "input_boxes" not in first
        assert torch.equal(second["input_masks"][0, 0], COARSE) and "input_boxes" not in second
        assert torch.equal(third["input_masks"][0, 0], MIDDLE)
        assert third["input_boxes"].tolist() == [[[12, 8, 39, 27]]]  # the last pixels are included
        assert mask.shape == (80, 128) and mask.dtype == np.bool_
        expected = np.zeros((80, 128), bool)
        expected[24:48, 32:64] = True  # a cell of the logits is four pixels of the photo
        differs = np.argwhere(mask != expected)
        assert len(differs) < 30  # interpolation rounds the corners
        assert np.isin(differs[:, 0], (24, 25, 26, 45, 46, 47)).all()

    def test_weights_mix_the_scales_of_the_first_round(self, checkpoint: Path) -> None:
        under_test = answering(checkpoint, ([COARSE, MIDDLE, FINE], 0), ([COARSE] * 3, 0), ([COARSE] * 3, 0))
        under_test.segment(LANDSCAPE, MAP, np.array([0.25, 0.5, 0.25], np.float32))
        mixed = under_test._model.prompts[1]["input_masks"][0, 0]
        torch.testing.assert_close(mixed, COARSE / 4 + MIDDLE / 2 + FINE / 4)

    def test_masks_have_the_size_of_their_image(self, checkpoint: Path) -> None:
        image = replace(LANDSCAPE, size=(20, 32))
        mask = answering(checkpoint, *[([COARSE] * 3, 0)] * 3).segment(image, MAP)
        assert mask.shape == (20, 32)
        assert np.array_equal(np.argwhere(mask)[[0, -1]], [[2, 2], [17, 29]])

    @pytest.mark.parametrize("size", [(90, 130), (130, 90), (3, 500)])
    def test_a_real_decoder_gives_a_mask_of_the_photo_size(self, checkpoint: Path, size: tuple[int, int]) -> None:
        under_test = segmenter(checkpoint)
        mask = under_test.segment(under_test.embed(noise(*size)), MAP)
        assert mask.shape == size and mask.dtype == np.bool_

    def test_a_mask_only_in_the_padding_is_an_error(self, checkpoint: Path) -> None:
        below = rectangle(0, 22, 32, 32)
        with pytest.raises(MaskError, match="SAM finds nothing"):
            answering(checkpoint, *[([below] * 3, 0)] * 3).segment(LANDSCAPE, MAP)

    def test_an_empty_last_mask_is_an_error(self, checkpoint: Path) -> None:
        rounds = ([COARSE] * 3, 0), ([COARSE] * 3, 0), ([NOTHING] * 3, 0)
        with pytest.raises(MaskError, match="SAM finds nothing"):
            answering(checkpoint, *rounds).segment(LANDSCAPE, MAP)

    @pytest.mark.parametrize(
        ("similarity", "cause"),
        [
            (np.full((5, 8), 0.7, np.float32), "flat"),
            (np.full((5, 8), np.nan, np.float32), "finite"),
            (np.zeros(8, np.float32), r"\(h, w\)"),
        ],
    )
    def test_a_map_that_tells_nothing_is_an_error(self, checkpoint: Path, similarity: np.ndarray, cause: str) -> None:
        with pytest.raises(MaskError, match=cause):
            segmenter(checkpoint).segment(LANDSCAPE, similarity)


class TestWeights:
    TRUTH = np.zeros((80, 128), bool)
    TRUTH[16:56, 24:80] = True  # MIDDLE in pixels of the photo

    def loss(self, weights: np.ndarray) -> float:
        """Only the 20 of 32 rows of the logits that LANDSCAPE covers count."""
        logits = torch.tensordot(torch.tensor(weights), torch.stack([COARSE, MIDDLE, FINE]), dims=1)[:20]
        return float(mask_loss(logits.flatten(), torch.from_numpy(self.TRUTH[2::4, 2::4]).float().flatten()))

    def test_the_scale_that_fits_wins(self, checkpoint: Path) -> None:
        learned = answering(checkpoint, ([COARSE, MIDDLE, FINE], 0), steps=300).learn_weights(
            LANDSCAPE, MAP, self.TRUTH
        )
        assert learned.dtype == np.float32 and learned.sum() == pytest.approx(1, abs=1e-6)
        assert learned.argmax() == 1
        assert self.loss(learned) < self.loss(np.full(3, 1 / 3, np.float32))

    def test_the_start_is_kept_if_every_step_is_worse(self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sam, "_LEARNING_RATE", 1e6)
        clutter = torch.randn(GRID, GRID, generator=torch.Generator().manual_seed(0))
        cancelling = [MIDDLE + clutter, MIDDLE - clutter, MIDDLE]
        learned = answering(checkpoint, (cancelling, 0)).learn_weights(LANDSCAPE, MAP, self.TRUTH)
        assert learned == pytest.approx([1 / 3] * 3)

    def test_weights_are_the_same_each_time(self, checkpoint: Path) -> None:
        image, mask = noise(90, 130), np.zeros((90, 130), bool)
        mask[20:60, 30:90] = True
        first, second = (
            one.learn_weights(one.embed(image), MAP, mask) for one in (segmenter(checkpoint), segmenter(checkpoint))
        )
        assert first is not None and np.array_equal(first, second)
        assert not np.allclose(first, 1 / 3, atol=1e-3)

    def test_without_steps_there_are_no_weights(self, checkpoint: Path) -> None:
        assert segmenter(checkpoint, steps=0).learn_weights(LANDSCAPE, MAP, self.TRUTH) is None

    def test_the_loss_is_dice_plus_focal(self) -> None:
        logits, truth = np.array([2.0, -1.0, 0.5]), np.array([1.0, 1.0, 0.0])
        p = 1 / (1 + np.exp(-logits))
        dice = 1 - (2 * (p[0] + p[1]) + 1) / (p.sum() + 2 + 1)
        focal = [
            0.25 * (1 - p[0]) ** 2 * -np.log(p[0]),
            0.25 * (1 - p[1]) ** 2 * -np.log(p[1]),
            0.75 * p[2] ** 2 * -np.log(1 - p[2]),
        ]
        loss = mask_loss(torch.from_numpy(logits), torch.from_numpy(truth))
        assert float(loss) == pytest.approx(dice + np.mean(focal))


class TestReference:
    def features(self, *cells: tuple[int, int]) -> SamImage:
        """A landscape image with the object's feature in `cells` of the grid and everywhere in the padding."""
        embedding = torch.zeros(32, 8, 8)
        embedding[0] = 1
        for row, column in [*cells, *((row, column) for row in range(5, 8) for column in range(8))]:
            embedding[:, row, column] = torch.eye(32)[1] * 3
        return SamImage(embedding.half(), extent=(40, SIDE), size=(80, 128))

    def test_the_point_is_where_the_object_is_on_another_photo(self, checkpoint: Path) -> None:
        under_test = answering(checkpoint, *[([COARSE, MIDDLE, FINE], 0)] * 4)
        mask = np.zeros((80, 128), bool)
        mask[0:32, 64:80] = True  # two cells
        reference = under_test.refer(self.features((0, 4), (1, 4)), mask)
        torch.testing.assert_close(reference.target, torch.eye(32)[1])
        under_test.segment_like(self.features((1, 6)), reference)
        learned_on, found_on = (under_test._model.prompts[index]["input_points"][0, 0, 0] for index in (0, 1))
        assert 32 <= learned_on[0] < 40 and 0 <= learned_on[1] < 16
        assert 48 <= found_on[0] < 56 and 8 <= found_on[1] < 16

    def test_the_scales_are_mixed_by_the_learned_weights(self, checkpoint: Path) -> None:
        under_test = answering(checkpoint, *[([COARSE, MIDDLE, FINE], 0)] * 4)
        reference = under_test.refer(self.features((1, 3)), TestWeights.TRUTH)
        under_test.segment_like(self.features((1, 6)), reference)
        mixed = torch.tensordot(torch.tensor(reference.weights), torch.stack([COARSE, MIDDLE, FINE]), dims=1)
        torch.testing.assert_close(under_test._model.prompts[2]["input_masks"][0, 0], mixed)
