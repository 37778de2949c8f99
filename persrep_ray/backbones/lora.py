"""A LoRA slot on a backbone's suffix. It is made by `peft`, so that saved adapters are plain PEFT adapters."""

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
    """An adapter does not fit the backbone or the LoRA configuration of the slot."""


class LoraBackbone:
    """A `Backbone` with a LoRA on query, key and value of its suffix.

    `reset` and `load` change the LoRA. A freshly reset LoRA is the identity, so the features equal the pretrained
    features.

    Raises:
        BackboneError: the blocks have no query, key and value that LoRA could adapt.
    """

    def __init__(self, backbone: Backbone, lora: LoraSection, *, base_name: str) -> None:
        self.backbone = backbone
        sites = backbone.lora_sites()
        self.config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]  # a float works, and the paper's alpha is 0.5
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
        # peft finds layers by the ends of their names. A LoRA that silently adapts other layers, or too few, is the
        # worst bug of this field (huggingface/peft issue 2699).
        found = {name.partition(".lora_")[0].removeprefix("base_model.model.") for name in self.parameters}
        if found != set(sites) or len(self.parameters) != 2 * len(sites):
            raise BackboneError(
                f"backbone {backbone.name}: LoRA should adapt {len(sites)} layers such as {sites[0]}, but peft put "
                f"{len(self.parameters)} matrices on {', '.join(sorted(found ^ set(sites))) or 'them'}"
            )

    def reset(self, seed: int) -> None:
        """Draws fresh LoRA weights from `seed`: A is uniform, as by `peft` and the authors of LoRA, and B is zero."""
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
        # With "auto" it would ask the hub for the backbone's config on every call.
        return get_peft_model_state_dict(self.peft, save_embedding_layers=False)

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Loads `state` into the slot, strictly.

        Raises:
            AdapterError: names or shapes differ from those of this backbone and LoRA configuration, or a value is not
                finite. The slot is then unchanged.
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
        """Loads what `files` returned, and returns it as a state.

        Raises:
            AdapterError: as in `load`, or the adapter's rank, alpha or targets differ from those of this slot: even if
                its tensors fit, they would not act as they were trained to.
        """
        try:
            declared = json.loads(files["adapter_config.json"])
            state = load_safetensors(files["adapter_model.safetensors"])
        except (KeyError, ValueError, SafetensorError) as error:
            raise AdapterError(f"not a PEFT adapter in safetensors: {error}") from error
        if not isinstance(declared, dict):
            raise AdapterError("adapter_config.json does not hold a JSON object")
        for key in ("peft_type", "r", "lora_alpha", "target_modules", "layers_to_transform", "use_rslora", "use_dora"):
            mine, theirs = (comparable(value) for value in (getattr(self.config, key), declared.get(key)))
            if mine != theirs:
                raise AdapterError(f"adapter was made with {key} {theirs}, but this backbone is set up for {mine}")
        self.load(state)
        return state

    def files(self) -> dict[str, bytes]:
        """The adapter as the files of a PEFT folder; `PeftModel.from_pretrained(backbone, folder)` loads them."""
        with tempfile.TemporaryDirectory() as folder:
            self.peft.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
            files = {name: (Path(folder) / name).read_bytes() for name in ADAPTER_FILES}
        # PEFT writes the targets in the order of a set, which differs between processes. Equal adapters must be equal
        # bytes, because versions are named by their content.
        config = json.loads(files["adapter_config.json"])
        config["target_modules"] = sorted(config["target_modules"])
        return {**files, "adapter_config.json": json.dumps(config, indent=2, sort_keys=True).encode()}

    @contextmanager
    def pretrained(self) -> Iterator[Backbone]:
        """Switches the LoRA off in the context, so that the features are the pretrained features."""
        with self.peft.disable_adapter():
            yield self.backbone

    def train(self, mode: bool = True) -> None:
        """Switches LoRA dropout on or off. The backbone stays in eval mode.

        In training mode DINOv3 would randomly shift and scale the positions of its patches.
        """
        for module in self.peft.modules():
            if isinstance(module, LoraLayer):
                module.train(mode)


def load_lora(config: RunConfig, device: torch.device | str = "cpu") -> LoraBackbone:
    """Loads the backbone that `config` names and puts a fresh LoRA on it. Raises `BackboneError`."""
    backbone = load_backbone(config.backbone).to(device)
    return LoraBackbone(backbone, config.train.lora, base_name=config.backbone.name)


def start_down(matrix: torch.Tensor, generator: torch.Generator) -> None:
    """Fills a LoRA's A (r, D), on the CPU, like `peft`: by kaiming_uniform_ with a = sqrt(5)."""
    bound = math.sqrt(1 / matrix.shape[1])
    matrix.copy_(torch.rand(matrix.shape, generator=generator) * (2 * bound) - bound)


def comparable(value: Any) -> Any:
    """Sorts targets, which are a set in memory and a list in the file."""
    return sorted(value) if isinstance(value, set | list | tuple) else value


def scaled(state: Mapping[str, torch.Tensor], strength: float) -> State:
    """The adapter, made `strength` times as strong by multiplying B, so that any PEFT loader sees the same."""
    return {name: value * strength if "lora_B" in name else value.clone() for name, value in state.items()}
