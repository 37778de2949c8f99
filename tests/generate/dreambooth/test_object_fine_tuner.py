from __future__ import annotations

import itertools
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
from persrep_ray.generate.dreambooth.object_fine_tuner import ObjectFineTuner
from persrep_ray.generate.dreambooth.prompts.prompt_set import build_prompts
from persrep_ray.generate.dreambooth.run import DreamBoothRun
from persrep_ray.generate.types import seed_of
from persrep_ray.storage.store import open_store

Base = Callable[[str], Path]


def folder_of(root: Path) -> RunFolder:
    return RunFolder(open_store(root / "run"))


def path_of(root: Path, key: str) -> Path:
    return Path(folder_of(root).store.url(key))


def fine_tuner(root: Path, base: Path, *names: str, **changes: Any) -> ObjectFineTuner:
    settings, folder = config(base, **changes), folder_of(root)
    photos = manifest(root / "photos", folder, *names)
    return ObjectFineTuner(DreamBoothRun(settings, photos, folder, build_prompts(settings.generate), print))


def visible(root: Path) -> set[str]:
    """The files about the objects' weights in the run folder."""
    store = folder_of(root).store
    return {entry.key for prefix in ("generators/", "fine_tuned/") for entry in store.list(prefix)}


def test_weights_and_how_they_were_made_are_written(base: Base, tmp_path: Path) -> None:
    fine_tune = fine_tuner(tmp_path, base("sd"))
    fine_tune("red")
    assert visible(tmp_path) == {
        f"generators/red/{LORA_FILE}",
        "generators/red/dreambooth.json",
        "fine_tuned/red.json",
    }
    folder = folder_of(tmp_path)
    report = folder.read_json(folder.fine_tuned("red"))
    assert report == folder.read_json(folder.weights("red") + "dreambooth.json")
    assert report["object_id"] == "red" and report["photos"] == ["0.png", "1.png"]
    assert report["prompt"] == "a photo of <new1> mug" and report["class_prompt"] == "a photo of a mug"
    assert report["seed"] == seed_of(7, "red", "dreambooth")
    assert len(report["loss"]) == len(report["prior_loss"]) == 2 and len(report["probe"]) == 2
    assert report["micro_batch"] == 2 and report["optimizer"] == "AdamW" and report["seconds"] > 0
    assert report["config"]["steps"] == 2 and report["config"]["base"] == str(base("sd"))
    assert report["versions"]["persrep_ray"] == __version__ and "diffusers" in report["versions"]

    one = model(base("sd"))
    one.load(path_of(tmp_path, folder.weights("red")))
    assert equal(slot(one), slot(fine_tune._model))


def test_what_exists_is_kept(base: Base, tmp_path: Path) -> None:
    fine_tune = fine_tuner(tmp_path, base("sd"))
    fine_tune("red")
    files = [path for path in (tmp_path / "run" / "generators").rglob("*") if path.is_file()]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    fine_tune("green")
    fine_tune("red")
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files} == before


def weights(root: Path, object_id: str) -> dict[str, bytes]:
    """Tensor by tensor, because the header of the file lists them in any order."""
    state = load_file(path_of(root, f"generators/{object_id}/{LORA_FILE}"))
    return {name: value.numpy().tobytes() for name, value in state.items()}


def test_an_objects_weights_depend_on_no_other_object(base: Base, tmp_path: Path) -> None:
    first, second = fine_tuner(tmp_path / "a", base("sd")), fine_tuner(tmp_path / "b", base("sd"))
    for name in ("red", "green"):
        first(name)
    for name in ("green", "red"):
        second(name)
    for name in ("red", "green"):
        assert weights(tmp_path / "a", name) == weights(tmp_path / "b", name)
    assert weights(tmp_path / "a", "red") != weights(tmp_path / "a", "green")


def test_settings_reach_fine_tuning(base: Base, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"masked_loss": False}, {"prior_images": 0}, {"steps": 1}]
    learned = []
    for index, change in enumerate(changes):
        fine_tuner(tmp_path / str(index), base("sd"), "red", dreambooth=change)("red")
        learned.append(weights(tmp_path / str(index), "red"))
    assert all(one != other for one, other in itertools.combinations(learned, 2))


