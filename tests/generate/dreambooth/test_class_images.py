from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.text_to_image import SIDE, equal, model, personalize, settings, slot
from numpy.typing import NDArray

from persrep_ray.config import DataConfig, GenerateConfig, RunConfig, SamplingConfig
from persrep_ray.data.images import decode_rgb
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.dreambooth.class_images import ClassImages
from persrep_ray.generate.dreambooth.diffusion.examples import to_tensor
from persrep_ray.generate.dreambooth.diffusion.model import DiffusionModel
from persrep_ray.generate.dreambooth.diffusion.sampling import Sampler, Shot
from persrep_ray.storage.store import open_store

Base = Callable[[str], Path]
PROMPT = "a photo of a mug"
COUNT = 10  # takes two looks at what other processes have drawn


class Recorded:
    """A sampler that records its calls. It may fail at the n-th call, and call `aside` in each of them."""

    def __init__(self, sampler: Sampler, breaks_at: int = -1, aside: Callable[[], None] | None = None) -> None:
        self.asked: list[list[Shot]] = []
        self._sampler, self._breaks_at, self._aside = sampler, breaks_at, aside

    def draw(self, shots: Sequence[Shot]) -> list[NDArray[np.uint8]]:
        self.asked.append(list(shots))
        if len(self.asked) - 1 == self._breaks_at:
            raise KeyboardInterrupt
        if self._aside is not None:
            self._aside()
        return self._sampler.draw(shots)

    @property
    def drawn(self) -> int:
        return sum(map(len, self.asked))


@pytest.fixture(scope="module")
def tiny(base: Base) -> DiffusionModel:
    return model(base("sd"), trains=True)


def class_images(root: Path, one: DiffusionModel, **changes: Any) -> tuple[ClassImages, Recorded]:
    """The class images as another process sees them."""
    recorder = {name: changes.pop(name) for name in ("breaks_at", "aside") if name in changes}
    dreambooth = settings(Path(one.config.base), **{"prior_images": COUNT, **changes})
    sampling = SamplingConfig(steps=1, guidance=(4.0, 7.5))
    config = RunConfig(generate=GenerateConfig(dreambooth=dreambooth, sampling=sampling))
    recorded = Recorded(Sampler(one, sampling, print), **recorder)
    return ClassImages(config, folder_of(root), one, recorded), recorded  # type: ignore[arg-type]


def folder_of(root: Path) -> RunFolder:
    return RunFolder(open_store(root))


def files(root: Path, prompt: str = PROMPT) -> dict[str, bytes]:
    folder = folder_of(root)
    prefix = folder.class_images(prompt)
    return {entry.key.removeprefix(prefix): folder.store.read(entry.key) for entry in folder.store.list(prefix)}


