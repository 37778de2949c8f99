"""What only happens with S3: faults on the way, errors of access, requests that cost money."""

from __future__ import annotations

import functools
import hashlib
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.s3_server import FaultyS3, Request

from persrep_ray.config import ConfigError
from persrep_ray.storage import s3 as s3_store
from persrep_ray.storage.files import file_at, local_path, read_file
from persrep_ray.storage.store import AccessError, ConflictError, NotFoundError, StorageError, Store, open_store

MAKE_CLIENT = s3_store.client.__wrapped__  # before the fixture puts its own in place
TEMPORARY = ["InternalError", "SlowDown", "reset"]


@pytest.fixture
def store(s3: FaultyS3) -> Store:
    return open_store(s3.uri)


@pytest.fixture
def new_client(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test changes the AWS settings, so it needs a client of its own."""
    monkeypatch.setattr(s3_store, "client", functools.cache(MAKE_CLIENT))


@pytest.mark.parametrize("kind", [*TEMPORARY, "hang", "truncated", "damaged"])
def test_a_read_outlives_a_fault(store: Store, s3: FaultyS3, kind: str) -> None:
    content = bytes(range(256)) * 100
    store.write("photo", content)

    s3.fail(kind)
    assert store.read("photo") == content
    file = store.file("photo")
    s3.fail(kind, when=lambda request: request.operation == "GetObject")
    assert local_path(file).read_bytes() == content


@pytest.mark.usefixtures("new_client")
def test_damage_is_found_by_the_tag_where_the_uploader_sent_no_checksum(
    store: Store, s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    store.write("photo", b"content")

    s3.fail("damaged")
    assert store.read("photo") == b"content"


@pytest.mark.parametrize("kind", [*TEMPORARY, "lost"])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("write", lambda store: store.write("new", b"content")),
        ("write_if", lambda store: store.write_if("new", b"content", None)),
        ("list", lambda store: [entry.key for entry in store.list()]),
        ("stat", lambda store: store.stat("old")),
        ("delete", lambda store: store.delete("old")),
        ("delete_all", lambda store: store.delete_all("o")),
    ],
)
def test_every_operation_outlives_a_fault(
    store: Store, s3: FaultyS3, name: str, change: Callable[[Store], object], kind: str
) -> None:
    store.write("old", b"")

    s3.fail(kind)
    change(store)

    left = {"write": ["new", "old"], "write_if": ["new", "old"], "delete": [], "delete_all": []}
    assert [entry.key for entry in store.list()] == left.get(name, ["old"])


@pytest.mark.parametrize("kind", TEMPORARY)
def test_attempts_are_bounded_and_the_error_says_all(store: Store, s3: FaultyS3, kind: str) -> None:
    s3.fail(kind, times=1000)

    with pytest.raises(StorageError) as caught:
        store.read("objects/mug")
    assert str(caught.value).startswith(f"read {s3.uri}/objects/mug: ")
    assert str(caught.value).endswith(f", {s3_store.ATTEMPTS} attempts")
    assert "\n" not in str(caught.value)
    assert s3.count("GetObject") == s3_store.ATTEMPTS


@pytest.mark.parametrize(
    ("code", "says"),
    [("AccessDenied", "AccessDenied"), ("ExpiredToken", "have expired"), ("NoSuchBucket", "no such bucket")],
)
def test_a_refusal_is_final_and_holds_no_secret(store: Store, s3: FaultyS3, code: str, says: str) -> None:
    s3.fail(code, times=1000)

    for operation in (lambda: store.read("key"), lambda: store.write("key", b""), lambda: list(store.list())):
        before = s3.count()
        with pytest.raises(AccessError, match=says) as caught:
            operation()
        assert s3.count() == before + 1
        report = "".join(traceback.format_exception(caught.value))
        secrets = [value for name, value in s3.environment.items() if "KEY" in name or "TOKEN" in name]
        assert not [secret for secret in (*secrets, "Signature=") if secret in report]
    with pytest.raises(AccessError):
        store.check_writable()


def test_a_bucket_that_is_absent_is_found_out_at_the_start(s3: FaultyS3) -> None:
    with pytest.raises(AccessError, match=r"^write s3://no-such-bucket/.*: NoSuchBucket .*there is no such bucket$"):
        open_store("s3://no-such-bucket/a").check_writable()


@pytest.mark.usefixtures("new_client")
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no AWS credentials are found"),
        ({"AWS_SESSION_TOKEN": "the-session-token\nsecond line"}, "the request cannot be made"),
        ({"AWS_ENDPOINT_URL": "not a URL"}, "the request cannot be made"),
        ({"AWS_ENDPOINT_URL": "http://no-such-host.invalid"}, "the endpoint's host name is unknown"),
        ({"AWS_PROFILE": "absent"}, "ProfileNotFound"),
    ],
)
def test_settings_that_cannot_work_are_said_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str | None], says: str
) -> None:
    for name, value in settings.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_store, "FIRST_PAUSE_S", 60)  # a second attempt would be noticed

    with pytest.raises(AccessError, match=says) as caught:
        store.read("key")
    assert "the-session-token" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.usefixtures("new_client")
def test_an_endpoint_where_nobody_listens(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="the endpoint cannot be reached, 7 attempts"):
        store.read("key")


def test_a_conditional_write_whose_answer_got_lost_has_won(store: Store, s3: FaultyS3) -> None:
    s3.fail("lost", times=2)
    tag = store.write_if("pointer", b"1", None)
    assert store.read_tagged("pointer") == (b"1", tag)

    s3.fail("lost", when=lambda request: request.operation == "PutObject")
    newer = store.write_if("pointer", b"2", tag)
    assert store.read_tagged("pointer") == (b"2", newer)


def test_a_writer_of_the_same_content_still_loses(store: Store, s3: FaultyS3) -> None:
    store.write_if("pointer", b"1", None)
    with pytest.raises(ConflictError):
        store.write_if("pointer", b"1", None)


def test_a_conditional_write_is_repeated_while_others_are_under_way(store: Store, s3: FaultyS3) -> None:
    s3.fail("ConditionalRequestConflict", times=2)
    store.write_if("pointer", b"1", None)
    assert s3.count("PutObject") == 3


def test_a_store_that_ignores_conditions_is_refused(store: Store, s3: FaultyS3) -> None:
    s3.ignores_conditions = True
    with pytest.raises(ConfigError, match=r"^s3://bucket-\w+: this store ignores conditional writes .*[^\n]$"):
        store.check_writable()
    assert list(store.list()) == []


def test_probes_of_killed_processes_are_removed_and_those_of_others_are_not(store: Store) -> None:
    now = int(time.time())
    for key in (f".probe-{now - 7200}-ab", f".probe-{now - 60}-ab", ".probe-mine"):
        store.write(key, b"")
    store.check_writable()
    assert [entry.key for entry in store.list()] == [f".probe-{now - 60}-ab", ".probe-mine"]


def test_a_store_without_conditions_is_refused(store: Store, s3: FaultyS3) -> None:
    s3.fail("NotImplemented")
    with pytest.raises(AccessError, match="the store lacks conditional writes"):
        store.check_writable()


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is uploaded in three parts: 5 MiB is the smallest part that S3 takes."""
    monkeypatch.setattr(s3_store, "PART_BYTES", 5 * 1024**2)
    path = tmp_path / "large"
    path.write_bytes(hashlib.sha256(b"seed").digest() * (11 * 1024**2 // 32))
    return path


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
@pytest.mark.parametrize("kind", ["reset", "lost"])
def test_a_large_file_outlives_a_fault(store: Store, s3: FaultyS3, large: Path, operation: str, kind: str) -> None:
    s3.fail(kind, when=lambda request: request.operation == operation)

    store.write("large", large)

    assert s3.count("UploadPart") == 3 + (operation == "UploadPart")
    assert local_path(store.file("large")).read_bytes() == large.read_bytes()


def test_a_large_file_that_fails_leaves_no_parts(store: Store, s3: FaultyS3, large: Path) -> None:
    s3.fail("AccessDenied", when=lambda request: request.operation == "UploadPart")

    with pytest.raises(AccessError):
        store.write("large", large)
    assert s3.count("AbortMultipartUpload") == 1
    assert store.stat("large") is None
    uploads = s3_store.client().list_multipart_uploads(Bucket=s3.bucket)
    assert "Uploads" not in uploads


def test_many_keys_are_listed_and_deleted_a_page_at_a_time(
    store: Store, s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_store, "KEYS_PER_REQUEST", 2)
    keys = [f"live/{number}" for number in range(5)]
    for key in keys:
        store.write(key, b"")

    s3.fail("SlowDown", when=lambda request: s3.count("ListObjectsV2") == 2)
    assert [entry.key for entry in store.list("live/")] == keys
    assert s3.count("ListObjectsV2") == 3 + 1

    store.delete_all("live/")
    assert s3.count("DeleteObjects") == 3
    assert list(store.list()) == []


def test_too_large_an_object_is_not_downloaded(store: Store, s3: FaultyS3) -> None:
    store.write("key", b"12345")
    file = store.file("key")

    with pytest.raises(ValueError, match="the limit is 4"):
        read_file(file, 4)
    assert s3.count("GetObject") == 0


def test_a_file_that_changed_since_it_was_listed_is_not_mixed_up(store: Store, s3: FaultyS3) -> None:
    store.write("key", b"1")
    file = store.file("key")
    store.write("key", b"2")

    with pytest.raises(ConflictError, match=f"^read {s3.uri}/key: it was changed since it was listed$"):
        read_file(file, 10)
    assert read_file(store.file("key"), 10) == b"2"


def test_file_at(store: Store, s3: FaultyS3, tmp_path: Path) -> None:
    store.write("deep/keys.json", b"{}")

    assert read_file(file_at(f"{s3.uri}/deep/keys.json"), 10) == b"{}"
    assert local_path(file_at(f"{s3.uri}/deep/keys.json")).suffix == ".json"
    assert file_at(str(tmp_path / "local")) == tmp_path / "local"
    with pytest.raises(NotFoundError, match="deep/absent"):
        file_at(f"{s3.uri}/deep/absent")
    for location in (s3.uri, f"{s3.uri}/deep/"):
        with pytest.raises(ConfigError):
            file_at(location)


def test_only_what_the_bucket_calls_a_file_is_listed(store: Store, s3: FaultyS3) -> None:
    client = s3_store.client()
    for name in ("folder/", "a//b", "../up", "good"):
        client.put_object(Bucket=s3.bucket, Key=name, Body=b"")

    assert [entry.key for entry in store.list()] == ["good"]


def test_requests_are_counted_by_operation_and_key(store: Store, s3: FaultyS3) -> None:
    store.write("a b/é", b"")
    store.read("a b/é")
    assert s3.requests == [Request("PUT", "PutObject", "a b/é"), Request("GET", "GetObject", "a b/é")]
