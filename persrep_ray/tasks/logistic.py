"""Logistic regression on a handful of examples."""

from __future__ import annotations

import math

import numpy as np


def fit_logistic(features: np.ndarray, labels: np.ndarray, prior: np.ndarray, ridge: float = 1.0) -> np.ndarray:
    """The weights (D,) float64 of the logit, from `features` (N, D) float and `labels` (N,) bool.

    Both classes weigh the same, as if there were N / 2 of each. The weights are drawn towards `prior` (D,) by a ridge,
    so that few examples, or examples that separate, cannot make them extreme. Newton's method finds the optimum, which
    is the only one. A constant must be among the features.
    """
    weights = prior.astype(np.float64)
    counts = np.array([max(1, int((~labels).sum())), max(1, int(labels.sum()))])
    share = (len(labels) / 2 / counts)[labels.astype(int)]
    for _ in range(30):
        predicted = (1 + np.tanh(features @ weights / 2)) / 2  # the sigmoid in a form that never overflows
        gradient = features.T @ (share * (predicted - labels)) + ridge * (weights - prior)
        curvature = (features.T * (share * predicted * (1 - predicted))) @ features + ridge * np.eye(len(prior))
        weights = weights - np.linalg.solve(curvature, gradient)
    return weights


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit > 0 else math.exp(logit) / (1 + math.exp(logit))
