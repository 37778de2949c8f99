"""How a base model is loaded, and which of its weights are trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers.text_to_image import PROMPT, model, personalize
from helpers.tiny_diffusion import SAVERS
from safetensors.torch import load_file

from persrep_ray.generate.dreambooth.diffusion.loading import DiffusionError
from persrep_ray.generate.dreambooth.diffusion.model import DiffusionModel

Base = Callable[[str], Path]
every_family = pytest.mark.parametrize("family", SAVERS)
both_methods = pytest.mark.parametrize("method", ["lora", "full"])


def edited(base: Path, folder: Path, **index: Any) -> Path:
    """A copy of the pipeline with changed entries in its index."""
    shutil.copytree(base, folder)
    file = folder / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **index}))
    return folder


# -- loading a base ----------------------------------------------------------------------------------------------------


def refused(base: Path | str) -> str:
    with pytest.raises(DiffusionError) as caught:
        model(base)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith(f"generator {base}: ") and "\n" not in message
    return message


def test_a_base_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    for base in (tmp_path / "gone", tmp_path / "empty", "nobody/nothing", "no such: name"):
        refused(base)


def test_an_index_without_weights_is_named(base: Base, tmp_path: Path) -> None:
    (tmp_path / "sd").mkdir()
    shutil.copy(base("sd") / "model_index.json", tmp_path / "sd")
    refused(tmp_path / "sd")


def test_damaged_weights_are_named(base: Base, tmp_path: Path) -> None:
    shutil.copytree(base("sd"), tmp_path / "sd")
    (tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    refused(tmp_path / "sd")


def test_pickled_weights_are_refused(base: Base, tmp_path: Path) -> None:
    shutil.copytree(base("sd"), tmp_path / "sd")
    file = tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    refused(tmp_path / "sd")


def test_pipelines_of_another_kind_are_refused(base: Base, tmp_path: Path) -> None:
    other = edited(base("sd"), tmp_path / "lcm", _class_name="LatentConsistencyModelPipeline")
    assert "a LatentConsistencyModelPipeline cannot be fine-tuned; supported are StableDiffusionPipeline, " in refused(
        other
    )
    refused(edited(base("sd"), tmp_path / "ddpm", _class_name="DDPMPipeline"))
    refused(edited(base("sd"), tmp_path / "unknown", _class_name="NoSuchPipeline"))


def test_a_pipeline_without_a_part_that_is_trained_is_refused(base: Base, tmp_path: Path) -> None:
    refiner = edited(base("sdxl"), tmp_path / "refiner", text_encoder=[None, None], tokenizer=[None, None])
    assert refused(refiner).endswith("it has no text_encoder")


def test_a_model_that_edits_images_is_refused(base: Base, tmp_path: Path) -> None:
    inpainting = edited(base("sd"), tmp_path / "sd")
    unet = UNet2DConditionModel.from_config({**UNet2DConditionModel.load_config(base("sd") / "unet"), "in_channels": 9})
    unet.save_pretrained(inpainting / "unet")
    assert "takes 9 channels and returns 4" in refused(inpainting)


# -- what is trained ---------------------------------------------------------------------------------------------------


@every_family
def test_the_lora_is_on_every_attention_layer(base: Base, family: str) -> None:
    one = model(base(family), trains=True)
    denoiser = getattr(one.pipe, one.family.denoiser)
    linear = {name for name, part in denoiser.named_modules() if hasattr(part, "lora_A")}
    last = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    assert linear and linear == {
        name for name, _ in denoiser.named_modules() if name.endswith(last) and ".lora" not in name
    }
    assert {name.partition(".")[0] for name in one.parameters} == {one.family.denoiser, *one.family.text_encoders}


@both_methods
@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_text_encoders_do_not_change_unless_they_are_trained(base: Base, family: str, method: str) -> None:
    one = model(base(family), trains=True, method=method, train_text_encoder=False)
    assert {name.partition(".")[0] for name in one.parameters} == {one.family.denoiser}
    assert not any(value.requires_grad for value in one.pipe.text_encoder.parameters())


def answer(one: DiffusionModel) -> torch.Tensor:
    """The prediction of the denoiser, with gradients."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, one.pipe.vae.config.latent_channels, 4, 4)
    latents, noise = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    return one.predict(one.noised(latents, noise, torch.tensor([0.5])), one.encode_prompts([PROMPT]))


def gradients(one: DiffusionModel) -> dict[str, torch.Tensor]:
    answer(one).square().mean().backward()
    return {name: value.grad for name, value in one.parameters.items() if value.grad is not None}


@both_methods
@every_family
def test_gradients_reach_the_whole_slot_and_nothing_else(base: Base, family: str, method: str) -> None:
    one = model(base(family), trains=True, method=method)
    personalize(one, 1)
    with one.pretrained():
        pass
    found = gradients(one)
    unused = {name for name in one.parameters.keys() - found.keys() if "text_encoder" not in name}
    assert not unused and any(name.startswith("text_encoder.") for name in found)
    if method == "lora":
        # Some text encoders do not use their last layer, and SD 3 does not use the context of its last block.
        assert sum(bool(value.any()) for value in found.values()) >= 0.8 * len(one.parameters)
    trained = {id(value) for value in one.parameters.values()}
    for name, component in one.pipe.components.items():
        if isinstance(component, torch.nn.Module):
            for key, value in component.named_parameters():
                assert value.requires_grad is (id(value) in trained), f"{name}.{key}"


@pytest.mark.parametrize(("family", "method"), [*((family, "lora") for family in SAVERS), ("sd", "full")])
def test_gradient_checkpointing_changes_no_gradient(base: Base, family: str, method: str) -> None:
    found = []
    for checkpointing in (False, True):
        one = model(base(family), trains=True, method=method, gradient_checkpointing=checkpointing)
        personalize(one, 1)
        one.train(True)
        found.append(gradients(one))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, msg=name)


class Count:
    """Counts the calls of a layer."""

    def __init__(self, layer: torch.nn.Module) -> None:
        self.calls = 0
        layer.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1


def test_checkpointing_computes_again(base: Base) -> None:
    """Otherwise it would save no memory."""
    for checkpointing, wanted in ((False, 1), (True, 2)):
        one = model(base("sd"), trains=True, gradient_checkpointing=checkpointing)
        one.train(True)
        layers = dict(one.pipe.text_encoder.named_modules())
        in_text = Count(next(layers[name] for name in layers if name.endswith("layers.1.mlp")))
        in_unet = Count(one.pipe.unet.up_blocks[0].resnets[0])
        gradients(one)
        assert (in_text.calls, in_unet.calls) == (wanted, wanted)
