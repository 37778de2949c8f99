from __future__ import annotations

import json

from persrep_ray.generate.dreambooth.filter_report import FilterReport


def report(*seen: tuple[str, float | None, bool]) -> FilterReport:
    one = FilterReport()
    for prompt, score, accepted in seen:
        one.add(prompt, score, accepted=accepted)
    return one


FIRST = report(("a", 0.2, False), ("b", 0.9, True), ("a", None, False), ("c", 0.1, False), ("c", 0.7, True))
SECOND = report(("a", 0.8, True), ("d", None, False))


def test_what_passed_and_what_did_not_is_counted_by_prompt_worst_first() -> None:
    summary = FIRST.summary()
    by_prompt = summary.pop("by_prompt")
    assert summary == {"candidates": 5, "rejected": 3, "rejected_share": 0.6}
    assert list(by_prompt.items()) == [
        ("a", {"candidates": 2, "rejected": 2, "rejected_share": 1.0}),
        ("c", {"candidates": 2, "rejected": 1, "rejected_share": 0.5}),
        ("b", {"candidates": 1, "rejected": 0, "rejected_share": 0.0}),
    ]


def test_the_best_is_the_largest_likeness_whether_it_was_accepted_or_not() -> None:
    assert FIRST.best == 0.9
    assert report(("a", -0.5, False), ("a", -0.2, False), ("a", None, False)).best == -0.2
    assert report(("a", None, False)).best is None


def test_reports_are_added_up() -> None:
    stored = [json.loads(json.dumps(part.to_dict())) for part in (FIRST, SECOND)]
    total = FilterReport.merged(stored)
    assert total.candidates == {"a": 3, "b": 1, "c": 2, "d": 1} and total.rejected == {"a": 2, "c": 1, "d": 1}
    assert total.best == 0.9
    assert FilterReport.merged([]) == FilterReport()
    nothing = report(("x", None, False)).to_dict()
    assert FilterReport.merged([nothing, nothing]).best is None


def test_a_report_of_nothing_has_a_summary() -> None:
    assert FilterReport().summary() == {"candidates": 0, "rejected": 0, "rejected_share": 0.0, "by_prompt": {}}


def test_all_rejected_is_told_with_the_best_and_the_threshold() -> None:
    rejected = report(("a", 0.1, False), ("a", None, False), ("b", 0.204, False))
    assert rejected.why_no_image(0.25) == (
        "all 3 sampled images were rejected: the largest likeness is 0.20, generate.filter.threshold is 0.25"
    )


def test_images_without_foreground_are_told() -> None:
    text = report(("a", None, False), ("b", None, False)).why_no_image(0.25)
    assert text is not None and text.startswith("all 2 sampled images were rejected: none shows a foreground, ")


def test_with_an_accepted_image_there_is_nothing_to_tell() -> None:
    assert SECOND.why_no_image(0.25) is None
