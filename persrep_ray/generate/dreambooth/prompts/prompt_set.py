"""The prompts of a run as plain data, which the actors that fine-tune and sample receive."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from persrep_ray.config import GenerateConfig, PromptConfig, RunConfig
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.dreambooth.prompts.bank import kind_for, load_bank
from persrep_ray.generate.dreambooth.prompts.grammar import with_article
from persrep_ray.generate.dreambooth.prompts.prompt_file import read_prompt_file
from persrep_ray.generate.dreambooth.prompts.template import problem_of, tidied, with_token, without_token
from persrep_ray.generate.dreambooth.prompts.writer import OpenAiWriter, write_prompts

_LOOKS_LIKE_A_TOKEN = re.compile(r"<[^\s<>]{1,32}>|\b(?:sks|ohwx|zwx)\b", re.IGNORECASE)  # usual tokens
_MOST_COMPARED = 2000  # ids that are searched for the hint of a message


class PromptError(ValueError):
    """There are no prompts for an object, so the object fails. The message is one line."""


@dataclass(frozen=True)
class PromptSet:
    """The prompts for every object of a run.

    Attributes:
        token: the word that stands for the object.
        category: the category of objects that have none.
        config: the section `generate.prompts`.
        by_object: the prompts of the user's file, used verbatim.
        by_category: templates by a language model; a category without any uses the bank.
    """

    token: str
    category: str | None
    config: PromptConfig
    by_object: Mapping[str, tuple[str, ...]]
    by_category: Mapping[str, tuple[str, ...]]

    def positives(self, object_id: str, category: str | None) -> list[str]:
        """Prompts for the object in new scenes, each with the token. Raises PromptError, which names the object."""
        if self.config.source == "file":
            return self._from_file(object_id)
        try:
            noun = self._noun(category)
        except PromptError as error:
            raise PromptError(f"object {object_id}: {error}") from None
        return [with_token(template, self.token, noun) for template in self._templates(noun)]

    def negatives(self, category: str | None) -> list[str]:
        """Prompts for any object of the category, without the token: `a photo of a mug on …`. Raises PromptError.

        With a user's file they come from the bank, because removing the token from free text may leave nonsense
        (`a photo of <new1>, red, on a table`).
        """
        noun = self._noun(category)
        return [without_token(template, noun) for template in self._templates(noun)]

    def instance(self, category: str | None) -> str:
        """The prompt for the object's photos: `a photo of <new1> mug`. Raises PromptError."""
        return f"a photo of {self.token} {self._noun(category)}"

    def class_prompt(self, category: str | None) -> str:
        """The prompt for class images: `a photo of a mug`. Raises PromptError."""
        return f"a photo of {with_article(self._noun(category))}"

    def _templates(self, noun: str) -> tuple[str, ...]:
        return self.by_category.get(noun) or load_bank(kind_for(noun, self.config))

    def _noun(self, category: str | None) -> str:
        """The category as words of a prompt: `stuffed animal` for `stuffed_animal`."""
        noun = _words(category or self.category or "")
        if not noun:
            raise PromptError(
                "generate: DreamBooth needs its category; name it in *_info.json (class_to_sc) or set "
                "generate.dreambooth.category"
            )
        if not noun.isprintable():
            raise PromptError(f"generate: the category {noun!r:.100} contains characters that cannot be printed")
        if _contains(noun, self.token):
            raise PromptError(
                f"generate: the category {noun!r:.100} contains the token {self.token!r} (generate.dreambooth.token), "
                "which must stand only for the object"
            )
        return noun

    def _from_file(self, object_id: str) -> list[str]:
        prompts = self.by_object.get(object_id)
        if prompts is None:
            near = difflib.get_close_matches(object_id, _likely(object_id, self.by_object), n=3)
            hint = f"; it has {', '.join(near)}" if near else ""
            raise PromptError(f"object {object_id}: generate: {self.config.file} has no prompts for it{hint}")
        for number, prompt in enumerate(prompts, start=1):
            if not _contains(prompt, self.token):
                other = _LOOKS_LIKE_A_TOKEN.search(prompt)
                uses = f", it uses {other[0]!r}" if other else ""
                raise PromptError(
                    f"object {object_id}: generate: {self.config.file}: prompt {number} lacks the token "
                    f"{self.token!r}{uses}: {prompt!r:.120}"
                )
        return list(dict.fromkeys(prompts))  # the files of the reference repeat many of them


def build_prompts(config: GenerateConfig, written: Mapping[str, Iterable[str]] | None = None) -> PromptSet:
    """The prompts of a run; reads the user's file if `generate.prompts.source` is `file`.

    Args:
        config: the section `generate`.
        written: category -> templates, from `write_prompts`.

    Raises:
        ConfigError: the file is unusable; names the file and the key.
        ValueError: `written` contains something that is not a template.
    """
    by_category = {_words(category): tuple(templates) for category, templates in (written or {}).items()}
    for category, templates in by_category.items():
        for template in templates:
            if problem := problem_of(template):
                raise ValueError(f"prompts: category {category!r}: {template!r:.100}: {problem}")
    prompts = config.prompts
    by_object = read_prompt_file(prompts.file) if prompts.source == "file" and prompts.file else {}
    return PromptSet(config.dreambooth.token, config.dreambooth.category, prompts, by_object, by_category)


def prompts_of_run(
    config: RunConfig, folder: RunFolder, categories: Iterable[str | None], warn: Callable[[str], None]
) -> PromptSet:
    """The prompts for objects of these categories.

    If a language model is their source, it is asked for the categories that it has not written for yet. Its answers are
    kept in the run folder, because it would not write them twice.

    Raises:
        ConfigError: the prompt file is unusable, or the environment names no endpoint.
    """
    generate = config.generate
    if generate.prompts.source != "llm":
        return build_prompts(generate)
    written = folder.read_json(folder.prompts) if folder.exists(folder.prompts) else {}
    named = {category or generate.dreambooth.category for category in categories}
    missing = {one: kind_for(one, generate.prompts) for one in sorted(filter(None, named)) if one not in written}
    if missing:
        writer = OpenAiWriter.from_environment(generate.prompts)
        for category, templates in write_prompts(missing, generate.prompts, writer, warn):
            written[category] = templates
            folder.write_json(folder.prompts, written)  # at once, because answers cost money
    return build_prompts(generate, written)


def _words(category: str) -> str:
    return tidied(category.replace("_", " "))


def _contains(text: str, token: str) -> bool:
    """Whether the token is a word of the text: `tasks` does not contain `sks`."""
    return re.search(rf"(?<!\w){re.escape(token)}(?!\w)", text) is not None


def _likely(object_id: str, ids: Iterable[str]) -> list[str]:
    """Ids that may be meant. Comparing with a hundred thousand would take seconds for each missing object."""
    alike = (one for one in ids if one[:2].lower() == object_id[:2].lower())
    return list(itertools.islice(alike, _MOST_COMPARED))
