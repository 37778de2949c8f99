"""From a score to an answer: the threshold of a yes, and its probability. No test photo is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from persrep_ray.tasks.classification import scores
from persrep_ray.tasks.features import check_rows, cosine_matrix

SLOPES = 1.0, 1000.0
"""From "a cosine says hardly anything" to "a hundredth is nearly certain"; real objects lie far from both ends."""


@dataclass(frozen=True)
class Calibration:
    """A score of at least `threshold` is a yes. Its probability is sigmoid(`slope` * score + `intercept`), then >= 0.5.

    `positives` and `others` count the images of the object and of anything else that this was found on. The rates are
    the shares of these that get a yes.
    """

    threshold: float
    slope: float
    intercept: float
    positives: int
    others: int
    true_positive_rate: float
    false_positive_rate: float


def calibrate(
    train: np.ndarray, others: np.ndarray, synthetic_positives: np.ndarray, synthetic_others: np.ndarray
) -> Calibration:
    """Finds threshold and probability of the largest cosine to a train photo.

    Args:
        train: embeddings (T, D) of the object's train photos. Each is scored against the rest (leave one out), which is
            impossible for a single photo.
        others: embeddings (N, D) of other objects' train photos; N may be 0, here and below.
        synthetic_positives: embeddings (P, D) of synthetic images of the object that training has not seen.
        synthetic_others: embeddings (M, D) of such images of anything else.

    On each side, photos and synthetic images weigh the same, however many there are. Photos are what serving sees, but
    three of them, taken in a row, do not tell how far a score can fall; synthetic images do, but are not quite photos.
    The two sides weigh the same because nobody knows how often the object will be asked for. A side without any image
    is replaced by a score of 1 (the object) or 0 (anything else).

    The threshold maximises the share of positives above it minus the share of others above it, lies halfway between the
    scores next to it, and is the highest of equally good thresholds. The probability is Platt's (1999), whose softened
    targets keep the slope finite if the sides separate. The fit is constrained to 0.5 at the threshold, so that the
    probability never contradicts the yes or no.
    """
    check_rows(train, "train embeddings")
    alike, alike_weight = _side([_leave_one_out(train), _scores(train, synthetic_positives)], absent=1.0)
    unlike, unlike_weight = _side([_scores(train, others), _scores(train, synthetic_others)], absent=0.0)
    threshold = _best_cut(alike, alike_weight, unlike, unlike_weight)
    offsets = np.concatenate([alike, unlike]) - threshold
    weights = np.concatenate([alike_weight, unlike_weight])
    targets = np.repeat([_soft(alike_weight), 1 - _soft(unlike_weight)], [len(alike), len(unlike)])
    slope = _fit_slope(offsets, targets, weights)
    return Calibration(
        threshold=threshold,
        slope=slope,
        intercept=-slope * threshold,
        positives=len(synthetic_positives) + (len(train) if len(train) > 1 else 0),
        others=len(others) + len(synthetic_others),
        true_positive_rate=float((alike >= threshold).mean()),
        false_positive_rate=float((unlike >= threshold).mean()),
    )


def _leave_one_out(train: np.ndarray) -> np.ndarray:
    """(T,), or (0,) for a single photo."""
    if len(train) == 1:
        return np.empty(0)
    among = cosine_matrix(train, train)
    np.fill_diagonal(among, -np.inf)
    best: np.ndarray = among.max(axis=1)
    return best


def _scores(train: np.ndarray, images: np.ndarray) -> np.ndarray:
    return scores(train, images) if len(images) else np.empty(0)


def _side(kinds: Sequence[np.ndarray], absent: float) -> tuple[np.ndarray, np.ndarray]:
    """The scores (N,) float64 of a side and their weights (N,), which add up to 1."""
    present = [kind for kind in kinds if len(kind)] or [np.array([absent])]
    weights = [np.full(len(kind), 1 / (len(kind) * len(present))) for kind in present]
    return np.concatenate(present).astype(np.float64), np.concatenate(weights)


def _best_cut(alike: np.ndarray, alike_weight: np.ndarray, unlike: np.ndarray, unlike_weight: np.ndarray) -> float:
    levels = np.unique(np.concatenate([alike, unlike]))
    if len(levels) == 1:  # the sides cannot be told apart
        return float(levels[0])
    cuts = (levels[:-1] + levels[1:]) / 2
    separation = (alike >= cuts[:, None]) @ alike_weight - (unlike >= cuts[:, None]) @ unlike_weight
    return float(cuts[np.flatnonzero(separation >= separation.max() - 1e-9)[-1]])


def _soft(weights: np.ndarray) -> float:
    """Platt's target (n + 1) / (n + 2), where n is the effective number of images (Kish, 1965)."""
    count = 1 / float((weights**2).sum())
    return (count + 1) / (count + 2)


def _fit_slope(offsets: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """The k in `SLOPES` at which sigmoid(k * offsets) has the least cross entropy to `targets`.

    Cross entropy is convex in k, so bisection of its derivative cannot fail. It ends at a limit if the best k lies
    beyond it, which happens if all scores are equal or the sides are the wrong way round.
    """
    low, high = SLOPES
    for _ in range(60):
        slope = (low + high) / 2
        predicted = (1 + np.tanh(slope * offsets / 2)) / 2  # the sigmoid in a form that never overflows
        if float(weights @ ((predicted - targets) * offsets)) < 0:
            low = slope
        else:
            high = slope
    return (low + high) / 2
