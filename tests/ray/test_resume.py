"""A run that is killed again and again, at any point, ends as one that was left alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_diffusion import save_tiny_sd
from safetensors.numpy import load_file

from persrep_ray.backbones.lora import ADAPTER_FILES, load_lora
from persrep_ray.config import RunConfig
from persrep_ray.data.objects import load_manifest
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.cut_paste.worker import CutPasteWorker, UserPhotos
from persrep_ray.generate.dreambooth.object_fine_tuner import ObjectFineTuner
from persrep_ray.generate.dreambooth.object_sampler import ObjectSampler
from persrep_ray.generate.dreambooth.prompts.prompt_set import build_prompts
from persrep_ray.generate.dreambooth.run import DreamBoothRun
from persrep_ray.generate.schedule import chunks
from persrep_ray.generate.shards import read_shards, write_shard
from persrep_ray.registry.registry import Registry
from persrep_ray.storage.store import open_store
from persrep_ray.train.objects import ObjectTrainer

PATIENCE_S = 400
OBJECTS = ["blue", "green", "red"]

Start = Callable[[list[str]], "subprocess.Popen[bytes]"]


def wait_for(pattern: str, root: Path, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not list(root.glob(pattern)):
        assert process.poll() is None, f"the run ended before {pattern} was there"
        assert time.monotonic() < give_up, f"{pattern} never appeared"
        time.sleep(0.02)


def artifacts(root: Path) -> dict[Path, int]:
    """What may never be made twice, with the time it was made."""
    patterns = (
        *("masks/*/masks.json", "class_images/*/*.png", "generators/*/dreambooth.json", "synthetic/*/*.parquet"),
        *("trained/*/train.json", "evaluated/*/evaluation.json", "published/*.json"),
    )
    return {path: path.stat().st_mtime_ns for pattern in patterns for path in root.glob(pattern)}


def test_a_run_killed_at_every_stage_is_finished_by_the_same_command(
    sample: Any, start: Start, kill_group: Callable[[Any], None], tmp_path: Path
) -> None:
    out, base = tmp_path / "out", save_tiny_sd(tmp_path / "sd")
    arguments = sample.arguments(
        out,
        *("train.cells=1", "generate.generator=combined", f"generate.dreambooth.base={base}"),
        "generate.dreambooth.category=disc",
    )
    made: dict[Path, int] = {}
    for milestone in (
        "generators/*/dreambooth.json",
        "synthetic/*/*.parquet",
        "trained/*/train.json",
        "published/*.json",
    ):
        process = start(arguments)
        wait_for(milestone, out, process)
        kill_group(process)
        assert not (out / "summary.json").exists()
        after = artifacts(out)
        assert made.items() <= after.items(), "something finished was made again"
        made = after
        registry = Registry(open_store(out / "registry"))
        for object_id in registry.objects():  # whatever is visible is whole
            assert load_file(registry.local_copy(object_id) / "adapter_model.safetensors")

    process = start(arguments)
    assert process.wait(PATIENCE_S) == 0, (tmp_path / "output.txt").read_text()
    assert made.items() <= artifacts(out).items()
    summary = json.loads((out / "summary.json").read_text())
    registry = Registry(open_store(out / "registry"))
    for object_id in OBJECTS:
        one = summary["objects"][object_id]
        assert one["status"] == "published"
        assert registry.versions(object_id) == [registry.current(object_id)] == [one["version"]]
        assert all(seconds > 0 for seconds in one["seconds"].values()), "seconds outlive the process that spent them"
    assert not list(out.glob("ray/*")) and not list(out.glob("synthetic/*/.*"))
    compare_with_an_uninterrupted_object(sample, out, tmp_path / "plain")


def compare_with_an_uninterrupted_object(sample: Any, out: Path, plain: Path) -> None:
    """`green` once more in this process, without Ray: the same images, the same adapter."""
    torch.set_num_threads(1)
    config = RunConfig.model_validate(json.loads((out / "run.json").read_text())["config"])
    manifest, folder = load_manifest(sample.objects, config.data), RunFolder(open_store(plain))
    shutil.copytree(out / "masks", plain / "masks")
    run = DreamBoothRun(config, manifest, folder, build_prompts(config.generate), print)
    ObjectFineTuner(run)("green")
    cut_paste, sampler = CutPasteWorker(config, manifest, folder, UserPhotos()), ObjectSampler(run)
    for chunk in chunks("green", config):
        images, _ = cut_paste.make(chunk) if chunk.generator == "cut_paste" else sampler.sample(chunk)
        write_shard(folder, chunk, images, {"seconds": 0.0})
        mine, theirs = (read_shards(one, [chunk], config.data) for one in (folder, RunFolder(open_store(out))))
        assert all(np.array_equal(a.image, b.image) for a, b in zip(mine, theirs, strict=True))
    ObjectTrainer(load_lora(config), config, manifest, folder)("green", lambda done, total: None)
    for name in ADAPTER_FILES:
        assert (plain / "trained" / "green" / name).read_bytes() == (out / "trained" / "green" / name).read_bytes()


def test_other_settings_in_the_same_folder_are_refused(
    sample: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from persrep_ray.cli import main

    out = tmp_path / "out"
    out.mkdir()
    wrong_backbone = ["--objects", str(sample.objects), "--out", str(out), "--set", f"backbone.name={tmp_path}"]
    (out / "run.json").write_text(json.dumps({"config": {"seed": 7}, "inputs": {}}))
    assert main(["personalize", *wrong_backbone]) == 2
    assert "holds a run with other settings" in capsys.readouterr().err
