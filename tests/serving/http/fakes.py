"""A fake engine and catalog, images, and a client that plays the server's side of ASGI."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from persrep_ray.config import ServeConfig
from persrep_ray.data.images import IMAGE_SIDE
from persrep_ray.serving.engine.answers import (
    AdapterRef,
    Candidate,
    Classification,
    Comparison,
    Identification,
)
from persrep_ray.serving.engine.errors import VersionNotFoundError
from persrep_ray.serving.http.api import make_app
from persrep_ray.serving.http.auth import Keys
from persrep_ray.tasks.dense import DensePrediction, Instance


def classification(score: float) -> Classification:
    """Of an object that was published before there were recognizers."""
    return Classification(score=score, probability=score / 2 + 0.5, threshold=0.25)


@dataclass
class FakeEngine:
    """Answers by the mean brightness of the image. `wait` holds every query, and `failures` are raised first."""

    failures: list[Exception] = field(default_factory=list)
    wait: asyncio.Event | None = None
    asked: list[Any] = field(default_factory=list)
    cancelled: int = 0
    found: int = 1

    async def ping(self) -> None:
        pass

    async def embed(self, ref: AdapterRef, image: np.ndarray) -> np.ndarray:
        score = await self._score(ref, image)
        return np.array([score, np.sqrt(1 - score**2)], np.float32)

    async def classify(self, ref: AdapterRef, image: np.ndarray) -> Classification:
        return classification(await self._score(ref, image))

    async def locate(self, ref: AdapterRef, image: np.ndarray) -> DensePrediction:
        """Finds the object `found` times, each time in the right half of the image at half its size."""
        size = (max(1, image.shape[0] // 2), max(1, image.shape[1] // 2))
        score = await self._score((ref, image.shape[:2]), image)
        similarity = np.linspace(-1, 1, 4, dtype=np.float32).reshape(2, 2)
        left, width = size[1] // 2, size[1] - size[1] // 2
        half = Instance(
            np.array([left, 0, width, size[0]], np.int32), np.ones((size[0], width), bool), score, score / 2
        )
        return DensePrediction((half,) * self.found, similarity, size)

    async def compare(self, ref: AdapterRef, images: tuple[np.ndarray, np.ndarray]) -> Comparison:
        first, second = [await self._score(ref, one) for one in images]
        return Comparison(
            same=classification(1 - abs(first - second)), each=(classification(first), classification(second))
        )

    async def identify(self, image: np.ndarray, prefixes: Sequence[str], *, top_k: int, exact: bool) -> Identification:
        score = await self._score((tuple(prefixes), top_k, exact), image)
        return Identification((Candidate(AdapterRef("mug", "v2"), classification(score)),), searched=7, tried=3)

    async def _score(self, asked: Any, image: np.ndarray) -> float:
        assert image.shape[2] == 3 and max(image.shape) <= IMAGE_SIDE and image.dtype == np.uint8
        self.asked.append(asked)
        if self.failures:
            raise self.failures.pop(0)
        if self.wait is not None:
            try:
                await self.wait.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return float(image.mean()) / 255


@dataclass
class FakeCatalog:
    """`published` holds all versions of each object, the live one last."""

    published: dict[str, list[str]]
    cards: dict[str, Any] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)

    def live(self, object_id: str) -> str | None:
        if self.failures:
            raise self.failures.pop(0)
        return self.published[object_id][-1] if object_id in self.published else None

    def objects(self, prefixes: Sequence[str]) -> list[str]:
        return sorted(one for one in self.published if one.startswith(tuple(prefixes)))

    async def versions(self, object_id: str) -> list[str]:
        return sorted(self.published[object_id])

    async def card(self, object_id: str, version: str) -> dict[str, Any]:
        if version not in self.published[object_id]:
            raise VersionNotFoundError(f"object {object_id}, version {version}: no such version")
        return {"threshold": 0.25, "metrics": {}, "category": None, "photos": ["secret.jpg"], **self.cards}

    async def delete(self, object_id: str) -> None:
        del self.published[object_id]


@dataclass
class Endpoint:
    """An application and the fakes behind it. `codes` are the codes of its error answers."""

    app: FastAPI
    engine: FakeEngine
    catalog: FakeCatalog
    codes: list[str]

    @property
    def client(self) -> TestClient:
        return TestClient(self.app)


def endpoint(keys: Keys | None = None, ready: Callable[[], bool] = lambda: True, **http: Any) -> Endpoint:
    engine = FakeEngine()
    catalog = FakeCatalog({"mug": ["v1", "v2"], "shop_cup": ["v1"], "shop_tin": ["v1"]})
    codes: list[str] = []
    config = ServeConfig.model_validate({"registry": "registry", "http": http})
    app = make_app(config, engine, catalog, keys or Keys(None), ready=ready, count=codes.append)  # type: ignore[arg-type]
    return Endpoint(app, engine, catalog, codes)


def encoded(width: int = 30, height: int = 20, grey: int = 102, image_format: str = "PNG", **options: Any) -> bytes:
    """An image of a single grey."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (grey, grey, grey)).save(buffer, image_format, **options)
    return buffer.getvalue()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        code: str = json.loads(self.body)["error"]["code"]
        return code


class Wire:
    """One request on the server's side of ASGI: sends `chunks` when they are asked for, and counts those.

    After the last chunk the body is complete, or, if `stalls`, waited for in vain. `leave` is the client's going.
    """

    def __init__(
        self,
        method: str,
        path: str,
        chunks: Iterable[bytes] = (b"",),
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        stalls: bool = False,
    ) -> None:
        path, _, query = path.partition("?")
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode("latin-1", "replace"),
            "query_string": query.encode("latin-1", "replace"),
            "root_path": "",
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        self.chunks_read = 0
        self.leave = asyncio.Event()
        self._stalls = stalls
        self._chunks = iter(chunks)
        self._next = next(self._chunks, None)
        self._sent: list[Any] = []

    async def receive(self) -> Any:
        if self._next is None:
            await self.leave.wait()
            return {"type": "http.disconnect"}
        chunk, self._next = self._next, next(self._chunks, None)
        self.chunks_read += 1
        return {"type": "http.request", "body": chunk, "more_body": self._next is not None or self._stalls}

    async def send(self, message: Any) -> None:
        self._sent.append(message)

    async def run(self, app: Any) -> Answer | None:
        """The answer, or None."""
        await app(self.scope, self.receive, self.send)
        if not self._sent:
            return None
        start, *rest = self._sent
        assert start["type"] == "http.response.start" and not rest[-1].get("more_body", False)
        headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
        assert len(headers) == len(start["headers"]), "a header occurs twice"
        return Answer(start["status"], headers, b"".join(part["body"] for part in rest))
