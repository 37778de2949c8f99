"""An adapter that does not fit exactly is refused, and the error says why."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.published import adapter_state, object_files, tiny_checkpoint
from safetensors.numpy import load, save
from safetensors.torch import load as load_torch
from safetensors.torch import save as save_torch

from persrep_ray.backbones.backbone import load_backbone
from persrep_ray.backbones.lora import LoraBackbone, load_lora
from persrep_ray.config import LoraSection
from persrep_ray.serving.engine.adapters import (
    PRETRAINED_FILES,
    AdapterMisfitError,
    Layout,
    parse_adapter,
    pretrained_prototypes,
)
from persrep_ray.serving.engine.answers import AdapterRef
from persrep_ray.serving.engine.encoder import MultiAdapterEncoder
from persrep_ray.serving.engine.errors import AdapterUnusableError
from persrep_ray.tasks.features import normalize

REF = AdapterRef("mug", "v1")
NUMBER, RANK, WIDTH = 3, 4, 32
PATCHES = np.random.default_rng(1).normal(size=(4, 4, WIDTH)).astype(np.float32)
SITE = "base_model.model.encoder.layer.1.attention.q_proj"

Files = dict[str, bytes]
Change = Callable[[Files], None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, Layout, LoraBackbone]:
    """The files of an object, the layout that they fit, and the backbone that made them."""
    config = tiny_checkpoint(tmp_path_factory.mktemp("vit"), rank=RANK)
    lora = load_lora(config)
    layout = MultiAdapterEncoder(load_backbone(config.backbone), config.backbone).layout
    return object_files("mug", config, NUMBER, lora=lora, model=True), layout, lora


@pytest.fixture
def files(made: tuple[Files, Layout, LoraBackbone]) -> Files:
    return dict(made[0])


@pytest.fixture
def layout(made: tuple[Files, Layout, LoraBackbone]) -> Layout:
    return made[1]


def in_json(name: str, key: str, value: Any) -> Change:
    """Sets the dotted `key` in a JSON file; `...` removes it."""

    def change(files: Files) -> None:
        whole = json.loads(files[name])
        *parents, last = key.split(".")
        inner = whole
        for parent in parents:
            inner = inner[parent]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
        files[name] = json.dumps(whole).encode()

    return change


def config(key: str, value: Any) -> Change:
    return in_json("adapter_config.json", key, value)


def card(key: str, value: Any) -> Change:
    return in_json("card.json", key, value)


def content(name: str, data: bytes) -> Change:
    return lambda files: files.update({name: data})


def tensor(name: str, edit: Callable[[torch.Tensor], torch.Tensor | None]) -> Change:
    """Replaces a tensor of the adapter; None removes it. An absent one is edited from zeros."""

    def change(files: Files) -> None:
        tensors = load_torch(files["adapter_model.safetensors"])
        edited = edit(tensors.pop(name, torch.zeros(RANK, WIDTH)))
        files["adapter_model.safetensors"] = save_torch(tensors if edited is None else {**tensors, name: edited})

    return change


def prototype(name: str, edit: Callable[[np.ndarray], np.ndarray | None]) -> Change:
    def change(files: Files) -> None:
        arrays = load(files["prototypes.safetensors"])
        edited = edit(arrays.pop(name))
        files["prototypes.safetensors"] = save(
            arrays if edited is None else {**arrays, name: np.ascontiguousarray(edited)}
        )

    return change


def first(value: float) -> Callable[[Any], Any]:
    """Sets the first number of an array or tensor."""

    def edit(array: Any) -> Any:
        array.reshape(-1)[0] = value
        return array

    return edit


def test_a_sound_version_is_held_as_it_was_published(files: Files, layout: Layout) -> None:
    adapter = parse_adapter(REF, files, layout)

    assert adapter.ref == REF
    assert adapter.a.shape == (6, RANK, WIDTH) and adapter.b.shape == (6, WIDTH, RANK)
    tensors = load_torch(files["adapter_model.safetensors"])
    for index, site in enumerate(layout.sites):  # alpha / r is 2
        assert torch.equal(adapter.a[index], tensors[f"base_model.model.{site}.lora_A.weight"])
        assert torch.equal(adapter.b[index], tensors[f"base_model.model.{site}.lora_B.weight"] * 2)
    arrays = load(files["prototypes.safetensors"])
    np.testing.assert_array_equal(adapter.cls, normalize(arrays["cls"]))
    assert adapter.dense is not None
    np.testing.assert_allclose(adapter.dense.target, arrays["target"], atol=1e-6)
    np.testing.assert_array_equal(adapter.dense.box_means, arrays["box_means"])
    assert (adapter.threshold, adapter.slope, adapter.intercept) == (0.85, 20.0, -17.0)
    assert adapter.model is not None
    found = adapter.model.to_arrays()
    for name in ("discriminant.direction", "discriminant.origin", "discriminant.cut", "recognize.patches.patches"):
        np.testing.assert_array_equal(found[name], arrays[name])
    held = (adapter.a, adapter.b, adapter.cls, adapter.dense.target, adapter.dense.box_means, adapter.model)
    assert adapter.nbytes == sum(one.nbytes for one in held)


def test_the_bytes_of_bfloat16_are_half(files: Files, layout: Layout) -> None:
    full = parse_adapter(REF, files, layout)
    half = parse_adapter(REF, files, layout, dtype=torch.bfloat16)
    assert half.a.dtype == half.b.dtype == torch.bfloat16
    assert full.nbytes - half.nbytes == (full.a.nbytes + full.b.nbytes) // 2
    torch.testing.assert_close(half.b.float(), full.b, atol=0, rtol=2**-8)


@pytest.mark.parametrize("alpha", [1.0, 8.0, 16.0])
def test_the_scale_of_lora_is_applied(files: Files, layout: Layout, alpha: float) -> None:
    plain = parse_adapter(REF, files, layout)
    config("lora_alpha", alpha)(files)
    torch.testing.assert_close(parse_adapter(REF, files, layout).b, plain.b * (alpha / RANK / 2))


def test_without_masks_there_is_nothing_dense(files: Files, layout: Layout) -> None:
    for name in load(files[PROTOTYPES]).keys() - {"cls", "pretrained_cls"}:
        prototype(name, lambda _: None)(files)
    adapter = parse_adapter(REF, files, layout)
    assert adapter.dense is None and adapter.model is None
    assert adapter.nbytes == adapter.a.nbytes + adapter.b.nbytes + adapter.cls.nbytes


def test_half_precision_files_are_fine(files: Files, layout: Layout) -> None:
    whole = parse_adapter(REF, files, layout)
    tensors = load_torch(files["adapter_model.safetensors"])
    files["adapter_model.safetensors"] = save_torch({name: one.bfloat16() for name, one in tensors.items()})
    torch.testing.assert_close(parse_adapter(REF, files, layout).a, whole.a, atol=0, rtol=2**-8)


LORA_A = f"{SITE}.lora_A.weight"
LORA_B = f"{SITE}.lora_B.weight"
MODEL, PROTOTYPES = "adapter_model.safetensors", "prototypes.safetensors"
DIRECTION = "discriminant.direction"
DEEP = b"[" * 100_000
NEARLY_TOO_DEEP = b'{"r": ' + b"[" * 900 + b"]" * 900 + b"}"

MISFITS: dict[str, tuple[Change, str]] = {
    "a missing tensor": (tensor(LORA_A, lambda _: None), f"lacks tensors: {LORA_A} "),
    "an unknown tensor": (tensor("base_model.model.elsewhere", lambda x: x), "unknown tensors: base_model.model.elsew"),
    "another block": (tensor(LORA_A.replace("layer.1", "layer.0"), lambda x: x), r"unknown tensors: .*layer\.0"),
    "another width": (tensor(LORA_A, lambda x: x[:, :-1].clone()), rf"{LORA_A} is \(4, 31\), not \(4, 32\)"),
    "another rank of A": (tensor(LORA_A, lambda x: x[:-1].clone()), rf"{LORA_A} is \(3, 32\), not \(4, 32\)"),
    "another rank of B": (tensor(LORA_B, lambda x: x[:, :-1].clone()), rf"{LORA_B} is \(32, 3\), not \(32, 4\)"),
    "B in place of A": (tensor(LORA_A, lambda x: x.T.contiguous()), rf"{LORA_A} is \(32, 4\), not \(4, 32\)"),
    "NaN": (tensor(LORA_B, first(float("nan"))), f"{LORA_B} has a value that is not a finite number"),
    "infinity": (tensor(LORA_A, first(float("inf"))), f"{LORA_A} has a value that is not a finite number"),
    "beyond float32": (tensor(LORA_A, lambda x: first(1e300)(x.double())), f"{LORA_A} has a value .* finite"),
    "integers": (tensor(LORA_A, lambda x: x.int()), f"{LORA_A} has a value that is not a finite number"),
    "an overflowing scale": (config("lora_alpha", 1e40), "q_proj.* not a finite number"),
    "a declared rank that is not there": (config("r", 8), r"lora_A\.weight is \(4, 32\), not \(8, 32\)"),
    "no rank": (config("r", ...), "adapter_config.json: r is None"),
    "rank 0": (config("r", 0), "r is 0, not within 1..32"),
    "a rank that is a truth value": (config("r", True), "r is True"),
    "a rank in words": (config("r", "4"), "r is '4'"),
    "an enormous rank": (config("r", 10**400), "r is 1000"),
    "no alpha": (config("lora_alpha", ...), "adapter_config.json: lora_alpha is None"),
    "an endless alpha": (config("lora_alpha", float("inf")), "lora_alpha is inf"),
    "an enormous alpha": (config("lora_alpha", 10**400), "lora_alpha is 1000"),
    "another method": (config("peft_type", "LOHA"), "peft_type is 'LOHA', 'LORA' is served"),
    "another base in the config": (config("base_model_name_or_path", "google/vit"), "base_model_name_or_path is 'goo"),
    "other targets": (config("target_modules", ["q_proj"]), r"target_modules is \['q_proj'\]"),
    "targets as a pattern": (config("target_modules", "q_proj|k_proj|v_proj"), "target_modules is 'q_proj|"),
    "targets of another kind": (config("target_modules", [1, 2]), r"target_modules is \[1, 2\]"),
    "other blocks in the config": (config("layers_to_transform", [0, 1]), r"layers_to_transform is \[0, 1\], \[1, 2\]"),
    "all blocks": (config("layers_to_transform", None), "layers_to_transform is None"),
    "rslora": (config("use_rslora", True), "use_rslora is True; plain LoRA is served"),
    "dora": (config("use_dora", True), "use_dora is True; plain"),
    "trained biases": (config("bias", "lora_only"), "bias is 'lora_only'; plain"),
    "a bias of LoRA": (config("lora_bias", True), "lora_bias is True; plain"),
    "ranks by pattern": (config("rank_pattern", {"q_proj": 8}), "rank_pattern is .*; plain"),
    "alphas by pattern": (config("alpha_pattern", {"q_proj": 8}), "alpha_pattern is .*; plain"),
    "other trained modules": (config("modules_to_save", ["layernorm"]), "modules_to_save is .*; plain"),
    "a base that is changed on loading": (config("init_lora_weights", "pissa"), "init_lora_weights is 'pissa'; plain"),
    "a method of a later peft": (config("use_new_thing", {"x": 1}), "use_new_thing is .*; plain"),
    "another backbone": (card("config.backbone.name", "elsewhere"), "with name 'elsewhere', .* is served"),
    "another revision": (card("config.backbone.revision", "v2"), "with revision 'v2', None is served"),
    "another number of blocks": (card("config.backbone.adapted_blocks", 3), "with adapted_blocks 3, 2 is served"),
    "another image size": (card("config.backbone.image_size", 224), "with image_size 224, 56 is served"),
    "no word of the backbone": (card("config", ...), "with name None"),
    "a config that is no object": (card("config", []), "with name None"),
    "a backbone that is no object": (card("config.backbone", "x"), "with name None"),
    "no threshold": (card("threshold", ...), "card.json: threshold is None"),
    "a threshold that is NaN": (card("threshold", float("nan")), "card.json: threshold is nan"),
    "a threshold in words": (card("threshold", "0.5"), "card.json: threshold is '0.5'"),
    "an enormous threshold": (card("threshold", 10**400), "card.json: threshold is 1000"),
    "no calibration": (card("calibration", ...), "no calibration: publish the object again"),
    "half a calibration": (card("calibration.slope", ...), "slope is None"),
    "an endless calibration": (card("calibration.intercept", float("-inf")), "intercept is -inf"),
    "no prototypes": (prototype("cls", lambda _: None), "prototypes.safetensors has no cls: publish"),
    "no rows": (prototype("cls", lambda x: x[:0]), r"cls is float32 \(0, 32\)"),
    "prototypes of another width": (prototype("cls", lambda x: x[:, 1:]), r"cls is float32 \(3, 31\), not \(T, 32\)"),
    "a single row as a vector": (prototype("cls", lambda x: x[0]), r"cls is float32 \(32,\), not \(T, 32\)"),
    "whole prototypes": (prototype("cls", lambda x: x.astype(np.int32)), "cls is int32"),
    "NaN in prototypes": (prototype("cls", first(float("nan"))), "cls has a value that is not a finite"),
    "prototypes beyond float32": (prototype("cls", lambda x: first(1e300)(x.astype(np.float64))), "cls has a value"),
    "prototypes without a length": (prototype("cls", first(1e30)), "cls has a value that is not a finite number"),
    "NaN in the target": (prototype("target", first(float("nan"))), "target has a value that is not a finite"),
    "a target of rows": (prototype("target", lambda x: x[None]), r"target is float32 \(1, 32\), not \(32,\)"),
    "infinite boxes": (prototype("box_means", first(float("inf"))), "box_means has a value that is not a finite"),
    "a target without boxes": (prototype("box_means", lambda _: None), "has no box_means"),
    "NaN in the finder": (prototype(DIRECTION, first(float("nan"))), f"{DIRECTION} has a value that is not a finite"),
    "a finder beyond float32": (prototype(DIRECTION, lambda x: x * np.float32(1e30)), f"{DIRECTION} has a value"),
    "a finder of another width": (prototype(DIRECTION, lambda x: x[1:]), rf"{DIRECTION} is float32 \(31,\)"),
    "a finder of whole numbers": (prototype(DIRECTION, lambda x: x.astype(np.int32)), f"{DIRECTION} is int32"),
    "half a finder": (prototype("discriminant.origin", lambda _: None), "discriminant.origin is missing"),
    "a finder of nothing": (prototype("find.appearance", lambda x: x[:0]), r"find.appearance is float32 \(0, 32\)"),
    "patches of another width": (
        prototype("recognize.patches.patches", lambda x: x[:, 1:]),
        r"recognize.patches.patches has type int8 and shape",
    ),
    "a pickle as adapter": (content(MODEL, pickle.dumps({"x": 1})), f"{MODEL} is not in safetensors"),
    "a pickle as prototypes": (content(PROTOTYPES, pickle.dumps({"x": 1})), f"{PROTOTYPES} is not in safetensors"),
    "nothing as adapter": (content(MODEL, b""), f"{MODEL} is not in safetensors"),
    "a truncated adapter": (lambda files: files.update({MODEL: files[MODEL][:-1]}), f"{MODEL} is not in safetensors"),
    "truncated prototypes": (
        lambda files: files.update({PROTOTYPES: files[PROTOTYPES][:-1]}),
        f"{PROTOTYPES} is not in safetensors",
    ),
    "a header that promises too much": (content(MODEL, b"\xff" * 8 + b"{}"), f"{MODEL} is not in safetensors"),
    "an absent file": (lambda files: files.__delitem__(MODEL), f"{MODEL} is not in safetensors"),
    "an absent card": (lambda files: files.__delitem__("card.json"), "card.json: "),
    "broken JSON": (content("adapter_config.json", b"{"), "adapter_config.json: "),
    "bytes as JSON": (content("card.json", b"\xff\xfe\xfd"), "card.json: "),
    "a list as JSON": (content("card.json", b"[]"), "card.json does not hold an object"),
    "deep JSON": (content("card.json", DEEP), "card.json: "),
    "deep JSON in the config": (content("adapter_config.json", DEEP), "adapter_config.json: "),
    "JSON that is almost too deep": (content("adapter_config.json", NEARLY_TOO_DEEP), "adapter_config.json: "),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_misfit_is_refused_by_name(misfit: str, files: Files, layout: Layout) -> None:
    change, message = MISFITS[misfit]
    change(files)
    with pytest.raises(AdapterMisfitError, match=message):
        parse_adapter(REF, files, layout)


def test_what_a_newer_peft_has_switched_off_is_fine(files: Files, layout: Layout) -> None:
    config("use_future", False)(files)
    config("future_group_size", 16)(files)
    config("other_future", None)(files)
    parse_adapter(REF, files, layout)
    config("use_future", True)(files)
    with pytest.raises(AdapterMisfitError, match="use_future is True"):
        parse_adapter(REF, files, layout)


def test_no_depth_of_json_escapes(files: Files, layout: Layout) -> None:
    # Between what can be read and what can be printed may lie a depth at which printing the value fails.
    config("r", ...)(files)
    start = files["adapter_config.json"][:-1] + b', "r": '
    for depth in range(800, 1000):
        files["adapter_config.json"] = start + b"[" * depth + b"]" * depth + b"}"
        with pytest.raises(AdapterMisfitError, match=r"adapter_config\.json: "):
            parse_adapter(REF, files, layout)


def test_an_adapter_of_another_slot_fits_if_only_its_rank_differs(
    made: tuple[Files, Layout, LoraBackbone], layout: Layout
) -> None:
    backbone = load_backbone(layout.backbone)
    lora = LoraBackbone(backbone, LoraSection(r=2, alpha=1.0), base_name=layout.backbone.name)
    lora.load(adapter_state(lora, 5))
    adapter = parse_adapter(REF, {**made[0], **lora.files()}, layout)
    assert adapter.a.shape == (6, 2, WIDTH)


class TestPretrainedPrototypes:
    def test_are_unit_rows_of_what_was_published(self, files: Files, layout: Layout) -> None:
        found = pretrained_prototypes({name: files[name] for name in PRETRAINED_FILES}, layout)
        np.testing.assert_array_equal(found, normalize(load(files["prototypes.safetensors"])["pretrained_cls"]))
        assert not np.allclose(found, normalize(load(files["prototypes.safetensors"])["cls"]), atol=1e-2)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (prototype("pretrained_cls", lambda _: None), "has no pretrained_cls: publish the object again"),
            (prototype("pretrained_cls", lambda x: x[:, 1:]), r"pretrained_cls is float32 \(3, 31\)"),
            (prototype("pretrained_cls", first(float("nan"))), "pretrained_cls has a value"),
            (content(PROTOTYPES, b"no"), "prototypes.safetensors is not in safetensors"),
            (card("config.backbone.name", "elsewhere"), "with name 'elsewhere'"),  # its features mean nothing here
        ],
    )
    def test_misfits(self, change: Change, message: str, files: Files, layout: Layout) -> None:
        change(files)
        with pytest.raises(AdapterMisfitError, match=message):
            pretrained_prototypes(files, layout)


class TestClassification:
    def test_the_probability_is_the_calibrated_score(self, files: Files, layout: Layout) -> None:
        adapter = parse_adapter(REF, files, layout)
        for score in (-1.0, 0.0, 0.9, 1.0):
            classification = adapter.classification(score)
            assert classification.probability == pytest.approx(1 / (1 + np.exp(17.0 - 20.0 * score)))
            assert classification.match == (score >= 0.85)

    @pytest.mark.parametrize(("slope", "probability"), [(1e308, 1.0), (-1e308, 0.0)])
    def test_a_steep_calibration_does_not_overflow(
        self, slope: float, probability: float, files: Files, layout: Layout
    ) -> None:
        card("calibration.slope", slope)(files)
        assert parse_adapter(REF, files, layout).classification(1.0).probability == probability

    def test_the_score_is_the_largest_cosine_to_a_photo(self, files: Files, layout: Layout) -> None:
        adapter = parse_adapter(REF, files, layout)
        arrays = load(files["prototypes.safetensors"])
        for row in arrays["cls"]:
            assert adapter.classify(7 * row, PATCHES).score == pytest.approx(1.0, abs=1e-6)


@pytest.fixture(scope="module")
def recognizing(made: tuple[Files, Layout, LoraBackbone], tmp_path_factory: pytest.TempPathFactory) -> Files:
    config = tiny_checkpoint(tmp_path_factory.mktemp("vit"), rank=RANK)
    name = made[1].backbone.name
    config = config.model_copy(update={"backbone": config.backbone.model_copy(update={"name": name})})
    return object_files("mug", config, NUMBER, lora=made[2], masks=False, model=True)


class TestRecognizer:
    def test_its_evidence_is_the_probability(self, recognizing: Files, layout: Layout) -> None:
        adapter = parse_adapter(REF, recognizing, layout)
        assert adapter.model is not None and adapter.model.finder is None
        assert adapter.nbytes == adapter.a.nbytes + adapter.b.nbytes + adapter.cls.nbytes + adapter.model.nbytes
        rows = np.random.default_rng(0).normal(size=(20, WIDTH)).astype(np.float32)
        for cls in [*rows, *load(recognizing[PROTOTYPES])["cls"]]:
            found = adapter.classify(cls, PATCHES)
            evidence = float(adapter.model.evidence(cls[None], PATCHES[None])[0])
            assert found.evidence == evidence and found.probability == pytest.approx(1 / (1 + np.exp(-evidence)))
            assert found.match == (evidence >= 0) and found.threshold is None
            assert found.score == pytest.approx(float((adapter.cls @ normalize(cls)).max()))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (prototype("recognize.photos", first(float("nan"))), "recognize.photos has a value that is not finite"),
            (prototype("recognize.photos", lambda x: x[:, 1:]), "recognize.photos has type"),
            (prototype("recognize.cohort", lambda _: None), "recognize.cohort is missing"),
            (prototype("recognize.witness.cls", lambda x: -x), "recognize.witness.cls has slope"),
        ],
    )
    def test_misfits(self, change: Change, message: str, recognizing: Files, layout: Layout) -> None:
        files = dict(recognizing)
        change(files)
        with pytest.raises(AdapterMisfitError, match=message):
            parse_adapter(REF, files, layout)

    def test_values_that_overflow_are_no_answer(self, recognizing: Files, layout: Layout) -> None:
        files = dict(recognizing)
        prototype("recognize.mean", lambda x: np.full_like(x, 3e38))(files)
        with pytest.raises(AdapterUnusableError):
            parse_adapter(REF, files, layout).classify(np.ones(WIDTH, np.float32), PATCHES)
