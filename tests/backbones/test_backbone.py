from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from persrep_ray.backbones.backbone import Backbone, BackboneError, load_backbone
from persrep_ray.backbones.families import CLIP_MEAN, CLIP_STD, FAMILIES, IMAGENET_MEAN, IMAGENET_STD
from persrep_ray.config import BackboneConfig
from persrep_ray.data.images import resize_square

DIM, BLOCKS, PATCH = 32, 3, 14
SMALL: dict[str, Any] = {
    "hidden_size": DIM,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "patch_size": PATCH,
    "image_size": 4 * PATCH,
}
REGISTERS = 3


def _full_clip() -> hf.CLIPModel:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return hf.CLIPModel(hf.CLIPConfig(vision_config=SMALL, text_config=text, projection_dim=8))


def _plain(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model(pixels).last_hidden_state


def _interpolated(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model(pixels, interpolate_pos_encoding=True).last_hidden_state


def _clip_vision(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model.post_layernorm(_interpolated(model, pixels))


def _mae(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """With nothing masked, and noise in order so that no patch moves."""
    encoder = getattr(model, "vit", model)
    encoder.config.mask_ratio = 0.0
    patches = pixels.shape[-1] // PATCH
    noise = torch.arange(patches**2, dtype=torch.float32).repeat(len(pixels), 1)
    return encoder(pixels, noise=noise, interpolate_pos_encoding=True).last_hidden_state


# By saved model_type: how to make a model, and its last hidden state (B, T, D), normed, by plain transformers.
KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any, torch.Tensor], torch.Tensor]]] = {
    "dinov2": (lambda: hf.Dinov2Model(hf.Dinov2Config(**SMALL)), _plain),
    "dinov2_with_registers": (
        lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**SMALL, num_register_tokens=REGISTERS)),
        _plain,
    ),
    "dinov3_vit": (
        lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**SMALL, num_register_tokens=REGISTERS)),
        _plain,
    ),
    "clip": (_full_clip, lambda model, pixels: _clip_vision(model.vision_model, pixels)),
    "clip_vision_model": (lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**SMALL)), _clip_vision),
    "vit": (lambda: hf.ViTModel(hf.ViTConfig(**SMALL)), _interpolated),
    "vit_mae": (lambda: hf.ViTMAEForPreTraining(hf.ViTMAEConfig(**SMALL)), _mae),
}


def make(kind: str) -> Any:
    """A random model of the kind: all parameters, so that a skipped bias, scale or norm is seen."""
    torch.manual_seed(0)
    model = KINDS[kind][0]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def save(kind: str, folder: Path) -> tuple[Any, str]:
    model = make(kind)
    model.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == kind
    return model, str(folder)


def load(name: str, adapted_blocks: int | str = 2, **options: Any) -> Backbone:
    config = {"name": name, "precision": "float32", "adapted_blocks": adapted_blocks, **options}
    return load_backbone(BackboneConfig.model_validate(config))


