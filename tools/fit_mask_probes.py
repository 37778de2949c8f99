"""Fits `persrep_ray/masks/probes.safetensors`: two linear probes on the patches of the embedded ViT.

    python tools/fit_mask_probes.py --data ../shared/data

`hand` tells the patches of a hand from those of things and backgrounds. `filled` tells the patches at the border of a
photo that the front of a package fills from those at the border of any other photo, such as the same front with a
margin around it. Both are regularised discriminants
(Fisher), fitted in closed form. The photos are not part of this project: hands and the fronts of cartons come from
`grocery10` (Grocery Store Dataset, MIT), marked by the polygons below; the rest from `dreambooth30` and `masked5`. The
hands of the last brand of `grocery10`, the test photos of `masked5` and half of `dreambooth30` are left out, for measuring.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from persrep_ray.backbones.embedded import EmbeddedSaliency
from persrep_ray.config import DataConfig
from persrep_ray.data.images import read_mask, read_rgb
from persrep_ray.masks.probes import PROBES, border, standardized

_SHRINKAGE = 0.1  # of the mean variance, added to the diagonal of the covariance
_CROPS = 4  # of each front, at random
_GRID = 16
HOLDOUT_BRAND = "Yoggi"
PLAIN_MASKED = ("can", "monster_toy", "teddybear")  # the subjects of `masked5` that are used

Polygon = list[tuple[float, float]]
# Photos of `grocery10/train` to the outline of the hand and of the carton that it holds, in tenths of the photo's side.
HELD: dict[str, tuple[Polygon, Polygon]] = {
    "God-Morgon-Apple-Juice/02.jpg": ([(2.4, 4.0), (3.0, 3.8), (3.3, 4.8), (2.6, 5.5), (2.9, 6.6), (3.6, 7.4), (5.6, 7.3), (7.4, 7.4), (7.2, 8.0), (5.4, 8.8), (5.2, 10), (1.2, 10), (1.4, 7)], [(3.3, 4.6), (4.6, 2.6), (7.6, 1.9), (8.6, 4.7), (8.5, 6.2), (6.0, 7.2), (3.6, 7.3), (3.0, 6.6)]),
    "God-Morgon-Orange-Juice/02.jpg": ([(6.4, 3.9), (6.4, 5.5), (5.5, 7.3), (4.6, 9.0), (3.5, 10), (0.8, 10), (3.0, 8.2), (4.9, 6.3), (5.6, 4.6)], [(7.2, 2.2), (7.8, 1.0), (9.4, 1.6), (9.6, 3.0), (8.8, 6.0), (8.0, 9.5), (5.4, 9.0), (6.2, 6)]),
    "God-Morgon-Orange-Red-Grapefruit-Juice/00.jpg": ([(2.6, 3.1), (3.2, 2.4), (3.3, 3.6), (2.6, 5), (2.6, 6.4), (2.2, 7.4), (0, 9), (0, 6), (1.5, 4.9)], [(2.7, 2.0), (4, 0.8), (6.6, 2), (6.1, 9.8), (2.6, 9.3), (2.6, 6.5), (3.3, 3.8)]),
    "God-Morgon-Orange-Red-Grapefruit-Juice/02.jpg": ([(0, 2.3), (3.0, 1.4), (3.3, 2.6), (2.5, 3.1), (4, 3.5), (5.6, 3.2), (5.9, 3.9), (4.4, 4.8), (2.2, 5.2), (1.5, 6.4), (0, 7.5)], [(3.4, 1.6), (5.4, 1), (7.1, 2.6), (6.2, 9), (3.8, 9), (3.6, 5.2), (5, 4.7), (5.9, 3.9), (5.5, 3.2), (4, 3.4)]),
    "God-Morgon-Red-Grapefruit-Juice/01.jpg": ([(1.2, 5), (2.2, 3.8), (3.6, 3.6), (3.4, 4.5), (2.6, 5.2), (3.1, 6.6), (4.2, 7.0), (6.2, 6.6), (6.4, 7.4), (5.4, 8.4), (4.8, 10), (0.6, 10), (0, 7.4)], [(3.6, 4), (4.6, 3.3), (5.3, 2.1), (7.2, 4.4), (7.4, 5.6), (6.2, 6.6), (4.2, 6.8), (3.6, 5.5)]),
    "God-Morgon-Red-Grapefruit-Juice/02.jpg": ([(4.6, 4.0), (5.0, 4.4), (4.9, 6), (4.0, 7.6), (3.4, 8.6), (1.5, 10), (0, 10), (0, 9.4), (2.2, 7.4), (3.4, 5.4)], [(5.1, 1.4), (7, 1), (8.2, 2), (7.8, 9.6), (5.0, 9.8)]),
    "Tropicana-Apple-Juice/02.jpg": ([(2.0, 5.2), (2.7, 4.5), (3.0, 5.8), (3.8, 5.8), (3.7, 6.6), (2.6, 8), (2.0, 9.4), (1.0, 10), (0, 10), (0, 8), (1.2, 6.6)], [(2.2, 2.1), (3.3, 1.2), (5.6, 0.9), (6.2, 9.0), (3.9, 8.9), (3.7, 7), (3.8, 5.9), (2.9, 5.7)]),
    "Tropicana-Golden-Grapefruit/01.jpg": ([(3.2, 2.9), (3.6, 3.8), (3.6, 5.4), (3.9, 6.5), (4, 7.4), (2.6, 7.8), (1.4, 9.2), (0, 10), (0, 7.4), (1.8, 5.4)], [(3.1, 0.9), (6.2, 0.9), (6.9, 4.8), (6.8, 9.2), (4.6, 9.4), (3.6, 5)]),
    "Tropicana-Juice-Smooth/00.jpg": ([(2.8, 3.4), (3.3, 1.6), (4, 1.8), (3.8, 3.4), (3.7, 5), (3.0, 6.8), (1.6, 8.4), (0, 10), (0, 6.4), (1.8, 4.8)], [(4.2, 1.4), (6.5, 0.8), (7.5, 2), (7.2, 9.7), (4.0, 9.2), (3.8, 4)]),
    "Tropicana-Juice-Smooth/01.jpg": ([(0.6, 3.6), (1.8, 2.6), (3.8, 2.4), (4, 2.9), (3, 3.8), (3.2, 4.4), (2.6, 5.6), (1.2, 7.6), (0, 8.4), (0, 6.0)], [(2.2, 1.6), (4.3, 1.3), (5.0, 2.6), (6.4, 8), (4.6, 9.2), (3.2, 4.6)]),
    "Tropicana-Juice-Smooth/02.jpg": ([(2.6, 4.4), (3.3, 3.2), (3.3, 5), (3.7, 6.6), (3.6, 7.8), (2.6, 8.8), (1.6, 10), (0, 10), (0, 7.6), (1.8, 6)], [(2.9, 1.4), (5.3, 1.1), (5.8, 4), (7, 9.2), (4.2, 9.6), (3, 4.5)]),
    "Tropicana-Mandarin-Morning/01.jpg": ([(1.6, 4.4), (2.7, 3.7), (3.2, 6), (3.6, 8), (2.4, 8.6), (1.2, 10), (0, 10), (0, 6.6)], [(2.2, 1.4), (4.8, 0.2), (5.2, 2.6), (6.9, 9), (3.9, 9.2), (2.8, 4)]),
    "Tropicana-Mandarin-Morning/02.jpg": ([(2.4, 3.6), (2.8, 2.4), (3.2, 2.6), (3.2, 4.4), (3.1, 6), (3.4, 7.4), (2.2, 9), (1.4, 10), (0, 10), (0, 8.2), (1.6, 6)], [(2.6, 0.6), (4.8, 0.6), (5.6, 1.6), (7.5, 8.4), (4.4, 9.6), (3.5, 6.5), (3.2, 4)]),
    "Yoggi-Strawberry-Yoghurt/00.jpg": ([(1.6, 5.7), (2.4, 5.4), (3.0, 5.8), (2.6, 6.9), (2.3, 7.6), (2.0, 9), (0, 10), (0, 6)], [(0.9, 2.2), (1.8, 0.5), (3.9, 0.5), (5.1, 2.2), (5.5, 9.6), (2.6, 9.5), (2.3, 7.4), (3, 5.8), (1.5, 5.4)]),
    "Yoggi-Strawberry-Yoghurt/01.jpg": ([(1.6, 5.4), (3.6, 3.6), (4.2, 4), (3.8, 5.5), (3.8, 6.8), (6.2, 7.2), (6.2, 7.8), (4.2, 8.2), (3, 9.4), (1, 10), (0, 10), (0, 7)], [(4, 2.6), (5.2, 1.4), (7.2, 1.6), (7.7, 4), (6.8, 5), (6.0, 7.1), (3.9, 6.7)]),
    "Yoggi-Vanilla-Yoghurt/00.jpg": ([(0.8, 4.4), (3.5, 3.4), (3.6, 4.4), (2.6, 5.4), (3.2, 6.3), (4.8, 6.5), (4.8, 7.2), (3.0, 7.6), (1.4, 8.6), (0, 8.4), (0, 5.5)], [(3.9, 3.4), (5, 2.2), (6.4, 1.5), (8, 2), (7.8, 4), (6.6, 6.6), (5, 8.4), (2.6, 8.4), (4.8, 7.2), (4.8, 6.4), (3.2, 6.2)]),
    "Yoggi-Vanilla-Yoghurt/01.jpg": ([(0.7, 5), (1.2, 4.3), (2.2, 6), (4, 7), (5.2, 6.0), (5.7, 6.6), (5.4, 8), (4.9, 10), (1.5, 10), (0.8, 7.5)], [(1, 3), (2, 1.4), (3, 0.7), (4, 1), (5.3, 2.4), (5.3, 6), (4, 6.9), (2.2, 6), (1.2, 4.2)]),
}
# The fronts of cartons: top left, top right, bottom right, bottom left, in tenths.
FRONTS: list[tuple[str, Polygon]] = [
    ("God-Morgon-Apple-Juice/00.jpg", [(2.3, 2.2), (5.2, 1.6), (7.2, 9.0), (4.4, 10)]),
    ("God-Morgon-Apple-Juice/01.jpg", [(0, 1.5), (2.8, 0.2), (6, 8), (3.5, 9.6)]),
    ("God-Morgon-Orange-Juice/00.jpg", [(2.8, 1.6), (5.6, 1.6), (5.7, 9.0), (2.9, 8.6)]),
    ("God-Morgon-Orange-Juice/01.jpg", [(2.6, 3.4), (5.2, 3.0), (6.8, 7.8), (4.8, 9)]),
    ("God-Morgon-Red-Grapefruit-Juice/02.jpg", [(5.4, 2.0), (8.2, 2.4), (7.6, 9.4), (5.2, 9.8)]),
    ("Tropicana-Apple-Juice/01.jpg", [(3.6, 1.5), (6.8, 1.8), (4, 8.8), (0.8, 8.0)]),
    ("Tropicana-Golden-Grapefruit/01.jpg", [(3.3, 1.6), (6.2, 1.6), (6.8, 9.0), (4.6, 9.4)]),
    ("Tropicana-Golden-Grapefruit/02.jpg", [(2.4, 1.4), (5.6, 1.5), (4.6, 9.9), (1.8, 9.6)]),
    ("Tropicana-Juice-Smooth/02.jpg", [(3.0, 2.0), (5.6, 1.9), (6.9, 9.2), (4, 9.6)]),
    ("Tropicana-Mandarin-Morning/00.jpg", [(0.9, 1.2), (3.0, 1.2), (3.0, 7.0), (1.1, 6.9)]),
    ("Tropicana-Mandarin-Morning/00.jpg", [(5.9, 1.2), (8.5, 1.2), (8.3, 7.8), (6, 7.6)]),
    ("Tropicana-Mandarin-Morning/01.jpg", [(2.6, 2.2), (5.2, 1.6), (6.9, 8.8), (4, 9.2)]),
    ("Yoggi-Strawberry-Yoghurt/02.jpg", [(2.5, 1.6), (5.4, 1.6), (5.8, 9.6), (3, 9.4)]),
    ("Yoggi-Vanilla-Yoghurt/02.jpg", [(6.6, 2), (9.8, 3.2), (8.2, 9.6), (4.4, 9.6)]),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder that holds the data sets")
    data: Path = parser.parse_args().data
    network = EmbeddedSaliency()

    def look(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The share of each patch that is salient, and the patches, (P,) and (P, D)."""
        salient, patches = network.look(image)
        return shares(salient), standardized(patches)

    hands, things, grounds, edges = [], [], [], []
    for name, (hand, carton) in HELD.items():
        if name.startswith(HOLDOUT_BRAND):
            continue
        image = _read(data / "grocery10/train" / name)
        _, patches = look(image)
        held, shown = (shares(filled_polygon(polygon, image.shape[:2])) for polygon in (hand, carton))
        hands.append(patches[held > 0.7])
        things.append(patches[(shown > 0.7) & (held < 0.3)])
        grounds.append(patches[(shown < 0.1) & (held < 0.05) & border(_GRID)])
        edges.append(patches[border(_GRID)])
    plain_things, plain_grounds, plain_edges = [], [], []
    for photo in _plain(data):
        salient, patches = look(_read(photo))
        mask = photo.parents[2] / "train_masks" / photo.parent.name / f"{photo.stem}.png"
        share = shares(read_mask(mask, DataConfig())) if mask.exists() else salient
        plain_things.append(patches[share > 0.7])
        plain_grounds.append(patches[share < 0.1])
        plain_edges.append(patches[border(_GRID)])
    rng = np.random.default_rng(0)
    fronts, margins = [], []
    for name, quad in FRONTS:
        front, *crops = _front(data, name, quad, rng)
        fronts += [look(image)[1][border(_GRID)] for image in (front, *crops)]
        margins += [look(_on_plain_ground(front, rng))[1][border(_GRID)] for _ in range(_CROPS)]
    probes = {
        "hand": _discriminant([hands], [things, grounds, plain_things, plain_grounds]),
        "filled": _discriminant([fronts], [edges, plain_edges, margins]),
    }
    save_file(probes, PROBES)


