"""A text-to-image pipeline that is loaded once and takes the weights of one object after another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from persrep_ray.backbones.backbone import computes_bfloat16
from persrep_ray.backbones.lora import comparable, start_down
from persrep_ray.config import DreamBoothConfig
from persrep_ray.generate.dreambooth.diffusion.families import Conditions, Noised
from persrep_ray.generate.dreambooth.diffusion.loading import DiffusionError, load_pipeline, one_line

LORA_FILE = "pytorch_lora_weights.safetensors"  # what `pipe.load_lora_weights(folder)` looks for
_SLOT = "object"  # the name of our LoRA in PEFT
_TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


class DiffusionModel:
    """A pipeline with a slot for personal weights: a LoRA, or the whole denoiser and its text encoders.

    `reset`, `load` and `save` concern the content of the slot; `pretrained` switches it off. The pipeline itself is
    never built again.

    Attributes:
        parameters: what training changes, by the names of the component and of the parameter.
        commit: the version of a hub's model, None for a folder.
    """

    def __init__(self, config: DreamBoothConfig, device: torch.device | str = "cpu", *, trains: bool = False) -> None:
        """`trains`: keeps the weights as training needs them, in full precision if they change."""
        self.config = config
        self.device = torch.device(device)
        self.pipe, self.family, self.commit = load_pipeline(config, self._dtype)
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.to(self.device)
        for component in self.pipe.components.values():
            if isinstance(component, nn.Module):
                component.requires_grad_(False).eval()
        names = [self.family.denoiser, *(self.family.text_encoders if config.train_text_encoder else ())]
        self.components: dict[str, Any] = {name: getattr(self.pipe, name) for name in names}
        if trains and config.method == "full":
            for component in self.components.values():
                component.to(torch.float32)
        self._slot = self._add_lora() if config.method == "lora" else self._all_weights()
        self.parameters: dict[str, nn.Parameter] = {
            name: value for name, value in self._slot.items() if isinstance(value, nn.Parameter)
        }
        if trains:
            for parameter in self.parameters.values():
                parameter.requires_grad_(True)
            if config.gradient_checkpointing:
                self._checkpoint_gradients()
        # The content of the slot for the base model. It is empty with a LoRA, which can be disabled.
        self._base = {} if config.method == "lora" else self._copy()

    @property
    def _dtype(self) -> torch.dtype:
        """The type of the weights. On CPUs only autocast changes the type of the computation."""
        return torch.float32 if self.device.type == "cpu" else getattr(torch, self.config.precision)

    def casting(self) -> torch.autocast:
        """The precision in which the denoiser and the text encoders compute. CPUs support at most bfloat16."""
        dtype = getattr(torch, self.config.precision)
        if self.device.type == "cpu" and not (dtype == torch.bfloat16 and computes_bfloat16(self.device)):
            dtype = torch.float32
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32)

    # -- what training calls -----------------------------------------------------------------------------------------

    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        with self.casting():
            return self.family.encode(self.pipe, prompts)

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) in -1..1 -> latents (B, C, s, s) float32, the mode of the VAE's distribution."""
        vae = self.pipe.vae
        dtype = vae.dtype
        overflows = dtype == torch.float16 and vae.config.force_upcast  # as in SDXL
        if overflows:
            vae.to(torch.float32)
        latents = vae.encode(images.to(self.device, vae.dtype)).latent_dist.mode().float()
        if overflows:
            vae.to(dtype)
        scaled: torch.Tensor = (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
        return scaled

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, moments: torch.Tensor) -> Noised:
        return self.family.noised(self.pipe, latents, noise, moments)

    def predict(self, noised: Noised, conditions: Conditions) -> torch.Tensor:
        with self.casting():
            return self.family.predict(self.pipe, noised, conditions)

    def latent_side(self, side: int) -> int:
        """Latents along `side`, pixels of an image. Raises `DiffusionError` if that is not a whole number."""
        scale = self.pipe.vae_scale_factor
        if self.family.denoiser == "transformer":
            scale *= 2  # the transformer sees latents two by two
        if side % scale:
            raise DiffusionError(f"generator {self.config.base}: images of {side} px; a multiple of {scale} is needed")
        return side // int(self.pipe.vae_scale_factor)

    def train(self, mode: bool) -> None:
        for component in self.components.values():
            component.train(mode)

    # -- the slot ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def reset(self, seed: int) -> None:
        """Puts the base model's weights into the slot, or a fresh LoRA, which depends only on the seed."""
        if self._base:
            self._put(self._base)
            return
        generator = torch.Generator().manual_seed(seed)
        for name in sorted(self._slot):
            tensor = self._slot[name]
            if _is_down(name):
                start_down(tensor, generator)
            else:
                tensor.zero_()

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Puts the weights that `save` wrote into the slot, strictly; if they do not fit, the slot stays as it was.

        Raises:
            DiffusionError: unreadable files, a LoRA of another rank, alpha or targets, or tensors that are missing,
                unknown, of another shape or not finite.
        """
        try:
            if self.config.method == "lora":
                self._check_lora(folder / LORA_FILE)
                state = load_file(folder / LORA_FILE)
            else:
                state = {f"{name}.{key}": value for name in self.components for key, value in self._saved(folder, name)}
        except DiffusionError:
            raise
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise DiffusionError(f"{folder}: the weights cannot be read: {one_line(error)}") from error
        mine = self._slot.keys()
        for what, names in (("lacks", mine - state.keys()), ("has unknown", state.keys() - mine)):
            if names:
                raise DiffusionError(f"{folder} {what} tensors: {', '.join(sorted(names)[:3])} ({len(names)} in all)")
        for name, value in state.items():
            if value.shape != self._slot[name].shape or not value.isfinite().all():
                wanted = tuple(self._slot[name].shape)
                raise DiffusionError(
                    f"{folder}: tensor {name} is {tuple(value.shape)}; {wanted}, all finite, is needed"
                )
        self._put(state)

    def save(self, folder: Path) -> None:
        """Writes the slot into `folder` in the format of diffusers.

        `pipe.load_lora_weights(folder)` reads a LoRA; each component of a full fine-tune is a folder for the
        `from_pretrained` of its class.
        """
        if self.config.method == "full":
            for name, component in self.components.items():
                component.save_pretrained(folder / name, safe_serialization=True)
            return
        layers, metadata = {}, {}
        for name, component in self.components.items():
            prefix = f"{name}."
            layers[f"{name}_lora_layers"] = {
                key.removeprefix(prefix): value.detach().cpu().contiguous()
                for key, value in self._slot.items()
                if key.startswith(prefix)
            }
            metadata[f"{name}_lora_adapter_metadata"] = component.peft_config[_SLOT].to_dict()
        type(self.pipe).save_lora_weights(folder, **layers, **metadata)

    @contextmanager
    def pretrained(self) -> Iterator[None]:
        """Inside this context the pipeline is exactly the base model."""
        if not self._base:
            for component in self.components.values():
                component.disable_adapters()
            try:
                yield
            finally:
                for component in self.components.values():
                    component.enable_adapters()
        else:
            kept = self._copy()
            self._put(self._base)
            try:
                yield
            finally:
                self._put(kept)

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self._slot.items()}

    @torch.no_grad()
    def _put(self, state: Mapping[str, torch.Tensor]) -> None:
        for name, value in state.items():
            self._slot[name].copy_(value)

    def _check_lora(self, file: Path) -> None:
        """Raises `DiffusionError` if the tensors would act differently than they were trained to, even if they fit."""
        with safe_open(file, "pt") as opened:
            declared = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
        for name, component in self.components.items():
            mine = component.peft_config[_SLOT].to_dict()
            for key in ("r", "lora_alpha", "target_modules"):
                wanted, found = (comparable(value) for value in (mine[key], declared.get(f"{name}.{key}")))
                if wanted != found:
                    raise DiffusionError(f"{file}: the LoRA of {name} has {key} {found}; {wanted} is needed")

    def _saved(self, folder: Path, name: str) -> Iterator[tuple[str, torch.Tensor]]:
        """The saved tensors of a component under the names that they have in memory; those in the files may differ."""
        component = self.components[name]
        loaded, info = type(component).from_pretrained(folder / name, output_loading_info=True, use_safetensors=True)
        for what, keys in (("lacks", info["missing_keys"]), ("has unknown", info["unexpected_keys"])):
            if keys:
                raise DiffusionError(f"{folder / name} {what} tensors: {', '.join(sorted(keys)[:3])}")
        yield from loaded.state_dict().items()

    def _all_weights(self) -> dict[str, torch.Tensor]:
        return {
            f"{name}.{key}": value
            for name, component in self.components.items()
            for key, value in component.state_dict(keep_vars=True).items()
        }

    def _add_lora(self) -> dict[str, torch.Tensor]:
        """The tensors of the LoRA themselves, under the names that diffusers gives them in files."""
        slot: dict[str, torch.Tensor] = {}
        for name, component in self.components.items():
            targets = list(self.family.lora_targets if name == self.family.denoiser else _TEXT_TARGETS)
            config = LoraConfig(r=self.config.rank, lora_alpha=self.config.alpha, target_modules=targets)  # type: ignore[arg-type]
            component.add_adapter(config, adapter_name=_SLOT)
            for module in component.modules():  # LoRA trains in full precision, whatever the layers use
                for part in ("lora_A", "lora_B"):
                    if hasattr(module, part):
                        getattr(module, part).to(torch.float32)
            state = get_peft_model_state_dict(component, adapter_name=_SLOT, save_embedding_layers=False)
            live = dict(component.named_parameters())
            by_pointer = {value.data_ptr(): value for value in live.values()}
            exported = {key: key for key in state}
            if name != "transformer":  # diffusers would rename only some of its layers, and later read only those
                exported = convert_state_dict_to_diffusers(exported)
            slot |= {f"{name}.{new}": by_pointer[state[key].data_ptr()] for new, key in exported.items()}
        # A LoRA that was silently added nowhere would train nothing (huggingface/peft issue 2699).
        if not all(any(name.startswith(f"{one}.") for name in slot) for one in self.components):
            raise DiffusionError(f"generator {self.config.base}: no attention layer was found for a LoRA")
        return slot

    def _checkpoint_gradients(self) -> None:
        for name, component in self.components.items():
            if name == self.family.denoiser:
                component.enable_gradient_checkpointing()
            else:
                component.gradient_checkpointing_enable()


def _is_down(name: str) -> bool:
    """Whether a LoRA tensor is the matrix A, under any of the names that diffusers uses."""
    return "lora_A" in name or "lora.down" in name or "lora_linear_layer.down" in name
