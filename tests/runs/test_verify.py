"""`persrep objects verify` finds adapters that are damaged and adapters that plain PEFT leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.published import publish_object, tiny_checkpoint
from peft import PeftModel
from safetensors.numpy import load, save

from persrep_ray.cli import main

_WEIGHTS = "adapter_model.safetensors"


def switched_off(files: dict[str, bytes]) -> None:
    tensors = load(files[_WEIGHTS])
    files[_WEIGHTS] = save({name: np.zeros_like(one) if "lora_B" in name else one for name, one in tensors.items()})


def of_other_transformers(files: dict[str, bytes]) -> None:
    """The same tensors under names as another version of transformers has them."""
    tensors = load(files[_WEIGHTS])
    files[_WEIGHTS] = save(
        {name.replace("model.encoder", "model.vision_model.encoder"): one for name, one in tensors.items()}
    )


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    config = tiny_checkpoint(tmp_path / "vit")
    publish_object(tmp_path / "registry", "acts", config, 0)
    publish_object(tmp_path / "registry", "off", config, 1, change=switched_off)
    publish_object(tmp_path / "registry", "renamed", config, 2, change=of_other_transformers)
    return tmp_path / "registry"


def verify(registry: Path, capsys: pytest.CaptureFixture[str], *ids: str) -> tuple[int, dict[str, str]]:
    code = main(["objects", "verify", "--registry", str(registry), *ids])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    return code, {object_id: text for object_id, _, text in lines}


def test_each_object_is_told_for_what_it_is(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = verify(registry, capsys)
    assert code == 1
    assert found["acts"].startswith("acts: cosine ")
    assert found["off"] == "keeps the pretrained features (strength 0)"
    assert found["renamed"].startswith("unusable: the adapter lacks tensors")


def test_one_object(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(registry, capsys, "acts")[0] == 0
    assert verify(registry, capsys, "nobody")[0] == 1


def test_an_adapter_that_plain_peft_leaves_out(
    registry: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_model = PeftModel.from_pretrained

    def without_weights(model: Any, folder: str) -> PeftModel:
        switched = {_WEIGHTS: (Path(folder) / _WEIGHTS).read_bytes()}
        switched_off(switched)
        (Path(folder) / _WEIGHTS).write_bytes(switched[_WEIGHTS])
        return load_model(model, folder)

    monkeypatch.setattr(PeftModel, "from_pretrained", without_weights)
    code, found = verify(registry, capsys, "acts")
    assert code == 1 and found["acts"].startswith("unusable: plain PEFT leaves the adapter out")
