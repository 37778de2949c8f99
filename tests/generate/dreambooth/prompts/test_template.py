"""What a template is, and what it becomes with and without the token."""

from __future__ import annotations

import pytest

from persrep_ray.generate.dreambooth.prompts.grammar import with_article
from persrep_ray.generate.dreambooth.prompts.template import problem_of, same_as, with_token, without_token


@pytest.mark.parametrize(
    ("category", "phrase"),
    [
        ("mug", "a mug"),
        ("umbrella", "an umbrella"),
        ("Umbrella", "an Umbrella"),
        ("hourglass", "an hourglass"),
        ("unicorn toy", "a unicorn toy"),
        ("used book", "a used book"),
        ("one-piece", "a one-piece"),
        ("LED lamp", "an LED lamp"),
        ("UFO", "a UFO"),
        ("8-ball", "an 8-ball"),
        ("sunglasses", "sunglasses"),
        ("running shoes", "running shoes"),
        ("jewelry", "jewelry"),
        ("short sleeve outwear", "short sleeve outwear"),
        ("dress", "a dress"),
        ("cactus", "a cactus"),
        ("camera lens", "a camera lens"),
        ("fish", "a fish"),
        ("pair of boots", "a pair of boots"),
        ("bottle of pills", "a bottle of pills"),
    ],
)
def test_the_article_fits_the_noun(category: str, phrase: str) -> None:
    assert with_article(category) == phrase


@pytest.mark.parametrize(
    ("template", "positive", "negative"),
    [
        (
            "a photo of {token} {category} on a shelf",
            "a photo of <new1> owl on a shelf",
            "a photo of an owl on a shelf",
        ),
        ("a photo of a {token} {category}", "a photo of a <new1> owl", "a photo of an owl"),
        ("The {token} {category}, asleep", "The <new1> owl, asleep", "An owl, asleep"),
        ("on a sofa {token} {category}", "on a sofa <new1> owl", "on a sofa an owl"),
        ("{token} {category}'s head", "<new1> owl's head", "an owl's head"),
    ],
)
def test_negatives_read_as_if_there_had_never_been_a_token(template: str, positive: str, negative: str) -> None:
    assert with_token(template, "<new1>", "owl") == positive
    assert without_token(template, "owl") == negative


def test_a_category_is_filled_in_as_it_is() -> None:
    template, hostile = "a photo of {token} {category} here", r"\g<0> {token} {category}"
    assert with_token(template, "sks", hostile) == rf"a photo of sks {hostile} here"
    assert without_token(template, hostile) == rf"a photo of a {hostile} here"


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("a photo of a mug", "once, not 0 times"),
        ("{token} {category} and {token} {category}", "once, not 2 times"),
        ("{category} {token} on a table", "once, not 0 times"),
        ("a row of {token} {category}s", "once, not 0 times"),
        ("{token} {category} in {place}", "braces"),
        ("{token} {category} and {token}", "braces"),
        ("{token} {category}\x00", "cannot be printed"),
        ("{token} {category} on\ntwo lines", "cannot be printed"),
        ("{token} {category}" + " very" * 34, "longer than"),
        ("{token} {category} " + "v" * 300, "longer than"),
    ],
)
def test_a_text_that_is_not_a_template_is_told_why(template: str, problem: str) -> None:
    assert problem in (problem_of(template) or "")


def test_a_template_of_the_longest_kind_passes() -> None:
    assert problem_of("{token} {category}" + " very" * 33) is None


def test_case_spaces_and_the_full_stop_make_no_difference() -> None:
    assert same_as("A  photo of {token} {category}.") == same_as("a photo of {token} {category}")
    assert same_as("{token} {category} at noon") != same_as("{token} {category} at dusk")
