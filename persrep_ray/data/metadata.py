"""The JSON files next to a dataset, in the reference's format: the objects' semantic categories and test splits."""

from __future__ import annotations

import json
from typing import Any

from persrep_ray.config import DataConfig
from persrep_ray.storage.files import File, read_file

TEST_SPLITS = ("in_distribution", "pose", "distractors", "pose_and_distractors")


def read_categories(file: File, limits: DataConfig) -> dict[str, str]:
    """Object id -> semantic category, from `class_to_sc` of an `*_info.json`. `ValueError` names file and key.

    A file without this key is something else, such as the `dataset_info.json` that Hugging Face writes.
    """
    content = _read_json(file, limits)
    if not isinstance(content, dict) or "class_to_sc" not in content:
        return {}
    categories = content["class_to_sc"]
    if not isinstance(categories, dict):
        raise ValueError(f"{file}: key 'class_to_sc': expected a mapping from object to category")
    for object_id, category in categories.items():
        # Categories end up in prompts and reports, so each must be a short printable line.
        if not isinstance(category, str) or not (category.isprintable() and 0 < len(category.strip()) <= 128):
            raise ValueError(f"{file}: key 'class_to_sc', {object_id!r}: expected a category, got {category!r:.100}")
    return categories


def read_test_splits(file: File, limits: DataConfig) -> dict[tuple[str, str], str]:
    """(object id, file name or stem) -> test split, from an `*_image_annos.json`. `ValueError` names file and key.

    An image's id is its file name, bare or below its object's folder; the entries of train images are ignored.
    """
    splits = {}
    content = _read_json(file, limits)
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a JSON object, got {type(content).__name__}")
    for image_id, entry in content.items():
        where = f"{file}: key {image_id!r:.300}"
        if not isinstance(entry, dict) or not isinstance(entry.get("class"), str):
            raise ValueError(f"{where}: expected a mapping with the image's 'class'")
        if entry.get("split") not in ("train", "test"):
            raise ValueError(f"{where}: 'split' must be train or test, got {entry.get('split')!r:.100}")
        if entry["split"] == "train":
            continue
        if entry.get("test_split") not in TEST_SPLITS:
            raise ValueError(
                f"{where}: 'test_split' must be one of {', '.join(TEST_SPLITS)}, got {entry.get('test_split')!r:.100}"
            )
        *folders, name = image_id.split("/")
        object_id = entry["class"]
        if folders not in ([], [object_id], ["test", object_id], ["test_dense", object_id]):
            raise ValueError(f"{where}: is not in the folder of its class {object_id!r:.300}")
        splits[object_id, name] = entry["test_split"]
    return splits


def _read_json(file: File, limits: DataConfig) -> Any:
    try:
        return json.loads(read_file(file, limits.max_bytes))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not readable as JSON: {error}") from error
