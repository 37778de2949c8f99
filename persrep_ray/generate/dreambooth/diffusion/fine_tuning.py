"""DreamBooth's fine-tuning (Ruiz et al., arXiv 2208.12242): a text-to-image model learns what one word stands for.

Each step denoises photos of the object with the prompt that contains the word, and class images (what the untouched
model draws for the category) with the prompt without it, so that the category keeps its meaning.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from persrep_ray.config import DreamBoothConfig
from persrep_ray.generate.dreambooth.diffusion.examples import Examples
from persrep_ray.generate.dreambooth.diffusion.loading import DiffusionError
from persrep_ray.generate.dreambooth.diffusion.losses import masked_errors, min_snr_weights
from persrep_ray.generate.dreambooth.diffusion.model import DiffusionModel
from persrep_ray.generate.dreambooth.diffusion.sampling import free_cached_memory, is_out_of_memory

_CLIP_NORM = 1.0
_WEIGHT_DECAY = 1e-2
_PROBE_MOMENTS = (0.1, 0.35, 0.6, 0.85)


@dataclass(frozen=True)
class Task:
    """What to learn for an object: photos with `prompt`, and latents (M, C, h, w) of class images with `class_prompt`.

    `name` is what messages call the object.
    """

    name: str
    photos: Examples
    prompt: str
    class_latents: torch.Tensor | None
    class_prompt: str
    seed: int


@dataclass
class FineTuneResult:
    """How fine-tuning went.

    Attributes:
        loss, prior_loss: a value per step.
        probe: the loss on the photos before and after, with the same noise and time steps.
        micro_batch: how many images were computed at a time in the end; fewer than the batch if memory ran out.
    """

    loss: list[float] = field(default_factory=list)
    prior_loss: list[float] = field(default_factory=list)
    probe: tuple[float, float] = (0.0, 0.0)
    optimizer: str = ""
    micro_batch: int = 0


def fine_tune(model: DiffusionModel, task: Task, warn: Callable[[str], None]) -> FineTuneResult:
    """Trains the weights in the model's slot, starting from the base model.

    The same task and seed give the same weights on the same machine. `warn` is told about a missing 8-bit optimizer and
    about a batch that does not fit into memory.

    Raises:
        DiffusionError: a loss that is not finite (names the object and the step), no memory for a single image.
    """
    config = model.config
    model.reset(task.seed)
    parameters = list(model.parameters.values())
    result = FineTuneResult(micro_batch=config.batch_size * (1 if task.class_latents is None else 2))
    before = probe(model, task)
    optimizer, result.optimizer = _optimizer(config, parameters, model.device, warn)
    scaler = torch.amp.GradScaler(enabled=config.precision == "float16" and model.device.type == "cuda")
    # Text encoders that are not trained give the same conditions in every step.
    fixed = None if config.train_text_encoder else _conditions(model, [task.prompt, task.class_prompt])
    model.train(True)
    try:
        for step, rows in enumerate(itertools.islice(_batches(config, task, model.device), config.steps)):
            losses = _backward(model, task, rows, fixed, scaler, result, warn)
            if not np.isfinite(losses).all():
                raise DiffusionError(f"{task.name}: the loss is not finite at step {step} of {config.steps}")
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, _CLIP_NORM)
            try:
                scaler.step(optimizer)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise _no_memory(model, task, "the optimizer's first step") from error
            scaler.update()
            _forget_gradients(model)
            result.loss.append(losses[0])
            if task.class_latents is not None:
                result.prior_loss.append(losses[1])
    finally:
        model.train(False)
        _forget_gradients(model)  # after a failed step they would be added to the next object's
    result.probe = before, probe(model, task)
    if not np.isfinite(result.probe).all():
        raise DiffusionError(f"{task.name}: the loss is not finite after the last step")
    return result


@torch.no_grad()
def probe(model: DiffusionModel, task: Task) -> float:
    """The mean loss on the first crop of each photo, with the same noise and time steps in every call."""
    generator = torch.Generator().manual_seed(0)
    first = np.unique(task.photos.photo, return_index=True)[1]
    conditions = model.encode_prompts([task.prompt])
    errors = []
    for index, moment in itertools.product(first, _PROBE_MOMENTS):
        latents = task.photos.latents[index : index + 1]
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        noised = model.noised(latents, noise, torch.tensor([moment], device=latents.device))
        mask = task.photos.masks[index : index + 1]
        errors.append(float(masked_errors(model.predict(noised, conditions), noised.target, mask)))
    return float(np.mean(errors))


@dataclass(frozen=True)
class _Rows:
    """The B images of a step, photos first. `weights` (B,) are their shares of the loss."""

    latents: torch.Tensor
    masks: torch.Tensor
    noise: torch.Tensor
    moments: torch.Tensor
    weights: torch.Tensor
    photos: int

    def part(self, start: int, stop: int) -> _Rows:
        rows = slice(start, stop)
        return _Rows(
            *(self.latents[rows], self.masks[rows], self.noise[rows], self.moments[rows], self.weights[rows]),
            photos=min(max(0, self.photos - start), stop - start),
        )


def _batches(config: DreamBoothConfig, task: Task, device: torch.device) -> Iterator[_Rows]:
    """Everything random is drawn on the CPU from the seed, so that it is the same on every device."""
    rng = np.random.default_rng(task.seed)
    generator = torch.Generator().manual_seed(task.seed)
    count, photos = config.batch_size, task.photos
    while True:
        chosen = torch.from_numpy(rng.integers(len(photos.latents), size=count)).to(device)
        latents, masks = photos.latents[chosen], photos.masks[chosen]
        weights = [1 / count] * count
        if task.class_latents is not None:
            others = torch.from_numpy(rng.integers(len(task.class_latents), size=count)).to(device)
            latents = torch.cat([latents, task.class_latents[others]])
            masks = torch.cat([masks, torch.ones_like(masks)])
            weights += [config.prior_weight / count] * count
        noise = torch.randn(latents.shape, generator=generator).to(device)
        moments = torch.rand(len(latents), generator=generator).to(device)
        yield _Rows(latents, masks, noise, moments, torch.tensor(weights, device=device), count)


def _backward(
    model: DiffusionModel,
    task: Task,
    rows: _Rows,
    fixed: tuple[dict[str, torch.Tensor], ...] | None,
    scaler: torch.amp.GradScaler,
    result: FineTuneResult,
    warn: Callable[[str], None],
) -> tuple[float, float]:
    """Accumulates the gradients of a step and returns the losses of photos and class images.

    `result.micro_batch` images are computed at a time. If memory runs out, the step is repeated with half as many,
    which gives the same gradients.
    """
    while True:
        try:
            sums = [0.0, 0.0]
            for start in range(0, len(rows.latents), result.micro_batch):
                part = rows.part(start, min(start + result.micro_batch, len(rows.latents)))
                errors = _errors(model, task, part, fixed)
                scaler.scale((errors * part.weights).sum()).backward()
                sums[0] += errors[: part.photos].sum().item()
                sums[1] += errors[part.photos :].sum().item()
            return sums[0] / rows.photos, sums[1] / max(1, len(rows.latents) - rows.photos)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if result.micro_batch == 1:
                raise _no_memory(model, task, f"a single image of {model.config.resolution} px") from error
            result.micro_batch //= 2
            warn(f"{task.name}: fine-tuning: out of memory; going on with {result.micro_batch} images at a time")
        _forget_gradients(model)
        free_cached_memory(model.device)


def _errors(
    model: DiffusionModel, task: Task, rows: _Rows, fixed: tuple[dict[str, torch.Tensor], ...] | None
) -> torch.Tensor:
    """The loss of each image, (B,)."""
    kinds = [0] * rows.photos + [1] * (len(rows.latents) - rows.photos)
    of_kind = fixed or _conditions(model, [task.prompt, task.class_prompt])
    conditions = {name: torch.cat([of_kind[kind][name] for kind in kinds]) for name in of_kind[0]}
    noised = model.noised(rows.latents, rows.noise, rows.moments)
    errors = masked_errors(model.predict(noised, conditions), noised.target, rows.masks)
    gamma = model.config.min_snr_gamma
    return errors if gamma is None else errors * min_snr_weights(noised, gamma)


def _no_memory(model: DiffusionModel, task: Task, at: str) -> DiffusionError:
    help_of = {"lora": "a smaller resolution or a smaller model", "full": "method=lora, or adam_8bit=true"}
    return DiffusionError(
        f"{task.name}: out of memory at {at}; generate.dreambooth.gradient_checkpointing=true, "
        f"{help_of[model.config.method]} may help"
    )


def _forget_gradients(model: DiffusionModel) -> None:
    for parameter in model.parameters.values():
        parameter.grad = None


def _conditions(model: DiffusionModel, prompts: list[str]) -> tuple[dict[str, torch.Tensor], ...]:
    """The conditions (1, …) of each prompt."""
    encoded = model.encode_prompts(prompts)
    return tuple({name: value[index : index + 1] for name, value in encoded.items()} for index in range(len(prompts)))


def _optimizer(
    config: DreamBoothConfig, parameters: list[torch.nn.Parameter], device: torch.device, warn: Callable[[str], None]
) -> tuple[torch.optim.Optimizer, str]:
    """The optimizer and its name: AdamW, or its 8-bit version if it is configured and can run."""
    rate = config.effective_learning_rate
    if config.adam_8bit:
        try:
            if device.type != "cuda":
                raise ImportError("it needs a CUDA device")
            import bitsandbytes

            return bitsandbytes.optim.AdamW8bit(parameters, lr=rate, weight_decay=_WEIGHT_DECAY), "AdamW8bit"
        except (ImportError, OSError, RuntimeError) as error:
            warn(f"generate.dreambooth.adam_8bit: {' '.join(str(error).split())}; AdamW is used instead")
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=_WEIGHT_DECAY), "AdamW"