def shares(mask: NDArray[np.bool_] | NDArray[np.float32]) -> NDArray[np.float32]:
    """A mask (H, W) -> the share (P,) of each patch that it covers."""
    return cv2.resize(mask.astype(np.float32), (_GRID, _GRID), interpolation=cv2.INTER_AREA).ravel()


def filled_polygon(polygon: Polygon, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask (H, W) of a polygon whose corners are in tenths of the sides."""
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.round(np.array(polygon) * np.array(size[::-1]) / 10).astype(np.int32)], 1)
    return mask > 0


def _plain(data: Path) -> Iterator[Path]:
    """Ordinary photos: two of every second subject of `dreambooth30`, the train photos of some of `masked5`, and one of each of `mini_pods`."""
    for subject in sorted((data / "dreambooth30/train").iterdir())[::2]:
        yield from sorted(subject.iterdir())[:2]
    for name in PLAIN_MASKED:
        yield from sorted((data / "masked5/train" / name).iterdir())
    for subject in sorted(Path("examples/mini_pods/train").iterdir()):
        yield from sorted(subject.iterdir())[:1]


def _front(data: Path, name: str, quad: Polygon, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """The front of a carton as a photo that it fills, and crops of it."""
    image = _read(data / "grocery10/train" / name)
    corners = (np.array(quad) * np.array(image.shape[1::-1]) / 10).astype(np.float32)
    sides = np.linalg.norm(corners - np.roll(corners, -1, axis=0), axis=1)
    width, height = round(1.5 * max(sides[0], sides[2])), round(1.5 * max(sides[1], sides[3]))
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    front = cv2.warpPerspective(image, cv2.getPerspectiveTransform(corners, target), (width, height))
    yield front.astype(np.uint8)
    for _ in range(_CROPS):
        share = rng.uniform(0.6, 0.95)
        tall, wide = round(height * share), round(width * share)
        top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
        yield front[top : top + tall, left : left + wide].astype(np.uint8)


def _on_plain_ground(front: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The front on white, black or a colour, with a margin of at least 4 % on two sides or on all."""
    height, width = front.shape[:2]
    margin = rng.uniform(0.04, 0.5, 4) * np.repeat([height, width], 2)
    margin[:2] *= rng.random() < 0.7
    colour = [(255, 255, 255), (0, 0, 0), tuple(int(value) for value in rng.integers(0, 256, 3))][rng.integers(3)]
    sides = [int(value) for value in margin]
    return cv2.copyMakeBorder(front, *sides, cv2.BORDER_CONSTANT, value=colour).astype(np.uint8)


def _discriminant(
    positives: Sequence[list[NDArray[np.float32]]], negatives: Sequence[list[NDArray[np.float32]]]
) -> NDArray[np.float32]:
    """(D + 1,): weights and offset of a score that is 0 half-way between the means, in standard deviations.

    Each argument holds groups of patches; groups count the same, however many patches they have.
    """
    sides = [[np.concatenate(group) for group in groups] for groups in (positives, negatives)]
    means = [np.mean([group.mean(axis=0) for group in groups], axis=0) for groups in sides]
    covariance = np.mean([np.mean([np.cov(group.T) for group in groups], axis=0) for groups in sides], axis=0)
    dim = len(covariance)
    covariance += _SHRINKAGE * np.trace(covariance) / dim * np.eye(dim)
    weights = np.linalg.solve(covariance, means[0] - means[1])
    weights /= np.sqrt(weights @ covariance @ weights)
    return np.append(weights, -weights @ (means[0] + means[1]) / 2).astype(np.float32)


def _read(path: Path) -> NDArray[np.uint8]:
    return read_rgb(path, DataConfig())


if __name__ == "__main__":
    main()
