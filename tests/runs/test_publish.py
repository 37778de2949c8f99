"""Publishing a trained object: each step is done once, whenever an earlier run was killed."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.disc_run import disc_run
from helpers.discs import adapter
from PIL import Image
from safetensors.numpy import load

from persrep_ray.backbones.lora import ADAPTER_FILES, load_lora
from persrep_ray.config import RunConfig
from persrep_ray.data.objects import Manifest
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.evaluate.evaluator import Evaluator
from persrep_ray.generate.schedule import chunks
from persrep_ray.generate.shards import shard_key
from persrep_ray.registry.registry import Registry
from persrep_ray.runs.publish import Publisher
from persrep_ray.runs.summary import summarize
from persrep_ray.storage.store import open_store
from persrep_ray.tasks.recognize import published_recognizer


@dataclass(frozen=True)
class TrainedRun:
    """A run in which the object `red` is trained."""

    config: RunConfig
    manifest: Manifest
    folder: RunFolder
    registry: Registry

    def publisher(self) -> Publisher:
        return Publisher(self.config, self.manifest, self.folder, self.registry)

    def published(self) -> dict[str, Any]:
        return self.folder.read_json(self.folder.published("red"))

    def sheet(self) -> bytes:
        return self.folder.store.read(self.folder.sheet("red"))


@pytest.fixture
def run(tmp_path: Path) -> TrainedRun:
    config, manifest, folder = disc_run(tmp_path)
    lora = load_lora(config)
    lora.load(adapter(lora))
    folder.write_trained("red", lora.files(), {"seconds": 2.0, "strength": 1.0})
    return TrainedRun(config, manifest, folder, Registry(open_store(tmp_path / "registry")))


def refuse(*_: object, **__: object) -> Any:
    raise AssertionError("this was done before")


def test_an_object_is_evaluated_published_and_drawn(run: TrainedRun) -> None:
    assert run.publisher()("red") == {"warnings": []}
    published, evaluation = run.published(), run.folder.read_json(run.folder.evaluation("red"))
    assert run.registry.current("red") == published["version"]
    files = run.registry.files("red")
    for name in ADAPTER_FILES:
        assert files[name] == run.folder.read_trained("red", name)
    assert files["prototypes.safetensors"] == run.folder.read_evaluated("red", "prototypes.safetensors")
    assert published_recognizer(load(files["prototypes.safetensors"]), 32) is not None
    card = run.registry.card("red")
    assert "served.pr_auc" in card["metrics"]["personalized"]
    assert card["metrics"] == published["metrics"] == evaluation["metrics"]
    assert {**card["calibration"], "threshold": card["threshold"]} == evaluation["calibration"]
    assert card["training"] == {"seconds": 2.0, "strength": 1.0}
    assert len(evaluation["examples"]) == 5 and evaluation["examples"][0]["title"].startswith("red/2.png")
    with Image.open(io.BytesIO(run.sheet())) as sheet:
        assert sheet.format == "JPEG" and sheet.height > 2000


def test_the_summary_takes_all_it_needs_from_one_file(run: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run.publisher()("red")
    seconds = run.published()["seconds"]
    assert {stage: seconds[stage] for stage in ("mask", "train")} == {"mask": 0.5, "train": 2.0}
    assert seconds["generate"] == 0.25 * len(chunks("red", run.config)) and seconds["evaluate"] > 0
    read: list[str] = []
    read_json = RunFolder.read_json
    monkeypatch.setattr(RunFolder, "read_json", lambda self, key: read.append(key) or read_json(self, key))
    summary = summarize(run.folder, run.config, ["red"], {})
    assert read == ["published/red.json"]
    red = summary["objects"]["red"]
    assert (red["status"], red["error"], red["seconds"]) == ("published", None, seconds)
    assert summary["mean"] == red["metrics"]


def test_a_failed_object_is_summarized_from_what_exists(run: TrainedRun) -> None:
    run.folder.store.delete(shard_key(run.folder, chunks("red", run.config)[0]))
    red = summarize(run.folder, run.config, ["red"], {"red": "object red: evaluate: no"})["objects"]["red"]
    assert (red["status"], red["error"], red["version"]) == ("failed", "object red: evaluate: no", None)
    assert red["seconds"] == {"mask": 0.5, "generate": None, "train": 2.0, "evaluate": None}


def test_a_run_that_was_killed_after_the_evaluation_does_not_evaluate_again(
    run: TrainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            run.publisher()("red")
    assert run.registry.current("red") is None
    monkeypatch.setattr(Evaluator, "evaluate", refuse)
    assert run.publisher()("red") == {"warnings": []}
    assert run.registry.current("red") == run.published()["version"]
    assert run.sheet()


def test_an_evaluation_that_was_cut_short_is_done_again(run: TrainedRun) -> None:
    run.folder.store.write("evaluated/red/prototypes.safetensors", b"half of an eval")
    assert run.publisher()("red") == {"warnings": []}
    assert run.registry.current("red") == run.published()["version"]


def test_publishing_again_changes_nothing(run: TrainedRun) -> None:
    run.publisher()("red")
    before = {entry.key: run.folder.store.read(entry.key) for entry in run.folder.store.list()}
    run.publisher()("red")
    assert before == {entry.key: run.folder.store.read(entry.key) for entry in run.folder.store.list()}
    assert run.registry.versions("red") == [run.published()["version"]]


@pytest.mark.parametrize("lost", ["photo", "shard"])
def test_a_sheet_that_cannot_be_drawn_is_a_warning(run: TrainedRun, lost: str) -> None:
    run.publisher()("red")
    run.folder.store.delete("red.jpg")
    if lost == "photo":
        path = run.manifest.objects["red"].test[0].path
        assert isinstance(path, Path)
        path.unlink()
    else:
        run.folder.store.write(shard_key(run.folder, chunks("red", run.config)[0]), b"damaged")
    (warning,) = run.publisher()("red")["warnings"]
    assert warning.startswith("object red: no contact sheet: ")
    assert str(path if lost == "photo" else "positive-00000.parquet") in warning
    assert run.registry.current("red") == run.published()["version"]


def test_another_adapter_is_another_version(run: TrainedRun) -> None:
    run.publisher()("red")
    first = run.published()["version"]
    run.folder.store.delete_all("trained/red/")
    run.folder.store.delete_all("evaluated/red/")
    lora = load_lora(run.config)
    lora.load(adapter(lora, seed=2))
    run.folder.write_trained("red", lora.files(), {"seconds": 1.0})
    run.publisher()("red")
    assert run.registry.versions("red") == sorted({first, run.published()["version"]})
    assert run.registry.current("red") == run.published()["version"] != first
