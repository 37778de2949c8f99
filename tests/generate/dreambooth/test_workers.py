"""What the actors of DreamBooth do, without Ray: nothing that goes wrong with an object raises."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from persrep_ray.config import load_config
from persrep_ray.data.objects import Manifest
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.dreambooth.prompts.prompt_set import build_prompts
from persrep_ray.generate.dreambooth.workers import FineTuneWorker, SampleWorker
from persrep_ray.generate.types import Chunk
from persrep_ray.storage.store import open_store


@pytest.fixture
def arguments(tmp_path: Path) -> tuple[object, ...]:
    """The arguments of both workers, with a model that does not exist."""
    config = load_config("debug", ["generate.generator=dreambooth", f"generate.dreambooth.base={tmp_path / 'nothing'}"])
    folder = RunFolder(open_store(tmp_path / "run"))
    return config, Manifest(tmp_path, {}, ()), folder, build_prompts(config.generate)


def chunk(object_id: str = "mug") -> str:
    return json.dumps(asdict(Chunk(object_id, "positive", 0, 4, 0, "dreambooth")))


def test_a_model_that_cannot_be_loaded_fails_each_object_with_its_name(
    arguments: tuple[object, ...], tmp_path: Path
) -> None:
    fine_tune, sample = FineTuneWorker(*arguments), SampleWorker(*arguments)  # type: ignore[arg-type]
    for object_id in ("mug", "cup"):
        (row,) = fine_tune({"object_id": object_id, "chunks": [chunk(object_id)], "after": ""})
        assert (row["object_id"], row["chunk"]) == (object_id, "")
        assert row["error"].startswith(f"generator {tmp_path / 'nothing'}: cannot be loaded: ")
        assert "\n" not in row["error"]
    row = sample(
        {"object_id": "mug", "generator": "dreambooth", "images": 0, "error": "", "warnings": [], "chunk": chunk()}
    )
    assert row["error"].startswith(f"generator {tmp_path / 'nothing'}: cannot be loaded: ")
    assert row["images"] == 4


def test_an_object_that_was_not_fine_tuned_passes_through(arguments: tuple[object, ...]) -> None:
    sample = SampleWorker(*arguments)  # type: ignore[arg-type]
    failed = {"object_id": "mug", "generator": "dreambooth", "images": 0, "error": "no photo", "warnings": ["hm"]}
    assert sample({**failed, "chunk": ""}) == failed


def test_all_chunks_of_a_fine_tuned_object_go_on_and_its_warnings_once(arguments: tuple[object, ...]) -> None:
    fine_tune = FineTuneWorker(*arguments)  # type: ignore[arg-type]
    fine_tune.__dict__["_fine_tuner"] = lambda object_id: fine_tune._warnings.append(f"{object_id}: half the batch")
    for object_id in ("mug", "cup"):
        rows = fine_tune({"object_id": object_id, "chunks": ["a", "b", "c"], "after": ""})
        assert [row["chunk"] for row in rows] == ["a", "b", "c"]
        assert [row["warnings"] for row in rows] == [[f"{object_id}: half the batch"], [], []]
        assert not any(row["error"] for row in rows)


def test_a_process_that_has_lost_its_gpu_fails_one_chunk_and_leaves_before_the_next(
    arguments: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []

    class LeftError(Exception):
        pass

    def leave(code: int) -> None:
        left.append(code)
        raise LeftError

    monkeypatch.setattr("os._exit", leave)
    for text, is_lost in (("CUDA error: an illegal memory access", True), ("CUDA error: out of memory", False)):
        fine_tune = FineTuneWorker(*arguments)  # type: ignore[arg-type]

        def fail(object_id: str, text: str = text) -> None:
            raise RuntimeError(text)

        fine_tune.__dict__["_fine_tuner"] = fail
        item = {"object_id": "mug", "chunks": [chunk()], "after": ""}
        (row,) = fine_tune(item)
        assert text in row["error"]
        if is_lost:
            with pytest.raises(LeftError):
                fine_tune(item)
            assert left == [1]
        else:
            assert text in fine_tune(item)[0]["error"]


def test_fine_tuning_waits_while_the_weights_of_an_earlier_object_are_in_use(
    arguments: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fine_tune = FineTuneWorker(*arguments)  # type: ignore[arg-type]
    folder, fine_tuned, slept = fine_tune._folder, list[str](), list[float]()
    folder.write_weights("cup", tmp_path, {})

    def sleep(seconds: float) -> None:
        assert not fine_tuned
        slept.append(seconds)
        if len(slept) == 3:
            folder.drop_weights("cup")

    monkeypatch.setattr("persrep_ray.generate.dreambooth.workers.time.sleep", sleep)
    fine_tune.__dict__["_fine_tuner"] = fine_tuned.append
    fine_tune({"object_id": "mug", "chunks": [chunk()], "after": "cup"})
    assert fine_tuned == ["mug"] and len(slept) == 3
