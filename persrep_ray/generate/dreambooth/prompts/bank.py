"""The prompt bank: scenes for three kinds of objects, which come with the library."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Literal

import yaml

from persrep_ray.config import PromptConfig
from persrep_ray.generate.dreambooth.prompts.grammar import noun_phrase
from persrep_ray.generate.dreambooth.prompts.template import problem_of, same_as

Kind = Literal["rigid", "animal", "clothes"]

_FOLDER = Path(__file__).parent


@functools.cache
def load_bank(kind: Kind) -> tuple[str, ...]:
    """The bank's templates for a kind of object; each contains `{token} {category}` once.

    Raises ValueError, which names the file and the template, if the bank itself is broken.
    """
    path = _FOLDER / f"{kind}.yaml"
    templates = yaml.safe_load(path.read_text(encoding="utf-8"))
    seen: set[str] = set()
    for template in templates:
        problem = problem_of(template) or ("it occurs twice" if same_as(template) in seen else None)
        if problem:
            raise ValueError(f"{path}: {template!r}: {problem}")
        seen.add(same_as(template))
    return tuple(templates)


def kind_for(category: str, config: PromptConfig) -> Kind:
    """Which scenes fit a category: those of the configured kind, or with `auto` of the kind that its words tell."""
    return kind_of(category) if config.kind == "auto" else config.kind


def kind_of(category: str) -> Kind:
    """What kind of thing a category is, by its noun; `rigid` if the lists of words do not contain it.

    Clothes are what covers the body: garments, shoes, hats. Glasses, jewelry, watches and bags are rigid, because they
    keep their shape and an image of a whole person would hardly show them.
    """
    words = noun_phrase(re.sub(r"^(?:a )?pair of ", "", re.sub(r"[\W\d_]+", " ", category.lower()).strip()))
    if not words:
        return "rigid"
    lists, noun = _words(), _singulars(words[-1])
    if noun & lists["animals"]:
        replica = lists["replica"] - ({"toy"} if noun & lists["toy_sized"] else set())
        return "rigid" if replica & set(words) else "animal"
    if noun & lists["clothes"]:
        phrases = {" ".join([*words[-2:-1], one]) for one in noun}
        return "rigid" if phrases & lists["not_clothes"] else "clothes"
    return "rigid"


@functools.cache
def _words() -> dict[str, frozenset[str]]:
    lists = yaml.safe_load((_FOLDER / "category_kinds.yaml").read_text(encoding="utf-8"))
    return {name: frozenset(words) for name, words in lists.items()}


def _singulars(word: str) -> set[str]:
    """The word and everything it may be the plural of; the lists of words decide which of them exist."""
    forms = {word}
    if word.endswith("s"):
        forms.add(word[:-1])
    if word.endswith("es"):
        forms.add(word[:-2])
    if word.endswith("ies"):
        forms.add(word[:-3] + "y")
    return forms
