"""Presets, files and overrides, and error messages of one line that name the key and what is allowed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from persrep_ray.config import PRESETS, ConfigError, RunConfig, load_config, recorded_config


def message(*overrides: str, source: str | Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def leaf_keys(section: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += leaf_keys(inner, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


@pytest.fixture
def yaml_file(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


# --- presets ---------------------------------------------------------------------------------------------------------


def test_workers_of_an_object_do_not_share_a_gpu() -> None:
    with pytest.raises(ConfigError, match=r"train\.gpus_per_worker: 0\.5 .* NCCL cannot have two"):
        load_config(None, ["train.gpus_per_worker=0.5", "train.workers_per_object=2"])
    assert load_config(None, ["train.gpus_per_worker=0.5"]).train.gpus_per_worker == 0.5


def test_without_a_source_the_default_preset_is_loaded() -> None:
    assert load_config() == load_config("default") == RunConfig()


def test_the_preset_paper_is_the_recipe_of_the_paper() -> None:
    config = load_config("paper")
    train = config.train
    assert (train.lora.r, train.lora.alpha, train.lora.dropout) == (16, 0.5, 0.3)
    assert (train.learning_rate, train.betas, train.weight_decay) == (3e-4, (0.5, 0.999), 0.0)
    assert (train.loss, train.temperature, train.batch.anchors) == ("info_nce", 0.07, 16)
    assert (train.steps - 1) * 16 < 2 * 4500 <= train.steps * 16
    assert config.backbone.adapted_blocks == "all"
    assert config.generate.positives == 450


def test_the_preset_debug_takes_ten_steps_in_float32() -> None:
    config = load_config("debug")
    assert (config.train.steps, config.backbone.precision) == (10, "float32")
    assert config.generate.positives <= 8


@pytest.mark.parametrize("preset", PRESETS)
def test_a_config_survives_a_round_trip_through_json(preset: str) -> None:
    config = load_config(preset)
    assert RunConfig.model_validate(json.loads(json.dumps(config.to_dict()))) == config


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().train.steps = 5  # type: ignore[misc]


# --- overrides -------------------------------------------------------------------------------------------------------


def test_overrides_change_their_key_and_nothing_else() -> None:
    before = RunConfig().to_dict()
    before["train"]["steps"] = 7
    before["train"]["lora"]["r"] = 4
    assert load_config(None, ["train.steps=7", "train.lora.r=4"]).to_dict() == before


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.learning_rate=3e-4", 3e-4),  # PyYAML alone reads this as text
        ("train.learning_rate=1E-2", 1e-2),
        ("train.learning_rate=1", 1.0),
        ("train.betas=[0.5, 0.9]", (0.5, 0.9)),
        ("train.cells=3", 3),
        ("train.cells=auto", "auto"),
        ("train.loss=hinge", "hinge"),
        ("backbone.name=facebook/dinov2-base", "facebook/dinov2-base"),
        ("backbone.revision=", None),
        ("backbone.revision='123'", "123"),
        ("backbone.revision=a=b", "a=b"),
        (" train.steps = 9", 9),
    ],
)
def test_values_are_read_as_yaml(override: str, value: object) -> None:
    section, key = override.split("=")[0].strip().split(".")
    assert getattr(getattr(load_config(None, [override]), section), key) == value


def test_later_overrides_win_and_mappings_merge() -> None:
    train = load_config("paper", ["train.steps=1", "train={steps: 2, lora: {r: 8}}"]).train
    assert (train.steps, train.lora.r, train.lora.alpha) == (2, 8, 0.5)


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_overrides_its_preset_and_overrides_win_over_both(yaml_file: Path) -> None:
    yaml_file.write_text("preset: paper\ntrain:\n  steps: 20\n  max_attempts: 4\ngenerate:\n  # positives: 3\n")
    train = load_config(yaml_file, ["train.max_attempts=2"]).train
    assert (train.lora.alpha, train.steps, train.max_attempts) == (0.5, 20, 2)
    assert load_config(str(yaml_file)).train.max_attempts == 4


def test_an_empty_file_is_the_default(yaml_file: Path) -> None:
    yaml_file.write_text("# nothing yet\n")
    assert load_config(yaml_file) == RunConfig()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("train:\n  steps: [1\nseed: 2\n", "run.yaml, line 3: not valid YAML: "),
        ("train:\n  steps: 1\n  steps: 2\n", "run.yaml, line 3: not valid YAML: the key 'steps' occurs twice"),
        ("- train\n", "run.yaml: expected sections of `key: value`, found ['train']"),
        ("seed: \x00\n", "run.yaml: not valid YAML: a character that is not allowed"),
        ("seed: 2020-99-99\n", "run.yaml: not valid YAML: month must be in 1..12"),
        ("seed: " + "[" * 10_000, "run.yaml: not valid YAML: "),
        ("preset: papr\n", "run.yaml: unknown preset 'papr', did you mean 'paper'? Presets: default, paper, debug"),
        ("preset: [paper]\n", "run.yaml: unknown preset ['paper']"),
        ("train:\n  steps: 0\n", "run.yaml: train.steps: 0 is not allowed; it must be an integer >= 1"),
        ("1: 2\n", "run.yaml: unknown key '1'. Allowed keys: seed, "),
    ],
)
def test_a_bad_file_is_named_with_line_or_key(yaml_file: Path, content: str, expected: str) -> None:
    yaml_file.write_text(content)
    assert expected in message(source=yaml_file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"seed: \xff\n")
    assert message(source=tmp_path / "latin.yaml") == f"{tmp_path}/latin.yaml: is not UTF-8 text"
    assert message(source=tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    assert message(source="papr") == (
        "config 'papr' is neither a preset nor a file, did you mean 'paper'? Presets: default, paper, debug"
    )


# --- wrong keys and values -------------------------------------------------------------------------------------------


def test_an_unknown_key_is_named_with_the_closest_key_and_the_allowed_keys() -> None:
    assert message("train.lora.rr=8") == (
        "unknown key 'train.lora.rr', did you mean 'train.lora.r'? Allowed keys of 'train.lora': r, alpha, dropout"
    )
    assert message("steps=5").startswith("unknown key 'steps', did you mean 'train.steps'? Allowed keys: seed, data, ")
    assert message("qqqq=5").startswith("unknown key 'qqqq'. Allowed keys: seed, data, ")


def test_the_error_for_a_renamed_key_gives_its_new_name() -> None:
    assert message("train.heldout.folds=3") == "unknown key 'train.heldout': its name is now 'train.cross_validation'"
    assert (
        message("generate.heldout=3") == "unknown key 'generate.heldout': its name is now 'generate.calibration_images'"
    )


def test_a_recorded_configuration_may_use_the_names_of_an_earlier_version() -> None:
    config = load_config("paper", ["generate.calibration_images=7"])
    old = config.to_dict()
    old["train"]["heldout"] = old["train"].pop("cross_validation")
    old["generate"]["heldout"] = old["generate"].pop("calibration_images")
    assert recorded_config(old, "the card of mug: ") == config
    with pytest.raises(ConfigError, match=r"the card of mug: train\.steps: 0 is not allowed"):
        recorded_config({"train": {"steps": 0}}, "the card of mug: ")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=1.5", "train.steps: 1.5 is not allowed; it must be an integer >= 1"),
        ("train.steps=true", "train.steps: True is not allowed; it must be an integer >= 1"),
        ("train.steps='5'", "train.steps: '5' is not allowed; it must be an integer >= 1"),
        ("train.learning_rate=true", "train.learning_rate: True is not allowed; it must be a number > 0"),
        ("train.learning_rate=.nan", "train.learning_rate: nan is not allowed; it must be a number > 0"),
        ("train.temperature=.inf", "train.temperature: inf is not allowed; it must be a number > 0"),
        ("train.lora.r=300", "train.lora.r: 300 is not allowed; it must be an integer >= 1 and <= 256"),
        (
            "train.loss=triplet",
            "train.loss: 'triplet' is not allowed; it must be 'info_nce', 'info_nce_multi_positive' or 'hinge'",
        ),
        ("train.cells=0", "train.cells: 0 is not allowed; it must be an integer >= 1 or 'auto'"),
        ("train.cells=many", "train.cells: 'many' is not allowed; it must be an integer >= 1 or 'auto'"),
        (
            "train.betas=[0.5, 1.0]",
            "train.betas: [0.5, 1.0] is not allowed; it must be a list of 2, each a number >= 0 and < 1",
        ),
        (
            "generate.object_area=[0.6, 0.1]",
            "generate.object_area: [0.6, 0.1] is not allowed; it must be two numbers with 0 < smallest <= largest <= 1",
        ),
        (
            "generate.object_area=[0.6]",
            "generate.object_area: [0.6] is not allowed; it must be a list of 2, each a number",
        ),
        (
            "train.cross_validation.strengths=[]",
            "train.cross_validation.strengths: [] is not allowed; "
            "it must be a list of 1 or more, each a number >= 0 and <= 2",
        ),
        ("train.symmetric=1", "train.symmetric: 1 is not allowed; it must be true or false"),
        ("backbone.revision=12", "backbone.revision: 12 is not allowed; it must be text or null"),
        ("backbone.name=''", "backbone.name: '' is not allowed; it must be text of at least 1 character"),
        ("train.lora=5", "train.lora: 5 is not allowed; it is a section with the keys r, alpha, dropout"),
        ("train.steps", "override 'train.steps': expected key=value, such as train.steps=50"),
        ("=5", "override '=5': expected key=value, such as train.steps=50"),
        (
            "backbone.name=a: b: c",
            "override 'backbone.name=a: b: c', line 1: not valid YAML: mapping values are not allowed here",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(override: str, expected: str) -> None:
    assert message(override) == expected


def test_further_problems_are_counted_once_for_each_key() -> None:
    text = message("train.cells=0", "generate.actors=0", "train.step=1")
    assert text == "generate.actors: 0 is not allowed; it must be an integer >= 1 or 'auto' (and 2 more)"


@pytest.mark.parametrize("key", leaf_keys())
def test_every_key_says_what_it_allows(key: str) -> None:
    text = message(f"{key}={{wrong: [1, 2]}}")
    assert re.fullmatch(rf"{re.escape(key)}: \{{'wrong': \[1, 2\]\}} is not allowed; it must be .+", text)


def test_a_huge_value_is_cut_in_the_message() -> None:
    assert "…" in message("seed=[" + "1," * 10_000 + "]")
    assert "…" in message("x" * 100_000)
