"""Generation on a real local cluster; the text-to-image model has random weights."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from helpers.tiny_diffusion import save_tiny_sd
from safetensors.numpy import load

import persrep_ray.generate.dreambooth.generator as dreambooth
from persrep_ray.config import RunConfig, load_config
from persrep_ray.data.objects import Manifest, load_manifest
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.distributed.outcome import Outcome
from persrep_ray.distributed.resources import plan
from persrep_ray.generate.dreambooth.workers import FineTuneWorker, SampleWorker
from persrep_ray.generate.generators import generators_of
from persrep_ray.generate.pipeline import Generation
from persrep_ray.generate.schedule import calibration_chunks, chunks, training_chunks
from persrep_ray.generate.shards import read_shards
from persrep_ray.generate.types import GeneratorInputs
from persrep_ray.masks.pipeline import MaskWorker
from persrep_ray.registry.registry import Registry
from persrep_ray.runs.personalize import Request, personalize
from persrep_ray.runs.progress import StatusLine
from persrep_ray.storage.store import open_store

MINI_PODS = Path(__file__).resolve().parents[2] / "examples" / "mini_pods"
PATIENCE_S = 400
OBJECTS = ("mug_0", "mug_1", "tin_0")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three objects of the sample data, and an object without a category."""
    root = tmp_path_factory.mktemp("objects")
    for part in ("train", "train_masks", "test", "test_masks"):
        for object_id in OBJECTS:
            shutil.copytree(MINI_PODS / part / object_id, root / part / object_id)
    for part in ("train", "train_masks"):
        shutil.copytree(MINI_PODS / part / "bottle_0", root / part / "nameless")
    info = json.loads((MINI_PODS / "mini_pods_info.json").read_text())
    (root / "some_info.json").write_text(
        json.dumps({"class_to_sc": {one: info["class_to_sc"][one] for one in OBJECTS}})
    )
    return root


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_sd(tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture(autouse=True)
def workers_of_this_file_reach_the_actors() -> Iterator[None]:
    module = sys.modules[__name__]
    ray.cloudpickle.register_pickle_by_value(module)
    yield
    ray.cloudpickle.unregister_pickle_by_value(module)


def wait_until(reached: Any) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < give_up, "it never happened"
        time.sleep(0.02)


def path_of(folder: RunFolder, key: str) -> Path:
    return Path(folder.store.url(key))


def note(folder: RunFolder, *words: object) -> None:
    """Appends a line to a log that all processes share; short appends are written whole."""
    with open(path_of(folder, "log.txt"), "a") as log:
        log.write(" ".join(map(str, (*words, os.getpid()))) + "\n")


def notes(folder: RunFolder, kind: str) -> list[list[str]]:
    log = path_of(folder, "log.txt")
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [line for line in lines if line[0] == kind]


class NotingFineTuner(FineTuneWorker):
    def __call__(self, item: dict[str, Any]) -> Any:
        note(self._folder, "fine-tune", item["object_id"])
        return super().__call__(item)


class NotingSampler(SampleWorker):
    """Waits with the first chunk of an object until another actor has a chunk of it, and dies while it makes one."""

    def __call__(self, item: dict[str, Any]) -> Any:
        if item["error"]:
            return super().__call__(item)
        chunk = json.loads(item["chunk"])
        name = f"{chunk['object_id']}/{chunk['role']}/{chunk['start']}"
        note(self._folder, "sample", chunk["object_id"], name)
        if not path_of(self._folder, "killed").exists() and chunk["object_id"] == "mug_0":
            wait_until(lambda: len({line[-1] for line in notes(self._folder, "sample") if line[1] == "mug_0"}) > 1)
            if name == "mug_0/positive/0":
                path_of(self._folder, "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(item)


def a_run(tmp_path: Path, objects: Path, config: RunConfig) -> tuple[Manifest, RunFolder]:
    """A run folder with masks, as generation needs it."""
    manifest, folder = load_manifest(str(objects), config.data), RunFolder(open_store(tmp_path / "run"))
    for object_id in manifest.objects:
        assert not MaskWorker(config, manifest, folder)({"object_id": object_id})["error"]
    return manifest, folder


def generate(config: RunConfig, manifest: Manifest, folder: RunFolder, object_ids: list[str]) -> list[Outcome]:
    """Generates all images of the objects; returns the outcomes in the order in which the objects ended."""
    generators = generators_of(config)
    inputs = GeneratorInputs(folder, [], [], [], print)
    demands = [stage.demand for generator in generators.values() for stage in generator.stages()]
    generation = Generation(
        [chunk for object_id in object_ids for chunk in chunks(object_id, config)],
        config,
        folder,
        [ray.put(value) for value in (config, manifest, folder)],
        {name: generator.prepare(inputs) for name, generator in generators.items()},
        plan(config, demands, cpus=2, gpus=0, objects=len(object_ids)).pools,
    )
    outcomes: list[Outcome] = []

    def ended() -> bool:
        outcomes.extend(generation.poll())
        return len(outcomes) == len(object_ids)

    wait_until(ended)
    return outcomes


def test_actors_share_an_object_and_a_killed_actor_costs_only_its_chunk(
    cluster: None, objects: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(
        "debug",
        [
            *("generate.generator=dreambooth", f"generate.dreambooth.base={base}", "generate.sampling.actors=2"),
            *("generate.dreambooth.steps=2", "generate.filter.threshold=null"),
        ],
    )
    manifest, folder = a_run(tmp_path, objects, config)
    monkeypatch.setattr(dreambooth, "FineTuneWorker", NotingFineTuner)
    monkeypatch.setattr(dreambooth, "SampleWorker", NotingSampler)
    outcomes = generate(config, manifest, folder, ["mug_0", "mug_1", "nameless"])
    failed = {one.object_id: one.error for one in outcomes}
    assert failed["mug_0"] is failed["mug_1"] is None
    assert failed["nameless"] and failed["nameless"].startswith(
        "object nameless: generate: DreamBooth needs its category"
    )

    assert path_of(folder, "killed").exists()
    assert Counter(line[1] for line in notes(folder, "fine-tune")) == {"mug_0": 1, "mug_1": 1, "nameless": 1}
    sampled = Counter(line[2] for line in notes(folder, "sample"))
    # Ray Data also reassigns items that the dead actor had not started; each of them is made once.
    assert {name for name, times in sampled.items() if times > 1} == {"mug_0/positive/0"}
    for object_id in ("mug_0", "mug_1"):
        for chunk in chunks(object_id, config):
            images = read_shards(folder, [chunk], config.data)
            assert len(images) == chunk.count
            assert {one.generator for one in images} == {"dreambooth"}
    assert folder.exists(folder.weights("mug_0") + "pytorch_lora_weights.safetensors")
    class_images = folder.store.files(folder.class_images("a photo of a mug"))
    assert len(class_images) == config.generate.dreambooth.prior_images


def test_an_object_whose_images_are_all_rejected_fails_with_that_reason_and_leaves_no_weights(
    cluster: None, objects: Path, base: Path, tmp_path: Path
) -> None:
    config = load_config(
        "debug",
        [
            *("generate.generator=dreambooth", f"generate.dreambooth.base={base}", "generate.dreambooth.steps=1"),
            *("generate.filter.threshold=1.0", "generate.filter.max_tries=2", "backbone.name=embedded"),
            "generate.dreambooth.method=full",
        ],
    )
    manifest, folder = a_run(tmp_path, objects, config)
    (outcome,) = generate(config, manifest, folder, ["tin_0"])
    assert outcome.error and outcome.error.startswith("all 8 sampled images were rejected: ")
    assert outcome.error.endswith("generate.filter.threshold is 1.0")
    assert not folder.store.files(folder.weights("tin_0")), "all weights of a model are gigabytes"
    assert folder.read_json(folder.fine_tuned("tin_0"))["prompt"] == "a photo of <new1> tin"


class HeldSampler(SampleWorker):
    """Holds the last chunk of the last object back until the first object is trained: only a streaming run ends."""

    def __call__(self, item: dict[str, Any]) -> Any:
        if not item["error"]:
            chunk = json.loads(item["chunk"])
            if (chunk["object_id"], chunk["role"], chunk["start"]) == ("tin_0", "negative", 5):
                wait_until(lambda: "mug_0" in self._folder.trained())
        return super().__call__(item)


def test_the_main_job_with_combined_generators(
    cluster: None, sample: Any, objects: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(
        "debug",
        [f"backbone.name={sample.backbone}", "generate.generator=combined", f"generate.dreambooth.base={base}"],
    )
    monkeypatch.setattr(dreambooth, "SampleWorker", HeldSampler)
    output = io.StringIO()
    request = Request(objects=str(objects), registry=str(tmp_path / "registry"), out=str(tmp_path / "out"))
    summary = personalize(config, request, StatusLine(output))
    folder, registry = RunFolder(open_store(tmp_path / "out")), Registry(open_store(tmp_path / "registry"))
    for object_id in OBJECTS:
        one = summary["objects"][object_id]
        assert (one["status"], one["error"]) == ("published", None)
        assert registry.current(object_id) == one["version"]
        assert set(one["seconds"]) == {"mask", "fine_tune", "generate", "train", "evaluate"}
        assert one["filter"] == {"candidates": 2, "rejected": 0, "rejected_share": 0.0}, "half of four positives"
        assert all("<new1> " in prompt for prompt in folder.read_json(folder.filtered(object_id))["by_prompt"])
        for role, made in training_chunks(object_id, config).items():
            images = read_shards(folder, made, config.data)
            assert [one.generator for one in images] == ["cut_paste"] * 2 + ["dreambooth"] * 2
            assert [("<new1>" in (one.prompt or "")) for one in images] == [False] * 2 + [role == "positive"] * 2
        assert load(registry.read(object_id, one["version"], "adapter_model.safetensors"))
    nameless = summary["objects"]["nameless"]
    assert nameless["status"] == "failed"
    assert nameless["error"].startswith("object nameless: generate: DreamBooth needs its category")
    assert "fine-tune 4/4" in output.getvalue()

    before = list(folder.store.list("synthetic/"))
    again = personalize(config, Request(**{**vars(request), "only": OBJECTS}), StatusLine(io.StringIO()))
    assert again["objects"] == {one: summary["objects"][one] for one in OBJECTS}
    assert before == list(folder.store.list("synthetic/"))


def test_the_main_job_with_the_images_of_a_folder(cluster: None, sample: Any, tmp_path: Path) -> None:
    """`blue` has no negatives; `red` has more images than are used; masks are given or made."""
    images = tmp_path / "images"
    for object_id, count in (("red", 9), ("green", 5), ("blue", 5)):
        for role, source in (("positive", object_id), ("negative", "blue" if object_id != "blue" else None)):
            for index in range(count if source else 0):
                photo = sample.objects / "train" / str(source) / f"{index % 3:02d}.png"
                for kind, file in (
                    ("", photo),
                    ("_masks", photo.parents[2] / "train_masks" / str(source) / photo.name),
                ):
                    target = images / object_id / f"{role}{kind}" / f"{index}.png"
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, target)
    overrides = ["generate.generator=folder", f"generate.folder.path={images}", f"backbone.name={sample.backbone}"]
    config, output = load_config("debug", overrides), io.StringIO()
    request = Request(objects=str(sample.objects), registry=str(tmp_path / "registry"), out=str(tmp_path / "out"))
    summary = personalize(config, request, StatusLine(output))
    folder = RunFolder(open_store(tmp_path / "out"))
    for object_id, trained, calibrating in (("red", 4, 2), ("green", 3, 2)):
        assert summary["objects"][object_id]["status"] == "published"
        parts = training_chunks(object_id, config), calibration_chunks(object_id, config)
        found = [read_shards(folder, part["positive"], config.data) for part in parts]
        assert [len(images) for images in found] == [trained, calibrating]
        assert all(image.generator == "folder" and image.mask.any() for images in found for image in images)
    blue = summary["objects"]["blue"]
    assert (blue["status"], blue["error"]) == (
        "failed",
        f"object blue: generate: there are no images in {images}/blue/negative",
    )
    assert output.getvalue().count("there are more positive images than") == 1
