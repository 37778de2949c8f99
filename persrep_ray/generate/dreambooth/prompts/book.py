"""The prompts of a run, as the actors that train and sample text-to-image models get them: plain data."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from persrep_ray.config import GenerateConfig, PromptConfig
from persrep_ray.generate.dreambooth.prompts.bank import kind_for, load_bank
from persrep_ray.generate.dreambooth.prompts.grammar import with_article
from persrep_ray.generate.dreambooth.prompts.prompt_file import read_prompt_file
from persrep_ray.generate.dreambooth.prompts.template import problem_of, tidied, with_token, without_token

_LOOKS_LIKE_A_TOKEN = re.compile(r"<[^\s<>]{1,32}>|\b(?:sks|ohwx|zwx)\b", re.IGNORECASE)  # what is usual elsewhere
_MOST_COMPARED = 2000  # ids that a message's hint is looked for among


class PromptError(ValueError):
    """An object that there are no prompts for: it fails alone. The message is one line."""


@dataclass(frozen=True)
class PromptSet:
    """What is asked for, for every object of a run; `build_prompts` makes one.

    Attributes:
        token: the word that stands for the object.
        category: of objects that come without one.
        config: `generate.prompts`.
        by_object: the prompts of the user's file, used verbatim.
        by_category: a language model's templates; a category without any uses the bank.
    """

    token: str
    category: str | None
    config: PromptConfig
    by_object: Mapping[str, tuple[str, ...]]
    by_category: Mapping[str, tuple[str, ...]]

    def positives(self, object_id: str, category: str | None) -> list[str]:
        """Prompts of the object in new scenes, each with the token. Raises PromptError, which names the object."""
        if self.config.source == "file":
            return self._of_the_file(object_id)
        try:
            noun = self._noun(category)
        except PromptError as error:
            raise PromptError(f"object {object_id}: {error}") from None
        return [with_token(template, self.token, noun) for template in self._templates(noun)]

    def negatives(self, category: str | None) -> list[str]:
        """Scenes with any object of the category, without the token: `a photo of a mug on …`. Raises PromptError.

        With a user's file they come from the bank: taking the token out of free text leaves no sentence that one
        can rely on (`a photo of <new1>, red, on a table`).
        """
        noun = self._noun(category)
        return [without_token(template, noun) for template in self._templates(noun)]

    def instance(self, category: str | None) -> str:
        """What the object's photos show: `a photo of <new1> mug`. Raises PromptError."""
        return f"a photo of {self.token} {self._noun(category)}"

    def class_prompt(self, category: str | None) -> str:
        """What the images of prior preservation show: `a photo of a mug`. Raises PromptError."""
        return f"a photo of {with_article(self._noun(category))}"

    def _templates(self, noun: str) -> tuple[str, ...]:
        return self.by_category.get(noun) or load_bank(kind_for(noun, self.config))

    def _noun(self, category: str | None) -> str:
        """The category as a prompt's words: `stuffed animal` for `stuffed_animal`."""
        noun = _words(category or self.category or "")
        if not noun:
            raise PromptError(
                "generate: DreamBooth needs its category; give it in *_info.json (class_to_sc) or set "
                "generate.dreambooth.category"
            )
        if not noun.isprintable():
            raise PromptError(f"generate: the category {noun!r:.100} holds characters that cannot be printed")
        if _holds(noun, self.token):
            raise PromptError(
                f"generate: the category {noun!r:.100} holds the token {self.token!r} (generate.dreambooth.token), "
                "which must stand for the object alone"
            )
        return noun

    def _of_the_file(self, object_id: str) -> list[str]:
        prompts = self.by_object.get(object_id)
        if prompts is None:
            near = difflib.get_close_matches(object_id, _likely(object_id, self.by_object), n=3)
            hint = f"; it has {', '.join(near)}" if near else ""
            raise PromptError(f"object {object_id}: generate: {self.config.file} has no prompts for it{hint}")
        for number, prompt in enumerate(prompts, start=1):
            if not _holds(prompt, self.token):
                other = _LOOKS_LIKE_A_TOKEN.search(prompt)
                uses = f", it uses {other[0]!r}" if other else ""
                raise PromptError(
                    f"object {object_id}: generate: {self.config.file}: prompt {number} lacks the token "
                    f"{self.token!r}{uses}: {prompt!r:.120}"
                )
        return list(dict.fromkeys(prompts))  # the reference's own files hold many of them twice


def build_prompts(config: GenerateConfig, written: Mapping[str, Iterable[str]] | None = None) -> PromptSet:
    """The book of a run; reads the user's file where `generate.prompts.source` is `file`.

    Args:
        config: the section `generate`.
        written: category -> templates, of `write_prompts`.

    Raises:
        ConfigError: the file is unusable; names the file and the key.
        ValueError: one of `written` is no template.
    """
    by_category = {_words(category): tuple(templates) for category, templates in (written or {}).items()}
    for category, templates in by_category.items():
        for template in templates:
            if problem := problem_of(template):
                raise ValueError(f"prompts: category {category!r}: {template!r:.100}: {problem}")
    prompts = config.prompts
    by_object = read_prompt_file(Path(prompts.file)) if prompts.source == "file" and prompts.file else {}
    return PromptSet(config.dreambooth.token, config.dreambooth.category, prompts, by_object, by_category)


def _words(category: str) -> str:
    return tidied(category.replace("_", " "))


def _holds(text: str, token: str) -> bool:
    """Whether the token is a word of the text: `sks` is none of `tasks`."""
    return re.search(rf"(?<!\w){re.escape(token)}(?!\w)", text) is not None


def _likely(object_id: str, ids: Iterable[str]) -> list[str]:
    """Ids that may be meant: comparing a hundred thousand takes seconds, and every missing object would."""
    alike = (one for one in ids if one[:2].lower() == object_id[:2].lower())
    return list(itertools.islice(alike, _MOST_COMPARED))
