"""One pass over a mixed batch equals a pass for each adapter by plain `peft`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from helpers.published import adapter_state
from helpers.tiny import COLOURS, shape
from helpers.vits import KINDS, SIDE, load_plain
from helpers.vits import save as save_vit
from peft import PeftModel
from safetensors.numpy import save
from torch import nn

from persrep_ray.backbones.backbone import Backbone, BackboneError, Features, load_backbone, local_checkpoint
from persrep_ray.backbones.lora import LoraBackbone
from persrep_ray.config import BackboneConfig, LoraSection
from persrep_ray.data.lru import Lru, nbytes
from persrep_ray.serving.engine.adapters import Adapter, parse_adapter
from persrep_ray.serving.engine.answers import AdapterRef
from persrep_ray.serving.engine.encoder import ImageInput, MultiAdapterEncoder, Row

ADAPTED = 2
RANKS_AND_ALPHAS = ((1, 8.0), (4, 12.0), (7, 14.0))  # of the adapters 0, 1 and 2
# The rows of the mixed batch: which image, which adapter. Images and adapters come again; None is the pretrained.
MIXED = [(0, 0), (0, 1), (1, None), (0, None), (1, 2), (2, 1), (2, 1), (1, 0), (3, 2)]


@dataclass
class Served:
    """A checkpoint, an encoder for it, and adapters with their PEFT folders."""

    kind: str
    encoder: MultiAdapterEncoder
    adapters: list[Adapter]
    folders: list[Path]

    def rows(self, batch: Sequence[tuple[int, int | None]] = MIXED) -> list[Row]:
        return [Row(image(number), None if one is None else self.adapters[one]) for number, one in batch]

    def by_peft(self, batch: Sequence[tuple[int, int | None]] = MIXED) -> list[Features]:
        """Each row by itself, computed by `transformers` and `peft` only."""
        base = load_plain(self.kind, Path(self.encoder.layout.backbone.name))
        model = with_adapters(base, self.folders)
        features = []
        for number, adapter in batch:
            pixels = self.encoder.backbone.pixels([pixels_of(number)], SIDE)
            with torch.no_grad(), chosen(model, adapter):
                alone = KINDS[self.kind].features(model, pixels)
            features.append(Features(cls=alone.cls[0], patches=alone.patches[0]))
        return features

    def by_evaluation(self, batch: Sequence[tuple[int, int | None]] = MIXED) -> list[torch.Tensor]:
        """The CLS (D,) of each row by itself: `peft` under the autocast of our `Backbone`."""
        backbone = load_backbone(self.encoder.layout.backbone)
        model = with_adapters(backbone.model, self.folders)  # changes the backbone's model in place
        rows = []
        for number, adapter in batch:
            with torch.no_grad(), chosen(model, adapter):
                hidden = backbone.prefix(backbone.pixels([pixels_of(number)], SIDE))
                rows.append(backbone.suffix(hidden).cls[0])
        return rows


def with_adapters(model: Any, folders: Sequence[Path]) -> PeftModel:
    """The PEFT folders as adapters "0", "1", … of `model`."""
    first, *others = folders
    made = PeftModel.from_pretrained(model, first, adapter_name="0").eval()
    for index, folder in enumerate(others, start=1):
        made.load_adapter(folder, adapter_name=str(index))
    return made.eval()


@contextmanager
def chosen(model: PeftModel, adapter: int | None) -> Iterator[None]:
    if adapter is None:
        with model.disable_adapter():
            yield
    else:
        model.set_adapter(str(adapter))
        yield


def pixels_of(number: int) -> np.ndarray:
    return shape([*COLOURS.values(), (250, 250, 20)][number], seed=number, size=SIDE)[0]


def image(number: int) -> ImageInput:
    return ImageInput(pixels_of(number))  # not the same array for the same image


def served(kind: str, folder: Path, precision: str = "float32") -> Served:
    save_vit(kind, folder / "vit")
    config = BackboneConfig(name=str(folder / "vit"), adapted_blocks=ADAPTED, image_size=SIDE, precision=precision)  # type: ignore[arg-type]
    encoder = MultiAdapterEncoder(load_backbone(config).to("cpu"), config)
    adapters, folders = [], []
    for number, (rank, alpha) in enumerate(RANKS_AND_ALPHAS):
        section = LoraSection(r=rank, alpha=alpha)
        lora = LoraBackbone(load_backbone(config), section, base_name=config.name)
        lora.load(adapter_state(lora, number, size=0.3))
        files = lora.files()
        adapters.append(parsed(files, encoder))
        folders.append(folder / str(number))
        folders[-1].mkdir()
        for name, content in files.items():
            (folders[-1] / name).write_bytes(content)
    return Served(kind, encoder, adapters, folders)


def parsed(files: dict[str, bytes], encoder: MultiAdapterEncoder) -> Adapter:
    """The adapter in a PEFT folder's files, with arbitrary prototypes."""
    card = {
        "config": {"backbone": encoder.layout.backbone.model_dump(mode="json")},
        "threshold": 0.0,
        "calibration": {"slope": 1.0, "intercept": 0.0},
    }
    others = {
        "card.json": json.dumps(card).encode(),
        "prototypes.safetensors": save({"cls": np.ones((1, encoder.layout.width), np.float32)}),
    }
    return parse_adapter(AdapterRef("mug", "v1"), {**files, **others}, encoder.layout, dtype=encoder.dtype)


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return served("dinov2", tmp_path_factory.mktemp("dinov2"))


