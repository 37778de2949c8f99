"""What a run reads is known by its content, prompts included."""

from __future__ import annotations

from pathlib import Path

import pytest

from persrep_ray.config import ConfigError, load_config
from persrep_ray.data.objects import Manifest
from persrep_ray.runs.inputs import input_digests


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
