"""AP50 of keypoints alone on `shelf_cereal`: products on shelves, each known from one catalogue photo.

python -m benchmarks.quality_parts.shelf --data ../shared/data/shelf_cereal
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from persrep_ray.config import DataConfig
from persrep_ray.data.images import read_rgb
from persrep_ray.tasks.keypoints import KeypointModel, describe

Box = Sequence[float]  # [x, y, width, height]
Found = tuple[str, Box, float]  # scene, box, score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    print(json.dumps(measure(parser.parse_args().data)))


def measure(data: Path) -> dict[str, float]:
    """`ap50` in the mean over the products, and CPU seconds per model, per scene and per product and scene."""
    limits = DataConfig()
    truth: dict[str, dict[str, list[Box]]] = json.loads((data / "boxes.json").read_text())
    photos = {path.parent.name: read_rgb(path, limits) for path in sorted(data.glob("train/*/00.jpg"))}
    described = {product: [describe(photo)] for product, photo in photos.items()}
    started = time.process_time()
    models = {
        product: KeypointModel.fit([photo], [None], [scenes for other, scenes in described.items() if other != product])
        for product, photo in photos.items()
    }
    fitted = time.process_time()
    scenes = {name: describe(read_rgb(data / "scenes" / name, limits)) for name in sorted(truth)}
    seen = time.process_time()
    found: dict[str, list[Found]] = {
        product: [
            (name, match.box.tolist(), match.score) for name, scene in scenes.items() for match in model.find(scene)
        ]
        for product, model in models.items()
    }
    ended = time.process_time()
    wanted = {product: {name: boxes.get(product, []) for name, boxes in truth.items()} for product in photos}
    return {
        "ap50": round(float(np.mean([average_precision(found[product], wanted[product]) for product in photos])), 4),
        "fit_cpu_s": round((fitted - started) / len(models), 3),
        "describe_cpu_s": round((seen - fitted) / len(scenes), 3),
        "find_cpu_s": round((ended - seen) / len(scenes) / len(models), 3),
    }


def average_precision(found: Sequence[Found], truth: Mapping[str, Sequence[Box]]) -> float:
    """COCO's average precision of one object at IoU 0.5, over 101 recall points."""
    taken: set[tuple[str, int]] = set()
    hits = []
    for scene, box, _ in sorted(found, key=lambda one: -one[2]):
        free = [(overlap(box, true), index) for index, true in enumerate(truth[scene]) if (scene, index) not in taken]
        best, index = max(free, default=(0.0, -1))
        hits.append(best >= 0.5)
        if hits[-1]:
            taken.add((scene, index))
    right = np.cumsum(hits)
    precision = np.maximum.accumulate((right / np.arange(1, len(hits) + 1))[::-1])[::-1]
    recall = right / sum(map(len, truth.values()))
    return float(np.mean([precision[recall >= point - 1e-9].max(initial=0) for point in np.linspace(0, 1, 101)]))


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


if __name__ == "__main__":
    main()
