"""`persrep objects verify`: whether published adapters are whole, fit their backbone, and act on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from peft import PeftModel

from persrep_ray.backbones.backbone import Backbone, load_backbone
from persrep_ray.backbones.lora import ADAPTER_FILES
from persrep_ray.config import BackboneConfig, recorded_config
from persrep_ray.registry.registry import FILES, Registry, RegistryError
from persrep_ray.serving.engine.adapters import AdapterMisfitError, Layout, parse_adapter
from persrep_ray.serving.engine.answers import AdapterRef

_SAME = 1e-6  # a smaller difference of a unit feature is rounding


class Verdict(NamedTuple):
    """What was found about the live version of an object: in words, and whether it can be used."""

    object_id: str
    version: str | None
    text: str
    sound: bool


def verify(registry: Registry, object_ids: Sequence[str]) -> Iterator[Verdict]:
    """Looks at the live versions of the objects as they come: strictly, and by plain PEFT on the installed packages.

    Other versions of `transformers` name the parts of a model differently. Plain PEFT then leaves an adapter out with
    no more than a warning, and the features stay pretrained (huggingface/peft issue 2699).
    """
    backbones: dict[BackboneConfig, Backbone] = {}
    for object_id in object_ids:
        version = None
        try:
            version = registry.current(object_id)
            files = dict(registry.files(object_id, version, FILES))
            config = recorded_config(registry.card(object_id, version)["config"], "card.json: ").backbone
            if config not in backbones:
                backbones = {config: load_backbone(config)}  # one at a time: objects of a registry mostly share it
            text = _verdict(AdapterRef(object_id, str(version)), files, config, backbones[config])
            yield Verdict(object_id, version, text, sound=True)
        except (ValueError, KeyError, RegistryError) as error:
            yield Verdict(object_id, version, " ".join(str(error).split()), sound=False)


def _verdict(ref: AdapterRef, files: dict[str, bytes], config: BackboneConfig, backbone: Backbone) -> str:
    """What a sound version does. Raises ValueError for one that does not fit or does not act."""
    blocks = tuple(range(backbone.split, len(backbone.blocks)))
    adapter = parse_adapter(ref, files, Layout(config, backbone.lora_sites(), blocks, backbone.dim))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pixels = backbone.pixels([noise], config.image_size)
    before = _feature(backbone, pixels)
    with tempfile.TemporaryDirectory() as folder:
        for name in ADAPTER_FILES:
            (Path(folder) / name).write_bytes(files[name])
        peft = PeftModel.from_pretrained(backbone.model, folder).eval()
    try:
        after = _feature(backbone, pixels)
    finally:
        peft.unload()
    changed = float((before - after).abs().max()) > _SAME
    if not adapter.b.any():
        return "keeps the pretrained features (strength 0)"
    if not changed:
        raise AdapterMisfitError("plain PEFT leaves the adapter out: its features are the pretrained ones")
    return f"acts: cosine {float(before @ after):.3f} to the pretrained features of noise"


@torch.no_grad()
def _feature(backbone: Backbone, pixels: torch.Tensor) -> torch.Tensor:
    """The unit CLS (D,) of one image under what `backbone` holds now."""
    with backbone.full_precision():
        return torch.nn.functional.normalize(backbone.suffix(backbone.prefix(pixels)).cls[0], dim=0)
