"""Scores of pairs found in BUCC 2018 and the threshold they are taken by, and accuracy of labels and nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

import numpy as np

from rembert_jax.xtreme.spans import f1

Pair = tuple[str, str]
"""Ids of a sentence and of its English translation."""


def pair_counts(gold: Set[Pair], predicted: Set[Pair]) -> np.ndarray:
    """By pair that is expected or predicted: whether it is right, predicted, expected, [pairs, 3]."""
    rows = [[pair in gold and pair in predicted, pair in predicted, pair in gold] for pair in sorted(gold | predicted)]
    return np.array(rows, float).reshape(-1, 3)


def pair_metrics(total: np.ndarray) -> dict[str, np.ndarray]:
    """`f1`, `precision` and `recall` of extracted pairs, as shares, from sums of `pair_counts` [..., 3]."""
    return f1(*np.moveaxis(total, -1, 0))


def first_ids(records: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Sentence to the id of its first record: BUCC's corpora hold sentences twice, and the official scripts mine each once.

    Args:
      records: with `id` and `text` (`readers.read_bucc`).
    """
    found: dict[str, str] = {}
    for record in records:
        found.setdefault(record["text"], record["id"])
    return found


def best_threshold(scores: Mapping[Pair, float], gold: Set[Pair]) -> float:
    """The score above which candidates are taken, so that their F1 on the development set is the highest.

    Candidates are taken in the order of their scores, the first of those with the highest F1 decides, and the threshold lies
    half way to the next candidate's score, or at the last one's own.

    Args:
      scores: of the candidates of the development set.
      gold: its pairs.
    """
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    threshold, best, correct = 0.0, 0.0, 0
    for taken, (pair, score) in enumerate(ranked, start=1):
        correct += pair in gold
        score_so_far = (
            2 * correct / (taken + len(gold))
        )  # The harmonic mean of correct / taken and correct / len(gold).
        if score_so_far > best:
            best = score_so_far
            threshold = (score + ranked[taken][1]) / 2 if taken < len(ranked) else score
    return threshold


def equal_counts(gold: Sequence[object], predicted: Sequence[object]) -> np.ndarray:
    """By item of two sequences of the same length: whether they are equal, and 1, [items, 2]."""
    return np.array([[one == other, 1.0] for one, other in zip(gold, predicted, strict=True)], float).reshape(-1, 2)


def accuracy(total: np.ndarray) -> dict[str, np.ndarray]:
    """`accuracy` as a share, from sums of `equal_counts` [..., 2]."""
    return {"accuracy": total[..., 0] / np.maximum(total[..., 1], 1)}


def mine(
    forward: tuple[np.ndarray, np.ndarray], backward: tuple[np.ndarray, np.ndarray]
) -> list[tuple[float, int, int]]:
    """Pairs of sentences that are nearer to each other than to their other neighbours.

    The score of a pair is its cosine divided by the mean of both sides' mean cosines to their k nearest ("ratio"). Each
    sentence takes the best of its neighbours, in both directions, and of all these pairs, the best first, each sentence is in
    one at most ("max"): what XTREME's script does for BUCC with k = 4. Source: Artetxe and Schwenk 2019, arXiv:1811.01136.

    Args:
      forward: cosines and numbers of the nearest targets of each source, both [sources, k].
      backward: those of the nearest sources of each target, both [targets, k].

    Returns:
      (score, source, target), the best first.
    """
    means = [scores.mean(1) for scores, _ in (forward, backward)]
    pairs: list[tuple[float, int, int]] = []
    for flip, (scores, neighbours) in enumerate((forward, backward)):
        own, other = means[flip], means[1 - flip]
        ratios = scores / ((own[:, None] + other[neighbours]) / 2)
        best = ratios.argmax(1)
        for number, place in enumerate(best.tolist()):
            neighbour = int(neighbours[number, place])
            source, target = (neighbour, number) if flip else (number, neighbour)
            pairs.append((float(ratios[number, place]), source, target))
    used: tuple[set[int], set[int]] = set(), set()
    found = []
    for pair in sorted(pairs, key=lambda pair: -pair[0]):
        if pair[1] not in used[0] and pair[2] not in used[1]:
            used[0].add(pair[1])
            used[1].add(pair[2])
            found.append(pair)
    return found
