"""Pairs, thresholds and neighbours worked by hand."""

import numpy as np
import pytest

from rembert_jax.xtreme import retrieval

GOLD = {("a", "1"), ("b", "2"), ("c", "3")}


def scored(predicted):
    total = retrieval.pair_counts(GOLD, predicted).sum(0)
    return {name: float(value) for name, value in retrieval.pair_metrics(total).items()}


def test_pairs():
    assert scored({("a", "1"), ("b", "9")}) == pytest.approx({"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5})
    assert scored({("a", "2")}) == scored(set()) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert scored(GOLD)["f1"] == 1.0


def test_the_threshold_lies_half_way_behind_the_best_f1():
    scores = {("a", "1"): 0.9, ("x", "9"): 0.8, ("b", "2"): 0.6, ("y", "9"): 0.4, ("c", "3"): 0.1}
    # F1 after each: 2/4, 2/5, 4/6, 4/7, 6/8; the last is the highest, and nothing follows it.
    assert retrieval.best_threshold(scores, GOLD) == 0.1
    assert retrieval.best_threshold({pair: score for pair, score in scores.items() if score > 0.1}, GOLD) == 0.5
    # Of equal F1 the first counts: after one (2/2) as after none else.
    assert retrieval.best_threshold({("a", "1"): 0.9, ("x", "9"): 0.7}, {("a", "1")}) == pytest.approx(0.8)
    assert retrieval.best_threshold({("x", "9"): 0.7}, GOLD) == 0.0


def test_sentences_that_stand_there_twice_have_the_id_of_the_first():
    records = [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}, {"id": "c", "text": "one"}]
    assert retrieval.first_ids(records) == {"one": "a", "two": "b"}


def test_neighbours():
    total = retrieval.equal_counts([0, 1, 2, 3], [0, 1, 3, 3]).sum(0)
    assert float(retrieval.accuracy(total)["accuracy"]) == 0.75


def neighbours(cosines, k):
    """Cosines and numbers of the k nearest in each direction."""
    sides = []
    for matrix in (cosines, cosines.T):
        order = np.argsort(-matrix, axis=1, kind="stable")[:, :k]
        sides.append((np.take_along_axis(matrix, order, axis=1), order))
    return sides


def test_mined_pairs_worked_by_hand():
    # Means of the two nearest: 0.85 and 0.45 on both sides. Of source 0 target 0 is nearer, 0.9 / 0.85, but it is near
    # everything; target 1 has 0.8 / 0.65.
    found = retrieval.mine(*neighbours(np.array([[0.9, 0.8], [0.8, 0.1]]), 2))
    assert [pair[1:] for pair in found] == [(0, 1), (1, 0)]
    assert [pair[0] for pair in found] == pytest.approx([0.8 / 0.65] * 2)


def test_a_pair_may_be_found_from_the_target_alone():
    # With one neighbour each, target 1 is nearest to no source, but takes source 1; 0.7 / ((0.8 + 0.7) / 2).
    found = retrieval.mine(*neighbours(np.array([[0.9, 0.1], [0.8, 0.7]]), 1))
    assert [pair[1:] for pair in found] == [(0, 0), (1, 1)]
    assert [pair[0] for pair in found] == pytest.approx([1.0, 0.7 / 0.75])


def test_no_sentence_is_in_two_pairs_and_the_best_come_first():
    found = retrieval.mine(*neighbours(np.random.default_rng(0).uniform(0.1, 1.0, (40, 60)), 4))
    for side in (1, 2):
        assert len({pair[side] for pair in found}) == len(found)
    assert [pair[0] for pair in found] == sorted((pair[0] for pair in found), reverse=True) and 20 < len(found) <= 40
