"""A real endpoint whose registry and keys are in S3."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path

from helpers.s3 import s3, s3_proxy
from helpers.s3_server import FaultyS3
from helpers.served import DiscPublisher, disc_png, running_endpoint, wait_until

from persrep_ray.serving.http.auth import add_entry, new_key

__all__ = ["s3", "s3_proxy"]

LIVE_WITHIN_S = 5


def test_published_to_s3_goes_live(s3: FaultyS3, environment: dict[str, str], tmp_path: Path) -> None:
    publisher = DiscPublisher(tmp_path / "vit", f"{s3.uri}/registry")
    publisher.publish(0)
    key, entry = new_key("ours", [""], delete=True)
    add_entry(f"{s3.uri}/keys.json", entry)

    def ask(path: str, method: str = "POST") -> tuple[int, str, str]:
        """Status, error code and version of the answer."""
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/png"}
        data = disc_png(1) if method == "POST" else None
        request = urllib.request.Request(f"{endpoint.url}/v1/objects/{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, "", answer.headers.get("X-Adapter-Version", "")
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["error"]["code"], ""

    settings = ["encoder.cpus_per_replica=0.5", "http.timeout_s=60", f"http.keys_file={s3.uri}/keys.json"]
    with running_endpoint(
        f"{s3.uri}/registry", {**environment, **s3.environment}, tmp_path, settings=settings
    ) as endpoint:
        assert ask("disc_0/classify") == (200, "", "v1")
        for version in ("v1", "v2"):
            publisher.publish(1, version)
            published = time.monotonic()
            wait_until(lambda version=version: ask("disc_1/classify")[2] == version)  # type: ignore[misc]
            assert time.monotonic() - published < LIVE_WITHIN_S
        assert ask("disc_1/segment")[0] == 200
        assert ask("disc_0", "DELETE")[0] == 204
        assert publisher.registry.objects() == ["disc_1"]
        s3.fail("AccessDenied", times=1_000_000)  # the credentials have expired, say
        assert ask("disc_1/classify") == (200, "", "v2")
        assert ask("disc_1/classify?version=v9")[:2] == (503, "registry_unavailable")
