"""A language model is asked once for each category of a run, whatever becomes of the run's process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import persrep_ray.generate.dreambooth.prompts.of_run as of_run
from persrep_ray.config import ConfigError, RunConfig, load_config
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.dreambooth.prompts.of_run import prompts_of_run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a language model is asked for; it writes one template for each category."""
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

    monkeypatch.setattr(of_run, "write_prompts", write)
    monkeypatch.setenv("PERSREP_LLM_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("PERSREP_LLM_MODEL", "some")
    return calls


def llm() -> RunConfig:
    return load_config(None, ["generate.prompts.source=llm", "generate.dreambooth.category=thing"])


def test_each_category_is_asked_for_once_in_a_run(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    folder, warnings = RunFolder(tmp_path), list[str]()
    book = prompts_of_run(llm(), folder, ["mug", "dog", "mug", None], warnings.append)
    assert asked == [{"dog": "animal", "mug": "rigid", "thing": "rigid"}]
    assert warnings == ["hm"]
    again = prompts_of_run(llm(), folder, ["mug", "boot"], warnings.append)
    assert asked[1:] == [{"boot": "clothes"}]
    assert again.positives("a", "mug") == book.positives("a", "mug") == ["a photo of <new1> mug near mug number 1"]
    assert book.positives("b", None) == ["a photo of <new1> thing near thing number 1"]
    assert json.loads(folder.prompts.read_text()).keys() == {"boot", "dog", "mug", "thing"}


def test_what_was_written_outlives_the_process_and_what_was_not_is_asked_for_again(
    asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        prompts_of_run(llm(), folder, ["down", "mug", "unspeakable"], print)
    book = prompts_of_run(llm(), folder, ["down", "mug"], print)
    assert asked[1:] == [{"down": "rigid"}]
    assert book.positives("a", "mug") == ["a photo of <new1> mug near mug number 1"]
    assert len(book.positives("b", "down")) >= 60, "the bank's"


def test_nobody_is_asked_where_the_bank_is_the_source(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    assert len(prompts_of_run(load_config(), RunFolder(tmp_path), ["mug"], print).positives("a", "mug")) >= 60
    assert not asked and not list(tmp_path.iterdir())


def test_an_endpoint_that_nobody_named(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERSREP_LLM_URL")
    with pytest.raises(ConfigError, match="PERSREP_LLM_URL"):
        prompts_of_run(llm(), RunFolder(tmp_path), ["mug"], print)
