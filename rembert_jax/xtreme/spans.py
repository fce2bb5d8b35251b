"""Span F1 of tag sequences as the official evaluation of XTREME computes it, and plain token accuracy.

The official script takes seqeval 0.0.12. Its rules for where a span begins and ends differ from those of seqeval 1.x, and they
are applied to parts of speech too, which have no B- and I-: equal neighbours become one span, save tags that begin with S.
That is why its "F1" of parts of speech is not an accuracy (google-research/xtreme issue 56).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rembert_jax.errors import RemBertError

Span = tuple[str, int, int]
"""Type, first and last token."""

OUTSIDE = ("O", ".")
"""First characters of tags that are in no span."""


def spans(tags: Iterable[str]) -> list[Span]:
    """The spans of a sequence of tags.

    A tag is its first character (B begins, I goes on, E ends, S stands alone, O is outside) and its type, what follows the last
    hyphen. A span also ends, and a new one begins, where the type changes; so tags without B or I, as parts of speech, make
    spans of equal neighbours.
    """
    found: list[Span] = []
    before, before_type, first = "O", "", 0
    position = -1
    for position, tag in enumerate(tags):
        mark, kind = tag[:1], tag.rpartition("-")[2]
        changed = kind != before_type
        if _ends(before, mark) or (before not in OUTSIDE and changed):
            found.append((before_type, first, position - 1))
        if _begins(before, mark) or (mark not in OUTSIDE and changed):
            first = position
        before, before_type = mark, kind
    if before not in OUTSIDE:  # A sequence ends like one that an O follows.
        found.append((before_type, first, position))
    return found


def _ends(before: str, mark: str) -> bool:
    return before in ("E", "S") or (before in ("B", "I") and mark in ("B", "S", "O"))


def _begins(before: str, mark: str) -> bool:
    return mark in ("B", "S") or (before in ("E", "S", "O") and mark in ("E", "I"))


def counts(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> np.ndarray:
    """By sentence: spans that are right, predicted and expected, tokens that are right and all tokens, [sentences, 5].

    Args:
      gold, predicted: tags by sentence, the same numbers of sentences and of tokens in each.

    Raises:
      RemBertError: naming the first sentence whose lengths differ.
    """
    check_lengths(gold, predicted)
    rows = np.zeros((len(gold), 5))
    for row, one, other in zip(rows, gold, predicted, strict=True):
        expected, found = set(spans(one)), set(spans(other))
        right = sum(a == b for a, b in zip(one, other, strict=True))
        row[:] = len(expected & found), len(found), len(expected), right, len(one)
    return rows


def metrics(total: np.ndarray) -> dict[str, np.ndarray]:
    """`f1`, `precision` and `recall` of spans and `accuracy` of tokens, as shares, from sums of `counts` [..., 5]."""
    correct, found, expected, right, tokens = np.moveaxis(total, -1, 0)
    return {**f1(correct, found, expected), "accuracy": right / np.maximum(tokens, 1)}


def f1(correct: np.ndarray, found: np.ndarray, expected: np.ndarray) -> dict[str, np.ndarray]:
    """`f1`, `precision` and `recall`, all 0 where nothing is right."""
    return {
        "f1": 2 * correct / np.maximum(found + expected, 1),
        "precision": correct / np.maximum(found, 1),
        "recall": correct / np.maximum(expected, 1),
    }


def check_lengths(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> None:
    """Raises RemBertError if the numbers of sentences, or of tokens in a sentence, differ."""
    if len(gold) != len(predicted):
        raise RemBertError(f"{len(predicted)} sentences predicted, expected {len(gold)}")
    for number, (one, other) in enumerate(zip(gold, predicted, strict=True), start=1):
        if len(one) != len(other):
            raise RemBertError(f"sentence {number}: {len(other)} tags predicted, expected {len(one)}")
