from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from helpers.tiny_sam import save_tiny_sam
from safetensors.torch import load_file, save_file

from persrep_ray.config import SamConfig
from persrep_ray.masks.sam_checkpoint import SamError, load_sam


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint that the test may damage."""
    return save_tiny_sam(tmp_path / "sam")


def error(name: str | Path) -> str:
    with pytest.raises(SamError) as caught:
        load_sam(SamConfig(name=str(name)))
    message = str(caught.value)
    assert message.startswith(f"SAM {name}: ") and "\n" not in message
    return message


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "neither a local folder nor available from the hub" in error(tmp_path / "absent")


def test_a_hub_that_cannot_be_reached_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "neither a local folder nor available from the hub" in error("nobody/no-such-sam")


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_damaged_config_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    assert "cannot read its config" in error(tmp_path)


def test_a_config_with_an_unusable_value_is_an_error(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"image_size": 64', '"image_size": "large"'))
    assert "cannot be loaded" in error(folder)


def test_a_damaged_preprocessor_is_an_error(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text("{")
    assert "preprocessor_config.json" in error(folder)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    assert "model_type 'dinov2' is not supported, only 'sam'" in error(tmp_path)


def test_missing_tensors_are_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["mask_decoder.iou_token.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "tensors missing: mask_decoder.iou_token.weight" in error(folder)


def test_a_tensor_of_another_shape_is_an_error(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["mask_decoder.iou_token.weight"] = torch.zeros(1, 7)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "cannot be loaded" in error(folder)


def test_a_truncated_file_is_an_error(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    assert "cannot be loaded" in error(folder)


def test_pickled_weights_are_converted(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSREP_CACHE", str(tmp_path / "cache"))
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    load_sam(SamConfig(name=str(folder)))
    (folder / "pytorch_model.bin").write_bytes(b"no weights")
    assert "cannot be converted to safetensors" in error(folder)
