"""What becomes of rows as they come in, without Ray: the test brings the rows to a generation without work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from persrep_ray.config import GeneratorName, RunConfig, load_config
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.dreambooth.filter_report import FilterReport
from persrep_ray.generate.pipeline import Generation
from persrep_ray.generate.schedule import chunks
from persrep_ray.generate.shards import write_shard
from persrep_ray.generate.types import SyntheticImage
from persrep_ray.storage.store import open_store


class Rows:
    """A generation of `object_ids` whose rows the test brings."""

    def __init__(self, root: Path, object_ids: list[str], *overrides: str) -> None:
        self.config: RunConfig = load_config(
            "debug", ["generate.positives=2", "generate.negatives=1", "generate.calibration_images=0", *overrides]
        )
        self.folder = RunFolder(open_store(root))
        self.chunks = {object_id: chunks(object_id, self.config) for object_id in object_ids}
        self.generation = Generation([], self.config, self.folder, [], prepared={}, pools={})
        self.generation._missing.update({object_id: len(made) for object_id, made in self.chunks.items()})

    def shards(self, object_id: str, accepted: int) -> None:
        """Writes all shards; of the sampled positives, `accepted` pass the filter."""
        for chunk in self.chunks[object_id]:
            report = FilterReport()
            count = chunk.count
            if (chunk.generator, chunk.role) == ("dreambooth", "positive"):
                count = accepted
                for index in range(chunk.count):
                    report.add("a scene", 0.25, accepted=index < accepted)
            pixels, mask = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.bool_)
            images = [
                SyntheticImage(object_id, chunk.role, chunk.generator, None, i, None, object_id, None, pixels, mask)
                for i in range(count)
            ]
            write_shard(self.folder, chunk, images, {"seconds": 1.0, "filter": report.to_dict()})

    def path(self, object_id: str, index: int) -> Path:
        chunk = self.chunks[object_id][index]
        return Path(self.folder.store.url(self.folder.shard(object_id, chunk.role, chunk.start)))

    def comes(
        self, object_id: str, generator: GeneratorName = "dreambooth", *, error: str = "", warning: str = ""
    ) -> None:
        row: dict[str, Any] = {"object_id": object_id, "generator": generator, "images": 1, "error": error}
        self.generation._rows.put({**row, "warnings": [warning] * bool(warning)})

    def all_come(self, object_id: str) -> None:
        for chunk in self.chunks[object_id]:
            self.comes(object_id, chunk.generator)


def test_an_object_ends_with_its_last_chunk(tmp_path: Path) -> None:
    rows = Rows(tmp_path, ["mug"], "generate.generator=combined")
    rows.shards("mug", accepted=1)
    first, *others = rows.chunks["mug"]
    rows.comes("mug", first.generator)
    assert rows.generation.poll() == []
    for chunk in others:
        rows.comes("mug", chunk.generator)
    (outcome,) = rows.generation.poll()
    assert (outcome.object_id, outcome.error) == ("mug", None)
    assert rows.generation.new_warnings() == []


def test_what_all_actors_say_is_told_once(tmp_path: Path) -> None:
    rows = Rows(tmp_path, ["cup", "mug"])
    for object_id, warning in (
        ("cup", "bad.jpg: truncated"),
        ("mug", "bad.jpg: truncated"),
        ("mug", "worse.jpg: empty"),
    ):
        rows.comes(object_id, "cut_paste", warning=warning)
    rows.generation.poll()
    assert rows.generation.new_warnings() == ["bad.jpg: truncated", "worse.jpg: empty"]
    rows.comes("cup", "cut_paste", warning="bad.jpg: truncated")
    rows.generation.poll()
    assert rows.generation.new_warnings() == []


def test_an_object_counts_as_fine_tuned_with_its_first_sampled_chunk(tmp_path: Path) -> None:
    rows = Rows(tmp_path, ["cup", "mug"], "generate.generator=combined")
    generation = rows.generation
    generation._to_prepare["dreambooth"], generation._all_to_prepare["dreambooth"] = {"cup", "mug"}, 2
    assert generation.preparations() == {"fine-tune": (0, 2)}
    for name in ("cut_paste", "dreambooth", "dreambooth"):
        rows.comes("cup", name)
    generation.poll()
    assert generation.preparations() == {"fine-tune": (1, 2)}
    assert Rows(tmp_path, []).generation.preparations() == {}


def test_an_object_whose_images_are_all_rejected_fails_unless_another_generator_made_some(tmp_path: Path) -> None:
    cause = "all 2 sampled images were rejected: the largest likeness is 0.25, generate.filter.threshold is 0.6"
    rows = Rows(tmp_path / "alone", ["mug"], "generate.generator=dreambooth", "generate.filter.threshold=0.6")
    rows.shards("mug", accepted=0)
    rows.all_come("mug")
    (outcome,) = rows.generation.poll()
    assert outcome.error == cause
    both = Rows(
        *(tmp_path / "both", ["mug"], "generate.generator=combined", "generate.filter.threshold=0.6"),
        "generate.positives=4",
    )
    both.shards("mug", accepted=0)
    both.all_come("mug")
    (outcome,) = both.generation.poll()
    assert outcome.error is None
    assert both.generation.new_warnings() == [
        f"object mug: generate: {cause}; it is trained on the images of cut_paste alone"
    ]


def test_a_damaged_shard_fails_only_its_object(tmp_path: Path) -> None:
    rows = Rows(tmp_path, ["cup", "mug"], "generate.generator=dreambooth")
    for object_id in ("cup", "mug"):
        rows.shards(object_id, accepted=2)
    damaged = rows.path("cup", 0)
    damaged.write_bytes(damaged.read_bytes()[:-5])
    rows.all_come("cup")
    rows.all_come("mug")
    errors = {one.object_id: one.error for one in rows.generation.poll()}
    assert errors["mug"] is None
    assert errors["cup"] and errors["cup"].startswith(f"{damaged}: not a readable shard: ")


@pytest.mark.parametrize("late", [False, True])
def test_full_weights_never_outlive_their_object(tmp_path: Path, late: bool) -> None:
    """`late`: the object has failed in the other stream before its weights exist."""
    rows = Rows(tmp_path, ["mug"], "generate.generator=combined", "generate.dreambooth.method=full")
    rows.shards("mug", accepted=1)

    def weights_appear() -> None:
        (tmp_path / "learned").mkdir()
        (tmp_path / "learned" / "weights").write_bytes(b"gigabytes")
        rows.folder.write_weights("mug", tmp_path / "learned", {})

    if late:
        rows.comes("mug", "cut_paste", error="no cutout")
        (outcome,) = rows.generation.poll()
        assert outcome.error == "no cutout"
        weights_appear()
        rows.comes("mug")
        assert rows.generation.poll() == []
    else:
        weights_appear()
        rows.all_come("mug")
        assert len(rows.generation.poll()) == 1
    assert not rows.folder.store.files(rows.folder.weights("mug"))


def test_a_pool_that_is_gone_fails_what_is_left(tmp_path: Path) -> None:
    rows = Rows(tmp_path, ["cup", "mug"], "generate.generator=dreambooth")
    rows.comes("cup", error="no photo")
    rows.generation._rows.put(ValueError("the cluster is gone"))
    errors = {one.object_id: one.error for one in rows.generation.poll()}
    assert errors == {"cup": "no photo", "mug": "the cluster is gone"}
