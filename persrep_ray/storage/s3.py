"""A bucket, or the keys below a prefix in it, as a store.

Credentials, endpoint, region and addressing style come from the usual AWS variables and files only, so AWS_ENDPOINT_URL
makes other S3 stores (MinIO, Ceph, R2) work. Tags are ETags. botocore does not retry here, because it knows neither
content that is cut off nor a conditional write whose first answer got lost: `request` retries all of that.
"""

from __future__ import annotations

import functools
import hashlib
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import boto3
from botocore.client import Config
from botocore.exceptions import ChecksumError, InvalidEndpointConfigurationError

from persrep_ray.config import ConfigError
from persrep_ray.storage.base import (
    AccessError,
    ConflictError,
    Entry,
    File,
    NotFoundError,
    RemoteFile,
    StorageError,
    check_key,
    check_prefix,
    check_size,
    failure,
    is_key,
)
from persrep_ray.storage.cache import cached
from persrep_ray.storage.s3_errors import FAILURES, diagnosis

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 20.0
ATTEMPTS = 7
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 8.0
KEYS_PER_REQUEST = 1_000  # the most that S3 lists or deletes at once
PART_BYTES = 16 * 1024**2  # a larger file is uploaded in parts of this size

_MOST_PARTS = 10_000
_CHUNK_BYTES = 1024**2
_MD5 = re.compile(r"[0-9a-f]{32}")
_PROBE = ".probe-"  # begins the keys of `check_writable`, which are followed by the time in seconds
_LEFTOVER_AGE_S = 3600  # a probe that is older was left by a process that was killed
_WRITER = "writer"  # metadata that tells who wrote an object

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class S3Store:
    """The objects of `bucket` whose keys start with `prefix`, which is empty or ends with '/'."""

    bucket: str
    prefix: str = ""

    @property
    def uri(self) -> str:
        return self.url("").rstrip("/")

    def url(self, key: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{key}"

    def list(self, prefix: str = "") -> Iterator[Entry]:
        query = {"Prefix": self.prefix + check_prefix(prefix), "MaxKeys": KEYS_PER_REQUEST}
        while True:
            page = self._ask("list", prefix, "list_objects_v2", **query)
            for item in page.get("Contents", ()):
                key = item["Key"].removeprefix(self.prefix)
                if is_key(key):  # not the empty objects that consoles show as folders
                    yield Entry(key, item["Size"], _tag(item))
            if not page.get("IsTruncated"):
                return
            query["ContinuationToken"] = page["NextContinuationToken"]

    def stat(self, key: str) -> Entry | None:
        head = self._head(key)
        return Entry(key, head["ContentLength"], _tag(head)) if head else None

    def read(self, key: str, *, max_bytes: int | None = None) -> bytes:
        return self._get(key, max_bytes=max_bytes)[0]

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        return self._get(key)

    def write(self, key: str, data: bytes | Path) -> None:
        if isinstance(data, bytes):
            self._put(key, data)
        elif data.stat().st_size <= PART_BYTES:
            self._put(key, data.read_bytes())
        else:
            self._put_parts(key, data)

    def write_if(self, key: str, data: bytes, tag: str | None) -> str:
        writer = uuid.uuid4().hex
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": f'"{tag}"'}
        try:
            return self._put(key, data, Metadata={_WRITER: writer}, **condition)
        except (ConflictError, NotFoundError):
            written = self._written_by(writer, key)
        if written is None:
            raise failure(ConflictError, "write", self.url(key), "it was changed by another process")
        return _tag(written)

    def delete(self, key: str) -> None:
        with suppress(NotFoundError):
            self._ask("delete", key, "delete_object", Key=self._name(key))

    def delete_all(self, prefix: str) -> None:
        names = [{"Key": self._name(entry.key)} for entry in self.list(prefix)]
        for start in range(0, len(names), KEYS_PER_REQUEST):
            batch = {"Objects": names[start : start + KEYS_PER_REQUEST], "Quiet": True}
            reply = self._ask("delete", prefix, "delete_objects", Delete=batch)
            for error in reply.get("Errors", ())[:1]:
                kind = AccessError if error.get("Code") == "AccessDenied" else StorageError
                raise failure(kind, "delete", f"s3://{self.bucket}/{error.get('Key')}", str(error.get("Code")))

    def file(self, key: str) -> File:
        entry = self.stat(key)
        if entry is None:
            raise failure(NotFoundError, "find", self.url(key), "no such object")
        return RemoteFile(self.url(key), entry.tag, entry.size)

    def files(self, prefix: str) -> dict[str, File]:
        return {entry.key: RemoteFile(self.url(entry.key), entry.tag, entry.size) for entry in self.list(prefix)}

    def local_copy(self, prefix: str) -> Path:
        folder = prefix.rstrip("/") + "/" if prefix else ""
        entries = list(self.list(folder))
        if not entries:
            raise failure(NotFoundError, "find", self.url(folder), "no such folder")

        def fill(target: Path) -> None:
            for entry in entries:
                file = target / entry.key.removeprefix(folder)
                file.parent.mkdir(parents=True, exist_ok=True)
                self.download(entry.key, entry.tag, file)

        content = "\n".join([self.url(folder), *(f"{entry.key}\0{entry.tag}" for entry in entries)])
        return cached(hashlib.sha256(content.encode()).hexdigest(), fill)

    def download(self, key: str, tag: str, target: Path) -> None:
        """Writes the version `tag` of an object to the file `target`."""

        def attempt(s3: Any) -> None:
            with open(target, "wb") as file:
                self._receive(s3, key, file, IfMatch=f'"{tag}"')

        try:
            request("read", self.url(key), attempt)
        except ConflictError:
            raise failure(ConflictError, "read", self.url(key), "it was changed since it was listed") from None

    def check_writable(self) -> None:
        probe = f"{_PROBE}{int(time.time())}-{uuid.uuid4().hex}"
        self.write_if(probe, b"1", None)
        try:
            for stale in (None, "0" * 32):
                with suppress(ConflictError):
                    self.write_if(probe, b"2", stale)
                    raise ConfigError(
                        f"{self.uri}: this store ignores conditional writes (If-None-Match, If-Match), without which "
                        "two runs can overwrite each other's results; use a store that honours them"
                    )
        finally:
            self.delete(probe)
        with suppress(StorageError):  # the next check removes them
            for leftover in self.list(_PROBE):
                made = leftover.key.removeprefix(_PROBE).partition("-")[0]
                if made.isdecimal() and time.time() - int(made) > _LEFTOVER_AGE_S:
                    self.delete(leftover.key)

    def _name(self, key: str) -> str:
        return self.prefix + check_key(key)

    def _head(self, key: str) -> dict[str, Any] | None:
        try:
            return self._ask("stat", key, "head_object", Key=self._name(key))
        except NotFoundError:
            return None

    def _written_by(self, writer: str, key: str) -> dict[str, Any] | None:
        """The head of the object if `writer` wrote it.

        A write whose answer got lost is tried again, and then refused because the first attempt did arrive.
        """
        head = self._head(key)
        return head if head and head["Metadata"].get(_WRITER) == writer else None

    def _get(self, key: str, max_bytes: int | None = None) -> tuple[bytes, str]:
        def attempt(s3: Any) -> tuple[bytes, str]:
            content = BytesIO()
            tag = self._receive(s3, key, content, max_bytes)
            return content.getvalue(), tag

        return request("read", self.url(key), attempt)

    def _receive(self, s3: Any, key: str, file: BinaryIO, max_bytes: int | None = None, **condition: str) -> str:
        """Writes an object to `file`, checks that it is whole and returns its tag."""
        reply = s3.get_object(Bucket=self.bucket, Key=self._name(key), **condition)
        tag, md5 = _tag(reply), hashlib.md5(usedforsecurity=False)
        with closing(reply["Body"]) as body:
            check_size(reply["ContentLength"], max_bytes)
            while chunk := body.read(_CHUNK_BYTES):  # botocore checks the length
                file.write(chunk)
                md5.update(chunk)
        if self._is_md5(tag, reply) and tag != md5.hexdigest():
            raise ChecksumError(checksum_type="MD5", expected_checksum=tag, actual_checksum=md5.hexdigest())
        return tag

    def _is_md5(self, tag: str, reply: dict[str, Any]) -> bool:
        """Whether the tag is the content's MD5: not for uploads in parts, some encryptions and directory buckets."""
        encrypted = "SSECustomerAlgorithm" in reply or reply.get("ServerSideEncryption", "AES256") != "AES256"
        return bool(_MD5.fullmatch(tag)) and not encrypted and not self.bucket.endswith("--x-s3")

    def _put(self, key: str, data: bytes, **extra: Any) -> str:
        return _tag(self._ask("write", key, "put_object", Key=self._name(key), Body=data, **extra))

    def _put_parts(self, key: str, path: Path) -> None:
        """Uploads a large file in parts; if that fails, the parts are removed."""
        part_bytes = max(PART_BYTES, -(-path.stat().st_size // _MOST_PARTS))
        target, writer = {"Key": self._name(key)}, uuid.uuid4().hex
        upload = self._ask("write", key, "create_multipart_upload", **target, Metadata={_WRITER: writer})
        target["UploadId"] = upload["UploadId"]
        try:
            parts: list[dict[str, Any]] = []
            with open(path, "rb") as file:
                while data := file.read(part_bytes):
                    part = {"PartNumber": len(parts) + 1}
                    reply = self._ask("write", key, "upload_part", **target, **part, Body=data)
                    parts.append(part | {name: reply[name] for name in ("ETag", "ChecksumCRC32") if name in reply})
            try:
                self._ask("write", key, "complete_multipart_upload", **target, MultipartUpload={"Parts": parts})
            except NotFoundError:
                if self._written_by(writer, key) is None:
                    raise
        except BaseException:
            with suppress(StorageError):
                self._ask("write", key, "abort_multipart_upload", **target)
            raise

    def _ask(self, operation: str, key: str, method: str, **arguments: Any) -> dict[str, Any]:
        """The answer to one method of the client about this bucket."""
        return request(operation, self.url(key), lambda s3: getattr(s3, method)(Bucket=self.bucket, **arguments))


def request(operation: str, uri: str, send: Callable[[Any], _Answer]) -> _Answer:
    """Returns `send(client)`, tried again with growing pauses while a failure looks temporary. Raises StorageError.

    The errors carry no cause of their own: those of the library can hold request headers.
    """
    for attempt in count(1):
        try:
            return send(client())
        except FAILURES as error:
            kind, cause, is_temporary = diagnosis(error)
        if not is_temporary:
            raise failure(kind, operation, uri, cause)
        if attempt == ATTEMPTS:
            raise failure(kind, operation, uri, f"{cause}, {ATTEMPTS} attempts")
        time.sleep(random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1))))
    raise AssertionError("not reached")


@functools.cache
def client() -> Any:
    """The S3 client of this process, for all its threads."""
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"total_max_attempts": 1},
        max_pool_connections=32,
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except ValueError:
        raise InvalidEndpointConfigurationError(msg="AWS_ENDPOINT_URL") from None


os.register_at_fork(after_in_child=client.cache_clear)  # connections must not be shared with the parent


def _tag(answer: dict[str, Any]) -> str:
    tag: str = answer["ETag"]
    return tag.strip('"')
