"""HAProxy accepts its completed configuration, and the added lines take effect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


def test_rays_own_configuration_is_of_the_form_we_know() -> None:
    rendered = HAPROXY_CONFIG_TEMPLATE.replace("{{ config.error_file_path }}", "/nowhere/500.http")
    assert "option http-buffer-request" in haproxy.completed(rendered, Path("/answers"))


def test_another_form_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="another version of Ray"):
        haproxy.completed(CONFIGURATION.replace("    mode http\n", ""), Path("/errors"))