def keep(served: Served, limit: int) -> None:
    """From now on the encoder keeps what it computes, up to `limit` bytes."""
    served.encoder._prefixes = Lru(limit, size=nbytes)


@pytest.fixture(autouse=True)
def nothing_kept(request: pytest.FixtureRequest) -> None:
    """Tests that share an encoder do not share its cache."""
    if "dino" in request.fixturenames:
        keep(request.getfixturevalue("dino"), 2**20)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_batch_equals_each_adapter_alone_by_peft(kind: str, tmp_path: Path) -> None:
    one = served(kind, tmp_path)
    expected = one.by_peft()
    for _ in range(2):  # the second time from kept prefixes
        found = one.encoder.encode(one.rows())
        assert found.cls.dtype == found.patches.dtype == torch.float32
        assert found.patches.shape == (len(MIXED), 16, 32)
        for index, alone in enumerate(expected):
            torch.testing.assert_close(found.cls[index], alone.cls, atol=1e-4, rtol=0)
            torch.testing.assert_close(found.patches[index], alone.patches, atol=1e-4, rtol=0)
    # or else a wrong adapter would pass: on one image no two of them agree
    for left, right in ((0, 1), (0, 3), (1, 3), (2, 4), (2, 7), (4, 7)):
        assert (expected[left].cls - expected[right].cls).abs().max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_it_is_as_near_to_the_truth_as_evaluation_is(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("backbones.backbone", "serving.engine.encoder"):  # also on a CPU that emulates it
        monkeypatch.setattr(f"persrep_ray.{module}.computes_bfloat16", lambda device: True)
    # Evaluation runs the same adapters by `peft` under autocast. Both round, each in an order of its own, so neither
    # equals the other; but where thresholds are applied, features must be no worse than where they were chosen.
    one = served(kind, tmp_path, precision="bfloat16")
    found, evaluated, exact = one.encoder.encode(one.rows()).cls, one.by_evaluation(), one.by_peft()
    errors = [
        [float((cls - truth.cls).norm() / truth.cls.norm()) for cls in rows]
        for *rows, truth in zip(found, evaluated, exact, strict=True)
    ]
    ours, theirs = np.array(errors).T
    assert 2**-12 < ours.mean() < 1.5 * theirs.mean()  # it does round; 2 ** -9 is one rounding
    assert ours.max() < 2 * theirs.max() < 0.1


def test_a_backbone_without_query_key_and_value_is_refused(dino: Served) -> None:
    config = dino.encoder.layout.backbone
    backbone = load_backbone(config)
    fused: Any = backbone.blocks[1].get_submodule("attention")
    del fused.k_proj
    fused.kv = nn.Linear(32, 64)
    with pytest.raises(BackboneError, match=r"encoder\.layer\.1 has .*attention\.kv \(32 -> 64\)"):
        MultiAdapterEncoder(backbone, config)


def test_rows_without_an_adapter_are_exactly_the_pretrained(dino: Served) -> None:
    plain = load_backbone(dino.encoder.layout.backbone).to("cpu")
    with torch.no_grad():
        hidden = plain.prefix(plain.pixels([pixels_of(number) for number in range(4)], SIDE))
        expected = plain.suffix(hidden)
    beside_others = dino.encoder.encode(dino.rows([(0, None), (1, 2), (2, None), (3, 0)]))
    for index in (0, 2):
        assert torch.equal(beside_others.cls[index], expected.cls[index])
        assert torch.equal(beside_others.patches[index], expected.patches[index])
    alone = dino.encoder.encode(dino.rows([(number, None) for number in range(4)]))
    assert torch.equal(alone.cls, expected.cls) and torch.equal(alone.patches, expected.patches)


def test_after_a_batch_nothing_sticks(dino: Served) -> None:
    pretrained = dino.encoder.encode(dino.rows([(0, None), (1, None)]))
    first = dino.encoder.encode(dino.rows([(0, 0), (1, 2)]))
    assert torch.equal(dino.encoder.encode(dino.rows([(0, None), (1, None)])).cls, pretrained.cls)
    assert torch.equal(dino.encoder.encode(dino.rows([(0, 0), (1, 2)])).cls, first.cls)


def test_after_a_failure_nothing_sticks(dino: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrained = dino.encoder.encode(dino.rows([(0, None)])).cls
    suffix = dino.encoder.backbone.suffix

    def fails(hidden: torch.Tensor) -> Features:
        suffix(hidden)
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(dino.encoder.backbone, "suffix", fails)
        with pytest.raises(RuntimeError):
            dino.encoder.encode(dino.rows([(0, 1)]))
    assert torch.equal(dino.encoder.encode(dino.rows([(0, None)])).cls, pretrained)


def test_an_adapter_whose_values_overflow_spoils_no_other_row(dino: Served) -> None:
    good = dino.adapters[1]
    wild = Adapter(good.ref, good.a * 1e30, good.b * 1e30, good.cls, None, None, 0.0, 1.0, 0.0)
    rows = dino.rows([(0, 0), (0, None), (1, 2)])
    expected = dino.encoder.encode([*rows, Row(image(1), good)])
    found = dino.encoder.encode([*rows, Row(image(1), wild)])
    assert not found.cls[3].isfinite().all()
    assert torch.equal(found.cls[:3], expected.cls[:3]) and torch.equal(found.patches[:3], expected.patches[:3])


def test_a_lora_that_does_nothing_is_the_pretrained(dino: Served) -> None:
    good = dino.adapters[1]
    nothing = Adapter(good.ref, good.a, torch.zeros_like(good.b), good.cls, None, None, 0.0, 1.0, 0.0)
    found = dino.encoder.encode([Row(image(0), nothing), Row(image(0), None)])
    assert torch.equal(found.cls[0], found.cls[1])


def test_the_order_of_the_rows_does_not_matter(dino: Served) -> None:
    forth, back = dino.encoder.encode(dino.rows()), dino.encoder.encode(dino.rows()[::-1])
    torch.testing.assert_close(back.cls.flip(0), forth.cls, atol=1e-5, rtol=0)


class TestPrefix:
    @pytest.fixture
    def computed(self, dino: Served, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """How many images each call of the prefix got."""
        calls: list[int] = []
        prefix = Backbone.prefix

        def counted(self: Backbone, pixels: torch.Tensor) -> torch.Tensor:
            calls.append(len(pixels))
            return prefix(self, pixels)

        monkeypatch.setattr(Backbone, "prefix", counted)
        return calls

    def test_is_computed_once_for_each_distinct_image(self, dino: Served, computed: list[int]) -> None:
        dino.encoder.encode(dino.rows())
        assert computed == [4]

    def test_is_kept_for_later_batches(self, dino: Served, computed: list[int]) -> None:
        dino.encoder.encode(dino.rows([(0, 0), (1, 1)]))
        dino.encoder.encode(dino.rows([(0, 2), (1, None)]))
        dino.encoder.encode(dino.rows([(0, 1), (2, 1)]))
        assert computed == [2, 1]

    def test_keeps_no_more_than_its_share_and_forgets_the_oldest(self, dino: Served, computed: list[int]) -> None:
        size = 17 * 32 * 4  # tokens, width, float32
        keep(dino, 2 * size)
        for batch in ((1, 0), (1,), (2,), (1,), (0,)):  # 2 displaces 0, as 1 was used since; 0 then displaces 2
            dino.encoder.encode(dino.rows([(number, 0) for number in batch]))
        assert computed == [2, 1, 1]
        kept = [dino.encoder._prefixes.get(key) for key in dino.encoder._prefixes.keys()]  # noqa: SIM118
        assert len(kept) == 2
        assert sum(one.untyped_storage().nbytes() for one in kept if one is not None) == 2 * size  # no larger batch

    def test_a_batch_of_more_images_than_are_kept(self, dino: Served, computed: list[int]) -> None:
        expected = dino.encoder.encode(dino.rows())
        keep(dino, 1)
        found = dino.encoder.encode(dino.rows())
        assert torch.equal(found.cls, expected.cls) and not len(dino.encoder._prefixes)

    def test_of_another_size_is_another_image(self, dino: Served, computed: list[int]) -> None:
        small = np.full((28, 28, 3), 7, np.uint8)
        large = np.full((56, 14, 3), 7, np.uint8)  # the same bytes, in another shape
        assert ImageInput(small).digest != ImageInput(large).digest
        assert ImageInput(small).digest == ImageInput(small.copy()).digest


def test_images_of_another_side_have_another_grid(dino: Served) -> None:
    large = ImageInput(shape(COLOURS["red"], seed=9, size=112)[0])
    features = dino.encoder.encode([Row(large, dino.adapters[0]), Row(large, None)])
    assert features.patches.shape == (2, 64, 32)


def test_the_embedded_backbone_equals_peft_too(tmp_path: Path) -> None:
    config = BackboneConfig(precision="float32")
    lora = LoraBackbone(load_backbone(config), LoraSection(), base_name=config.name)
    lora.load(adapter_state(lora, 1, size=0.05))
    for name, content in lora.files().items():
        (tmp_path / name).write_bytes(content)
    encoder = MultiAdapterEncoder(load_backbone(config).to("cpu"), config)
    seen = ImageInput(shape(COLOURS["red"], seed=1, size=config.image_size)[0])
    found = encoder.encode([Row(seen, None), Row(seen, parsed(lora.files(), encoder))])

    base = hf.AutoModel.from_pretrained(local_checkpoint("embedded"))
    model = PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        hidden = model(pixel_values=encoder.backbone.pixels([seen.pixels], config.image_size)).last_hidden_state
    torch.testing.assert_close(found.cls[1], hidden[0, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.patches[1], hidden[0, 1:], atol=1e-4, rtol=0)
    assert (found.cls[1] - found.cls[0]).abs().max() > 0.05
