from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.text_to_image import SIDE, model, personalize
from helpers.tiny_diffusion import SAVERS
from numpy.typing import NDArray

from persrep_ray.config import SamplingConfig
from persrep_ray.generate.dreambooth.diffusion.loading import DiffusionError
from persrep_ray.generate.dreambooth.diffusion.model import DiffusionModel
from persrep_ray.generate.dreambooth.diffusion.sampling import Sampler, Shot, batch_for, is_out_of_memory

Base = Callable[[str], Path]
SHOTS = [
    Shot("a mug on a table", 1, 4.0),
    Shot("a mug in the grass", 2, 7.5),
    Shot("a mug on a shelf", 3, 4.0),
    Shot("a red mug", 4, 7.5),
    Shot("a mug", 2**63 - 1, 4.0),
]
ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 400000000000 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.fixture(scope="module")
def tiny(base: Base) -> Callable[[str], DiffusionModel]:
    """Models with the same personal weights in the slot; sampling changes only their scheduler."""
    loaded: dict[str, DiffusionModel] = {}

    def of(family: str) -> DiffusionModel:
        if family not in loaded:
            loaded[family] = model(base(family))
            personalize(loaded[family], 1)
        return loaded[family]

    return of


def unexpected(text: str) -> None:
    raise AssertionError(text)


def sampler(one: DiffusionModel, warn: Callable[[str], None] = unexpected, **changes: Any) -> Sampler:
    return Sampler(one, SamplingConfig(**{"steps": 2, **changes}), warn)


def same(left: Sequence[NDArray[np.uint8]], right: Sequence[NDArray[np.uint8]]) -> bool:
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


# -- what an image depends on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", SAVERS)
def test_an_image_depends_only_on_its_shot(tiny: Callable[[str], DiffusionModel], family: str) -> None:
    draw = sampler(tiny(family)).draw
    images = draw(SHOTS)
    assert all(one.shape == (SIDE, SIDE, 3) and one.dtype == np.uint8 and one.std() > 1 for one in images)
    assert len({one.tobytes() for one in images}) == len(SHOTS)
    assert same(draw(SHOTS[::-1]), images[::-1])
    assert same([*draw(SHOTS[:2]), *draw(SHOTS[2:])], images)
    assert same([draw([shot])[0] for shot in SHOTS], images)


def test_prompt_seed_and_guidance_each_change_the_image(tiny: Callable[[str], DiffusionModel]) -> None:
    draw = sampler(tiny("sd")).draw
    shots = [Shot("a mug", 1, 4.0), Shot("a cup", 1, 4.0), Shot("a mug", 2, 4.0), Shot("a mug", 1, 7.5)]
    assert len({one.tobytes() for one in draw(shots)}) == 4
    assert same(draw(shots), draw(shots))


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_the_batch_size_changes_an_image_only_by_rounding(tiny: Callable[[str], DiffusionModel], family: str) -> None:
    single = sampler(tiny(family), batch_size=1).draw(SHOTS)
    assert same(single, sampler(tiny(family)).draw(SHOTS))
    for size in (2, 5):
        for one, other in zip(single, sampler(tiny(family), batch_size=size).draw(SHOTS), strict=True):
            assert np.abs(one.astype(int) - other).max() <= 1


def test_batches_have_the_configured_size(tiny: Callable[[str], DiffusionModel]) -> None:
    one = sampler(tiny("sd"), batch_size=2)
    memory = Memory(one, at_most=9)
    one.draw(SHOTS)
    assert memory.sizes == [2, 1, 2]  # three images with one guidance scale and two with the other


def test_the_size_is_the_resolution_unless_it_is_configured(tiny: Callable[[str], DiffusionModel]) -> None:
    assert sampler(tiny("sd")).size == SIDE
    (image,) = sampler(tiny("sd"), size=48).draw(SHOTS[:1])
    assert image.shape == (48, 48, 3)


@pytest.mark.parametrize(("family", "multiple"), [("sd", 8), ("sdxl", 8), ("sd3", 16), ("flux", 16)])
def test_sizes_that_the_model_cannot_draw_are_refused(
    tiny: Callable[[str], DiffusionModel], family: str, multiple: int
) -> None:
    one = tiny(family)
    sampler(one, size=multiple * 3)
    with pytest.raises(DiffusionError, match=rf"{one.config.base}.* {multiple * 3 - 4} px; a multiple of {multiple} "):
        sampler(one, size=multiple * 3 - 4)


