"""Retrieval: a photo of the object queries the train photos of all objects (arXiv 2412.16156)."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import ndcg_score

from persrep_ray.tasks.features import check_rows, check_same_width, cosine_matrix


def scores(queries: np.ndarray, gallery: np.ndarray, relevant: np.ndarray) -> dict[str, float]:
    """Mean nDCG, MRR and top-10 accuracy over the queries, ranked by cosine.

    Args:
        queries: embeddings (Q, D) of the object's test photos.
        gallery: embeddings (G, D) of the train photos of ALL objects.
        relevant: (G,) bool, whether each gallery photo shows the object.

    Returns:
        `ndcg` is over the full ranking with binary relevance, averaged over the orders of equal similarities. `mrr` is
        the mean reciprocal rank of the best relevant photo, and `top10` the share of queries in which that rank is at
        most 10. In a tie a relevant photo ranks behind an irrelevant photo, so that collapsed features never score by
        luck.

    Raises:
        ValueError: there are no queries, no gallery or no relevant photo, or shapes do not fit.
    """
    check_rows(queries, "query embeddings")
    check_rows(gallery, "gallery embeddings")
    check_same_width(queries, "query embeddings", gallery, "gallery embeddings")
    relevant = np.asarray(relevant, dtype=bool)
    if relevant.shape != (len(gallery),):
        raise ValueError(f"relevant has shape {relevant.shape}, expected ({len(gallery)},): one per gallery photo")
    if not relevant.any():
        raise ValueError("retrieval is undefined: no gallery photo shows the object")

    similarity = cosine_matrix(queries, gallery)  # (Q, G)
    best = similarity[:, relevant].max(axis=1, keepdims=True)
    rank = 1 + (similarity[:, ~relevant] >= best).sum(axis=1)  # (Q,) the rank of the best relevant photo
    return {
        "ndcg": _ndcg(similarity, relevant),
        "mrr": float((1.0 / rank).mean()),
        "top10": float((rank <= 10).mean()),
    }


def _ndcg(similarity: np.ndarray, relevant: np.ndarray) -> float:
    if relevant.all():  # every order is perfect, and scikit-learn refuses a gallery of one photo
        return 1.0
    truth = np.broadcast_to(relevant.astype(np.float64), similarity.shape)
    return float(ndcg_score(truth, similarity))
