"""The registry on a folder: atomic versions under kills, races and hostile names."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save

import persrep_ray.registry.registry as local
from persrep_ray.registry.registry import FILES, NotPublishedError, Registry, RegistryError

HOSTILE_NAMES = ["", ".", "..", "../mug", "a/b", "/etc", "mug\n", "mug\0", "mü", "a b", "x" * 129, None, 7]


def version_files(mark: float) -> dict[str, bytes | Path]:
    """A small version in which every file carries `mark`."""
    tensors = save({"mark": np.full((4, 4), mark, np.float32)})
    text = json.dumps({"mark": mark}).encode()
    return {
        "adapter_config.json": text,
        "adapter_model.safetensors": tensors,
        "prototypes.safetensors": tensors,
        "card.json": text,
    }


def mark_of(folder: Path) -> float:
    """The mark of a version; fails if the version is incomplete or mixed."""
    assert sorted(os.listdir(folder)) == sorted(FILES)
    marks = {json.loads((folder / name).read_text())["mark"] for name in ("adapter_config.json", "card.json")}
    for name in ("adapter_model.safetensors", "prototypes.safetensors"):
        marks |= set(load_file(folder / name)["mark"].ravel().tolist())
    assert len(marks) == 1
    return float(marks.pop())


def run_in_child(action: Callable[[], object]) -> Callable[[], int]:
    """Runs `action` in a forked process; the result waits for it and gives its exit status (negative: the signal)."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at_line(number: int, action: Callable[[], object]) -> int:
    """Runs `action` in a process that SIGKILLs itself before the `number`-th line it executes of the registry."""

    def traced() -> None:
        lines = 0

        def trace(frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal lines
            if frame.f_code.co_filename != local.__file__:
                return None
            if event == "line":
                lines += 1
                if lines == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        action()

    return run_in_child(traced)()


def test_publish_and_read(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    assert registry.objects() == [] and registry.versions("mug") == [] and registry.current("mug") is None

    folder = registry.publish("mug", "v1", version_files(1))

    assert folder == registry.path("mug") == registry.path("mug", "v1")
    assert folder == tmp_path / "registry/objects/mug/versions/v1"
    assert mark_of(folder) == 1
    assert registry.current("mug") == "v1"
    assert registry.versions("mug") == ["v1"]
    assert registry.objects() == ["mug"]
    assert registry.card("mug") == {"mark": 1}
    assert json.loads((tmp_path / "registry/objects/mug/current.json").read_text()) == {"version": "v1"}


def test_new_version_goes_live_and_the_old_one_stays(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.publish("mug", "v1", version_files(1))
    registry.publish("mug", "v2", version_files(2))
    assert registry.versions("mug") == ["v1", "v2"]
    assert registry.card("mug") == {"mark": 2} and registry.card("mug", "v1") == {"mark": 1}


def test_publishing_an_existing_version_keeps_its_files_and_makes_it_live(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.publish("mug", "v1", version_files(1))
    registry.publish("mug", "v2", version_files(2))
    registry.publish("mug", "v1", version_files(99))
    assert registry.current("mug") == "v1"
    assert mark_of(registry.path("mug")) == 1
    registry.publish("mug", "v2", dict.fromkeys(FILES, tmp_path / "removed after the first time"))
    assert mark_of(registry.path("mug")) == 2


def test_files_are_copied_from_paths(tmp_path: Path) -> None:
    files = version_files(3)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(files["adapter_model.safetensors"])  # type: ignore[arg-type]
    registry = Registry(tmp_path / "registry")
    registry.publish("mug", "v1", {**files, "adapter_model.safetensors": weights})
    weights.unlink()
    assert mark_of(registry.path("mug")) == 3


def test_absent_objects_and_versions_are_named(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    with pytest.raises(NotPublishedError, match="object mug: not published"):
        registry.path("mug")
    registry.publish("mug", "v1", version_files(1))
    with pytest.raises(NotPublishedError, match="object mug: no version v2"):
        registry.card("mug", "v2")


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_touch_nothing(tmp_path: Path, name: Any) -> None:
    (tmp_path / "mug").mkdir()
    registry = Registry(tmp_path / "registry")
    calls: list[Callable[[], object]] = [
        lambda: registry.publish(name, "v1", version_files(1)),
        lambda: registry.publish("mug", name, version_files(1)),
        lambda: registry.current(name),
        lambda: registry.versions(name),
        lambda: registry.path(name),
        lambda: registry.card(name),
        lambda: registry.delete(name),
    ]
    for call in calls:
        with pytest.raises(RegistryError, match=r"bad object id|bad version"):
            call()
    assert os.listdir(tmp_path) == ["mug"]


def test_names_that_look_like_our_own_are_ordinary(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for object_id in ("versions", "incoming", "current.json", "trash", ".mug", "..."):
        registry.publish(object_id, "current.json", version_files(1))
        assert mark_of(registry.path(object_id)) == 1
    assert len(registry.objects()) == 6
    registry.delete(".mug")
    assert len(registry.objects()) == 5 and os.listdir(tmp_path / "trash") == []


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"card.json": None}, "missing files .*card.json"),
        ({"adapter_model.bin": b""}, "unexpected files .*adapter_model.bin"),
        ({"../card.json": b"{}"}, "unexpected files"),
        ({"card.json": b"{"}, "card.json: "),
        ({"card.json": b"[]"}, "card.json: expected a JSON object, got list"),
        ({"card.json": b"[" * 100_000}, "card.json: nested too deeply"),
        ({"card.json": b"\xff\xfe\xff"}, "card.json: "),
        ({"adapter_model.safetensors": pickle.dumps({"weight": 1})}, "adapter_model.safetensors: "),
        ({"prototypes.safetensors": save({"mark": np.zeros(8)})[:-1]}, "prototypes.safetensors: "),
        ({"prototypes.safetensors": Path("/nowhere")}, "prototypes.safetensors: /nowhere is not a file"),
        ({"prototypes.safetensors": Path("/dev/zero")}, "prototypes.safetensors: /dev/zero is not a file"),
    ],
)
def test_bad_files_change_nothing(tmp_path: Path, change: dict[str, Any], cause: str) -> None:
    registry = Registry(tmp_path)
    registry.publish("mug", "v1", version_files(1))
    files = {name: content for name, content in {**version_files(2), **change}.items() if content is not None}
    with pytest.raises(RegistryError, match=f"object mug, version v2: .*{cause}"):
        registry.publish("mug", "v2", files)
    assert registry.versions("mug") == ["v1"] and registry.current("mug") == "v1"
    assert os.listdir(tmp_path / "objects/mug/incoming") == []


def test_a_fifo_as_source_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RegistryError, match="is not a file"):
        Registry(tmp_path / "registry").publish("mug", "v1", {**version_files(1), "card.json": tmp_path / "pipe"})


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    registry, outside = Registry(tmp_path / "registry"), Registry(tmp_path / "outside")
    outside.publish("mug", "v1", version_files(1))
    registry.publish("cup", "v1", version_files(1))
    (registry.root / "objects/mug").symlink_to(outside.root / "objects/mug")
    (registry.root / "objects/cup/versions/v2").symlink_to(outside.path("mug"))
    for call in (lambda: registry.path("mug"), lambda: registry.delete("mug"), lambda: registry.path("cup", "v2")):
        with pytest.raises(RegistryError, match="symbolic link"):
            call()
    assert mark_of(outside.path("mug")) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": "../../x"}', '{"version": 3}', '{"version": ".."}'])
def test_a_damaged_pointer_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    registry = Registry(tmp_path)
    registry.publish("mug", "v1", version_files(1))
    (tmp_path / "objects/mug/current.json").write_text(text)
    with pytest.raises(RegistryError, match=r"object mug: .*current\.json: "):
        registry.path("mug")
    registry.publish("mug", "v1", version_files(1))
    assert registry.current("mug") == "v1"


def test_killed_at_any_line_a_publisher_leaves_the_old_version_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "sync", lambda _path: None)  # slow, and only a power cut would tell
    Registry(tmp_path / "before").publish("mug", "v1", version_files(1))
    survivors = set()
    for line in range(1, 1000):
        registry = Registry(shutil.copytree(tmp_path / "before", tmp_path / str(line)))
        status = killed_at_line(line, partial(registry.publish, "mug", "v2", version_files(2)))

        live = registry.current("mug")
        assert mark_of(registry.path("mug")) == {"v1": 1, "v2": 2}[live or ""]
        for version in registry.versions("mug"):
            mark_of(registry.path("mug", version))
        survivors.add((live, len(registry.versions("mug"))))

        registry.publish("mug", "v2", version_files(2))  # the same command once more
        assert registry.current("mug") == "v2" and registry.versions("mug") == ["v1", "v2"]
        assert mark_of(registry.path("mug")) == 2
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert survivors == {("v1", 1), ("v1", 2), ("v2", 2)}  # before the rename, between it and the swap, after the swap


