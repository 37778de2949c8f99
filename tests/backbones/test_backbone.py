from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from helpers.s3_server import FaultyS3
from helpers.vits import BLOCKS, DIM, KINDS, PATCH, SIDE, SMALL, make, random_pixels, save, tower
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from torch import nn

from persrep_ray.backbones import checkpoint
from persrep_ray.backbones.backbone import Backbone, BackboneError, KeptPatches, load_backbone, local_checkpoint
from persrep_ray.backbones.families import FAMILIES
from persrep_ray.config import BackboneConfig
from persrep_ray.data.images import resize_square
from persrep_ray.storage.store import open_store

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def load(folder: Path | str, adapted_blocks: int | str = 2, **options: Any) -> Backbone:
    config = {"name": str(folder), "precision": "float32", "adapted_blocks": adapted_blocks, **options}
    return load_backbone(BackboneConfig.model_validate(config))


def change_config(folder: Path, **changes: Any) -> None:
    """Changes the part of config.json that describes the ViT."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.get("vision_config", config).update(changes)
    path.write_text(json.dumps(config))


def test_every_family_is_tested() -> None:
    assert KINDS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_prefix_and_suffix_equal_the_plain_forward(kind: str, tmp_path: Path) -> None:
    model = tower(save(kind, tmp_path))
    loaded = load(tmp_path).model
    # The sizes are that of the position table, a larger and a smaller size, and a single patch.
    for side in (SIDE, 6 * PATCH, 3 * PATCH, PATCH):
        batch = random_pixels(side)
        with torch.no_grad():
            expected = KINDS[kind].features(model, batch)
        for adapted_blocks in (1, 2, BLOCKS, "all"):
            backbone = Backbone(loaded, adapted_blocks=adapted_blocks)
            with torch.no_grad():
                features = backbone.suffix(backbone.prefix(batch))
            torch.testing.assert_close(features.cls, expected.cls, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(features.patches, expected.patches, atol=1e-5, rtol=1e-5)
            assert features.cls.shape == (2, DIM)
            assert features.patches.shape == (2, (side // PATCH) ** 2, DIM)


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_the_patches_keeps_its_positions(kind: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    backbone = load(tmp_path, adapted_blocks="all").to("cpu")
    batch, special = random_pixels(), backbone.special_tokens
    kept = KeptPatches(torch.tensor([[3, 0, 14, 9, 5], [15, 2, 1, 8, 6]]), of=16)
    hidden = backbone.prefix(batch)
    rows = torch.arange(2)[:, None]
    part = torch.cat([hidden[:, :special], hidden[:, special:][rows, kept.positions]], dim=1)
    features = backbone.suffix(part, kept)

    # To hide the other patches from the attention of all blocks gives the same.
    hides = torch.full((2, 1, 1, special + 16), -math.inf)
    hides[:, :, :, :special] = 0
    hides[rows, 0, 0, special + kept.positions] = 0
    extra = {}
    if kind == "dinov3_vit":
        extra = {"position_embeddings": backbone.model.rope_embeddings(batch)}
    for block in backbone.blocks:
        hidden = block(hidden, attention_mask=hides, **extra)
    hidden = backbone.model.get_submodule(backbone.family.norm)(hidden)
    patches = hidden[:, special:][rows, kept.positions]
    torch.testing.assert_close(features.patches, patches, atol=1e-5, rtol=1e-5)
    cls = hidden[:, 0] if special else backbone.model.head(patches)
    torch.testing.assert_close(features.cls, cls, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("adapted_blocks", "split"), [(1, 2), (3, 0), ("all", 0)])
def test_adapted_blocks_are_the_last_ones(adapted_blocks: int | str, split: int) -> None:
    assert Backbone(make("dinov2"), adapted_blocks=adapted_blocks).split == split


def test_the_prefix_ends_before_the_adapted_blocks() -> None:
    model = make("dinov2")
    batch = random_pixels()
    hidden_states = model(batch, output_hidden_states=True).hidden_states
    for adapted_blocks in range(1, BLOCKS + 1):
        hidden = Backbone(model, adapted_blocks=adapted_blocks).prefix(batch)
        torch.testing.assert_close(hidden, hidden_states[BLOCKS - adapted_blocks], atol=1e-5, rtol=1e-5)


def test_embedding_is_cls_then_mean_patch() -> None:
    backbone = Backbone(make("dinov2"))
    features = backbone.suffix(backbone.prefix(random_pixels()))
    embedding = features.embedding()
    assert embedding.shape == (2, 2 * DIM)
    torch.testing.assert_close(embedding[:, :DIM], features.cls)
    torch.testing.assert_close(embedding[:, DIM:], features.patches.mean(dim=1))


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_normalised_as_usual_in_the_family(kind: str, tmp_path: Path) -> None:
    mean, std = CLIP if "clip" in kind else IMAGENET
    if "siglip" in kind:
        mean, std = HALF
    save(kind, tmp_path)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (30, 50, 3), dtype=np.uint8), rng.integers(0, 256, (61, 40, 3), dtype=np.uint8)]
    batch = load(tmp_path).pixels(images, SIDE + 5)  # rounded down to whole patches
    assert batch.shape == (2, 3, SIDE, SIDE) and batch.dtype == torch.float32
    for got, image in zip(batch, images, strict=True):
        expected = (resize_square(image, SIDE) / 255.0 - np.array(mean)) / np.array(std)
        np.testing.assert_allclose(got.numpy(), expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_normalised_as_the_checkpoint_declares(kind: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    declared = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.25, 2], "rescale_factor": 0.002}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**declared, "size": 9, "do_center_crop": True}))
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    (batch,) = load(tmp_path).pixels([image], SIDE)
    expected = (image * 0.002 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.25, 2])
    np.testing.assert_allclose(batch.numpy(), expected.transpose(2, 0, 1), atol=1e-6)


class TestLoraSites:
    @pytest.mark.parametrize("kind", KINDS)
    def test_are_query_key_and_value_of_the_adapted_blocks(self, kind: str, tmp_path: Path) -> None:
        save(kind, tmp_path)
        backbone = load(tmp_path)
        sites = backbone.lora_sites()
        assert len(set(sites)) == 3 * 2
        for site, (block, name) in zip(sites, [(b, n) for b in (1, 2) for n in "qkv"], strict=True):
            assert backbone.model.get_submodule(site) is getattr(attention(backbone, block), f"{name}_proj")

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_fused_projection_is_an_error(self, kind: str, tmp_path: Path) -> None:
        save(kind, tmp_path)
        backbone = load(tmp_path)
        fuse(attention(backbone, 2))
        message = (
            rf"backbone {tmp_path.name}: LoRA needs the linear layers q_proj, k_proj, v_proj \(32 -> 32\) in "
            rf"{backbone.family.attention} of every adapted block; .*\.?2 has .*\.qkv \(32 -> 96\)"
        )
        with pytest.raises(BackboneError, match=message):
            backbone.lora_sites()
        assert len(load(tmp_path, adapted_blocks=1).lora_sites()) == 3

    def test_a_fused_projection_in_a_frozen_block_is_harmless(self, tmp_path: Path) -> None:
        save("dinov2", tmp_path)
        backbone = load(tmp_path)
        fuse(attention(backbone, 0))
        assert len(backbone.lora_sites()) == 3 * 2


def attention(backbone: Backbone, block: int) -> Any:
    return backbone.blocks[block].get_submodule(backbone.family.attention)


def fuse(attention: Any) -> None:
    for name in ("q_proj", "k_proj", "v_proj"):
        delattr(attention, name)
    attention.qkv = nn.Linear(DIM, 3 * DIM)


def test_everything_is_frozen_and_in_eval_mode(tmp_path: Path) -> None:
    save("dinov2", tmp_path)
    backbone = load(tmp_path)
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


@pytest.mark.parametrize("kind", ["dinov2", "dinov3_vit", "siglip_vision_model"])
def test_bfloat16_is_close_and_can_be_switched_off(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    can = [True]
    monkeypatch.setattr("persrep_ray.backbones.backbone.computes_bfloat16", lambda device: can[0])
    model, batch = make(kind), random_pixels()
    exact, fast = Backbone(model, adapted_blocks=1), Backbone(model, adapted_blocks=1, precision="bfloat16")
    expected = exact.suffix(exact.prefix(batch)).cls
    hidden = fast.prefix(batch)
    assert hidden.dtype == torch.bfloat16  # the type that caches hold
    rough = fast.suffix(hidden).cls
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, expected)
    assert torch.cosine_similarity(rough, expected).min() > 0.99
    with fast.full_precision():
        assert torch.equal(fast.suffix(fast.prefix(batch)).cls, expected)
    assert torch.equal(fast.suffix(fast.prefix(batch)).cls, rough)
    can[0] = False  # on a CPU that has no instructions for it, caches hold it nevertheless
    assert fast.prefix(batch).dtype == torch.bfloat16
    assert torch.equal(fast.suffix(hidden).cls, exact.suffix(hidden).cls)


def test_a_cpu_without_onednn_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", object())  # as in PyTorch for Macs
    backbone = Backbone(make("dinov2"), adapted_blocks=1, precision="bfloat16")
    batch = random_pixels()
    exact = Backbone(make("dinov2"), adapted_blocks=1)
    assert backbone.suffix(exact.prefix(batch)).cls.equal(exact.suffix(exact.prefix(batch)).cls)


class TestErrors:
    def test_more_adapted_blocks_than_there_are(self, tmp_path: Path) -> None:
        save("dinov2", tmp_path)
        with pytest.raises(BackboneError, match="adapted_blocks is 4, the model has 3 blocks"):
            load(tmp_path, adapted_blocks=4)

    def test_unsupported_model_type(self, tmp_path: Path) -> None:
        hf.ResNetModel(hf.ResNetConfig(hidden_sizes=[8], depths=[1], embedding_size=8)).save_pretrained(tmp_path)
        with pytest.raises(BackboneError, match=r"model_type 'resnet' is not supported.*dinov2.*siglip"):
            load(tmp_path)
        with pytest.raises(BackboneError, match="'resnet' is not supported"):
            Backbone(hf.ResNetModel(hf.ResNetConfig(hidden_sizes=[8], depths=[1], embedding_size=8)))

    @pytest.mark.parametrize("kind", ["siglip2", "siglip2_vision_model"])
    def test_siglip_2_with_any_aspect_ratio(self, kind: str, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(BackboneError, match=f"'{kind}' is not supported.*fixed resolution says 'siglip'.*NaFlex"):
            load(tmp_path)

    def test_siglip_without_its_head(self, tmp_path: Path) -> None:
        config = hf.SiglipVisionConfig(**SMALL, vision_use_head=False)
        hf.SiglipVisionModel(config).save_pretrained(tmp_path)
        with pytest.raises(BackboneError, match=r"saved without its pooling head \(vision_use_head\)"):
            load(tmp_path)
        with pytest.raises(BackboneError, match="no module head in the SiglipVisionModel, which has embeddings"):
            Backbone(hf.SiglipVisionModel(config))

    @pytest.mark.parametrize(
        ("kind", "tensor"),
        [("dinov2", "encoder.layer.1.mlp.fc1.weight"), ("siglip_vision_model", "head.probe")],
    )
    def test_missing_tensors_are_named(self, kind: str, tensor: str, tmp_path: Path) -> None:
        save(kind, tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        del weights[next(name for name in weights if name.endswith(tensor))]
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(BackboneError, match=rf"tensors missing: {tensor}"):
            load(tmp_path)

    def test_a_tensor_of_another_shape(self, tmp_path: Path) -> None:
        save("dinov2", tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        weights["encoder.layer.1.mlp.fc1.weight"] = torch.zeros(2, 2)
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(BackboneError, match=str(tmp_path)):
            load(tmp_path)

    def test_pickled_weights_are_not_read_where_there_are_safetensors(self, tmp_path: Path) -> None:
        save("dinov2", tmp_path)
        (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
        assert load(tmp_path).dim == DIM

    @pytest.mark.parametrize("text", [None, "{not json", "[]", "{}", '{"model_type": []}'])
    def test_no_usable_config(self, text: str | None, tmp_path: Path) -> None:
        if text is not None:
            (tmp_path / "config.json").write_text(text)
        with pytest.raises(BackboneError, match=str(tmp_path)):
            load(tmp_path)

    @pytest.mark.parametrize("kind", ["dinov2", "clip", "siglip"])
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"patch_size": [14, 16]}, r"patch_size is .14, 16., but only squares are supported: one number"),
            ({"image_size": [56, 84]}, r"image_size is .56, 84., but only squares are supported: one number"),
            ({"patch_size": 0}, "patch_size is 0"),
            ({"num_channels": 4}, "it takes 4 channels, images have 3"),
            ({"hidden_size": "many"}, "cannot read its config: .*hidden_size"),
        ],
    )
    def test_an_architecture_that_is_not_supported(
        self, kind: str, changes: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        save(kind, tmp_path)
        change_config(tmp_path, **changes)
        with pytest.raises(BackboneError, match=f"backbone {tmp_path}: {message}"):
            load(tmp_path)

    def test_an_image_size_smaller_than_a_patch(self, tmp_path: Path) -> None:
        save("dinov2", tmp_path)
        change_config(tmp_path, patch_size=16)
        with pytest.raises(BackboneError, match="image_size is 15, less than one patch of 16 pixels"):
            load(tmp_path, image_size=15)

    def test_a_wrong_image_processor_is_named_with_its_key(self, tmp_path: Path) -> None:
        save("dinov2", tmp_path)
        path = tmp_path / "preprocessor_config.json"
        path.write_text(json.dumps({"image_std": [0.2, 0, 0.2]}))
        with pytest.raises(BackboneError, match=rf"backbone {tmp_path}: .*{path}: image_std.1: .*greater than 0"):
            load(tmp_path)

    def test_weights_that_are_not_safetensors(self, tmp_path: Path) -> None:
        save("dinov2", tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"truncated")
        with pytest.raises(BackboneError, match="cannot load its weights"):
            load(tmp_path)


class TestS3:
    def test_a_prefix_is_copied_to_the_node_and_loaded(self, s3: FaultyS3, tmp_path: Path) -> None:
        model = save("dinov2", tmp_path)
        store = open_store(f"{s3.uri}/models/vit")
        for path in tmp_path.iterdir():
            store.write(path.name, path)
        backbone = load_backbone(BackboneConfig(name=f"{s3.uri}/models/vit", precision="float32", adapted_blocks=1))
        assert backbone.name == "vit"
        batch = random_pixels()
        expected = KINDS["dinov2"].features(model, batch).cls
        torch.testing.assert_close(backbone.suffix(backbone.prefix(batch)).cls, expected, atol=1e-5, rtol=1e-5)

    def test_an_empty_prefix_is_named(self, s3: FaultyS3) -> None:
        with pytest.raises(BackboneError, match=f"backbone {s3.uri}/no-vit: .*no such folder"):
            load_backbone(BackboneConfig(name=f"{s3.uri}/no-vit"))


class TestHub:
    def test_the_folder_of_the_revision_is_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save("dinov2", tmp_path)
        asked = []

        def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
            asked.append((name, revision))
            return str(tmp_path)

        monkeypatch.setattr(checkpoint, "snapshot_download", download)
        assert load("facebook/dinov2-small", revision="v2").dim == DIM
        assert local_checkpoint("facebook/dinov2-small") == tmp_path
        assert asked == [("facebook/dinov2-small", "v2"), ("facebook/dinov2-small", None)]

    def test_only_the_files_of_a_checkpoint_are_downloaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
            asked.extend(allow_patterns)
            return str(tmp_path)

        (tmp_path / "model.safetensors").touch()
        monkeypatch.setattr(checkpoint, "snapshot_download", download)
        local_checkpoint("google/siglip")
        wanted = ["config.json", "preprocessor_config.json", "processor_config.json", "model.safetensors"]
        wanted += ["model.safetensors.index.json", "model-00001-of-00002.safetensors"]
        refused = ["pytorch_model.bin", "tokenizer.json", "flax_model.msgpack"]
        assert list(filter_repo_objects([*wanted, *refused], allow_patterns=asked)) == wanted

    @pytest.mark.parametrize("error", [OSError("no route\nto it"), RuntimeError("no route"), RuntimeError()])
    def test_an_unreachable_hub_is_one_line_that_names_the_backbone(
        self, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def download(name: str, **_: Any) -> str:
            raise error

        monkeypatch.setattr(checkpoint, "snapshot_download", download)
        with pytest.raises(BackboneError) as raised:
            load("nobody/nothing")
        cause = "no route" if str(error) else "RuntimeError"
        assert str(raised.value) == (
            f"backbone nobody/nothing: neither a local folder nor available from the hub: {cause}"
        )

    @pytest.mark.parametrize("name", ["nobody/nothing", "/no/such/folder", "no such name"])
    def test_a_name_that_exists_nowhere(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(BackboneError, match=f"^backbone {name}: neither a local folder nor .*[^\n]$"):
            load(name)
