"""One run on a real local cluster: streaming, a bad object, a killed training worker; and the same adapters again."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from safetensors.numpy import load_file

from persrep_ray.cli import main
from persrep_ray.config import RunConfig, load_config
from persrep_ray.generate.cut_paste import generator as cut_paste
from persrep_ray.generate.cut_paste.worker import CutPasteWorker
from persrep_ray.generate.schedule import chunks
from persrep_ray.registry.registry import Registry
from persrep_ray.runs.personalize import Request, personalize
from persrep_ray.runs.progress import StatusLine
from persrep_ray.storage.store import open_store

PATIENCE_S = 400
GOOD = ["blue", "green", "red"]


class HeldChunkWorker(CutPasteWorker):
    """Keeps back the very last chunk until an object is trained and its worker killed: only a run that streams ends."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        last = chunks("red", self._config)[-1]
        if (item["object_id"], item["role"], item["start"]) == ("red", last.role, last.start):
            give_up = time.monotonic() + PATIENCE_S
            while not (Path(self._folder.store.uri).parent / "killed").exists():
                assert time.monotonic() < give_up, "nothing was trained while this chunk was missing"
                time.sleep(0.02)
        return super().__call__(item)


@dataclass(frozen=True)
class FinishedRun:
    summary: dict[str, Any]
    folder: Path
    registry: Registry
    output: str
    killed_at: float
    config: RunConfig


