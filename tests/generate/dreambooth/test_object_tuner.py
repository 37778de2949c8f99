from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.dreams import config, manifest
from helpers.text_to_image import equal, model, slot
from safetensors.torch import load_file

from persrep_ray import __version__
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.dreambooth.diffusion.loading import DiffusionError
from persrep_ray.generate.dreambooth.diffusion.model import LORA_FILE
from persrep_ray.generate.dreambooth.generator import ObjectFineTuner
from persrep_ray.generate.dreambooth.prompts.book import build_prompts
from persrep_ray.generate.types import seed_of

Base = Callable[[str], Path]


def tuner(root: Path, base: Path, *names: str, warn: Callable[[str], None] = print, **changes: Any) -> ObjectFineTuner:
    settings, folder = config(base, **changes), RunFolder(root / "run")
    return ObjectFineTuner(
        settings, manifest(root / "photos", folder, *names), folder, build_prompts(settings.generate), warn
    )


def visible(root: Path) -> set[str]:
    """What a run has of the objects' weights, without the masks and the class images that come before."""
    return {
        str(path.relative_to(root / "run"))
        for part in ("generators", "tuned", "scratch")
        for path in (root / "run" / part).rglob("*")
    }


def test_weights_and_how_they_were_made_are_written(base: Base, tmp_path: Path) -> None:
    tune = tuner(tmp_path, base("sd"))
    tune("red")
    folder = RunFolder(tmp_path / "run")
    assert visible(tmp_path) == {
        "generators/red",
        f"generators/red/{LORA_FILE}",
        "generators/red/dreambooth.json",
        "tuned/red.json",
    }
    report = json.loads(folder.tuned("red").read_text())
    assert report == json.loads((folder.generator("red") / "dreambooth.json").read_text())
    assert report["object_id"] == "red" and report["photos"] == ["0.png", "1.png"]
    assert report["prompt"] == "a photo of <new1> mug" and report["class_prompt"] == "a photo of a mug"
    assert report["seed"] == seed_of(7, "red", "dreambooth")
    assert len(report["loss"]) == len(report["prior_loss"]) == 2 and len(report["probe"]) == 2
    assert report["micro_batch"] == 2 and report["optimizer"] == "AdamW" and report["seconds"] > 0
    assert report["config"]["steps"] == 2 and report["config"]["base"] == str(base("sd"))
    assert report["versions"]["persrep_ray"] == __version__ and "diffusers" in report["versions"]

    one = model(base("sd"))
    one.load(folder.generator("red"))
    assert equal(slot(one), slot(tune._model))


def test_what_exists_is_kept(base: Base, tmp_path: Path) -> None:
    tune = tuner(tmp_path, base("sd"))
    tune("red")
    files = [path for path in (tmp_path / "run" / "generators").rglob("*") if path.is_file()]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    tune("green")
    tune("red")
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files} == before


def weights(root: Path, object_id: str) -> dict[str, bytes]:
    """Tensor by tensor: the file's header has them in any order."""
    state = load_file(RunFolder(root / "run").generator(object_id) / LORA_FILE)
    return {name: value.numpy().tobytes() for name, value in state.items()}


def test_an_objects_weights_depend_on_no_other_object(base: Base, tmp_path: Path) -> None:
    first, second = tuner(tmp_path / "a", base("sd")), tuner(tmp_path / "b", base("sd"))
    for name in ("red", "green"):
        first(name)
    for name in ("green", "red"):
        second(name)
    for name in ("red", "green"):
        assert weights(tmp_path / "a", name) == weights(tmp_path / "b", name)
    assert weights(tmp_path / "a", "red") != weights(tmp_path / "a", "green")


def test_settings_reach_the_training(base: Base, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"masked_loss": False}, {"prior_images": 0}, {"steps": 1}]
    learnt = []
    for index, change in enumerate(changes):
        tuner(tmp_path / str(index), base("sd"), "red", dreambooth=change)("red")
        learnt.append(weights(tmp_path / str(index), "red"))
    assert all(one != other for one, other in itertools.combinations(learnt, 2))


def test_only_photos_with_masks_are_learnt(base: Base, tmp_path: Path) -> None:
    first, second = (tuner(tmp_path / name, base("sd"), "red") for name in "ab")
    third = tmp_path / "b" / "photos" / "red" / "2.png"  # has none
    third.write_bytes(third.with_name("1.png").read_bytes())
    first("red")
    second("red")
    assert weights(tmp_path / "a", "red") == weights(tmp_path / "b", "red")


def test_an_object_without_any_mask_fails_by_name(base: Base, tmp_path: Path) -> None:
    tune = tuner(tmp_path, base("sd"), "red")
    for file in RunFolder(tmp_path / "run").masks("red").glob("*.png"):
        file.unlink()
    with pytest.raises(DiffusionError, match="object red: generate: no photo has a mask"):
        tune("red")
    assert visible(tmp_path) == set()


def test_an_object_without_a_category_fails_by_name_and_the_next_does_not(base: Base, tmp_path: Path) -> None:
    tune = tuner(tmp_path, base("sd"), "blue", "red")
    with pytest.raises(ValueError, match=r"object blue: generate: DreamBooth needs its category"):
        tune("blue")
    tune("red")
    assert RunFolder(tmp_path / "run").generator("red").is_dir()
    named = tuner(tmp_path / "named", base("sd"), "blue", dreambooth={"category": "toy_car"})
    named("blue")
    report = json.loads(RunFolder(tmp_path / "named" / "run").tuned("blue").read_text())
    assert report["prompt"] == "a photo of <new1> toy car"


def test_a_loss_that_is_not_finite_fails_by_name_and_the_next_does_not(base: Base, tmp_path: Path) -> None:
    tune = tuner(tmp_path, base("sd"))
    predict, spoilt = tune._model.predict, [True]

    def sometimes(*arguments: Any) -> Any:
        return predict(*arguments) * (np.nan if spoilt[0] else 1)

    tune._model.predict = sometimes  # type: ignore[method-assign]
    with pytest.raises(DiffusionError, match="object red: the loss is not finite at step 0 of 2"):
        tune("red")
    assert visible(tmp_path) == set()
    spoilt[0] = False
    tune("green")
    undisturbed = tuner(tmp_path / "other", base("sd"))
    undisturbed("green")
    assert weights(tmp_path, "green") == weights(tmp_path / "other", "green")


def test_a_save_that_fails_leaves_nothing_and_is_done_again(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune = tuner(tmp_path, base("sd"), "red")
    save = tune._model.save

    def half(folder: Path) -> None:
        save(folder)
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(tune._model, "save", half)
        with pytest.raises(OSError, match="No space left"):
            tune("red")
    assert visible(tmp_path) == set()

    write = RunFolder.write_json

    def killed(folder: RunFolder, path: Path, value: Any) -> None:
        if path == folder.tuned("red"):
            raise KeyboardInterrupt
        write(folder, path, value)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            tune("red")
    assert visible(tmp_path) == set()  # weights are never there without the report of how they were made
    tune("red")
    assert {"generators/red", "tuned/red.json"} < visible(tmp_path)


def test_full_fine_tuning_is_written_by_component(base: Base, tmp_path: Path) -> None:
    tune = tuner(tmp_path, base("sd"), "red", dreambooth={"method": "full", "learning_rate": 1e-3})
    tune("red")
    folder = RunFolder(tmp_path / "run").generator("red")
    assert {path.name for path in folder.iterdir()} == {"unet", "text_encoder", "dreambooth.json"}
    one = model(base("sd"), method="full")
    one.load(folder)
    assert equal(slot(one), slot(tune._model))
