from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PeftModel

from persrep_ray.backbones.backbone import Backbone
from persrep_ray.backbones.lora import ADAPTER_FILES, AdapterError, LoraBackbone, State, scaled
from persrep_ray.config import LoraSection

BLOCKS, ADAPTED, RANK = 3, 2, 4
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "patch_size": 14,
    "image_size": 56,
}
MODELS = {
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**SMALL)),
    "dinov3_vit": lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**SMALL, num_register_tokens=2)),
    "clip_vision_model": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**SMALL)),
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**SMALL), add_pooling_layer=False),
}


def model(kind: str = "dinov2") -> Any:
    torch.manual_seed(0)
    made = MODELS[kind]().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.2)
    return made


def lora_backbone(kind: str = "dinov2", *, dropout: float = 0.0, precision: str = "float32") -> LoraBackbone:
    backbone = Backbone(model(kind), adapted_blocks=ADAPTED, precision=precision)
    lora = LoraBackbone(backbone, LoraSection(r=RANK, alpha=8.0, dropout=dropout), base_name="tiny")
    lora.reset(0)
    lora.train(False)
    return lora


def trained(lora: LoraBackbone, seed: int = 1) -> State:
    """A state in which both A and B say something."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) * 0.3 for name, value in lora.state().items()}


def embed(lora: LoraBackbone) -> torch.Tensor:
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return lora.backbone.suffix(lora.backbone.prefix(pixels)).embedding()


@pytest.mark.parametrize("kind", MODELS)
def test_a_fresh_lora_equals_the_base(kind: str) -> None:
    base = Backbone(model(kind), adapted_blocks=ADAPTED)
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(5))
    expected = base.suffix(base.prefix(pixels)).embedding()
    assert torch.equal(embed(lora_backbone(kind)), expected)


@pytest.mark.parametrize("kind", MODELS)
def test_only_query_key_value_of_the_adapted_blocks_train(kind: str) -> None:
    lora = lora_backbone(kind)
    assert len(lora.parameters) == 2 * 3 * ADAPTED
    for name in lora.parameters:
        parts = name.split(".")
        assert parts[parts.index(next(part for part in parts if part.isdigit()))] in ("1", "2")
        assert any(target in parts for target in ("q_proj", "k_proj", "v_proj"))
    frozen = {name: value.clone() for name, value in lora.peft.named_parameters() if name not in lora.parameters}

    lora.load(trained(lora))
    pixels = torch.randn(2, 3, 56, 56)
    before = lora.state()
    optimizer = torch.optim.SGD([p for p in lora.peft.parameters() if p.requires_grad], lr=0.1)
    lora.backbone.suffix(lora.backbone.prefix(pixels)).embedding().square().sum().backward()
    optimizer.step()

    after = lora.state()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    for name, value in lora.peft.named_parameters():
        if name in frozen:
            assert torch.equal(value, frozen[name])
            assert value.grad is None


class TestReset:
    def test_is_the_same_for_the_same_seed(self) -> None:
        lora, other = lora_backbone(), lora_backbone()
        lora.load(trained(lora))
        lora.reset(3)
        other.reset(3)
        first, second = lora.state(), other.state()
        assert all(torch.equal(first[name], second[name]) for name in first)
        other.reset(4)
        assert any(not torch.equal(value, first[name]) for name, value in other.state().items())

    def test_b_is_zero_and_a_is_not(self) -> None:
        lora = lora_backbone()
        for name, value in lora.state().items():
            assert value.count_nonzero() == (0 if "lora_B" in name else value.numel())


class TestLoad:
    def test_state_then_load_gives_the_identical_embedding(self) -> None:
        lora, other = lora_backbone(), lora_backbone()
        fresh = embed(lora)
        lora.load(trained(lora))
        assert not torch.allclose(embed(lora), fresh, atol=1e-2)
        other.load(lora.state())
        assert torch.equal(embed(other), embed(lora))
        third = lora_backbone()
        third.load_files(lora.files())
        assert torch.equal(embed(third), embed(lora))

    def test_state_is_a_copy(self) -> None:
        lora = lora_backbone()
        state = lora.state()
        lora.load(trained(lora))
        assert all(value.count_nonzero() == 0 for name, value in state.items() if "lora_B" in name)

    def test_a_missing_tensor_is_named(self) -> None:
        lora = lora_backbone()
        state = trained(lora)
        name = sorted(state)[2]
        del state[name]
        with pytest.raises(AdapterError, match=f"lacks tensors: {name}"):
            lora.load(state)

    def test_an_unknown_tensor_is_named(self) -> None:
        lora = lora_backbone()
        with pytest.raises(AdapterError, match=r"unknown tensors: base_model\.model\.elsewhere"):
            lora.load({**trained(lora), "base_model.model.elsewhere": torch.zeros(1)})

    def test_another_rank_is_named_with_both_shapes(self) -> None:
        lora = lora_backbone()
        state = trained(lora)
        name = next(name for name in state if "lora_A" in name)
        state[name] = torch.zeros(RANK + 1, 32)
        with pytest.raises(AdapterError, match=rf"{name} is \(5, 32\), the backbone needs \(4, 32\)"):
            lora.load(state)

    def test_a_refused_adapter_changes_nothing(self) -> None:
        lora = lora_backbone()
        lora.load(trained(lora))
        before = embed(lora)
        broken = trained(lora, seed=2)
        broken.popitem()
        with pytest.raises(AdapterError):
            lora.load(broken)
        assert torch.equal(embed(lora), before)

    @pytest.mark.parametrize("data", [b"", b"not safetensors at all"])
    def test_bytes_that_are_no_safetensors(self, data: bytes) -> None:
        lora = lora_backbone()
        with pytest.raises(AdapterError, match="not a PEFT adapter"):
            lora.load_files({**lora.files(), "adapter_model.safetensors": data})

    @pytest.mark.parametrize(
        ("key", "value"), [("lora_alpha", 16), ("r", 8), ("target_modules", ["q_proj"]), ("use_dora", True)]
    )
    def test_an_adapter_that_would_act_otherwise_is_refused(self, key: str, value: Any) -> None:
        # Only r shows in the tensors' shapes: the others would be applied wrongly without a word.
        lora = lora_backbone()
        declared = {**json.loads(lora.files()["adapter_config.json"]), key: value}
        with pytest.raises(AdapterError, match=key):
            lora.load_files({**lora.files(), "adapter_config.json": json.dumps(declared).encode()})

    def test_values_that_are_not_finite(self) -> None:
        lora = lora_backbone()
        state = trained(lora)
        name = sorted(state)[1]
        state[name][0, 0] = float("nan")
        with pytest.raises(AdapterError, match=f"{name} .*not finite"):
            lora.load(state)


class TestFiles:
    @pytest.mark.parametrize("kind", MODELS)
    @pytest.mark.parametrize("strength", [1.0, 0.4])
    def test_plain_peft_on_a_plain_model_gives_the_same_embedding(
        self, kind: str, strength: float, tmp_path: Path
    ) -> None:
        model(kind).save_pretrained(tmp_path / "base")
        lora = lora_backbone(kind)
        lora.load(scaled(trained(lora), strength))
        for name, data in lora.files().items():
            (tmp_path / name).write_bytes(data)

        # what a user of plain PEFT writes
        base = hf.AutoModel.from_pretrained(tmp_path / "base")
        plain = PeftModel.from_pretrained(base, tmp_path).eval()
        pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            hidden = plain(pixel_values=pixels).last_hidden_state
            if kind == "clip_vision_model":
                hidden = base.post_layernorm(hidden)
        special = 3 if kind == "dinov3_vit" else 1
        expected = torch.cat([hidden[:, 0], hidden[:, special:].mean(dim=1)], dim=-1)
        torch.testing.assert_close(embed(lora), expected, atol=1e-5, rtol=1e-5)

    def test_hold_what_the_registry_needs(self) -> None:
        files = lora_backbone().files()
        assert tuple(files) == ADAPTER_FILES
        config = json.loads(files["adapter_config.json"])
        assert config["base_model_name_or_path"] == "tiny"
        assert (config["r"], config["lora_alpha"], config["layers_to_transform"]) == (RANK, 8.0, [1, 2])
        assert sorted(config["target_modules"]) == ["k_proj", "q_proj", "v_proj"]

    def test_are_the_same_bytes_for_the_same_state(self) -> None:
        lora, other = lora_backbone(), lora_backbone()
        state = trained(lora)
        lora.load(state)
        other.load(state)
        assert lora.files() == other.files()


class TestScaled:
    def test_zero_is_the_pretrained_backbone(self) -> None:
        lora = lora_backbone()
        fresh = embed(lora)
        lora.load(scaled(trained(lora), 0.0))
        assert torch.equal(embed(lora), fresh)

    def test_one_is_the_adapter_itself(self) -> None:
        state = trained(lora_backbone())
        same = scaled(state, 1.0)
        assert all(torch.equal(same[name], state[name]) for name in state)

    def test_does_not_touch_its_argument(self) -> None:
        state = trained(lora_backbone())
        before = {name: value.clone() for name, value in state.items()}
        for value in scaled(state, 0.5).values():
            value.zero_()
        assert all(torch.equal(state[name], before[name]) for name in state)


class TestPretrained:
    def test_switches_the_lora_off_and_on_again(self) -> None:
        lora = lora_backbone()
        fresh = embed(lora)
        lora.load(trained(lora))
        adapted = embed(lora)
        with lora.pretrained() as backbone:
            assert backbone is lora.backbone
            assert torch.equal(embed(lora), fresh)
        assert torch.equal(embed(lora), adapted)
        assert all(parameter.requires_grad for parameter in lora.parameters.values())

    def test_is_switched_on_again_after_an_error(self) -> None:
        lora = lora_backbone()
        lora.load(trained(lora))
        adapted = embed(lora)
        with pytest.raises(KeyError), lora.pretrained():
            raise KeyError
        assert torch.equal(embed(lora), adapted)


def test_dropout_acts_in_training_only() -> None:
    lora = lora_backbone(dropout=0.5)
    lora.load(trained(lora))
    assert torch.equal(embed(lora), embed(lora))
    lora.train()
    assert not torch.equal(embed(lora), embed(lora))
    lora.train(False)
    assert torch.equal(embed(lora), embed(lora))
