"""Publishers, deleters and migrations that are killed at every line of theirs."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from helpers.versions import mark_of, version_files, write_earlier_registry

from persrep_ray.registry import migration, pointers, registry
from persrep_ray.registry.registry import Registry, RegistryError
from persrep_ray.storage import local
from persrep_ray.storage.store import open_store

REGISTRY = {pointers.__file__, registry.__file__}


@pytest.fixture(autouse=True)
def _no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_sync", lambda _path: None)  # slow, and only a power cut would tell


def killed_at_line(number: int, action: Callable[[], object], files: Collection[str | None] = REGISTRY) -> int:
    """Runs `action` in a process that kills itself before the `number`-th line in `files`; its exit status."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    lines = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            lines += 1
            if lines == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    try:
        sys.settrace(trace)
        action()
        sys.settrace(None)
        os._exit(0)
    finally:
        os._exit(1)


def copy_of(before: Registry, folder: Path) -> Registry:
    return Registry(open_store(shutil.copytree(before.store.uri, folder)))


def test_a_killed_publisher_leaves_the_old_version_or_the_new(folder: Registry, tmp_path: Path) -> None:
    folder.publish("mug", "v1", version_files(1))
    survivors = set()
    for line in range(1, 1000):
        copy = copy_of(folder, tmp_path / str(line))
        status = killed_at_line(line, partial(copy.publish, "mug", "v2", version_files(2)))

        live = copy.current("mug")
        assert mark_of(copy, "mug") == {"v1": 1, "v2": 2}[live or ""]
        for version in copy.versions("mug"):
            mark_of(copy, "mug", version)
        survivors.add((live, len(copy.versions("mug"))))

        copy.publish("mug", "v2", version_files(2))  # the same command once more
        assert copy.current("mug") == "v2" and copy.versions("mug") == ["v1", "v2"]
        assert mark_of(copy, "mug") == 2
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert survivors == {("v1", 1), ("v1", 2), ("v2", 2)}  # before the card, between it and the swap, after the swap


def test_a_killed_first_publisher_leaves_an_empty_registry_or_the_version(tmp_path: Path) -> None:
    survivors = set()
    for line in range(1, 1000):
        registry = Registry(open_store(tmp_path / str(line)))
        status = killed_at_line(line, partial(registry.publish, "mug", "v1", version_files(1)))
        survivors.add(registry.current("mug"))
        registry.publish("mug", "v1", version_files(1))
        assert mark_of(registry, "mug") == 1
        if status == 0:
            break
    assert survivors == {None, "v1"}


def test_a_killed_deleter_leaves_all_or_nothing(folder: Registry, tmp_path: Path) -> None:
    folder.publish("mug", "v1", version_files(1))
    folder.publish("cup", "v1", version_files(2))
    seen = set()
    for line in range(1, 1000):
        copy = copy_of(folder, tmp_path / str(line))
        status = killed_at_line(line, partial(copy.delete, "mug"))
        seen.add(tuple(copy.objects()))
        if "mug" in copy.objects():
            assert mark_of(copy, "mug") == 1
        copy.delete("mug")
        assert copy.objects() == ["cup"] and list(copy.store.list("objects/mug/")) == []
        if status == 0:
            break
    assert seen == {("cup", "mug"), ("cup",)}


def test_a_killed_migration_is_run_again(folder: Registry, tmp_path: Path) -> None:
    earlier = write_earlier_registry(folder.store)
    refused = 0
    for line in range(1, 1000):
        copy = copy_of(earlier, tmp_path / str(line))
        status = killed_at_line(line, partial(migration.migrate, copy), [migration.__file__])
        try:
            assert copy.live() == {"cup": "v2", "mug": "v1"}
        except RegistryError as error:
            assert "persrep objects migrate" in str(error)
            refused += 1
        assert migration.migrate(copy) == 2 and copy.live() == {"cup": "v2", "mug": "v1"}
        assert mark_of(copy, "cup") == 2 and not any(copy.earlier_pointers())
        if status == 0:
            break
    assert 0 < refused < line