def test_killed_at_any_line_a_deleter_leaves_all_or_nothing(tmp_path: Path) -> None:
    before = Registry(tmp_path / "before")
    before.publish("mug", "v1", version_files(1))
    before.publish("cup", "v1", version_files(2))
    seen = set()
    for line in range(1, 1000):
        registry = Registry(shutil.copytree(before.root, tmp_path / str(line)))
        status = killed_at_line(line, partial(registry.delete, "mug"))

        seen.add(tuple(registry.objects()))
        if "mug" in registry.objects():
            assert mark_of(registry.path("mug")) == 1
        registry.delete("mug")
        assert registry.objects() == ["cup"] and os.listdir(registry.root / "trash") == []
        if status == 0:
            break
    assert seen == {("cup", "mug"), ("cup",)}


def test_a_deleter_killed_amid_the_files_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path)
    registry.publish("mug", "v1", version_files(1))
    unlinked: list[object] = []
    unlink = os.unlink

    def killed_at_the_second_file(*args: Any, **options: Any) -> None:
        if unlinked:
            os.kill(os.getpid(), signal.SIGKILL)
        unlinked.append(args)
        unlink(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", killed_at_the_second_file)
        assert run_in_child(partial(registry.delete, "mug"))() == -signal.SIGKILL
    assert not (tmp_path / "objects/mug").exists() and len(os.listdir(tmp_path / "trash")) == 1
    assert registry.objects() == [] and registry.versions("mug") == []
    registry.delete("mug")
    assert os.listdir(tmp_path / "trash") == []


def test_a_killed_first_publish_is_invisible_and_swept_an_hour_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tmp_path)

    def killed_before_the_rename() -> None:
        monkeypatch.setattr(os, "rename", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        registry.publish("mug", "v1", version_files(1))

    assert run_in_child(killed_before_the_rename)() == -signal.SIGKILL
    incoming = tmp_path / "objects/mug/incoming"
    (leftover,) = incoming.iterdir()
    assert sorted(os.listdir(leftover / "version")) == sorted(FILES)
    assert registry.objects() == [] and registry.versions("mug") == [] and registry.current("mug") is None

    registry.publish("mug", "v2", version_files(2))
    assert list(incoming.iterdir()) == [leftover]  # young: its publisher may be alive
    an_hour_ago = leftover.stat().st_mtime - local._LEFTOVER_AGE_S - 1
    os.utime(leftover, (an_hour_ago, an_hour_ago))
    registry.publish("mug", "v3", version_files(3))
    assert list(incoming.iterdir()) == []


def test_of_many_publishers_of_one_version_one_wins(tmp_path: Path) -> None:
    for attempt in range(5):
        registry = Registry(tmp_path / str(attempt))
        reader, writer = os.pipe()

        def publish(mark: int, registry: Registry = registry, reader: int = reader, writer: int = writer) -> None:
            os.close(writer)
            os.read(reader, 1)  # end of file for all at once, when the parent closes its end
            registry.publish("mug", "v1", version_files(mark))

        waits = [run_in_child(partial(publish, mark)) for mark in range(6)]
        os.close(writer)
        assert [wait() for wait in waits] == [0] * 6
        os.close(reader)
        assert mark_of(registry.path("mug")) in range(6)
        assert registry.versions("mug") == ["v1"]
        assert os.listdir(registry.root / "objects/mug/incoming") == []


def test_the_loser_of_the_race_keeps_the_winners_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path)
    rename = os.rename

    def overtaken(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "rename", rename)
        registry.publish("mug", "v1", version_files(1))  # another publisher, between our check and our rename
        rename(source, target)

    monkeypatch.setattr(os, "rename", overtaken)
    registry.publish("mug", "v1", version_files(2))
    assert mark_of(registry.path("mug")) == 1


