"""What the hub must give is asked for by the driver, before any worker starts."""

from __future__ import annotations

import pytest

from persrep_ray.config import ConfigError, load_config
from persrep_ray.runs import inputs
from persrep_ray.runs.inputs import check_checkpoints

DREAMBOOTH = ["generate.generator=combined", "generate.dreambooth.base=org/sd", "backbone.name=org/vit"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None, str]]:
    asked: list[tuple[str, str | None, str]] = []
    monkeypatch.setattr(inputs, "check_hub", lambda *arguments: asked.append(arguments))
    return asked


@pytest.mark.parametrize(
    ("settings", "generates", "expected"),
    [
        (["backbone.name=org/vit", "backbone.revision=v2"], True, [("org/vit", "v2", "config.json")]),
        (DREAMBOOTH, True, [("org/vit", None, "config.json"), ("org/sd", None, "model_index.json")]),
        (DREAMBOOTH, False, [("org/vit", None, "config.json")]),
        (
            ["masks.method=sam", "masks.sam.name=org/sam", "backbone.name=org/vit"],
            True,
            [("org/vit", None, "config.json"), ("org/sam", None, "config.json")],
        ),
    ],
)
def test_all_that_is_loaded_is_asked_for(
    settings: list[str],
    generates: bool,
    expected: list[tuple[str, str | None, str]],
    asked: list[tuple[str, str | None, str]],
) -> None:
    check_checkpoints(load_config(None, settings), generates=generates)
    assert asked == expected


def test_the_key_and_the_name_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, revision: str | None, file: str) -> None:
        raise FileNotFoundError("not on the hub")

    monkeypatch.setattr(inputs, "check_hub", missing)
    with pytest.raises(ConfigError, match=r"^backbone\.name org/vit: not on the hub$"):
        check_checkpoints(load_config(None, ["backbone.name=org/vit"]), generates=True)