def test_only_photos_with_masks_are_learned(base: Base, tmp_path: Path) -> None:
    first, second = (fine_tuner(tmp_path / name, base("sd"), "red") for name in "ab")
    third = tmp_path / "b" / "photos" / "red" / "2.png"  # has none
    third.write_bytes(third.with_name("1.png").read_bytes())
    first("red")
    second("red")
    assert weights(tmp_path / "a", "red") == weights(tmp_path / "b", "red")


def test_an_object_without_any_mask_fails_by_name(base: Base, tmp_path: Path) -> None:
    fine_tune = fine_tuner(tmp_path, base("sd"), "red")
    for key in folder_of(tmp_path).store.files("masks/red/"):
        if key.endswith(".png"):
            path_of(tmp_path, key).unlink()
    with pytest.raises(DiffusionError, match="object red: generate: no photo has a mask"):
        fine_tune("red")
    assert visible(tmp_path) == set()


def test_an_object_without_a_category_fails_by_name_and_the_next_does_not(base: Base, tmp_path: Path) -> None:
    fine_tune = fine_tuner(tmp_path, base("sd"), "blue", "red")
    with pytest.raises(ValueError, match=r"object blue: generate: DreamBooth needs its category"):
        fine_tune("blue")
    fine_tune("red")
    assert folder_of(tmp_path).has_weights("red")
    named = fine_tuner(tmp_path / "named", base("sd"), "blue", dreambooth={"category": "toy_car"})
    named("blue")
    report = folder_of(tmp_path / "named").read_json("fine_tuned/blue.json")
    assert report["prompt"] == "a photo of <new1> toy car"


def test_a_loss_that_is_not_finite_fails_by_name_and_the_next_does_not(base: Base, tmp_path: Path) -> None:
    fine_tune = fine_tuner(tmp_path, base("sd"))
    predict, spoilt = fine_tune._model.predict, [True]

    def sometimes(*arguments: Any) -> Any:
        return predict(*arguments) * (np.nan if spoilt[0] else 1)

    fine_tune._model.predict = sometimes  # type: ignore[method-assign]
    with pytest.raises(DiffusionError, match="object red: the loss is not finite at step 0 of 2"):
        fine_tune("red")
    assert visible(tmp_path) == set()
    spoilt[0] = False
    fine_tune("green")
    undisturbed = fine_tuner(tmp_path / "other", base("sd"))
    undisturbed("green")
    assert weights(tmp_path, "green") == weights(tmp_path / "other", "green")


def test_a_save_that_fails_leaves_nothing_and_is_repeated(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine_tune = fine_tuner(tmp_path, base("sd"), "red")
    save = fine_tune._model.save

    def half(folder: Path) -> None:
        save(folder)
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(fine_tune._model, "save", half)
        with pytest.raises(OSError, match="No space left"):
            fine_tune("red")
    assert visible(tmp_path) == set()

    write = RunFolder.write_json

    def killed(folder: RunFolder, key: str, value: Any) -> None:
        if key == folder.fine_tuned("red"):
            raise KeyboardInterrupt
        write(folder, key, value)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            fine_tune("red")
    assert visible(tmp_path) == set()  # weights never exist without the report of how they were made
    fine_tune("red")
    assert {f"generators/red/{LORA_FILE}", "generators/red/dreambooth.json", "fine_tuned/red.json"} == visible(tmp_path)


def test_full_fine_tuning_is_written_by_component(base: Base, tmp_path: Path) -> None:
    fine_tune = fine_tuner(tmp_path, base("sd"), "red", dreambooth={"method": "full", "learning_rate": 1e-3})
    fine_tune("red")
    folder = path_of(tmp_path, "generators/red")
    assert {path.name for path in folder.iterdir()} == {"unet", "text_encoder", "dreambooth.json"}
    one = model(base("sd"), method="full")
    one.load(folder)
    assert equal(slot(one), slot(fine_tune._model))
