"""The slot for personal weights. The reference is what plain diffusers does with the saved weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForText2Image
from helpers.text_to_image import equal, model, personalize, sampled, slot
from helpers.tiny_diffusion import SAVERS
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from persrep_ray.generate.dreambooth.diffusion.loading import DiffusionError
from persrep_ray.generate.dreambooth.diffusion.model import LORA_FILE

Base = Callable[[str], Path]
every_family = pytest.mark.parametrize("family", SAVERS)
both_methods = pytest.mark.parametrize("method", ["lora", "full"])


def plain(folder: Path) -> Any:
    return AutoPipelineForText2Image.from_pretrained(
        folder, **({"safety_checker": None} if folder.name == "sd" else {})
    )


def same(left: NDArray[np.float32], right: NDArray[np.float32]) -> bool:
    return bool(np.abs(left - right).max() < 1e-5)


# -- LoRA --------------------------------------------------------------------------------------------------------------


@every_family
def test_a_fresh_lora_is_exactly_the_base_and_that_of_an_object_changes_the_image(base: Base, family: str) -> None:
    one = model(base(family))
    without = sampled(plain(base(family)))
    assert np.array_equal(sampled(one.pipe), without)
    personalize(one, 1)
    personal = sampled(one.pipe)
    assert not same(personal, without)
    with one.pretrained():
        assert np.array_equal(sampled(one.pipe), without)
    assert np.array_equal(sampled(one.pipe), personal)
    one.reset(1)
    assert np.array_equal(sampled(one.pipe), without)


@pytest.mark.parametrize("text_encoders", [True, False])
@every_family
def test_plain_diffusers_draws_the_same_with_the_saved_lora(
    base: Base, tmp_path: Path, family: str, text_encoders: bool
) -> None:
    one = model(base(family), rank=2, alpha=6.0, train_text_encoder=text_encoders)
    personalize(one, 1)
    one.save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [LORA_FILE]
    users = plain(base(family))
    before = sampled(users)
    users.load_lora_weights(tmp_path)
    assert same(sampled(users), sampled(one.pipe)) and not same(sampled(users), before)


@pytest.mark.parametrize("name", ["unet.", "text_encoder."])
def test_both_parts_of_the_lora_matter(base: Base, name: str) -> None:
    one = model(base("sd"))
    before = sampled(one.pipe)
    personalize(one, 1)
    with torch.no_grad():
        for key, value in one.parameters.items():
            if not key.startswith(name):
                value.zero_()
    assert not same(sampled(one.pipe), before)


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_a_fresh_lora_depends_only_on_the_seed(base: Base, family: str) -> None:
    first, second = model(base(family), trains=True), model(base(family))
    first.reset(3)
    personalize(second, 1)
    second.reset(3)
    assert equal(slot(first), slot(second))
    down = [
        value
        for name, value in first.parameters.items()
        if "lora_A" in name or "layer.down" in name or "lora.down" in name
    ]
    assert len(down) == len(first.parameters) / 2
    # kaiming_uniform_, as peft does
    assert all(0.5 < value.abs().max() * value[0].numel() ** 0.5 <= 1 for value in down)
    second.reset(4)
    assert not equal(slot(first), slot(second))


# -- all weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_plain_diffusers_draws_the_same_with_all_saved_weights(base: Base, tmp_path: Path, family: str) -> None:
    one = model(base(family), method="full")
    without = sampled(one.pipe)
    assert np.array_equal(without, sampled(plain(base(family))))
    personalize(one, 1)
    personal = sampled(one.pipe)
    assert not same(personal, without)
    one.save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == set(one.components)
    users = plain(base(family))
    for name in one.components:
        setattr(users, name, type(getattr(users, name)).from_pretrained(tmp_path / name))
    assert np.array_equal(sampled(users), personal)

    with one.pretrained():
        assert np.array_equal(sampled(one.pipe), without)
    assert np.array_equal(sampled(one.pipe), personal)
    one.reset(0)
    assert np.array_equal(sampled(one.pipe), without)
    one.load(tmp_path)
    assert np.array_equal(sampled(one.pipe), personal)


@both_methods
def test_pretrained_restores_the_weights_after_an_error(base: Base, method: str) -> None:
    one = model(base("sd"), method=method)
    personalize(one, 1)
    personal = sampled(one.pipe)
    with pytest.raises(KeyError), one.pretrained():
        raise KeyError
    assert np.array_equal(sampled(one.pipe), personal)


# -- loading an object's weights ---------------------------------------------------------------------------------------


@both_methods
def test_saved_weights_replace_any_other_weights(base: Base, tmp_path: Path, method: str) -> None:
    first, second = model(base("sd"), method=method, trains=True), model(base("sd"), method=method)
    personalize(first, 1)
    first.save(tmp_path)
    personalize(second, 2)
    second.load(tmp_path)
    assert equal(slot(second), slot(first))
    assert np.array_equal(sampled(second.pipe), sampled(first.pipe))


def remove(state: dict[str, torch.Tensor]) -> None:
    del state[min(state)]


def rename(state: dict[str, torch.Tensor]) -> None:
    state[f"{min(state)}.other"] = state.pop(min(state))


def add(state: dict[str, torch.Tensor]) -> None:
    state["unet.other"] = torch.zeros(1)


def reshape(state: dict[str, torch.Tensor]) -> None:
    state[min(state)] = torch.zeros(3, 3)


def spoil(state: dict[str, torch.Tensor]) -> None:
    state[min(state)].flatten()[0] = torch.nan


@pytest.mark.parametrize("method", ["lora", "full unet", "full text_encoder"])
@pytest.mark.parametrize("damage", [remove, rename, add, reshape, spoil])
def test_weights_that_do_not_fit_are_refused_and_change_nothing(
    base: Base, tmp_path: Path, method: str, damage: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    method, _, component = method.partition(" ")
    one = model(base("sd"), method=method)
    personalize(one, 1)
    one.save(tmp_path)
    (file,) = (tmp_path / component).glob("*.safetensors")
    state = load_file(file)
    damage(state)
    save_file(state, file, metadata={"format": "pt"})
    personalize(one, 2)
    before = slot(one)
    with pytest.raises(DiffusionError) as caught:
        one.load(tmp_path)
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)
    assert equal(slot(one), before)


@both_methods
def test_missing_and_damaged_files_are_named(base: Base, tmp_path: Path, method: str) -> None:
    one = model(base("sd"), method=method)
    personalize(one, 1)
    before = slot(one)
    one.save(tmp_path / "good")
    (file, *_) = (tmp_path / "good").rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-9])
    for folder in (tmp_path / "gone", tmp_path / "good"):
        with pytest.raises(DiffusionError) as caught:
            one.load(folder)
        assert str(caught.value).startswith(str(folder)) and "\n" not in str(caught.value)
    assert equal(slot(one), before)


def test_a_lora_of_another_rank_or_family_does_not_fit(base: Base, tmp_path: Path) -> None:
    model(base("sd"), rank=3).save(tmp_path / "rank")
    model(base("sdxl"), rank=2).save(tmp_path / "family")
    model(base("sd"), rank=2, train_text_encoder=False).save(tmp_path / "part")
    one = model(base("sd"), rank=2)
    for name in ("rank", "family", "part"):
        with pytest.raises(DiffusionError, match=f"{tmp_path / name}"):
            one.load(tmp_path / name)


@pytest.mark.parametrize(("setting", "key"), [({"alpha": 64.0}, "lora_alpha 2.0; 64.0"), ({"rank": 4}, "r 2; 4")])
def test_a_lora_that_would_act_differently_than_it_was_trained_to_is_refused(
    base: Base, tmp_path: Path, setting: dict[str, Any], key: str
) -> None:
    one = model(base("sd"))
    personalize(one, 1)
    one.save(tmp_path)
    other = model(base("sd"), **setting)
    with pytest.raises(DiffusionError, match=rf"the LoRA of unet has {key} is needed"):
        other.load(tmp_path)
    file = tmp_path / LORA_FILE
    save_file(load_file(file), file)  # files by other tools do not contain alpha
    with pytest.raises(DiffusionError, match="the LoRA of unet has r None; 2 is needed"):
        one.load(tmp_path)