def test_they_are_drawn_once_and_their_latents_are_shared(tmp_path: Path, tiny: DiffusionModel) -> None:
    images, recorded = class_images(tmp_path, tiny)
    latents = images.latents(PROMPT, begin_at=3)
    assert latents is not None and latents.shape == (COUNT, 4, SIDE // 8, SIDE // 8)
    assert recorded.drawn == COUNT and len({shot.seed for shots in recorded.asked for shot in shots}) == COUNT
    assert {shot.prompt for shots in recorded.asked for shot in shots} == {PROMPT}
    assert {shot.guidance for shots in recorded.asked for shot in shots} == {4.0, 7.5}
    assert images.latents(PROMPT, begin_at=8) is latents  # another object of the category
    assert recorded.drawn == COUNT
    assert sorted(files(tmp_path)) == [f"{index:05d}.png" for index in range(COUNT)]
    for index, png in enumerate(files(tmp_path).values()):
        image = decode_rgb(png, DataConfig(), "a class image")
        torch.testing.assert_close(latents[index : index + 1], tiny.encode_images(to_tensor(image)))


def test_each_prompt_has_class_images_of_its_own(tmp_path: Path, tiny: DiffusionModel) -> None:
    images, recorded = class_images(tmp_path, tiny)
    mugs, dogs, again = (images.latents(prompt, begin_at=0) for prompt in (PROMPT, "a photo of a dog", PROMPT))
    assert mugs is not None and dogs is not None and again is not None
    assert torch.equal(mugs, again) and not torch.equal(mugs, dogs)
    assert recorded.drawn == 2 * COUNT


def test_they_are_the_same_whichever_process_draws_them_from_whichever_index(
    tmp_path: Path, tiny: DiffusionModel
) -> None:
    first, second = (class_images(tmp_path / name, tiny)[0] for name in "ab")
    one, other = first.latents(PROMPT, begin_at=0), second.latents(PROMPT, begin_at=2**62 + 7)
    assert one is not None and other is not None and torch.equal(one, other)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_another_process_draws_what_is_missing(tmp_path: Path, tiny: DiffusionModel) -> None:
    class_images(tmp_path, tiny)[0].latents(PROMPT, begin_at=0)
    before = files(tmp_path)
    folder = folder_of(tmp_path)
    for name in ("00001.png", "00008.png"):
        folder.store.delete(folder.class_images(PROMPT) + name)
    images, recorded = class_images(tmp_path, tiny)
    images.latents(PROMPT, begin_at=5)
    assert recorded.drawn == 2 and files(tmp_path) == before


def test_two_at_a_time_share_the_work(tmp_path: Path, tiny: DiffusionModel) -> None:
    """The second process draws all its images while the first draws its first ones."""
    second, by_second = class_images(tmp_path, tiny)
    turns = iter([lambda: second._draw_missing(PROMPT, keys, 8)])
    first, by_first = class_images(tmp_path, tiny, aside=lambda: next(turns, lambda: None)())
    keys = [f"{folder_of(tmp_path).class_images(PROMPT)}{index:05d}.png" for index in range(COUNT)]
    first.latents(PROMPT, begin_at=0)
    assert [len(shots) for shots in by_first.asked] == [8]  # at its next look, the images 8 and 9 existed
    assert [shot.seed for shot in by_second.asked[0][2:]] == [shot.seed for shot in by_first.asked[0][:6]]
    assert len(files(tmp_path)) == COUNT


def test_what_exists_after_a_kill_is_whole(tmp_path: Path, tiny: DiffusionModel) -> None:
    images, _ = class_images(tmp_path, tiny, breaks_at=1)
    with pytest.raises(KeyboardInterrupt):
        images.latents(PROMPT, begin_at=0)
    assert len(files(tmp_path)) == 8
    rest, recorded = class_images(tmp_path, tiny)
    rest.latents(PROMPT, begin_at=0)
    assert recorded.drawn == 2
    whole, _ = class_images(tmp_path / "whole", tiny)
    whole.latents(PROMPT, begin_at=0)
    assert files(tmp_path) == files(tmp_path / "whole")


def test_the_untouched_model_draws_them_whatever_the_slot_contains(tmp_path: Path, tiny: DiffusionModel) -> None:
    class_images(tmp_path / "fresh", tiny, prior_images=2)[0].latents(PROMPT, begin_at=0)
    personalize(tiny, 1)
    before = slot(tiny)
    class_images(tmp_path / "personal", tiny, prior_images=2)[0].latents(PROMPT, begin_at=0)
    assert files(tmp_path / "fresh") == files(tmp_path / "personal")
    assert equal(slot(tiny), before)


@pytest.mark.parametrize("off", [{"prior_images": 0}, {"prior_weight": 0.0}])
def test_there_are_none_without_prior_preservation(tmp_path: Path, tiny: DiffusionModel, off: dict[str, Any]) -> None:
    images, recorded = class_images(tmp_path, tiny, **off)
    assert images.latents(PROMPT, begin_at=0) is None
    assert recorded.asked == [] and not list(tmp_path.iterdir())
