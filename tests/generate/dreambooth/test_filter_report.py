from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from persrep_ray.config import FilterConfig, GenerateConfig, RunConfig
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.dreambooth.filter_report import FilterReport, sampled_shards, why_no_positive
from persrep_ray.generate.shards import ShardError, write_shard
from persrep_ray.generate.types import SyntheticImage


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


def test_the_best_is_the_largest_likeness_whatever_became_of_it() -> None:
    assert FIRST.best == 0.9
    assert report(("a", -0.5, False), ("a", -0.2, False), ("a", None, False)).best == -0.2
    assert report(("a", None, False)).best is None


def test_reports_are_added_up() -> None:
    total = FilterReport()
    total.merge(FIRST)
    total.merge(SECOND)
    assert total.candidates == {"a": 3, "b": 1, "c": 2, "d": 1} and total.rejected == {"a": 2, "c": 1, "d": 1}
    assert total.best == 0.9
    assert FIRST.candidates["a"] == 2  # those that were added stay as they are
    other = report(("x", None, False))
    other.merge(report(("x", None, False)))
    assert other.best is None and other.candidates == {"x": 2}


def test_a_report_of_nothing_has_a_summary() -> None:
    assert FilterReport().summary() == {"candidates": 0, "rejected": 0, "rejected_share": 0.0, "by_prompt": {}}


def image() -> SyntheticImage:
    return SyntheticImage(
        *("mug", "positive", "dreambooth", "a", 1, 0.9, "mug", None),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((8, 8), np.bool_),
    )


def test_shards_carry_their_reports(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.parquet" for index in range(3)]
    write_shard(paths[0], [image()], {"seconds": 1.0, "filter": FIRST.to_dict()})
    write_shard(paths[1], [image()], {"seconds": 1.0})  # of another generator
    write_shard(paths[2], [], {"seconds": 1.0, "filter": SECOND.to_dict()})
    total = FilterReport.of_shards(paths)
    wanted = FilterReport()
    wanted.merge(FIRST)
    wanted.merge(SECOND)
    assert total == wanted and json.dumps(total.summary())
    assert FilterReport.of_shards([]) == FilterReport()
    with pytest.raises(ShardError, match=r"gone\.parquet"):
        FilterReport.of_shards([tmp_path / "gone.parquet"])


# -- no positive at all ------------------------------------------------------------------------------------------------


def config(generator: str) -> RunConfig:
    generate = GenerateConfig(
        generator=generator,  # type: ignore[arg-type]
        positives=4,
        negatives=2,
        calibration_images=2,
        chunk_size=2,
        filter=FilterConfig(threshold=0.25),
    )
    return RunConfig(generate=generate)


def test_all_rejected_is_told_with_the_best_and_the_threshold() -> None:
    rejected = report(("a", 0.1, False), ("a", None, False), ("b", 0.204, False))
    assert why_no_positive(rejected, config("dreambooth")) == (
        "all 3 sampled images were rejected: the largest likeness is 0.20, generate.filter.threshold is 0.25"
    )


def test_all_without_foreground_is_told() -> None:
    text = why_no_positive(report(("a", None, False), ("b", None, False)), config("dreambooth"))
    assert text is not None and text.startswith("all 2 sampled images were rejected: none shows a foreground, ")


def test_with_a_single_positive_there_is_nothing_to_tell() -> None:
    assert why_no_positive(SECOND, config("dreambooth")) is None


@pytest.mark.parametrize(("generator", "starts"), [("dreambooth", [0, 2]), ("combined", [2]), ("cut_paste", [])])
def test_only_sampled_positives_of_the_training_are_looked_at(
    tmp_path: Path, generator: str, starts: list[int]
) -> None:
    folder = RunFolder(tmp_path)
    wanted = [tmp_path / "synthetic" / "mug" / f"positive-{start:05d}.parquet" for start in starts]
    assert sampled_shards(folder, config(generator), "mug") == wanted
