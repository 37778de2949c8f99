"""The little English grammar that prompts need: the noun of a category, and the article it takes."""

from __future__ import annotations

import re

_PREPOSITIONS = {"at", "for", "from", "in", "of", "on", "with", "without"}

_ENDS_IN_S = {"atlas", "canvas", "gas", "lens", "rhinoceros"}  # besides words in -ss, -us and -is
_PLURAL = {"children", "feet", "geese", "men", "mice", "people", "teeth", "women"}
_NOT_COUNTED = {"clothing", "cutlery", "furniture", "jewellery", "jewelry", "luggage", "pottery", "stationery"}

_VOWEL_SOUND = re.compile(r"[aeiou]|heir|honest|honou?r|hour|8|11\b|18\b", re.IGNORECASE)
_CONSONANT_SOUND = re.compile(r"uni(?!n)|us[aeu]|usb|ut[ei]|uk[eu]|eu|ewe|one\b|onesie|u-", re.IGNORECASE)
_SPELLED = re.compile(r"[A-Z]{2,}\b")  # LED, RC: spoken letter by letter
_LETTERS_WITH_AN = "AEFHILMNORSX"


def noun_phrase(category: str) -> list[str]:
    """A category's words up to its noun, in lower case: `["metal", "bottle"]` of `Metal bottle with a cork`."""
    words = category.lower().split()
    first = next((i for i, word in enumerate(words) if word in _PREPOSITIONS and i), len(words))
    return words[:first]


def with_article(category: str) -> str:
    """`a mug`, `an umbrella`, but `sunglasses` and `jewelry`."""
    if _takes_no_article(noun_phrase(category)[-1]):
        return category
    if _SPELLED.match(category):
        vowel = category[0] in _LETTERS_WITH_AN
    else:
        vowel = bool(_VOWEL_SOUND.match(category)) and not _CONSONANT_SOUND.match(category)
    return f"{'an' if vowel else 'a'} {category}"


def _takes_no_article(noun: str) -> bool:
    if noun in _PLURAL or noun in _NOT_COUNTED or noun.endswith(("wear", "ware")):
        return True
    return noun.endswith("s") and not noun.endswith(("ss", "us", "is")) and noun not in _ENDS_IN_S
