"""Training an object of a run: from the run folder into the run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from helpers.disc_run import disc_run

from persrep_ray.backbones.lora import ADAPTER_FILES, load_lora
from persrep_ray.generate.schedule import training_chunks
from persrep_ray.train.objects import ObjectTrainer


def test_an_object_is_trained_on_its_shards_and_committed_with_its_report(tmp_path: Path) -> None:
    run = disc_run(tmp_path)
    seen: list[tuple[int, int]] = []
    lora = load_lora(run.config)
    ObjectTrainer(lora, *run)("red", lambda done, total: seen.append((done, total)))
    total = run.config.train.images_per_object
    assert seen[-1] == (total, total)
    assert run.folder.trained() == {"red"}
    files = {name: run.folder.read_trained("red", name) for name in ADAPTER_FILES}
    assert files == lora.files()
    report = run.folder.read_json(run.folder.train_report("red"))
    assert set(report) == {"seconds", "generate_seconds", "strength", "loss", "cross_validation"}
    assert report["generate_seconds"] == 0.25 * sum(map(len, training_chunks("red", run.config).values()))
    assert len(report["loss"]) == run.config.train.steps and np.isfinite(report["loss"]).all()
    assert report["cross_validation"]["folds"] == 2


def test_an_object_that_is_trained_again_has_the_same_adapter(tmp_path: Path) -> None:
    run = disc_run(tmp_path)
    trainer = ObjectTrainer(load_lora(run.config), *run)
    trainer("red", lambda done, total: None)
    first = run.folder.read_trained("red", "adapter_model.safetensors")
    run.folder.store.delete_all("trained/red/")
    trainer("red", lambda done, total: None)
    assert run.folder.read_trained("red", "adapter_model.safetensors") == first


def test_an_object_alone_is_checked_against_the_bank_and_the_users_negatives(tmp_path: Path) -> None:
    run = disc_run(tmp_path)
    alone = replace(run.manifest, objects={"red": run.manifest.objects["red"]})
    negatives = [tmp_path / "objects/train/blue/0.png"]
    trainer = ObjectTrainer(load_lora(run.config), run.config, alone, run.folder, negatives)
    inputs, _ = trainer._inputs("red")
    assert {photo.object_id.partition(":")[0] for photo in inputs.distractors} == {"bank"}
    assert inputs.checks[-1].path == negatives[0] and len(inputs.checks) == 33
    assert not {photo.path for photo in inputs.checks} & {photo.path for photo in inputs.distractors}
    trainer("red", lambda done, total: None)
    assert run.folder.read_json(run.folder.train_report("red"))["cross_validation"]["folds"] == 2
