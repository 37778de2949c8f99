"""A closed-loop HTTP load generator with `--clients` clients. The last line is one JSON object.

python benchmarks/serving_parts/load.py --url http://127.0.0.1:8000 --photos DIR --objects 200 --seconds 8
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import time
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import aiohttp
import numpy as np
from PIL import Image


def fresh(photos: Sequence[np.ndarray], number: int) -> bytes:
    """A JPEG that differs from all earlier ones, because the encoder keeps what it computes of repeated images."""
    image = photos[number % len(photos)].copy()
    image[:16, :16] = np.random.default_rng(number + time.time_ns()).integers(0, 255, (16, 16, 3))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


async def run(url: str, photos: Sequence[np.ndarray], objects: int, clients: int, seconds: float) -> dict[str, object]:
    """Classifies images with `objects` adapters in turn."""
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    numbers = count()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:
        started = time.monotonic()

        async def client() -> None:
            while time.monotonic() - started < seconds:
                number = next(numbers)
                sent = time.monotonic()
                path = f"/v1/objects/copy_{number % objects:04d}/classify"
                async with session.post(
                    url + path, data=fresh(photos, number), headers={"Content-Type": "image/jpeg"}
                ) as answer:
                    await answer.read()
                    statuses[answer.status] += 1
                latencies.append(time.monotonic() - sent)

        await asyncio.gather(*(client() for _ in range(clients)))
        elapsed = time.monotonic() - started
    latencies.sort()
    return {
        "requests_per_s": len(latencies) / elapsed,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[int(len(latencies) * 0.99)],
        "failed": sum(statuses.values()) - statuses[200],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR")
    parser.add_argument("--objects", type=int, required=True)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    photos = [np.array(Image.open(path)) for path in sorted(options.photos.glob("*/*.jpg"))]
    print(json.dumps(asyncio.run(run(options.url, photos, options.objects, options.clients, options.seconds))))


if __name__ == "__main__":
    main()
