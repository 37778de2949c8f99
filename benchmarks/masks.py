"""How good the masks are that are made for photos without one: the figures of docs/LOG.md.

    PYTHONPATH=tools python benchmarks/masks.py --data ../shared/data [--sheet DIR]

Each photo is masked twice: by saliency and GrabCut alone ("before"), and as a run does it. The last line is one JSON
object. The sets:

    ordinary   the first test photo of each object of `examples/mini_pods`, and photos of `masked5`
    cropped    the same, cropped to the box of the object
    hand       the same, with a hand from `grocery10` pasted behind the object
    package    `shelf_cereal`: catalogue photos that a box fills, so the whole photo is the truth
    held       cartons held by a hand in `grocery10`, of a brand that the probes were not fitted on; outlines by eye

CPU seconds are those of a whole mask without reading the photo. The photos of `masked5` are those that the probes were
not fitted on (`tools/fit_mask_probes.py`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from fit_mask_probes import HELD, HOLDOUT_BRAND, PLAIN_MASKED, filled_polygon
from numpy.typing import NDArray

from persrep_ray.config import DataConfig, RunConfig
from persrep_ray.data.images import read_mask, read_rgb
from persrep_ray.masks.grabcut import MaskError, mask_from_saliency
from persrep_ray.masks.images import ImageMasker

_HAND = "Yoggi-Strawberry-Yoghurt/01.jpg"  # whose hand is pasted
_SETS = ("package", "held", "ordinary", "cropped", "hand")


class Example(NamedTuple):
    image: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    hand: NDArray[np.bool_] | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder that holds the data sets")
    parser.add_argument("--sheet", type=Path, metavar="DIR", help="write the masks as images, before and after")
    options = parser.parse_args()
    config = RunConfig()
    masker = ImageMasker(config)

    def before(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        return mask_from_saliency(image, masker.look(image)[0], config.masks)

    results: dict[str, dict[str, dict[str, float]]] = {}
    masker.look(np.zeros((32, 32, 3), np.uint8))  # loads the network
    for name in _SETS:
        examples = list(_examples(name, options.data))
        results[name] = {}
        for way, make in (("before", before), ("after", masker.mask)):
            started = time.process_time()
            masks = [_mask(make, example.image) for example in examples]
            seconds = (time.process_time() - started) / len(examples)
            results[name][way] = {**_figures(examples, masks), "cpu_seconds_per_photo": round(seconds, 2)}
            print(name, way, len(examples), results[name][way], flush=True)
            if options.sheet:
                _write_sheet(options.sheet / f"{name}_{way}.png", examples, masks)
    print(json.dumps({"benchmark": "masks", **results}))


def _mask(make: Callable[[NDArray[np.uint8]], NDArray[np.bool_]], image: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    try:
        return make(image)
    except MaskError:
        return None


def _examples(name: str, data: Path) -> Iterator[Example]:
    if name == "package":
        for photo in sorted((data / "shelf_cereal/train").glob("*/*.jpg")):
            image = _read(photo)
            yield Example(image, np.ones(image.shape[:2], np.bool_))
    elif name == "held":
        for file, (hand, carton) in HELD.items():
            if file.startswith(HOLDOUT_BRAND):
                image = _read(data / "grocery10/train" / file)
                covered = filled_polygon(hand, image.shape[:2])
                yield Example(image, filled_polygon(carton, image.shape[:2]) & ~covered, covered)
    else:
        source = _read(data / "grocery10/train" / _HAND), HELD[_HAND][0]
        for example in _masked_photos(data):
            if name == "cropped":
                box = _box(example.truth)
                yield Example(np.ascontiguousarray(example.image[box]), example.truth[box])
            else:
                yield example if name == "ordinary" else _held(example, *source)


def _masked_photos(data: Path) -> Iterator[Example]:
    """Photos with their true masks."""
    mini_pods = Path("examples/mini_pods")
    photos = [sorted(folder.iterdir())[0] for folder in sorted((mini_pods / "test").iterdir())]
    for part in ("train", "test"):
        for photo in sorted((data / "masked5" / part).glob("*/*")):
            if part == "test" or photo.parent.name not in PLAIN_MASKED:
                photos.append(photo)
    for photo in photos:
        folder = photo.parents[2] / f"{photo.parents[1].name}_masks" / photo.parent.name
        yield Example(_read(photo), read_mask(folder / f"{photo.stem}.png", DataConfig()))


def _held(example: Example, source: NDArray[np.uint8], outline: list[tuple[float, float]]) -> Example:
    """The example with a hand that comes from the left border and ends behind the object."""
    height, width = example.truth.shape
    rows, columns = _box(example.truth)
    shown = filled_polygon(outline, source.shape[:2])
    hand_rows, hand_columns = _box(shown)
    reach = min(width, columns.start + (columns.stop - columns.start) // 3)
    tall = min(height, round(0.6 * max(rows.stop - rows.start, columns.stop - columns.start)))
    size = max(8, reach), max(8, tall)
    hand = cv2.resize(source[hand_rows, hand_columns], size, interpolation=cv2.INTER_LINEAR)
    alpha = cv2.resize(shown[hand_rows, hand_columns].astype(np.float32), size) > 0.5
    top = int(np.clip((rows.start + rows.stop) // 2 - tall // 3, 0, height - size[1]))
    covered = np.zeros(example.truth.shape, np.bool_)
    covered[top : top + size[1], : size[0]] = alpha
    covered &= ~example.truth
    image = example.image.copy()
    image[covered] = hand[covered[top : top + size[1], : size[0]]]
    return Example(image, example.truth, covered)


def _figures(examples: list[Example], masks: list[NDArray[np.bool_] | None]) -> dict[str, float]:
    overlaps, hands = [], []
    for example, mask in zip(examples, masks, strict=True):
        if mask is None:
            mask = np.zeros(example.truth.shape, np.bool_)
        overlaps.append(np.count_nonzero(mask & example.truth) / np.count_nonzero(mask | example.truth))
        if example.hand is not None and example.hand.any():
            hands.append(mask[example.hand].mean())
    figures = {
        "iou": round(float(np.mean(overlaps)), 3),
        "share_above_0.8": round(float(np.mean(np.array(overlaps) > 0.8)), 3),
        "none": float(sum(mask is None for mask in masks)),
    }
    return figures | ({"hand_inside": round(float(np.mean(hands)), 3)} if hands else {})


def _write_sheet(path: Path, examples: list[Example], masks: list[NDArray[np.bool_] | None]) -> None:
    """Eight photos a row, 180 pixels each; what is not in the mask is dark."""
    cells = []
    for example, mask in zip(examples, masks, strict=True):
        shown = example.image.copy()
        shown[~mask if mask is not None else slice(None)] //= 4
        cells.append(cv2.resize(shown, (180, 180), interpolation=cv2.INTER_AREA)[:, :, ::-1])
    cells += [np.zeros((180, 180, 3), np.uint8)] * (-len(cells) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.concatenate([np.concatenate(cells[i : i + 8], axis=1) for i in range(0, len(cells), 8)]))


def _box(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _read(path: Path) -> NDArray[np.uint8]:
    return read_rgb(path, DataConfig())


if __name__ == "__main__":
    main()
