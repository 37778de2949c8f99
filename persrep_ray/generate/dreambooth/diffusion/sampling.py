"""Samples images from a text-to-image pipeline, in batches that fit into memory, each image from its own seed."""

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
_BYTES_PER_PIXEL = 8 * 1024  # of an image while it is sampled, with both halves of its guidance; generous
_MOST = 32  # images at a time; more are not faster
_MEMORY_SHARE = 0.5  # of the free memory; other processes may need some, too
_OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Shot:
    """An image to be drawn. It depends only on these values, not on the batch or the machine."""

    prompt: str
    seed: int
    guidance: float


class Sampler:
    """Draws images with the weights that are in the model at the time.

    The noise of an image comes from its own seed, on the CPU. A different batch size or device therefore changes the
    image only by rounding, and the same batch size on the same machine does not change it at all.
    """

    def __init__(self, model: DiffusionModel, config: SamplingConfig, warn: Callable[[str], None]) -> None:
        """`warn` is told when memory makes the batches smaller."""
        self._model = model
        self._warn = warn
        self._config = config
        self.size = config.size or model.config.resolution
        model.latent_side(self.size)
        if config.scheduler != "base":
            if model.family.denoiser != "unet":
                raise DiffusionError(
                    f"generate.sampling.scheduler: {model.config.base} is trained by flow matching, which needs the "
                    f"scheduler base and not {config.scheduler}"
                )
            model.pipe.scheduler = _SCHEDULERS[config.scheduler].from_config(model.pipe.scheduler.config)
        self._batch_size = _auto_batch(model, self.size) if config.batch_size == "auto" else config.batch_size

    def draw(self, shots: Sequence[Shot]) -> list[NDArray[np.uint8]]:
        """An image (S, S, 3) uint8 for each shot, in their order.

        Raises `DiffusionError` if there is not enough memory for a single image.
        """
        images: dict[int, NDArray[np.uint8]] = {}
        for guidance in sorted({shot.guidance for shot in shots}):
            indices = [index for index, shot in enumerate(shots) if shot.guidance == guidance]
            for part, drawn in self._in_batches(indices, lambda part: self._draw([shots[i] for i in part])):
                images.update(zip(part, drawn, strict=True))
        return [images[index] for index in range(len(shots))]

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
                f"out of memory at a single image of {self.size} px; a smaller generate.sampling.size or a smaller "
                "model is needed"
            ) from error
        self._batch_size = size // 2
        free_cached_memory(self._model.device)
        self._warn(f"sampling: out of memory at {size} images at a time; going on with {self._batch_size}")

    @torch.no_grad()
    def _draw(self, shots: Sequence[Shot]) -> list[NDArray[np.uint8]]:
        on_cpu = self._model.device.type == "cpu"  # on GPUs the weights themselves have the configured precision
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
            raise DiffusionError("sampling: an image is not finite; generate.dreambooth.precision=float32 may help")
        return list((images * 255).round().astype(np.uint8))


def batch_for(free_bytes: int, size: int) -> int:
    """How many images of `size` px are drawn at a time with this much free memory.

    It is a power of two, because the batch size affects rounding and should not change with every megabyte.
    """
    fitting = int(free_bytes * _MEMORY_SHARE // (_BYTES_PER_PIXEL * size * size))
    return min(_MOST, 1 << max(0, fitting.bit_length() - 1))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch reports that a GPU, one of its libraries, or a CPU has run out of memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY)


def free_cached_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _auto_batch(model: DiffusionModel, size: int) -> int:
    if model.device.type == "cpu":
        return 1  # larger batches are not faster there, and single images are the same to the bit
    return batch_for(torch.cuda.mem_get_info(model.device)[0], size)
