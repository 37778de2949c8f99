"""Identify and "none of them" with pretrained features, and with keypoints if asked.

    python -m benchmarks.quality_parts.identify --data ../shared/data/grocery10 [--keypoints]

The open set: every object is left out in turn, from the cohorts too, while its look-alikes stay. Its photos should get
no name.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score

from persrep_ray.backbones.lora import load_lora
from persrep_ray.config import RunConfig
from persrep_ray.data.images import read_rgb, standard_view
from persrep_ray.data.objects import Photo, load_manifest
from persrep_ray.tasks.keypoints import KeypointModel, describe
from persrep_ray.tasks.recognize import Recognizer, WitnessName, posterior

_OTHERS = 9  # objects that keypoints are weighed against


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--keypoints", action="store_true")
    options = parser.parse_args()
    manifest, config = load_manifest(options.data, RunConfig().data), RunConfig()
    train = [photo for one in manifest.objects.values() for photo in one.train]
    test = [photo for one in manifest.objects.values() for photo in one.test]
    geometry = keypoint_scores(train, test, config) if options.keypoints else None
    print(json.dumps(measure(embed(train, config), embed(test, config), train, test, geometry)))


def embed(photos: Sequence[Photo], config: RunConfig) -> np.ndarray:
    """The pretrained CLS (N, D) of the photos' standard views."""
    lora = load_lora(config)
    lora.train(False)
    side, rows = config.backbone.image_size, []
    with torch.no_grad(), lora.pretrained() as backbone:
        for photo in photos:
            view = standard_view(read_rgb(photo.path, config.data), side)
            rows.append(backbone.suffix(backbone.prefix(backbone.pixels([view], side))).cls[0].float().numpy())
    return np.stack(rows)


def keypoint_scores(train: Sequence[Photo], test: Sequence[Photo], config: RunConfig) -> np.ndarray:
    """log(1 + score) (photos, objects) of every train and then test photo, by models that do not know the photo."""
    images = [read_rgb(photo.path, config.data) for photo in train]
    scenes = [describe(image) for image in images]
    owners = [photo.object_id for photo in train]
    names = sorted(set(owners))

    def model(name: str, without: int = -1) -> KeypointModel:
        rows = [row for row, owner in enumerate(owners) if owner == name and row != without]
        others = [other for other in names if other != name][:_OTHERS]
        seen = [[scene for scene, owner in zip(scenes, owners, strict=True) if owner == other] for other in others]
        return KeypointModel.fit([images[row] for row in rows], [None] * len(rows), seen)

    models = {name: model(name) for name in names}
    scores = np.zeros((len(train) + len(test), len(names)))
    for row, scene in enumerate([*scenes, *(describe(read_rgb(photo.path, config.data)) for photo in test)]):
        for column, name in enumerate(names):
            known = row < len(train) and owners[row] == name
            if known and owners.count(name) == 1:
                continue
            found = (model(name, without=row) if known else models[name]).find(scene)
            scores[row, column] = np.log1p(found[0].score) if found else 0
    return scores


def measure(
    known: np.ndarray,
    asked: np.ndarray,
    train: Sequence[Photo],
    test: Sequence[Photo],
    geometry: np.ndarray | None,
) -> dict[str, float]:
    owners, truth = (np.array([photo.object_id for photo in photos]) for photos in (train, test))
    names = np.unique(owners)

    def evidence(kept: np.ndarray) -> np.ndarray:
        """(tests, kept objects)"""
        columns = []
        for name in kept:
            ours, theirs = owners == name, np.isin(owners, kept) & (owners != name)
            held_out: dict[WitnessName, tuple[np.ndarray, np.ndarray]] = {}
            scores: dict[WitnessName, np.ndarray] = {}
            if geometry is not None:
                column = geometry[:, np.flatnonzero(names == name)[0]]
                held_out["geometry"] = (
                    column[: len(train)][ours] if ours.sum() > 1 else np.empty(0),
                    column[: len(train)][theirs],
                )
                scores["geometry"] = column[len(train) :]
            none = np.empty((0, known.shape[1]))
            recognizer = Recognizer.fit(
                known[ours],
                known[theirs],
                list(owners[theirs]),
                synthetic_positives=none,
                synthetic_others=none,
                held_out=held_out,
            )
            columns.append(recognizer.evidence(asked, scores))
        return np.stack(columns, axis=1)

    closed = evidence(names)
    shows = truth[:, None] == names
    shares = np.stack([posterior(row, len(names)) for row in closed])
    named = shares.max(axis=1) > 1 - shares.sum(axis=1)
    right = shows[np.arange(len(test)), closed.argmax(axis=1)]
    false_names = 0
    for name in names:
        kept = names[names != name]
        for row in evidence(kept)[truth == name]:
            share = posterior(row, len(kept))
            false_names += int(share.max() > 1 - share.sum())
    return {
        "pr_auc": round(
            float(np.mean([average_precision_score(*pair) for pair in zip(shows.T, closed.T, strict=True)])), 4
        ),
        "top1": round(float(right.mean()), 4),
        "right_names": round(float((named & right).mean()), 4),
        "wrong_names": round(float((named & ~right).mean()), 4),
        "names_given_to_none": round(false_names / len(test), 4),
    }


if __name__ == "__main__":
    main()
