"""One LoRA slot on a backbone's suffix, by `peft`, so that what is saved is a plain PEFT adapter."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import nn

from persrep_ray.backbones.backbone import Backbone, BackboneError, load_backbone
from persrep_ray.backbones.families import PROJECTIONS
from persrep_ray.config import LoraSection, RunConfig

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
State = dict[str, torch.Tensor]


class AdapterError(ValueError):
    """An adapter does not fit the backbone or the LoRA configuration it is to be loaded into."""


class LoraBackbone:
    """A `Backbone` with one LoRA on query, key and value of its suffix.

    `reset`, `load` and `state` change what it holds. A freshly reset LoRA is the identity: the features equal the
    pretrained ones.

    Raises:
        BackboneError: the backbone's blocks have no query, key and value that LoRA could sit on.
    """

    def __init__(self, backbone: Backbone, lora: LoraSection, *, base_name: str) -> None:
        self.backbone = backbone
        sites = backbone.lora_sites()
        self.config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]  # a float works; the paper's is 0.5
            lora_dropout=lora.dropout,
            target_modules=list(PROJECTIONS),
            layers_to_transform=list(range(backbone.split, len(backbone.blocks))),
            layers_pattern=backbone.family.blocks.rsplit(".", 1)[-1],
        )
        self.peft: PeftModel = get_peft_model(backbone.model, self.config)  # replaces the linears in place
        self.config.base_model_name_or_path = base_name  # peft put the cache folder's path there
        self.parameters: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in self.peft.named_parameters() if parameter.requires_grad
        }
        # peft finds layers by the ends of their names. A LoRA that silently landed elsewhere, or on too few of them, is
        # the worst bug of this field (huggingface/peft issue 2699).
        found = {name.partition(".lora_")[0].removeprefix("base_model.model.") for name in self.parameters}
        if found != set(sites) or len(self.parameters) != 2 * len(sites):
            raise BackboneError(
                f"backbone {backbone.name}: LoRA was to sit on {len(sites)} layers, {sites[0]} and its like; "
                f"peft put {len(self.parameters)} matrices on {', '.join(sorted(found ^ set(sites))) or 'them'}"
            )

    def reset(self, seed: int) -> None:
        """Fresh LoRA weights, the same for the same seed: A uniform (as `peft` and the LoRA authors do it), B zero."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if "lora_A" in name:
                    start_down(parameter, generator)
                else:
                    parameter.zero_()

    def state(self) -> State:
        """A copy of the adapter's tensors under the names of `adapter_model.safetensors`."""
        return {name: value.detach().cpu().clone() for name, value in self._tensors().items()}

    def _tensors(self) -> State:
        # Without embedding layers: "auto" would ask the hub for the backbone's config on every call.
        return get_peft_model_state_dict(self.peft, save_embedding_layers=False)

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put `state` into the slot, strictly.

        Raises:
            AdapterError: names or shapes differ from what this backbone and LoRA configuration have, or a value is not
                finite. The slot then still holds what it held.
        """
        mine = self._tensors()
        for what, names in (("lacks", mine.keys() - state.keys()), ("has unknown", state.keys() - mine.keys())):
            if names:
                raise AdapterError(f"adapter {what} tensors: {', '.join(sorted(names)[:3])} ({len(names)} in all)")
        for name, value in state.items():
            if value.shape != mine[name].shape:
                raise AdapterError(
                    f"adapter tensor {name} is {tuple(value.shape)}, the backbone needs {tuple(mine[name].shape)}"
                )
            if not value.isfinite().all():
                raise AdapterError(f"adapter tensor {name} has a value that is not finite")
        set_peft_model_state_dict(self.peft, dict(state))

    def load_files(self, files: Mapping[str, bytes]) -> State:
        """`load` what `files` gave, and return it as a state.

        Raises:
            AdapterError: as `load`; also if the adapter's rank, alpha or targets are not those of this slot: its
                tensors may fit and would still act otherwise than they were trained to.
        """
        try:
            declared = json.loads(files["adapter_config.json"])
            state = load_safetensors(files["adapter_model.safetensors"])
        except (KeyError, ValueError, SafetensorError) as error:
            raise AdapterError(f"not a PEFT adapter in safetensors: {error}") from error
        if not isinstance(declared, dict):
            raise AdapterError("adapter_config.json does not hold an object")
        for key in ("peft_type", "r", "lora_alpha", "target_modules", "layers_to_transform", "use_rslora", "use_dora"):
            mine, theirs = (comparable(value) for value in (getattr(self.config, key), declared.get(key)))
            if mine != theirs:
                raise AdapterError(f"adapter was made with {key} {theirs}, this backbone is set up for {mine}")
        self.load(state)
        return state

    def files(self) -> dict[str, bytes]:
        """The adapter as the files of a PEFT folder; `PeftModel.from_pretrained(backbone, folder)` loads them."""
        with tempfile.TemporaryDirectory() as folder:
            self.peft.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
            files = {name: (Path(folder) / name).read_bytes() for name in ADAPTER_FILES}
        # PEFT writes the targets in a set's order, which differs from process to process; the same adapter is to be the
        # same bytes, because versions are named by their content.
        config = json.loads(files["adapter_config.json"])
        config["target_modules"] = sorted(config["target_modules"])
        return {**files, "adapter_config.json": json.dumps(config, indent=2, sort_keys=True).encode()}

    @contextmanager
    def pretrained(self) -> Iterator[Backbone]:
        """Within, the LoRA is switched off: the features are the pretrained ones."""
        with self.peft.disable_adapter():
            yield self.backbone

    def train(self, mode: bool = True) -> None:
        """Switch LoRA dropout on or off; the backbone stays as it is.

        In training mode DINOv3 would shift and scale the positions of its patches at random.
        """
        for module in self.peft.modules():
            if isinstance(module, LoraLayer):
                module.train(mode)


def load_lora(config: RunConfig, device: torch.device | str = "cpu") -> LoraBackbone:
    """Loads the backbone that `config` names and puts a fresh LoRA on it. Raises `BackboneError`."""
    backbone = load_backbone(config.backbone).to(device)
    return LoraBackbone(backbone, config.train.lora, base_name=config.backbone.name)


def start_down(matrix: torch.Tensor, generator: torch.Generator) -> None:
    """Draw a LoRA's A (r, D) anew, in place and on the CPU: kaiming_uniform_ with a = sqrt(5), as `peft` does it."""
    bound = math.sqrt(1 / matrix.shape[1])
    matrix.copy_(torch.rand(matrix.shape, generator=generator) * (2 * bound) - bound)


def comparable(value: Any) -> Any:
    """Targets are a set in memory and a list in the file."""
    return sorted(value) if isinstance(value, set | list | tuple) else value


def scaled(state: Mapping[str, torch.Tensor], strength: float) -> State:
    """The adapter acting `strength` times as strongly: B is multiplied, so any PEFT loader sees the same."""
    return {name: value * strength if "lora_B" in name else value.clone() for name, value in state.items()}
