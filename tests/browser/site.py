"""The page and the real HTTP interface, with a fake engine that knows one photo: `mug_0` among other things."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvicorn
from PIL import Image
from serving.http.fakes import FakeCatalog

from persrep_ray.config import DataConfig, ServeConfig
from persrep_ray.data.images import read_mask
from persrep_ray.serving.engine.answers import (
    AdapterRef,
    Candidate,
    Classification,
    Comparison,
    Identification,
)
from persrep_ray.serving.engine.errors import NoMasksError
from persrep_ray.serving.http.api import make_app
from persrep_ray.serving.http.auth import KeyEntry, Keys
from persrep_ray.tasks.dense import DensePrediction, Instance, crop

SAMPLE = Path(__file__).resolve().parents[2] / "examples" / "mini_pods"
PHOTO = SAMPLE / "test" / "mug_0" / "06.jpg"
MASK = read_mask(SAMPLE / "test_masks" / "mug_0" / "06.png", DataConfig())
THINGS = sorted(path.name for path in (SAMPLE / "train").iterdir())
MASKLESS = "tin_0"
PARTS = [f"part_{number:05}" for number in range(2400)]
CLASSIFICATIONS = {
    "mug_0": Classification(0.81, 0.96, 0.52),
    "mug_1": Classification(0.58, 0.64, 0.55),
    "tin_2": Classification(0.57, 0.61, 0.5),
}
NO = Classification(0.31, 0.04, 0.52)


def mask_of(size: tuple[int, int]) -> np.ndarray:
    """The true mask of the photo at another size, (H, W) bool."""
    return np.array(Image.fromarray(MASK).resize(size[::-1]))


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


def similarity_map() -> np.ndarray:
    """(24, 24), from 0.1 beside the object to 0.8 on it."""
    return np.array(Image.fromarray(MASK.astype(np.float32)).resize((24, 24), Image.Resampling.BILINEAR)) * 0.7 + 0.1


@dataclass
class PhotoEngine:
    """Answers about the photo, whatever image it gets. `failures` are raised first; queries about `held` wait."""

    failures: list[Exception] = field(default_factory=list)
    held: str | None = None
    found: bool = True
    asked: list[str] = field(default_factory=list)
    cancelled: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    more: list[Instance] = field(default_factory=list)

    async def ping(self) -> None:
        pass

    async def embed(self, ref: AdapterRef, image: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    async def compare(self, ref: AdapterRef, images: tuple[np.ndarray, np.ndarray]) -> Comparison:
        raise NotImplementedError

    async def classify(self, ref: AdapterRef, image: np.ndarray) -> Classification:
        await self._ask(ref.object_id)
        return CLASSIFICATIONS.get(ref.object_id, NO)

    async def locate(self, ref: AdapterRef, image: np.ndarray) -> DensePrediction:
        await self._ask(ref.object_id)
        size = (image.shape[0], image.shape[1])
        self.sizes.append(size)
        if ref.object_id == MASKLESS:
            raise NoMasksError(f"object {ref.object_id} was published without masks")
        if ref.object_id not in CLASSIFICATIONS:
            return DensePrediction((), np.zeros((24, 24), np.float32), size)
        mask = mask_of(size)
        found = Instance(np.array(box_of(mask), np.int32), crop(mask, np.array(box_of(mask))), 0.74, 0.93)
        return DensePrediction((found, *self.more), similarity_map(), size)

    async def identify(self, image: np.ndarray, prefixes: Sequence[str], *, top_k: int, exact: bool) -> Identification:
        await self._ask("identify")
        found = (
            [Candidate(AdapterRef(name, "v1"), classification) for name, classification in CLASSIFICATIONS.items()]
            if self.found
            else []
        )
        return Identification(tuple(found), searched=len(THINGS) + len(PARTS), tried=16)

    async def _ask(self, about: str) -> None:
        self.asked.append(about)
        if self.failures:
            raise self.failures.pop(0)
        if about == self.held:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise


@dataclass(frozen=True)
class Site:
    url: str
    engine: PhotoEngine
    catalog: FakeCatalog


@contextmanager
def running_site(keys: Sequence[KeyEntry] | None = None) -> Iterator[Site]:
    """Serves all of `THINGS` and `PARTS` in a thread."""
    engine = PhotoEngine()
    catalog = FakeCatalog({name: ["v1"] for name in (*THINGS, *PARTS)})
    config = ServeConfig.model_validate({"registry": "registry", "http": {"timeout_s": 300}})
    app = make_app(config, engine, catalog, Keys(keys), ready=lambda: True, count=lambda code: None)  # type: ignore[arg-type]
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=1)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:  # takes connections before the server is up
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield Site(f"http://127.0.0.1:{listener.getsockname()[1]}/", engine, catalog)
        finally:
            server.should_exit = True
            thread.join()
