"""Checkpoints from pickles, and what is said if the hub does not give one."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.vits import KINDS
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from persrep_ray.backbones import checkpoint
from persrep_ray.backbones.backbone import BackboneError, load_backbone
from persrep_ray.backbones.checkpoint import check_hub, folder_or_snapshot
from persrep_ray.config import BackboneConfig


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSREP_CACHE", str(tmp_path / "cache"))


def save_pickle(kind: str, folder: Path) -> torch.nn.Module:
    """A checkpoint as older releases of `transformers` wrote it."""
    model: Any = KINDS[kind].make()
    model.config.architectures = [type(model).__name__]
    folder.mkdir()
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return model  # type: ignore[no-any-return]


def load(folder: Path) -> Any:
    return load_backbone(BackboneConfig(name=str(folder), adapted_blocks=1, precision="float32"))


@pytest.mark.parametrize("kind", ["clip_vision_model", "vit_mae"])
def test_a_pickle_is_converted_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pickle(kind, tmp_path / "vit")
    first = folder_or_snapshot(str(tmp_path / "vit"), None)
    assert {file.name for file in first.iterdir()} == {"config.json", "model.safetensors"}
    assert (tmp_path / "cache") in first.parents
    pixels = torch.rand(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    backbone = load(tmp_path / "vit")
    assert backbone.suffix(backbone.prefix(pixels)).cls.isfinite().all()
    monkeypatch.setattr(checkpoint, "_convert", None)
    assert folder_or_snapshot(str(tmp_path / "vit"), None) == first


def test_the_weights_are_the_same(tmp_path: Path) -> None:
    model = save_pickle("dinov2", tmp_path / "vit")
    loaded = load(tmp_path / "vit").model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


class Attack:
    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._target),)


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    save_pickle("dinov2", tmp_path / "vit")
    (tmp_path / "vit" / "pytorch_model.bin").write_bytes(pickle.dumps(Attack(tmp_path / "owned"), protocol=2))
    with pytest.raises(BackboneError, match="cannot be converted to safetensors: not a file of tensors"):
        load(tmp_path / "vit")
    assert not (tmp_path / "owned").exists()
    assert not list((tmp_path / "cache" / "files").glob("*.checkpoint"))


def test_timms_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "vit_base_patch16_dinov3", "num_features": 768}')
    with pytest.raises(BackboneError, match="these are timm's weights"):
        load(tmp_path)


class TestHub:
    def test_its_own_conversion_is_preferred(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("main", "converted"):
            (tmp_path / name).mkdir()
        (tmp_path / "converted" / "model.safetensors").touch()
        asked = []

        def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
            asked.append(revision)
            assert not any(pattern.endswith(".bin") for pattern in allow_patterns)
            return str(tmp_path / ("converted" if revision else "main"))

        class Api:
            def get_repo_discussions(self, name: str, *, author: str, discussion_type: str) -> list[Any]:
                title = "Adding `safetensors` variant of this model"
                closed = SimpleNamespace(title=title, status="closed", git_reference="refs/pr/1")
                return [closed, SimpleNamespace(title=title, status="open", git_reference="refs/pr/7")]

        monkeypatch.setattr(checkpoint, "snapshot_download", download)
        monkeypatch.setattr(checkpoint, "HfApi", Api)
        assert folder_or_snapshot("org/vit", None) == tmp_path / "converted"
        assert asked == [None, "refs/pr/7"]

    @pytest.mark.parametrize("revision", [None, "v2"])
    def test_without_a_conversion_the_pickle_is_fetched_and_converted(
        self, revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_pickle("dinov2", tmp_path / "vit")
        (tmp_path / "vit" / "pytorch_model.bin").rename(tmp_path / "weights")

        def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
            if "pytorch_model.bin" in allow_patterns:
                (tmp_path / "weights").rename(tmp_path / "vit" / "pytorch_model.bin")
            return str(tmp_path / "vit")

        monkeypatch.setattr(checkpoint, "snapshot_download", download)
        monkeypatch.setattr(checkpoint, "_conversion", {"org/vit": None}.__getitem__)
        assert (folder_or_snapshot("org/vit", revision) / "model.safetensors").exists()

    @pytest.mark.parametrize(
        ("kind", "status", "message"),
        [
            (GatedRepoError, 403, "accept its terms .* HF_TOKEN"),
            (RepositoryNotFoundError, 404, "check the name or, if it is private, put a token in HF_TOKEN"),
            (HfHubHTTPError, 429, r"\(429\): wait some minutes, or put a token in HF_TOKEN"),
        ],
    )
    def test_what_to_do_is_said(
        self, kind: type[HfHubHTTPError], status: int, message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        error = kind.__new__(kind)
        Exception.__init__(error, "secret details\nmore")
        error.response = SimpleNamespace(status_code=status)  # type: ignore[assignment]
        with pytest.raises(FileNotFoundError, match=message) as caught:
            self.fail(error, monkeypatch)
        assert "\n" not in str(caught.value) and "secret" not in str(caught.value)

    def test_no_network_is_told_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        error = LocalEntryNotFoundError("long advice")
        with pytest.raises(FileNotFoundError, match="the hub cannot be reached"):
            self.fail(error, monkeypatch)

    @staticmethod
    def fail(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        def download(*arguments: Any, **options: Any) -> str:
            raise error

        monkeypatch.setattr(checkpoint, "hf_hub_download", download)
        check_hub("org/vit", None)

    def test_nothing_is_asked_about_what_is_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checkpoint, "hf_hub_download", None)
        for name in ("embedded", "s3://bucket/vit", str(tmp_path)):
            check_hub(name, None)
