"""How an endpoint ends: quietly, and without a process that keeps its port."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from urllib.parse import urlparse

import pytest
from helpers.served import DiscPublisher, processes_below, running_endpoint, wait_until


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("published")
    publisher = DiscPublisher(folder / "vit", folder / "registry")
    publisher.publish(0)
    return publisher.registry.store.uri


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("whole_group", [False, True], ids=["process", "group"])
def test_sigterm_leaves_nothing_behind(
    registry: str, environment: dict[str, str], tmp_path: Path, whole_group: bool
) -> None:
    with running_endpoint(registry, environment, tmp_path) as endpoint:
        proxies = processes_below(endpoint.process.pid, "haproxy -")
        assert proxies
        (os.killpg if whole_group else os.kill)(endpoint.process.pid, signal.SIGTERM)
        assert endpoint.process.wait(180) == 0  # 20 s, and more on a busy machine
        wait_until(lambda: not any(is_running(pid) for pid in proxies))
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", urlparse(endpoint.url).port)) != 0
    assert endpoint.log.read_text().endswith("Stop with Ctrl-C.\n")
