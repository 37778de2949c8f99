from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.vits import KINDS, load_plain, make, random_pixels, save
from peft import PeftModel
from torch import nn

from persrep_ray.backbones.backbone import Backbone, BackboneError, load_backbone
from persrep_ray.backbones.lora import ADAPTER_FILES, AdapterError, LoraBackbone, State, scaled
from persrep_ray.config import BackboneConfig, LoraSection

ADAPTED, RANK = 2, 4

Loader = Callable[[str], Backbone]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved checkpoints, by kind."""
    made = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in made.items():
        save(kind, folder)
    return made


@pytest.fixture
def load(folders: dict[str, Path]) -> Loader:
    def loaded(kind: str) -> Backbone:
        return load_backbone(
            BackboneConfig(name=str(folders[kind]), adapted_blocks=ADAPTED, image_size=56, precision="float32")
        )

    return loaded


def slot(backbone: Backbone, *, dropout: float = 0.0) -> LoraBackbone:
    lora = LoraBackbone(backbone, LoraSection(r=RANK, alpha=8.0, dropout=dropout), base_name="tiny")
    lora.reset(0)
    lora.train(False)
    return lora


def lora_backbone(*, dropout: float = 0.0) -> LoraBackbone:
    return slot(Backbone(make("dinov2"), adapted_blocks=ADAPTED), dropout=dropout)


def trained(lora: LoraBackbone, seed: int = 1) -> State:
    """A state in which neither A nor B is zero."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) * 0.3 for name, value in lora.state().items()}


def embed(lora: LoraBackbone) -> torch.Tensor:
    with torch.no_grad():
        return lora.backbone.suffix(lora.backbone.prefix(random_pixels(seed=5))).embedding()


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_lora_equals_the_base(kind: str, load: Loader) -> None:
    base = load(kind)
    expected = base.suffix(base.prefix(random_pixels(seed=5))).embedding()
    assert torch.equal(embed(slot(load(kind))), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_only_query_key_value_of_the_adapted_blocks_train(kind: str, load: Loader) -> None:
    sites = load(kind).lora_sites()  # read before peft wraps them
    lora = slot(load(kind))
    assert len(lora.parameters) == 2 * 3 * ADAPTED
    assert set(lora.parameters) == {
        f"base_model.model.{site}.lora_{part}.default.weight" for site in sites for part in "AB"
    }
    frozen = {name: value.clone() for name, value in lora.peft.named_parameters() if name not in lora.parameters}

    lora.load(trained(lora))
    before = lora.state()
    optimizer = torch.optim.SGD([p for p in lora.peft.parameters() if p.requires_grad], lr=0.1)
    lora.backbone.suffix(lora.backbone.prefix(random_pixels())).cls.square().sum().backward()
    optimizer.step()

    after = lora.state()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    for name, value in lora.peft.named_parameters():
        if name in frozen:
            assert torch.equal(value, frozen[name])
            assert value.grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_without_dropout_training_sees_what_evaluation_sees(kind: str, load: Loader) -> None:
    # In training mode DINOv3 moves its patches at random.
    lora = slot(load(kind))
    lora.load(trained(lora))
    evaluated = embed(lora)
    lora.train()
    assert torch.equal(embed(lora), evaluated)


class TestLayersThatItCannotAdapt:
    def test_a_fused_projection(self, load: Loader) -> None:
        backbone = load("vit")
        attention: Any = backbone.blocks[2].get_submodule("attention")
        for name in ("q_proj", "k_proj", "v_proj"):
            delattr(attention, name)
        attention.qkv = nn.Linear(32, 96)
        with pytest.raises(BackboneError, match=r"layers\.2 has attention\.o_proj .*attention\.qkv \(32 -> 96\)"):
            slot(backbone)

    def test_another_module_of_that_name(self, load: Loader) -> None:
        backbone = load("siglip")
        extra: Any = backbone.blocks[2]
        extra.probe = nn.ModuleDict({"q_proj": nn.Linear(32, 32)})
        with pytest.raises(
            BackboneError, match=r"should adapt 6 layers.* 14 matrices on encoder\.layers\.2\.probe\.q_proj"
        ):
            slot(backbone)


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
    def test_bytes_that_are_not_safetensors(self, data: bytes) -> None:
        lora = lora_backbone()
        with pytest.raises(AdapterError, match="not a PEFT adapter"):
            lora.load_files({**lora.files(), "adapter_model.safetensors": data})

    @pytest.mark.parametrize(
        ("key", "value"), [("lora_alpha", 16), ("r", 8), ("target_modules", ["q_proj"]), ("use_dora", True)]
    )
    def test_an_adapter_that_would_act_differently_is_refused(self, key: str, value: Any) -> None:
        # Only r shows in the tensors' shapes; a difference in the other settings would silently change the result.
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
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("strength", [1.0, 0.4])
    def test_plain_peft_on_a_plain_model_gives_the_same_embedding(
        self, kind: str, strength: float, load: Loader, folders: dict[str, Path], tmp_path: Path
    ) -> None:
        lora = slot(load(kind))
        lora.load(scaled(trained(lora), strength))
        for name, data in lora.files().items():
            (tmp_path / name).write_bytes(data)

        # what a user of plain PEFT writes
        plain = PeftModel.from_pretrained(load_plain(kind, folders[kind]), tmp_path).eval()
        with torch.no_grad():
            expected = KINDS[kind].features(plain, random_pixels(seed=5)).embedding()
        torch.testing.assert_close(embed(lora), expected, atol=1e-5, rtol=1e-5)
        assert (expected - embed(slot(load(kind)))).abs().max() > 0.01

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
