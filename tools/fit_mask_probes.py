"""Fits `persrep_ray/masks/probes.safetensors`: two linear probes on the patches of the embedded ViT.

    python tools/fit_mask_probes.py --data ../shared/data

`hand` tells the patches of a hand from those of things and backgrounds. `filled` tells the patches at the border of a
photo that the front of a package fills from those at the border of any other photo, such as the same front with a
margin around it. Both are regularised discriminants (Fisher), fitted in closed form.

The photos are not part of this project: hands and the fronts of cartons come from `grocery10` (Grocery Store Dataset,
MIT), outlined by eye in `mask_outlines.json`; the rest from `dreambooth30` and `masked5`. For measuring, the hands of
the last brand of `grocery10`, half of `dreambooth30` and most of `masked5` are left out.
"""

from __future__ import annotations

import argparse
import json
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
_OUTLINES = json.loads((Path(__file__).parent / "mask_outlines.json").read_text())
# Photos of `grocery10/train` to the outlines of the hand and of the carton that it holds, in tenths of the sides.
HELD: dict[str, tuple[Polygon, Polygon]] = {
    name: (one["hand"], one["carton"]) for name, one in _OUTLINES["held"].items()
}
# Photos to the corners of a carton's front: top left, top right, bottom right, bottom left, in tenths.
_FRONTS: list[tuple[str, Polygon]] = _OUTLINES["fronts"]


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
    for name, quad in _FRONTS:
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
    shrunk = cv2.resize(mask.astype(np.float32), (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk, np.float32).ravel()


def filled_polygon(polygon: Polygon, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask (H, W) of a polygon whose corners are in tenths of the sides."""
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.round(np.array(polygon) * np.array(size[::-1]) / 10).astype(np.int32)], 1)
    return mask > 0


def _plain(data: Path) -> Iterator[Path]:
    """Ordinary photos of `dreambooth30` (every second subject), `masked5` and `mini_pods`."""
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
    top, bottom, left, right = (int(value) for value in margin)
    return cv2.copyMakeBorder(front, top, bottom, left, right, cv2.BORDER_CONSTANT, value=colour).astype(np.uint8)


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
