"""What a run reads is known by its content, prompts included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from persrep_ray.config import ConfigError, load_config
from persrep_ray.data.images import encode_png
from persrep_ray.data.objects import Manifest, Photo
from persrep_ray.runs.inputs import duplicates_report, input_digests, readable


def test_an_edited_prompt_file_is_another_input(tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    config = load_config(
        None, ["generate.generator=dreambooth", "generate.prompts.source=file", f"generate.prompts.file={file}"]
    )
    empty = Manifest(tmp_path, {}, ())
    with pytest.raises(ConfigError, match=r"generate\.prompts\.file: .*prompts\.json: cannot be read: No such file"):
        input_digests(empty, (), (), config)
    seen = set()
    for text in ("{}", '{"mug": []}'):
        file.write_text(text)
        seen.add(input_digests(empty, (), (), config)["generate.prompts.file"])
    assert len(seen) == 2


def test_copies_are_told_once_with_both_files_and_counted(tmp_path: Path) -> None:
    def photo(object_id: str, name: str) -> Photo:
        return Photo(object_id, Path(f"/data/{object_id}/{name}"), None, None)

    groups = (
        (photo("cup", "a.jpg"), photo("mug", "b.jpg"), photo("mug", "c.jpg")),
        (photo("tin", "train/1.jpg"), photo("tin", "test/9.jpg")),
    )
    report = duplicates_report(Manifest(tmp_path, {}, (), groups))
    assert report.warnings == [
        "/data/cup/a.jpg and /data/mug/b.jpg (and 1 more files): the same photo in two objects; it is a negative of "
        "neither",
        "/data/tin/train/1.jpg and /data/tin/test/9.jpg: the same photo in train and test; the figures are too good",
    ]
    assert report.counts == {"between_objects": 3, "train_and_test": 2}
    many = duplicates_report(Manifest(tmp_path, {}, (), groups * 15))
    assert len(many.warnings) == 21 and many.warnings[-1] == "10 more photos are in several places"


def test_a_negative_that_cannot_be_decoded_is_told_and_left_out(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(encode_png(np.zeros((9, 9, 3), np.uint8)))
    bad.write_bytes(good.read_bytes()[:30])
    found, problems = readable([good, bad], load_config())
    assert found == [good] and len(problems) == 1 and problems[0].startswith(f"{bad}: ")