def pixels(side: int = 4 * PATCH, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_every_family_is_tested() -> None:
    assert KINDS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_prefix_and_suffix_equal_the_plain_forward(kind: str, tmp_path: Path) -> None:
    model, name = save(kind, tmp_path)
    specials = 1 + (REGISTERS if kind in ("dinov2_with_registers", "dinov3_vit") else 0)
    loaded = load(name).model
    for side in (4 * PATCH, 6 * PATCH):  # the size of the position table, and one it must be stretched to
        batch = pixels(side)
        with torch.no_grad():
            expected = KINDS[kind][1](model, batch)
        for adapted_blocks in (1, 2, BLOCKS, "all"):
            backbone = Backbone(loaded, adapted_blocks=adapted_blocks)
            with torch.no_grad():
                features = backbone.suffix(backbone.prefix(batch))
            torch.testing.assert_close(features.cls, expected[:, 0], atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(features.patches, expected[:, specials:], atol=2e-5, rtol=1e-4)
            assert features.patches.shape == (2, (side // PATCH) ** 2, DIM)


@pytest.mark.parametrize(("adapted_blocks", "split"), [(1, 2), (3, 0), ("all", 0)])
def test_adapted_blocks_are_the_last_ones(adapted_blocks: int | str, split: int) -> None:
    assert Backbone(make("dinov2"), adapted_blocks=adapted_blocks).split == split


def test_prefix_is_what_comes_before_the_adapted_blocks() -> None:
    model = make("dinov2")
    batch = pixels()
    hidden_states = model(batch, output_hidden_states=True).hidden_states
    for adapted_blocks in range(1, BLOCKS + 1):
        hidden = Backbone(model, adapted_blocks=adapted_blocks).prefix(batch)
        torch.testing.assert_close(hidden, hidden_states[BLOCKS - adapted_blocks], atol=1e-5, rtol=1e-5)


def test_embedding_is_cls_then_mean_patch() -> None:
    backbone = Backbone(make("dinov2"))
    features = backbone.suffix(backbone.prefix(pixels()))
    embedding = features.embedding()
    assert embedding.shape == (2, 2 * DIM)
    torch.testing.assert_close(embedding[:, :DIM], features.cls)
    torch.testing.assert_close(embedding[:, DIM:], features.patches.mean(dim=1))


@pytest.mark.parametrize("kind", ["dinov2", "clip_vision_model"])
def test_pixels_are_normalised_as_the_family_was_trained(kind: str) -> None:
    mean, std = (CLIP_MEAN, CLIP_STD) if kind.startswith("clip") else (IMAGENET_MEAN, IMAGENET_STD)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (30, 50, 3), dtype=np.uint8), rng.integers(0, 256, (61, 40, 3), dtype=np.uint8)]
    batch = Backbone(make(kind)).pixels(images, 4 * PATCH + 5)  # rounded down to whole patches
    assert batch.shape == (2, 3, 4 * PATCH, 4 * PATCH)
    for got, image in zip(batch, images, strict=True):
        expected = (resize_square(image, 4 * PATCH) / 255.0 - np.array(mean)) / np.array(std)
        np.testing.assert_allclose(got.numpy(), expected.transpose(2, 0, 1), atol=1e-5)


def test_everything_is_frozen_and_in_eval_mode(tmp_path: Path) -> None:
    backbone = load(save("dinov2", tmp_path)[1])
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_bfloat16_is_close_and_can_be_switched_off() -> None:
    model, batch = make("dinov2"), pixels()
    exact, fast = Backbone(model, adapted_blocks=1), Backbone(model, adapted_blocks=1, precision="bfloat16")
    expected = exact.suffix(exact.prefix(batch)).cls
    hidden = fast.prefix(batch)
    assert hidden.dtype == torch.bfloat16  # what caches hold
    rough = fast.suffix(hidden).cls
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, expected)
    assert torch.cosine_similarity(rough, expected).min() > 0.99
    with fast.full_precision():
        assert torch.equal(fast.suffix(fast.prefix(batch)).cls, expected)
    assert torch.equal(fast.suffix(fast.prefix(batch)).cls, rough)


class TestErrors:
    def test_more_adapted_blocks_than_there_are(self, tmp_path: Path) -> None:
        name = save("dinov2", tmp_path)[1]
        with pytest.raises(BackboneError, match="adapted_blocks is 4, the model has 3 blocks"):
            load(name, adapted_blocks=4)

    def test_unsupported_model_type(self, tmp_path: Path) -> None:
        hf.ResNetModel(hf.ResNetConfig(hidden_sizes=[8], depths=[1], embedding_size=8)).save_pretrained(tmp_path)
        with pytest.raises(BackboneError, match=r"model_type 'resnet' is not supported.*dinov2"):
            load(str(tmp_path))
        with pytest.raises(BackboneError, match="'resnet' is not supported"):
            Backbone(hf.ResNetModel(hf.ResNetConfig(hidden_sizes=[8], depths=[1], embedding_size=8)))

    def test_missing_tensors_are_named(self, tmp_path: Path) -> None:
        name = save("dinov2", tmp_path)[1]
        weights = load_file(tmp_path / "model.safetensors")
        del weights["encoder.layer.1.mlp.fc1.weight"]
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(BackboneError, match=r"tensors missing: encoder.layer.1.mlp.fc1.weight"):
            load(name)

    def test_a_tensor_of_another_shape(self, tmp_path: Path) -> None:
        name = save("dinov2", tmp_path)[1]
        weights = load_file(tmp_path / "model.safetensors")
        weights["encoder.layer.1.mlp.fc1.weight"] = torch.zeros(2, 2)
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(BackboneError, match=str(tmp_path)):
            load(name)

    def test_pickled_weights_are_not_read(self, tmp_path: Path) -> None:
        model, name = save("dinov2", tmp_path)
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        with pytest.raises(BackboneError, match="cannot load its weights"):
            load(name)

    @pytest.mark.parametrize("text", [None, "{not json", "[]", "{}"])
    def test_no_usable_config(self, text: str | None, tmp_path: Path) -> None:
        if text is not None:
            (tmp_path / "config.json").write_text(text)
        with pytest.raises(BackboneError, match=str(tmp_path)):
            load(str(tmp_path))

    def test_weights_that_are_no_safetensors(self, tmp_path: Path) -> None:
        name = save("dinov2", tmp_path)[1]
        (tmp_path / "model.safetensors").write_bytes(b"truncated")
        with pytest.raises(BackboneError, match="cannot load its weights"):
            load(name)