def train_workers() -> list[int]:
    """Process ids of Ray Train's workers below this process."""
    parents, workers = {}, []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            pid = int(status.parent.name)
            parents[pid] = int(status.read_text().split("PPid:")[1].split()[0])
            if b"TrainWorker" in (status.parent / "cmdline").read_bytes():
                workers.append(pid)
        except (OSError, IndexError):
            continue  # ended meanwhile

    def is_ours(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [pid for pid in workers if is_ours(pid)]


@pytest.fixture(scope="module")
def finished(cluster: None, sample: Any, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    root = tmp_path_factory.mktemp("run")
    objects = root / "objects"
    shutil.copytree(sample.objects, objects)
    (objects / "train" / "broken").mkdir()
    (objects / "train" / "broken" / "00.jpg").write_bytes(b"\xff\xd8\xff not a photo")
    config = load_config("debug", [f"backbone.name={sample.backbone}", "train.steps=40", "train.cells=2"])
    killed_at: list[float] = []

    def kill_after_first_adapter() -> None:
        while not (root / "out" / "trained" / "blue" / "train.json").exists():
            time.sleep(0.02)
        for pid in train_workers():
            os.kill(pid, signal.SIGKILL)
            killed_at.append(time.time())
        (root / "killed").touch()

    killer = threading.Thread(target=kill_after_first_adapter, daemon=True)
    output = io.StringIO()
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut_paste, "CutPasteWorker", HeldChunkWorker)
        killer.start()
        request = Request(objects=str(objects), registry=str(root / "registry"), out=str(root / "out"))
        summary = personalize(config, request, StatusLine(output))
    assert killed_at, "no training worker was found to be killed"
    return FinishedRun(
        summary, root / "out", Registry(open_store(root / "registry")), output.getvalue(), killed_at[0], config
    )


def test_every_good_object_is_published(finished: FinishedRun) -> None:
    for object_id in GOOD:
        one = finished.summary["objects"][object_id]
        assert (one["status"], one["error"]) == ("published", None)
        assert finished.registry.current(object_id) == one["version"]
        assert set(one["seconds"]) == {"mask", "generate", "train", "evaluate"}
        assert all(seconds > 0 for seconds in one["seconds"].values())
        assert {"classification.pr_auc", "retrieval.ndcg", "detection.map"} <= one["metrics"]["pretrained"].keys()
        assert one["metrics"]["pretrained"].keys() == one["metrics"]["personalized"].keys()
        card = finished.registry.card(object_id)
        assert (card["object_id"], card["metrics"]) == (object_id, one["metrics"])
        held_out = finished.config.generate.calibration_images
        assert card["calibration"]["positives"] == 3 + held_out
        assert card["calibration"]["others"] == 2 * 3 + held_out
        slope, intercept = card["calibration"]["slope"], card["calibration"]["intercept"]
        assert slope * card["threshold"] + intercept == pytest.approx(0)
        assert (finished.folder / f"{object_id}.jpg").stat().st_size > 10_000


def test_a_bad_object_fails_alone_and_says_why(finished: FinishedRun) -> None:
    one = finished.summary["objects"]["broken"]
    assert one["status"] == "failed"
    assert one["error"].startswith("object broken: data: no usable train photo; ")
    assert one["metrics"] is one["version"] is None
    assert "00.jpg" in finished.output
    assert finished.registry.current("broken") is None


def test_the_summary_is_on_disk_and_has_the_means(finished: FinishedRun) -> None:
    assert json.loads((finished.folder / "summary.json").read_text()) == finished.summary
    assert set(finished.summary) == {"objects", "mean", "config", "versions", "duplicates"}
    for side in ("pretrained", "personalized"):
        values = [finished.summary["objects"][one]["metrics"][side]["retrieval.ndcg"] for one in GOOD]
        assert finished.summary["mean"][side]["retrieval.ndcg"] == pytest.approx(np.mean(values))
    assert RunConfig.model_validate(finished.summary["config"]) == finished.config


def test_the_first_object_was_trained_before_the_last_chunk_had_landed(finished: FinishedRun) -> None:
    trained = (finished.folder / "trained" / "blue" / "train.json").stat().st_mtime
    last_chunk = max(path.stat().st_mtime for path in (finished.folder / "synthetic" / "red").glob("*.parquet"))
    assert trained < last_chunk


def test_an_object_was_trained_after_the_workers_had_been_killed(finished: FinishedRun) -> None:
    assert (finished.folder / "trained" / "red" / "train.json").stat().st_mtime > finished.killed_at


def test_nothing_is_left_but_results(finished: FinishedRun) -> None:
    folders = {".persrep", "evaluated", "masks", "published", "synthetic", "trained"}
    files = {"lock", "run.json", "summary.json", *(f"{object_id}.jpg" for object_id in GOOD)}
    assert {path.name for path in finished.folder.iterdir()} == folders | files


def test_the_same_command_again_has_nothing_to_do(finished: FinishedRun) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*.parquet")}
    versions = {one: finished.registry.versions(one) for one in GOOD}
    request = Request(
        objects=str(finished.folder.parent / "objects"),
        registry=finished.registry.store.uri,
        out=str(finished.folder),
        only=("red",),
    )
    summary = personalize(finished.config, request, StatusLine(io.StringIO()))
    assert summary["objects"] == {"red": finished.summary["objects"]["red"]}
    assert before == {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*.parquet")}
    assert versions == {one: finished.registry.versions(one) for one in GOOD}


def test_evaluating_the_registry_gives_the_same_metrics(
    finished: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects, out = finished.folder.parent / "objects", tmp_path / "result.json"
    arguments = ["--objects", str(objects), "--registry", finished.registry.store.uri, "--out", str(out)]
    assert main(["evaluate", *arguments]) == 0
    result = json.loads(out.read_text())
    assert set(result["objects"]) == set(GOOD)
    for object_id in GOOD:
        expected = copy.deepcopy(finished.summary["objects"][object_id]["metrics"])
        expected["pretrained"] = {  # only the adapter's own models are published
            name: value for name, value in expected["pretrained"].items() if name.startswith(("classif", "retrieval"))
        }
        assert result["objects"][object_id]["metrics"] == expected
    assert "mean" in capsys.readouterr().out


def test_the_published_adapter_is_the_trained_one(finished: FinishedRun) -> None:
    folder = finished.registry.local_copy("blue")
    trained = load_file(finished.folder / "trained" / "blue" / "adapter_model.safetensors")
    published = load_file(folder / "adapter_model.safetensors")
    assert trained.keys() == published.keys()
    assert all(np.array_equal(trained[name], published[name]) for name in trained)
    prototypes = load_file(folder / "prototypes.safetensors")
    assert prototypes["cls"].shape == prototypes["pretrained_cls"].shape == (3, 32)
