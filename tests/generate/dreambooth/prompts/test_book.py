"""What actors ask of the book, and what users are told about prompts that cannot be used."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from persrep_ray.config import ConfigError, DreamBoothConfig, GenerateConfig, PromptConfig, load_config
from persrep_ray.generate.dreambooth.prompts import prompt_file
from persrep_ray.generate.dreambooth.prompts.bank import load_bank
from persrep_ray.generate.dreambooth.prompts.book import PromptError, PromptSet, build_prompts


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "prompts.json"


def book_of(path: Path, content: Any, **dreambooth: Any) -> PromptSet:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    prompts = PromptConfig(source="file", file=str(path))
    return build_prompts(GenerateConfig(prompts=prompts, dreambooth=DreamBoothConfig(**dreambooth)))


def bank_book(**dreambooth: Any) -> PromptSet:
    return build_prompts(GenerateConfig(dreambooth=DreamBoothConfig(**dreambooth)))


# --- the bank and a language model's templates -----------------------------------------------------------------------


def test_positives_hold_token_and_category_negatives_the_category_alone() -> None:
    book = bank_book(token="sks")
    positives, negatives = book.positives("cup_1", "teacup"), book.negatives("teacup")
    assert len(positives) == len(negatives) == len(load_bank("rigid"))
    for positive, negative in zip(positives, negatives, strict=True):
        assert positive.count("sks teacup") == 1
        assert positive.replace("sks teacup", "a teacup") == negative


def test_a_category_gets_the_scenes_of_its_kind() -> None:
    book = bank_book()
    assert len(book.negatives("dog")) == len(load_bank("animal"))
    assert any("worn by" in prompt for prompt in book.positives("s", "sneaker"))


def test_instance_and_class_prompt() -> None:
    assert bank_book().instance("mug") == "a photo of <new1> mug"
    assert bank_book().class_prompt("mug") == "a photo of a mug"
    assert bank_book().class_prompt("umbrella") == "a photo of an umbrella"
    assert bank_book().class_prompt("stuffed_animal") == "a photo of a stuffed animal"


def test_objects_without_a_category_take_the_configured_one() -> None:
    book = bank_book(category="mug")
    assert book.instance(None) == "a photo of <new1> mug"
    assert book.instance("tin") == "a photo of <new1> tin"


@pytest.mark.parametrize("category", [None, "", "  ", "_"])
def test_without_any_category_the_object_is_told_where_to_give_it(category: str | None) -> None:
    rule = (
        r"generate: DreamBooth needs its category; give it in \*_info\.json \(class_to_sc\) or set "
        r"generate\.dreambooth\.category$"
    )
    book = bank_book()
    with pytest.raises(PromptError, match=f"^object mug_3: {rule}"):
        book.positives("mug_3", category)
    for ask in (book.negatives, book.instance, book.class_prompt):
        with pytest.raises(PromptError, match=f"^{rule}"):
            ask(category)


@pytest.mark.parametrize(
    ("category", "cause"), [("<new1> mug", "holds the token '<new1>'"), ("mug\n", None), ("m\x00g", "printed")]
)
def test_categories_that_would_spoil_a_prompt(category: str, cause: str | None) -> None:
    if cause is None:
        assert bank_book().instance(category) == "a photo of <new1> mug"
        return
    with pytest.raises(PromptError, match=f"object mug_3: generate: the category .*{cause}"):
        bank_book().positives("mug_3", category)


def test_a_language_models_templates_stand_for_the_bank_in_their_category() -> None:
    book = build_prompts(GenerateConfig(), {"tea_pot": ["a photo of {token} {category} on ice"]})
    assert book.positives("p", "tea pot") == ["a photo of <new1> tea pot on ice"]
    assert book.negatives("tea_pot") == ["a photo of a tea pot on ice"]
    assert len(book.negatives("mug")) == len(load_bank("rigid"))


def test_what_is_no_template_does_not_get_into_a_book() -> None:
    with pytest.raises(ValueError, match=r"'mug': 'a photo of a mug': .* not 0 times"):
        build_prompts(GenerateConfig(), {"mug": ["a photo of a mug"]})


# --- a user's file ---------------------------------------------------------------------------------------------------


def test_prompts_of_a_file_are_used_as_they_are(path: Path) -> None:
    book = book_of(path, {"rex": [" A <new1> dog at the <new1> dog park", "A <new1> dog", "A <new1> dog "]})
    assert book.positives("rex", "dog") == ["A <new1> dog at the <new1> dog park", "A <new1> dog"]
    assert book.positives("rex", None) == book.positives("rex", "dog")
    assert not any("<new1>" in prompt for prompt in book.negatives("dog"))


def test_an_object_that_the_file_lacks_fails_alone(path: Path) -> None:
    book = book_of(path, {"mug_1": ["<new1> mug"], "mug_2": ["<new1> mug"], "tin_1": ["<new1> tin"]})
    with pytest.raises(PromptError) as caught:
        book.positives("mug_3", "mug")
    assert str(caught.value) == f"object mug_3: generate: {path} has no prompts for it; it has mug_2, mug_1"
    with pytest.raises(PromptError, match=r"has no prompts for it$"):
        book.positives("zebra", "mug")
    assert book.positives("mug_1", "mug") == ["<new1> mug"]


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
    book = book_of(path, {"mug_3": [f"a {token} mug", prompt], "mug_1": [f"{token} mug"]}, token=token)
    with pytest.raises(PromptError) as caught:
        book.positives("mug_3", "mug")
    assert str(caught.value) == (
        f"object mug_3: generate: {path}: prompt 2 lacks the token {token!r}{uses}: {prompt!r}"
    )
    assert book.positives("mug_1", "mug") == [f"{token} mug"]


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
        book_of(path, content)
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


def test_a_book_of_many_objects_is_small_to_send(path: Path) -> None:
    prompts = [f"A <new1> mug in place {number}" for number in range(100)]
    book = book_of(path, {f"mug_{number}": prompts for number in range(1000)})
    sent = pickle.dumps(book)
    assert len(sent) < 50_000  # one list of 100 prompts, not a thousand: 3 MB
    assert pickle.loads(sent) == book


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["source=file"], "None is not allowed; it must be the path of a JSON file"),
        (["source=file", "file=''"], "'' is not allowed; it must be the path of a JSON file"),
        (["file=x.json"], "'x.json' is not allowed; it must be null, since generate.prompts.source is bank"),
        (
            ["source=llm", "file=x.json"],
            "'x.json' is not allowed; it must be null, since generate.prompts.source is llm",
        ),
    ],
)
def test_a_file_is_given_where_it_is_the_source_and_nowhere_else(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"generate.prompts.{override}" for override in overrides])
    assert str(caught.value).startswith(f"generate.prompts.file: {message}")
