"""Drawing pictures from a text-to-image pipeline: in batches that fit into memory, each picture from its own seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from numpy.typing import NDArray

from persrep_ray.config import SamplingConfig
from persrep_ray.generate.dreambooth.diffusion.loading import DiffusionError
from persrep_ray.generate.dreambooth.diffusion.model import DiffusionModel

_SCHEDULERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpm": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}
_BYTES_PER_PIXEL = 8 * 1024  # of one picture while it is made, both halves of its guidance; generous
_MOST = 32  # pictures at a time: beyond, nothing is gained
_MEMORY_SHARE = 0.5  # of what is free: others may want some too
_OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Shot:
    """One picture to be drawn. It depends on these alone, whatever batch or machine it is drawn in."""

    prompt: str
    seed: int
    guidance: float


class Sampler:
    """Draws with whatever weights the model holds at the time.

    The noise of a picture comes from its own seed, on the CPU: another batch or device changes it no more than
    rounding does, and the same batch size on the same machine not at all.
    """

    def __init__(self, model: DiffusionModel, config: SamplingConfig, warn: Callable[[str], None]) -> None:
        """`warn` is told where memory made the batches smaller."""
        self._model = model
        self._warn = warn
        self._config = config
        self.size = config.size or model.config.resolution
        model.latent_side(self.size)
        if config.scheduler != "base":
            if model.family.denoiser != "unet":
                raise DiffusionError(
                    f"generate.sampling.scheduler: {model.config.base} is trained by flow matching, "
                    f"base is the scheduler for it, not {config.scheduler}"
                )
            model.pipe.scheduler = _SCHEDULERS[config.scheduler].from_config(model.pipe.scheduler.config)
        self._batch_size = _auto_batch(model, self.size) if config.batch_size == "auto" else config.batch_size

    def draw(self, shots: Sequence[Shot]) -> list[NDArray[np.uint8]]:
        """A picture (S, S, 3) uint8 for each shot, in their order.

        Raises `DiffusionError` where memory does not suffice for a single picture.
        """
        pictures: dict[int, NDArray[np.uint8]] = {}
        for guidance in sorted({shot.guidance for shot in shots}):
            indices = [index for index, shot in enumerate(shots) if shot.guidance == guidance]
            for part, drawn in self._in_batches(indices, lambda part: self._draw([shots[i] for i in part])):
                pictures.update(zip(part, drawn, strict=True))
        return [pictures[index] for index in range(len(shots))]

    def _in_batches(
        self, items: list[_T], work: Callable[[list[_T]], list[NDArray[np.uint8]]]
    ) -> Iterator[tuple[list[_T], list[NDArray[np.uint8]]]]:
        while items:
            part = items[: self._batch_size]
            try:
                done = work(part)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(len(part), error)
                continue
            yield part, done
            items = items[len(part) :]

    def _halve(self, size: int, error: BaseException) -> None:
        if size == 1:
            raise DiffusionError(
                f"out of memory at a single picture of {self.size} px; a smaller generate.sampling.size or a smaller "
                "model is needed"
            ) from error
        self._batch_size = size // 2
        free_cached_memory(self._model.device)
        self._warn(f"sampling: out of memory at {size} pictures at a time; going on with {self._batch_size}")

    @torch.no_grad()
    def _draw(self, shots: Sequence[Shot]) -> list[NDArray[np.uint8]]:
        on_cpu = self._model.device.type == "cpu"  # elsewhere the weights are in the wanted precision themselves
        with self._model.casting() if on_cpu else torch.autocast(self._model.device.type, enabled=False):
            images = self._model.pipe(
                prompt=[shot.prompt for shot in shots],
                height=self.size,
                width=self.size,
                num_inference_steps=self._config.steps,
                guidance_scale=shots[0].guidance,
                generator=[torch.Generator().manual_seed(shot.seed) for shot in shots],
                output_type="np",
            ).images
        if not np.isfinite(images).all():
            raise DiffusionError("sampling: the picture is not finite; generate.dreambooth.precision=float32 may help")
        return list((images * 255).round().astype(np.uint8))


def batch_for(free_bytes: int, size: int) -> int:
    """How many pictures of `size` px are drawn at a time with this much memory free.

    A power of two: the batch has a say in how results are rounded, and should not change with every megabyte.
    """
    fitting = int(free_bytes * _MEMORY_SHARE // (_BYTES_PER_PIXEL * size * size))
    return min(_MOST, 1 << max(0, fitting.bit_length() - 1))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch says so, for a GPU, its libraries, or a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY)


def free_cached_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _auto_batch(model: DiffusionModel, size: int) -> int:
    if model.device.type == "cpu":
        return 1  # larger batches are no faster there, and single pictures come out the same to the bit
    return batch_for(torch.cuda.mem_get_info(model.device)[0], size)
