"""Failures of S3 while a version is published: it succeeds or is an error with a name, and is never visible in part."""

from __future__ import annotations

import pytest
from helpers.s3_server import FaultyS3, Request
from helpers.versions import mark_of, version_files

from persrep_ray.registry.registry import Registry, RegistryError
from persrep_ray.storage import s3 as s3_store
from persrep_ray.storage.store import AccessError, open_store

WRITTEN = ["adapter_config.json", "card.json", "live/mug.json"]


@pytest.fixture
def registry(s3: FaultyS3) -> Registry:
    registry = Registry(open_store(f"{s3.uri}/registry"))
    registry.publish("mug", "v1", version_files(1))
    return registry


@pytest.mark.parametrize("kind", ["InternalError", "SlowDown", "ConditionalRequestConflict", "reset", "hang", "lost"])
@pytest.mark.parametrize("name", WRITTEN)
def test_a_failure_that_passes_is_survived(registry: Registry, s3: FaultyS3, kind: str, name: str) -> None:
    s3.fail(kind, when=lambda request: request.method == "PUT" and request.key.endswith(name))
    registry.publish("mug", "v2", version_files(2))
    assert registry.current("mug") == "v2" and mark_of(registry, "mug") == 2


@pytest.mark.parametrize("kind", ["InternalError", "SlowDown", "reset", "truncated", "damaged"])
def test_a_failed_read_of_the_pointer_is_repeated(registry: Registry, s3: FaultyS3, kind: str) -> None:
    s3.fail(kind, when=lambda request: request.method == "GET")
    registry.publish("mug", "v2", version_files(2))
    assert mark_of(registry, "mug") == 2


@pytest.mark.parametrize("kind", ["InternalError", "SlowDown", "reset", "hang", "AccessDenied", "ExpiredToken"])
@pytest.mark.parametrize("name", WRITTEN)
def test_a_lasting_failure_is_an_error_that_leaves_the_old_version(
    registry: Registry, s3: FaultyS3, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_store, "ATTEMPTS", 2)

    def is_written(request: Request) -> bool:
        return request.method == "PUT" and request.key.endswith(name)

    s3.fail(kind, times=2, when=is_written)
    with pytest.raises(RegistryError, match=rf"^object mug, version v2: publishing failed: write {s3.uri}/.*{name}: "):
        registry.publish("mug", "v2", version_files(2))
    assert registry.current("mug") == "v1" and mark_of(registry, "mug") == 1
    assert registry.versions("mug") == (["v1", "v2"] if name == "live/mug.json" else ["v1"])


def test_a_denied_read_is_one_line_without_secrets(registry: Registry, s3: FaultyS3) -> None:
    s3.fail("AccessDenied", times=100)
    with pytest.raises(AccessError, match=f"^read {s3.uri}/registry/live/mug.json: AccessDenied") as caught:
        registry.current("mug")
    assert "\n" not in str(caught.value) and "the-secret-key" not in str(caught.value)