def test_deleting_under_a_publisher_fails_it_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path)
    rename = os.rename

    def deleted(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "rename", rename)
        registry.delete("mug")
        rename(source, target)

    monkeypatch.setattr(os, "rename", deleted)
    with pytest.raises(RegistryError, match="object mug, version v1: publishing failed"):
        registry.publish("mug", "v1", version_files(1))
    assert registry.objects() == []


def test_readers_always_find_a_whole_live_version_while_it_is_replaced(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.publish("mug", "v0", version_files(0))
    wait = run_in_child(lambda: [registry.publish("mug", f"v{n}", version_files(n)) for n in range(1, 16)])
    seen = [mark_of(registry.path("mug")) for _ in range(150)]
    assert seen == sorted(seen)
    assert wait() == 0
    assert mark_of(registry.path("mug")) == 15


def test_deleting_twice_and_deleting_nothing(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.delete("mug")
    registry.publish("mug", "v1", version_files(1))
    registry.delete("mug")
    registry.delete("mug")
    assert registry.objects() == [] and registry.current("mug") is None
    registry.publish("mug", "v1", version_files(2))
    assert mark_of(registry.path("mug")) == 2


def test_a_version_is_on_the_disk_before_it_gets_its_name_and_the_name_before_the_pointer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def recorded(original: Callable[..., None]) -> Callable[..., None]:
        return lambda *paths: (events.append(original.__name__), original(*paths))[1]  # type: ignore[func-returns-value]

    monkeypatch.setattr(os, "rename", recorded(os.rename))
    monkeypatch.setattr(os, "replace", recorded(os.replace))
    monkeypatch.setattr(local, "sync", lambda path: events.append(f"sync {path.name}"))
    Registry(tmp_path / "registry").publish("mug", "v1", version_files(1))
    assert events[:6] == [*(f"sync {name}" for name in FILES), "sync version", "rename"]
    assert events[6:9] == ["sync versions", "sync current.json", "replace"]
    assert events[9:] == ["sync mug", "sync objects", "sync registry"]


def test_an_earlier_version_can_be_made_live_again(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for version in ("v1", "v2"):
        registry.publish("mug", version, version_files(1.0))
    registry.make_live("mug", "v1")
    assert registry.current("mug") == "v1"
    with pytest.raises(NotPublishedError, match="no version v3"):
        registry.make_live("mug", "v3")
    assert registry.current("mug") == "v1"
    assert not list((tmp_path / "objects" / "mug" / "incoming").iterdir())