# -- schedulers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd", "sd_v", "sdxl"])
def test_each_scheduler_draws_a_different_image_and_training_ignores_it(base: Base, family: str) -> None:
    one = model(base(family))
    latents, noise = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    before = one.noised(latents, noise, torch.tensor([0.6]))
    drawn = {"base": sampler(one, steps=4).draw(SHOTS[:1])[0]}
    for name, kind in (
        ("ddim", "DDIMScheduler"),
        ("dpm", "DPMSolverMultistepScheduler"),
        ("euler", "EulerDiscreteScheduler"),
    ):
        drawn[name] = sampler(one, steps=4, scheduler=name).draw(SHOTS[:1])[0]
        assert type(one.pipe.scheduler).__name__ == kind
        after = one.noised(latents, noise, torch.tensor([0.6]))
        torch.testing.assert_close(after.latents, before.latents)
        torch.testing.assert_close(after.target, before.target)
    own = "euler" if family == "sdxl" else "ddim"
    assert np.array_equal(drawn[own], drawn["base"])
    assert len({image.tobytes() for image in drawn.values()}) == 3


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_flow_matching_has_only_its_own_scheduler(tiny: Callable[[str], DiffusionModel], family: str) -> None:
    with pytest.raises(DiffusionError, match=r"generate\.sampling\.scheduler: .* not dpm"):
        sampler(tiny(family), scheduler="dpm")


# -- memory ------------------------------------------------------------------------------------------------------------


class Memory:
    """Wraps the pipeline of a sampler, fails above `at_most` images, and records the sizes of the calls."""

    def __init__(self, one: Sampler, at_most: int, error: Callable[[], BaseException] = torch.OutOfMemoryError) -> None:
        self.at_most = at_most
        self.sizes: list[int] = []
        self._pipe, self._error = one._model.pipe, error
        behind = one._model
        one._model = SimpleNamespace(  # type: ignore[assignment]
            pipe=self, device=behind.device, casting=behind.casting, config=behind.config
        )

    def __call__(self, **kwargs: Any) -> Any:
        self.sizes.append(len(kwargs["prompt"]))
        if self.sizes[-1] > self.at_most:
            raise self._error()
        return self._pipe(**kwargs)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError, MemoryError, lambda: RuntimeError(ALLOCATOR)], ids=["gpu", "python", "cpu"]
)
def test_the_batch_is_halved_until_it_fits(
    tiny: Callable[[str], DiffusionModel], error: Callable[[], BaseException]
) -> None:
    shots = [Shot("a mug", seed, 4.0) for seed in range(5)]
    said: list[str] = []
    one = sampler(tiny("sd"), said.append, batch_size=8)
    memory = Memory(one, at_most=1, error=error)
    assert same(one.draw(shots), sampler(tiny("sd")).draw(shots))
    assert memory.sizes == [5, 2, 1, 1, 1, 1, 1]
    assert [text.partition("; ")[2] for text in said] == ["going on with 2", "going on with 1"]
    assert (
        same(one.draw(shots[:2]), sampler(tiny("sd")).draw(shots[:2])) and memory.sizes[7:] == [1, 1] and len(said) == 2
    )


def test_memory_may_run_out_after_some_are_drawn(tiny: Callable[[str], DiffusionModel]) -> None:
    said: list[str] = []
    one = sampler(tiny("sd"), said.append, batch_size=2)
    memory = Memory(one, at_most=2)
    drawn = one.draw(SHOTS[::2])
    memory.at_most = 1
    drawn += one.draw([SHOTS[1], SHOTS[3]])
    assert memory.sizes == [2, 1, 2, 1, 1] and len(said) == 1
    for left, right in zip(drawn, sampler(tiny("sd")).draw([*SHOTS[::2], SHOTS[1], SHOTS[3]]), strict=True):
        assert np.abs(left.astype(int) - right).max() <= 1


def test_too_little_memory_for_a_single_image_is_an_error(tiny: Callable[[str], DiffusionModel]) -> None:
    one = sampler(tiny("sd"), lambda _: None, batch_size=2)
    Memory(one, at_most=0)
    with pytest.raises(DiffusionError, match=rf"out of memory at a single image of {SIDE} px"):
        one.draw(SHOTS)


def test_other_errors_are_passed_on(tiny: Callable[[str], DiffusionModel]) -> None:
    one = sampler(tiny("sd"), batch_size=2)
    memory = Memory(one, at_most=0, error=lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        one.draw(SHOTS)
    assert memory.sizes == [2]


def test_which_errors_mean_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError()) and is_out_of_memory(RuntimeError(ALLOCATOR))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)  # more than any address space
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_an_image_that_is_not_finite_is_an_error(base: Base) -> None:
    one = model(base("sd"))
    with torch.no_grad():
        one.pipe.vae.decoder.conv_out.bias[0] = torch.nan
    with pytest.raises(DiffusionError, match=r"not finite; generate\.dreambooth\.precision=float32"):
        sampler(one).draw(SHOTS[:1])


def test_the_batch_is_a_power_of_two_and_grows_with_the_memory() -> None:
    sizes = [batch_for(gigabytes << 30, 512) for gigabytes in range(200)]
    assert sizes == sorted(sizes) and sizes[0] == 1 and set(sizes) == {1, 2, 4, 8, 16, 32}
    assert batch_for(80 << 30, 1024) < batch_for(80 << 30, 512)
    assert batch_for(-1, 512) == 1
