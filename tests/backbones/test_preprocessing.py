from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from persrep_ray.backbones.preprocessing import Normalization, read_normalization

DEFAULT = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
DECLARED = {"image_mean": [0.5, 0.25, 0.75], "image_std": [1, 2.0, 3]}
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def test_values_are_scaled_channel_by_channel() -> None:
    values = torch.tensor([0.0, 100.0, 255.0]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    found = Normalization((1.0, 2.0, 3.0), (2.0, 4.0, 5.0), factor=0.1)(values)
    assert found.shape == (2, 3, 4, 4)
    torch.testing.assert_close(found[1, :, 0, 0], torch.tensor([-0.5, 2.0, 4.5]))


class TestRead:
    def test_nothing_declared_is_the_default(self, tmp_path: Path) -> None:
        assert read_normalization(tmp_path, DEFAULT) == DEFAULT

    @pytest.mark.parametrize(
        ("declared", "expected"),
        [
            (DECLARED, Normalization((0.5, 0.25, 0.75), (1.0, 2.0, 3.0))),
            ({**DECLARED, "rescale_factor": 0.5}, Normalization((0.5, 0.25, 0.75), (1.0, 2.0, 3.0), 0.5)),
            (
                {**DECLARED, "rescale_factor": 0.5, "do_rescale": False},
                Normalization((0.5, 0.25, 0.75), (1.0, 2.0, 3.0), 1),
            ),
            ({**DECLARED, "do_normalize": False}, Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
            ({"image_mean": DECLARED["image_mean"]}, Normalization((0.5, 0.25, 0.75), DEFAULT.std)),
            ({"image_std": DECLARED["image_std"]}, Normalization(DEFAULT.mean, (1.0, 2.0, 3.0))),
            ({"image_mean": None, "image_std": None, "do_rescale": None, "do_normalize": None}, DEFAULT),
            ({"size": {"height": 9}, "do_resize": True, "crop_size": 3}, DEFAULT),  # the geometry is not followed
            ({"image_mean": [0, 0, 0]}, Normalization((0.0, 0.0, 0.0), DEFAULT.std)),
        ],
    )
    def test_each_declared_key_overrides_the_default(
        self, declared: dict[str, Any], expected: Normalization, tmp_path: Path
    ) -> None:
        write(tmp_path, PREPROCESSOR, declared)
        assert read_normalization(tmp_path, DEFAULT) == expected

    def test_within_a_processor(self, tmp_path: Path) -> None:
        write(tmp_path, PREPROCESSOR, {"image_mean": [9, 9, 9]})
        write(tmp_path, PROCESSOR, {"image_processor": DECLARED, "processor_class": "SiglipProcessor"})
        assert read_normalization(tmp_path, DEFAULT) == Normalization((0.5, 0.25, 0.75), (1.0, 2.0, 3.0))

    def test_a_processor_without_an_image_processor(self, tmp_path: Path) -> None:
        write(tmp_path, PROCESSOR, {"processor_class": "CLIPProcessor"})
        assert read_normalization(tmp_path, DEFAULT) == DEFAULT
        write(tmp_path, PREPROCESSOR, DECLARED)
        assert read_normalization(tmp_path, DEFAULT) == Normalization((0.5, 0.25, 0.75), (1.0, 2.0, 3.0))

    @pytest.mark.parametrize("processor", [CLIPImageProcessorPil, SiglipImageProcessorPil])
    def test_what_transformers_saves_and_applies(self, processor: Any, tmp_path: Path) -> None:
        saved = processor(image_mean=[0.3, 0.4, 0.5], do_resize=False, do_center_crop=False)
        saved.save_pretrained(tmp_path)
        image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        expected = saved(image.numpy(), input_data_format="channels_first", return_tensors="pt").pixel_values
        found = read_normalization(tmp_path, DEFAULT)(image[None].float())
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)

    @pytest.mark.parametrize(
        ("declared", "key"),
        [
            ({"image_mean": [0.5, 0.5]}, "image_mean: List should have at least 3"),
            ({"image_mean": [0.5] * 4}, "image_mean: List should have at most 3"),
            ({"image_mean": 0.5}, "image_mean: Input should be a valid list"),
            ({"image_mean": ["0.5", 0.5, 0.5]}, r"image_mean\.0: Input should be a valid number"),
            ({"image_mean": [0.5, True, 0.5]}, r"image_mean\.1: Input should be a valid number"),
            ({"image_mean": [0.5, 0.5, float("nan")]}, r"image_mean\.2: Input should be a finite number"),
            ({"image_mean": [0.5, 0.5, 10**400]}, r"image_mean\.2: Input should be a"),
            ({"image_std": [0.5, float("inf"), 0.5]}, r"image_std\.1: Input should be a finite number"),
            ({"image_std": [0.5, 0.5, 0]}, r"image_std\.2: Input should be greater than 0"),
            ({"image_std": [-1, 0.5, 0.5]}, r"image_std\.0: Input should be greater than 0"),
            ({"rescale_factor": 0}, "rescale_factor: Input should be greater than 0"),
            ({"rescale_factor": "1/255"}, "rescale_factor: Input should be a valid number"),
            ({"do_normalize": "yes"}, "do_normalize: Input should be a valid boolean"),
        ],
    )
    def test_an_invalid_value_is_named(self, declared: dict[str, Any], key: str, tmp_path: Path) -> None:
        write(tmp_path, PREPROCESSOR, declared)
        with pytest.raises(ValueError, match=f"^{tmp_path / PREPROCESSOR}: {key}"):
            read_normalization(tmp_path, DEFAULT)
        write(tmp_path, PROCESSOR, {"image_processor": declared})
        with pytest.raises(ValueError, match=f"^{tmp_path / PROCESSOR}: {key}"):
            read_normalization(tmp_path, DEFAULT)

    @pytest.mark.parametrize("name", [PREPROCESSOR, PROCESSOR])
    @pytest.mark.parametrize("content", ["", "{", "[]", "3", b"\xff\xfe"])
    def test_a_damaged_file_is_named(self, name: str, content: str | bytes, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(ValueError, match=f"^{tmp_path / name}"):
            read_normalization(tmp_path, DEFAULT)

    def test_an_image_processor_that_is_not_an_object(self, tmp_path: Path) -> None:
        write(tmp_path, PROCESSOR, {"image_processor": "SiglipImageProcessor"})
        with pytest.raises(ValueError, match=f"^{tmp_path / PROCESSOR}: image_processor: Input should be"):
            read_normalization(tmp_path, DEFAULT)
