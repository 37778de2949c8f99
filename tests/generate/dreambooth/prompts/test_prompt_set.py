"""The prompts that actors use, and what users are told about prompts that cannot be used."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from persrep_ray.config import ConfigError, DreamBoothConfig, GenerateConfig, PromptConfig, RunConfig, load_config
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.dreambooth.prompts import prompt_file, prompt_set
from persrep_ray.generate.dreambooth.prompts.bank import load_bank
from persrep_ray.generate.dreambooth.prompts.prompt_set import PromptError, PromptSet, build_prompts, prompts_of_run
from persrep_ray.storage.store import open_store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "prompts.json"


def from_file(path: Path, content: Any, **dreambooth: Any) -> PromptSet:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    config = PromptConfig(source="file", file=str(path))
    return build_prompts(GenerateConfig(prompts=config, dreambooth=DreamBoothConfig(**dreambooth)))


def from_bank(**dreambooth: Any) -> PromptSet:
    return build_prompts(GenerateConfig(dreambooth=DreamBoothConfig(**dreambooth)))


# --- the bank and a language model's templates ------------------------------------------------------------------------


def test_positives_contain_token_and_category_and_negatives_only_the_category() -> None:
    prompts = from_bank(token="sks")
    positives, negatives = prompts.positives("cup_1", "teacup"), prompts.negatives("teacup")
    assert len(positives) == len(negatives) == len(load_bank("rigid"))
    for positive, negative in zip(positives, negatives, strict=True):
        assert positive.count("sks teacup") == 1
        assert positive.replace("sks teacup", "a teacup") == negative


def test_a_category_gets_the_scenes_of_its_kind() -> None:
    prompts = from_bank()
    assert len(prompts.negatives("dog")) == len(load_bank("animal"))
    assert any("worn by" in prompt for prompt in prompts.positives("s", "sneaker"))


def test_instance_and_class_prompt() -> None:
    assert from_bank().instance("mug") == "a photo of <new1> mug"
    assert from_bank().class_prompt("mug") == "a photo of a mug"
    assert from_bank().class_prompt("umbrella") == "a photo of an umbrella"
    assert from_bank().class_prompt("stuffed_animal") == "a photo of a stuffed animal"


def test_objects_without_a_category_use_the_configured_category() -> None:
    prompts = from_bank(category="mug")
    assert prompts.instance(None) == "a photo of <new1> mug"
    assert prompts.instance("tin") == "a photo of <new1> tin"


@pytest.mark.parametrize("category", [None, "", "  ", "_"])
def test_without_any_category_the_error_says_where_to_name_it(category: str | None) -> None:
    rule = (
        r"generate: DreamBooth needs its category; name it in \*_info\.json \(class_to_sc\) or set "
        r"generate\.dreambooth\.category$"
    )
    prompts = from_bank()
    with pytest.raises(PromptError, match=f"^object mug_3: {rule}"):
        prompts.positives("mug_3", category)
    for ask in (prompts.negatives, prompts.instance, prompts.class_prompt):
        with pytest.raises(PromptError, match=f"^{rule}"):
            ask(category)


@pytest.mark.parametrize(
    ("category", "cause"), [("<new1> mug", "contains the token '<new1>'"), ("mug\n", None), ("m\x00g", "printed")]
)
def test_categories_that_would_spoil_a_prompt(category: str, cause: str | None) -> None:
    if cause is None:
        assert from_bank().instance(category) == "a photo of <new1> mug"
        return
    with pytest.raises(PromptError, match=f"object mug_3: generate: the category .*{cause}"):
        from_bank().positives("mug_3", category)


def test_templates_by_a_language_model_replace_the_bank_in_their_category() -> None:
    prompts = build_prompts(GenerateConfig(), {"tea_pot": ["a photo of {token} {category} on ice"]})
    assert prompts.positives("p", "tea pot") == ["a photo of <new1> tea pot on ice"]
    assert prompts.negatives("tea_pot") == ["a photo of a tea pot on ice"]
    assert len(prompts.negatives("mug")) == len(load_bank("rigid"))


def test_something_that_is_not_a_template_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'mug': 'a photo of a mug': .* not 0 times"):
        build_prompts(GenerateConfig(), {"mug": ["a photo of a mug"]})


# --- a user's file ----------------------------------------------------------------------------------------------------


def test_prompts_of_a_file_are_used_as_they_are(path: Path) -> None:
    prompts = from_file(path, {"rex": [" A <new1> dog at the <new1> dog park", "A <new1> dog", "A <new1> dog "]})
    assert prompts.positives("rex", "dog") == ["A <new1> dog at the <new1> dog park", "A <new1> dog"]
    assert prompts.positives("rex", None) == prompts.positives("rex", "dog")
    assert not any("<new1>" in prompt for prompt in prompts.negatives("dog"))


def test_an_object_that_the_file_lacks_fails_and_others_do_not(path: Path) -> None:
    prompts = from_file(path, {"mug_1": ["<new1> mug"], "mug_2": ["<new1> mug"], "tin_1": ["<new1> tin"]})
    with pytest.raises(PromptError) as caught:
        prompts.positives("mug_3", "mug")
    assert str(caught.value) == f"object mug_3: generate: {path} has no prompts for it; it has mug_2, mug_1"
    with pytest.raises(PromptError, match=r"has no prompts for it$"):
        prompts.positives("zebra", "mug")
    assert prompts.positives("mug_1", "mug") == ["<new1> mug"]


@pytest.mark.parametrize(
    ("prompt", "token", "uses"),
    [
        ("a <new2> mug", "<new1>", ", it uses '<new2>'"),
        ("a <New1> mug", "<new1>", ", it uses '<New1>'"),
        ("a sks mug", "<new1>", ", it uses 'sks'"),
        ("a <new1> mug", "sks", ", it uses '<new1>'"),
        ("desks and tasks", "sks", ""),
        ("a mug", "<new1>", ""),
    ],
)
def test_a_prompt_without_the_token_is_named(path: Path, prompt: str, token: str, uses: str) -> None:
    prompts = from_file(path, {"mug_3": [f"a {token} mug", prompt], "mug_1": [f"{token} mug"]}, token=token)
    with pytest.raises(PromptError) as caught:
        prompts.positives("mug_3", "mug")
    assert str(caught.value) == (
        f"object mug_3: generate: {path}: prompt 2 lacks the token {token!r}{uses}: {prompt!r}"
    )
    assert prompts.positives("mug_1", "mug") == [f"{token} mug"]


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("<html>", "not readable as JSON"),
        ("", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ('{"a": ["<new1>"], "a": ["<new1>"]}', "the key 'a' occurs twice"),
        ([], "expected {object: [prompts]}, got list"),
        ({"a": []}, "key 'a': expected a list of one or more prompts"),
        ({"a": "<new1> mug"}, "key 'a': expected a list of one or more prompts"),
        ({"a": {"b": 1}}, "key 'a': expected a list of one or more prompts"),
        ({"a": ["<new1>", 7]}, "key 'a': prompt 2: expected a printable line"),
        ({"a": ["  "]}, "key 'a': prompt 1: expected a printable line"),
        ({"a": ["<new1>\x1b[31m"]}, "key 'a': prompt 1: expected a printable line"),
        ({"a": ["<new1> " + "m" * 500]}, "key 'a': prompt 1: expected a printable line of 1 to 500"),
    ],
)
def test_an_unusable_file_is_named_with_the_key(path: Path, content: Any, cause: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_file(path, content)
    assert str(caught.value).startswith(f"{path}: ")
    assert cause in str(caught.value)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_too_large_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = GenerateConfig(prompts=PromptConfig(source="file", file=str(path)))
    with pytest.raises(ConfigError, match=r"prompts\.json: cannot be read: No such file"):
        build_prompts(config)
    path.write_text('{"a": ["<new1>"]}')
    monkeypatch.setattr(prompt_file, "_MAX_BYTES", 16)
    with pytest.raises(ConfigError, match=r"prompts\.json: .*17 bytes, the limit is 16"):
        build_prompts(config)


def test_prompts_of_many_objects_are_small_to_send(path: Path) -> None:
    texts = [f"A <new1> mug in place {number}" for number in range(100)]
    prompts = from_file(path, {f"mug_{number}": texts for number in range(1000)})
    sent = pickle.dumps(prompts)
    assert len(sent) < 50_000  # a single list of 100 prompts; a thousand of them would be 3 MB
    assert pickle.loads(sent) == prompts


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["source=file"], "None is not allowed; it must be the path of a JSON file"),
        (["source=file", "file=''"], "'' is not allowed; it must be the path of a JSON file"),
        (["file=x.json"], "'x.json' is not allowed; it must be null, because generate.prompts.source is bank"),
        (
            ["source=llm", "file=x.json"],
            "'x.json' is not allowed; it must be null, because generate.prompts.source is llm",
        ),
    ],
)
def test_a_file_must_be_named_if_it_is_the_source_and_only_then(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"generate.prompts.{override}" for override in overrides])
    assert str(caught.value).startswith(f"generate.prompts.file: {message}")


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a language model is asked for; it writes a template for each category."""
    calls: list[dict[str, Any]] = []

    def write(
        categories: Mapping[str, Any], config: Any, writer: Any, warn: Callable[[str], None]
    ) -> Iterator[tuple[str, list[str]]]:
        calls.append(dict(categories))
        warn("hm")
        for category in categories:
            if category == "unspeakable":
                raise KeyboardInterrupt
            if category != "down":
                yield category, [f"a photo of {{token}} {{category}} near {category} number {len(calls)}"]

    monkeypatch.setattr(prompt_set, "write_prompts", write)
    monkeypatch.setenv("PERSREP_LLM_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("PERSREP_LLM_MODEL", "some")
    return calls


def llm() -> RunConfig:
    return load_config(None, ["generate.prompts.source=llm", "generate.dreambooth.category=thing"])


def test_each_category_is_asked_for_once_in_a_run(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    folder, warnings = RunFolder(open_store(tmp_path)), list[str]()
    prompts = prompts_of_run(llm(), folder, ["mug", "dog", "mug", None], warnings.append)
    assert asked == [{"dog": "animal", "mug": "rigid", "thing": "rigid"}]
    assert warnings == ["hm"]
    again = prompts_of_run(llm(), folder, ["mug", "boot"], warnings.append)
    assert asked[1:] == [{"boot": "clothes"}]
    assert again.positives("a", "mug") == prompts.positives("a", "mug") == ["a photo of <new1> mug near mug number 1"]
    assert prompts.positives("b", None) == ["a photo of <new1> thing near thing number 1"]
    assert folder.read_json(folder.prompts).keys() == {"boot", "dog", "mug", "thing"}


def test_written_prompts_outlive_the_process_and_only_missing_ones_are_asked_for_again(
    asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    folder = RunFolder(open_store(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        prompts_of_run(llm(), folder, ["down", "mug", "unspeakable"], print)
    prompts = prompts_of_run(llm(), folder, ["down", "mug"], print)
    assert asked[1:] == [{"down": "rigid"}]
    assert prompts.positives("a", "mug") == ["a photo of <new1> mug near mug number 1"]
    assert len(prompts.positives("b", "down")) >= 60, "those of the bank"


def test_no_language_model_is_asked_if_the_bank_is_the_source(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    assert (
        len(prompts_of_run(load_config(), RunFolder(open_store(tmp_path)), ["mug"], print).positives("a", "mug")) >= 60
    )
    assert not asked and not list(tmp_path.iterdir())


def test_a_missing_endpoint_is_an_error(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERSREP_LLM_URL")
    with pytest.raises(ConfigError, match="PERSREP_LLM_URL"):
        prompts_of_run(llm(), RunFolder(open_store(tmp_path)), ["mug"], print)
