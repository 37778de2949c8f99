"""Templates of prompts: a line in which `{token} {category}` stands for the object, exactly once."""

from __future__ import annotations

import re

from persrep_ray.generate.dreambooth.prompts.grammar import with_article

PLACE = "{token} {category}"
MAX_WORDS = 35  # text encoders ignore what comes after 77 tokens; an English word has fewer than two
_MAX_CHARACTERS = 300

_PLACE = re.compile(rf"(?<!\w){re.escape(PLACE)}(?!\w)")  # "{token} {category}s" would make "a mugs"
# A model may write "the {token} {category}": the article goes where the token goes.
_WITH_ARTICLE = re.compile(r"(?:\b(?:an?|the|this|that|my|your|his|her|their|our) )?" + re.escape(PLACE), re.IGNORECASE)


def tidied(text: str) -> str:
    """`text` with single spaces."""
    return " ".join(text.split())


def same_as(text: str) -> str:
    """Equal for texts that differ only in case, spaces and the full stop."""
    return tidied(text).rstrip(".").casefold()


def problem_of(template: str) -> str | None:
    """What is wrong with a template, in words; None if nothing is."""
    if not template.isprintable():
        return "it contains characters that cannot be printed"
    if len(template) > _MAX_CHARACTERS or len(template.split()) > MAX_WORDS:
        return f"it is longer than {MAX_WORDS} words or {_MAX_CHARACTERS} characters"
    places = len(_PLACE.findall(template))
    if places != 1:
        return f"it must contain {PLACE!r} once, not {places} times"
    if set("{}") & set(template.replace(PLACE, "")):
        return f"it contains braces besides {PLACE!r}"
    return None


def with_token(template: str, token: str, category: str) -> str:
    """The prompt of a positive: `a photo of <new1> mug on a table`."""
    return template.replace(PLACE, f"{token} {category}")


def without_token(template: str, category: str) -> str:
    """The prompt of any object of the category: `a photo of a mug on a table`, `a photo of sunglasses on a table`."""
    noun = with_article(category)

    def plain(match: re.Match[str]) -> str:
        return noun[0].upper() + noun[1:] if match[0][0].isupper() else noun

    return _WITH_ARTICLE.sub(plain, template)
