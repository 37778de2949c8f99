"""The command line: exit codes, one-line errors, and the registry commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import transformers
from helpers.s3 import s3, s3_proxy
from helpers.s3_server import FaultyS3
from helpers.versions import write_earlier_registry
from safetensors.numpy import save

from persrep_ray.cli import main
from persrep_ray.registry.registry import Registry
from persrep_ray.storage.store import open_store

__all__ = ["s3", "s3_proxy"]


def publish(root: Path | str, object_id: str, *versions: str) -> None:
    tensors = save({"cls": np.zeros((1, 2), np.float32)})
    for version in versions:
        files = {
            "adapter_config.json": b"{}",
            "adapter_model.safetensors": tensors,
            "prototypes.safetensors": tensors,
            "card.json": json.dumps({"object_id": object_id, "version": version}).encode(),
        }
        Registry(open_store(root)).publish(object_id, version, files)


def one_line_error(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("persrep: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_objects_are_listed_with_their_live_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path, "mug", "v1", "v2")
    publish(tmp_path, "cup", "v9")
    assert main(["objects", "list", "--registry", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "cup\tv9\t1 versions\nmug\tv2\t2 versions\n"


def test_an_objects_card_is_shown_by_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path, "mug", "v1", "v2")
    assert main(["objects", "show", "mug", "--registry", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == "v2"
    assert main(["objects", "show", "mug", "--registry", str(tmp_path), "--version", "v1"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == "v1"


def test_a_deleted_object_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path, "mug", "v1")
    assert main(["objects", "delete", "mug", "--registry", str(tmp_path)]) == 0
    assert Registry(open_store(tmp_path)).objects() == []
    assert "object mug: not published" in one_line_error(capsys, "objects", "delete", "mug", "--registry", tmp_path)


def test_a_registry_of_the_earlier_layout_is_migrated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_earlier_registry(open_store(tmp_path))
    migrate = f"persrep objects migrate --registry {tmp_path}"
    assert migrate in one_line_error(capsys, "objects", "list", "--registry", tmp_path)
    assert main(migrate.split()[1:]) == 0
    assert main(["objects", "list", "--registry", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "2 objects are live\ncup\tv2\t2 versions\nmug\tv1\t1 versions\n"


@pytest.mark.parametrize("action", [["list"], ["show", "a"], ["delete", "a"], ["rollback", "a", "--version", "v1"]])
def test_a_place_without_a_registry_is_an_error(
    action: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = one_line_error(capsys, "objects", *action, "--registry", tmp_path / "nowhere")
    assert message == f"persrep: {tmp_path / 'nowhere'} holds no registry\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("action", [["delete", "mug"], ["rollback", "mug", "--version", "v1"], ["migrate"]])
def test_a_store_that_ignores_conditional_writes_is_not_changed(
    action: list[str], s3: FaultyS3, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = Registry(open_store(s3.uri))
    if action == ["migrate"]:
        write_earlier_registry(registry.store)
    else:
        publish(s3.uri, "mug", "v1", "v2")
    before = list(registry.store.list())
    s3.ignores_conditions = True
    assert "ignores conditional writes" in one_line_error(capsys, "objects", *action, "--registry", s3.uri)
    assert list(registry.store.list()) == before


def test_an_unknown_object_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path, "cup", "v1")
    assert "object mug: not published" in one_line_error(capsys, "objects", "show", "mug", "--registry", tmp_path)
    assert "bad object id '../x'" in one_line_error(capsys, "objects", "show", "../x", "--registry", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--objects", "nowhere"], "nowhere: no such folder"),
        (["--objects", "photos", "--set", "train.stepz=3"], "train.stepz"),
        (["--objects", "photos", "--config", "missing.yaml"], "missing.yaml"),
        (["--objects", "photos", "--only", "mog"], "did you mean mug?"),
        (["--objects", "photos", "--backgrounds", "nowhere"], "--backgrounds: there is no folder nowhere"),
    ],
)
def test_what_the_user_has_to_fix_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos/mug").mkdir(parents=True)
    assert message in one_line_error(capsys, "personalize", "--out", "run", *arguments)
    assert not Path("run").exists(), "nothing may be left of a run that never began"


def test_evaluating_an_empty_registry_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "--objects", tmp_path, "--registry", tmp_path, "--out", tmp_path / "out.json"]
    assert "holds no published object" in one_line_error(capsys, *arguments)


def test_evaluating_without_test_photos_says_so_and_names_what_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing: dict[str, dict[str, float]] = {"pretrained": {}, "personalized": {}}
    objects = {"mug": {"metrics": nothing, "error": None}, "cup": {"metrics": None, "error": "object cup: evaluate: x"}}
    monkeypatch.setattr(
        "persrep_ray.runs.evaluate.evaluate_registry",
        lambda *arguments, **options: {"objects": objects, "mean": nothing},
    )
    out = tmp_path / "out.json"
    arguments = ["evaluate", "--objects", tmp_path, "--registry", tmp_path, "--out", out]
    assert main([str(argument) for argument in arguments]) == 1
    assert capsys.readouterr().out == (
        "1 done; there are no test photos to evaluate on (put them in test/<object>/, next to train/)\n"
        f"failed: object cup: evaluate: x\n\nresult  {out}\n"
    )


def test_an_invalid_command_line_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["personalize"])
    assert exit_info.value.code == 2
    assert "--objects" in capsys.readouterr().err


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["personalize"], ["evaluate"], ["objects"], ["objects", "list"], ["backbone", "path"]):
        with pytest.raises(SystemExit) as exit_info:
            main([*command, "--help"])
        assert exit_info.value.code == 0
        assert "persrep" in capsys.readouterr().out


def test_the_path_of_a_local_backbone_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backbone", "path", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"


def test_the_embedded_backbone_is_converted_first_and_loads_in_plain_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSREP_CACHE", str(tmp_path))
    assert main(["backbone", "path", "embedded"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder.parent == tmp_path
    assert len(transformers.AutoModel.from_pretrained(folder).encoder.layer) == 11


def test_an_unknown_backbone_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["backbone", "path", "nobody/nothing"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("persrep: backbone nobody/nothing: ") and error.count("\n") == 1
