"""The score from which serving says "this is the object", chosen without a test photo."""

from __future__ import annotations

import numpy as np

from persrep_ray.evaluate.features import check_rows, cosine_matrix


def serving_threshold(train: np.ndarray, others: np.ndarray) -> float:
    """The threshold on the largest cosine to a train photo that has the best F1 on train photos.

    Args:
        train: (T, D) embeddings of the object's train photos. Each is scored against the others (leave one out); a
            single one scores 1.
        others: (N, D) embeddings of other objects' train photos, N may be 0.

    Returns:
        Halfway between the two scores on either side of the best cut; of equally good cuts the highest. An imagined
        photo of cosine 0 always counts among the others, so that there is an answer without any.
    """
    check_rows(train, "train embeddings")
    among = cosine_matrix(train, train)  # (T, T)
    if len(train) > 1:
        np.fill_diagonal(among, -np.inf)
    alike = among.max(axis=1)
    unlike = np.zeros(1, dtype=np.float32)
    if len(others):
        check_rows(others, "other objects' embeddings")
        unlike = np.append(unlike, cosine_matrix(others, train).max(axis=1))

    levels = np.unique(np.concatenate([alike, unlike]))
    if len(levels) == 1:  # nothing tells them apart
        return float(levels[0])
    cuts = (levels[:-1] + levels[1:]) / 2
    hits = (alike >= cuts[:, None]).sum(axis=1)
    alarms = (unlike >= cuts[:, None]).sum(axis=1)
    f1 = 2 * hits / (hits + alarms + len(alike))
    return float(cuts[np.flatnonzero(f1 == f1.max())[-1]])
