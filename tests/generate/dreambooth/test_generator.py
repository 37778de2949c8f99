"""What DreamBooth declares to a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from persrep_ray.config import ConfigError, load_config
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.distributed.resources import PoolSize
from persrep_ray.generate.dreambooth.filter_report import FilterReport
from persrep_ray.generate.dreambooth.generator import DreamBooth
from persrep_ray.generate.schedule import training_chunks
from persrep_ray.generate.shards import ShardError, write_shard
from persrep_ray.generate.types import Chunk
from persrep_ray.storage.store import open_store


def dreambooth(*overrides: str) -> DreamBooth:
    return DreamBooth(load_config("debug", ["generate.generator=dreambooth", *overrides]))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(open_store(tmp_path / "run"))


def chunks(*object_ids: str) -> list[Chunk]:
    return [Chunk(object_id, "positive", start, 2, 0, "dreambooth") for object_id in object_ids for start in (0, 2)]


def test_pools_are_as_large_as_configured() -> None:
    first, second = dreambooth(
        "generate.dreambooth.actors=3", "generate.dreambooth.gpus_per_actor=1", "generate.sampling.cpus_per_actor=2"
    ).stages()
    assert (first.demand.actors, first.demand.gpus, second.demand.cpus) == (3, 1, 2)


def test_an_item_is_an_object_with_its_chunks() -> None:
    items = dreambooth().items(chunks("mug", "cup"))
    assert [(item["object_id"], item["after"]) for item in items] == [("mug", ""), ("cup", "")]
    assert [Chunk(**json.loads(text)) for text in items[1]["chunks"]] == chunks("cup")


def test_full_fine_tunes_wait_for_the_object_four_before() -> None:
    items = dreambooth("generate.dreambooth.method=full").items(chunks(*"abcdef"))
    assert [item["after"] for item in items] == ["", "", "", "", "a", "b"]


def test_an_edited_prompt_file_is_another_input(tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    generator = dreambooth("generate.prompts.source=file", f"generate.prompts.file={file}")
    with pytest.raises(ConfigError, match=r"generate\.prompts\.file: .*prompts\.json: cannot be read: No such file"):
        generator.digests()
    seen = set()
    for text in ("{}", '{"mug": []}'):
        file.write_text(text)
        seen.add(generator.digests()["generate.prompts.file"])
    assert len(seen) == 2 and dreambooth().digests() == {}


def test_sampling_on_cpus_is_a_warning() -> None:
    for gpus, count in ((0.0, 1), (0.5, 0)):
        pools = {stage.demand.name: PoolSize(1, gpus) for stage in dreambooth().stages()}
        assert len(dreambooth().warnings(pools)) == count


def test_what_the_filter_rejected_is_stored_and_reported(folder: RunFolder) -> None:
    generator = dreambooth()
    positives = training_chunks("mug", generator.config)["positive"]
    assert generator.summary(folder, "mug") == {"filter": None}
    for chunk in positives:
        report = FilterReport()
        report.add("a scene", 0.2, accepted=chunk.start > 0)
        write_shard(folder, chunk, [], {"seconds": 1.0, "filter": report.to_dict()})
    assert generator.why_unusable(folder, "mug", positives) is None
    counts = {"candidates": 2, "rejected": 1, "rejected_share": 0.5}
    assert generator.summary(folder, "mug") == {"filter": counts}
    assert folder.read_json(folder.filtered("mug")) == {**counts, "by_prompt": {"a scene": counts}}
    cause = generator.why_unusable(folder, "mug", positives[:1])
    assert cause and cause.startswith("all 1 sampled images were rejected: ")
    with pytest.raises(ShardError):
        generator.why_unusable(folder, "cup", training_chunks("cup", generator.config)["positive"])


@pytest.mark.parametrize(("method", "stays"), [("lora", True), ("full", False)])
def test_only_loras_outlive_their_object(folder: RunFolder, tmp_path: Path, method: str, stays: bool) -> None:
    generator = dreambooth(f"generate.dreambooth.method={method}")
    assert generator.seconds(folder, "mug") == {"fine_tune": None}
    folder.write_weights("mug", tmp_path, {"seconds": 7.0})
    for _ in range(2):
        generator.clean_up(folder, "mug")
    assert folder.has_weights("mug") is stays
    assert generator.seconds(folder, "mug") == {"fine_tune": 7.0}
