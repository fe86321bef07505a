"""Speaker verification: cosine scores of pairs and the equal error rate."""

from typing import Sequence

import numpy as np


def pair_scores(embeddings: np.ndarray, speakers: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Score all pairs by the cosine; return scores ``(P,)`` and whether a pair is of one speaker ``(P,)``.

    Args:
        embeddings: ``(M, E)``.
        speakers: M labels.
    """
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12)
    first, second = np.triu_indices(len(unit), 1)
    labels = np.unique(np.asarray(speakers), return_inverse=True)[1]
    return (unit @ unit.T)[first, second], labels[first] == labels[second]


def equal_error_rate(scores: np.ndarray, same: np.ndarray) -> float:
    """Return the share of errors at the threshold where misses and false alarms are (nearest to) equally frequent.

    A pair is accepted where its score is at least the threshold; of the two shares the mean is returned.

    >>> equal_error_rate(np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, False, True, False]))
    0.5

    Raises:
        ValueError: no pair of one speaker, or none of two.
    """
    scores, same = np.asarray(scores), np.asarray(same, dtype=bool)
    if not same.any() or same.all():
        raise ValueError("the equal error rate needs pairs of one speaker and pairs of two")
    order = np.argsort(-scores, kind="stable")
    accepted = np.cumsum(same[order])
    false = np.arange(1, len(order) + 1) - accepted
    # Equal scores are accepted together: a threshold lies behind the last of them.
    last = np.append(np.diff(scores[order]) != 0, True)
    miss = np.append(1.0, 1 - accepted[last] / same.sum())
    alarm = np.append(0.0, false[last] / (~same).sum())
    nearest = np.argmin(np.abs(miss - alarm))
    return float((miss[nearest] + alarm[nearest]) / 2)
