"""Nearest vectors in blocks: as by brute force, whatever the blocks, ties and sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rembert_jax.training import search


def brute_force(queries, candidates, k):
    scores = search.unit(queries) @ search.unit(candidates).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


def vectors(seed, count, width=16):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


@pytest.mark.parametrize(
    ("queries", "candidates", "k", "block"), [(7, 50, 4, 8), (33, 9, 4, 16), (5, 3, 4, 8), (64, 64, 1, 32)]
)
def test_nearest_are_those_of_brute_force(queries, candidates, k, block):
    one, other = vectors(0, queries), vectors(1, candidates)
    found = search.nearest(one, other, k, block=block)
    scores, order = brute_force(one, other, k)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    np.testing.assert_array_equal(found.indices, order)
    parts = search.nearest(one, (other[start : start + 5] for start in range(0, candidates, 5)), k, block=block)
    np.testing.assert_array_equal(parts.indices, order)


@pytest.mark.parametrize(("queries", "block"), [(21, 8), (7, 32)])
def test_both_directions_come_from_one_pass(queries, block):
    one, other = vectors(0, queries), vectors(1, 30)
    searching = search.Search(4, block=block)
    for part in (one[:5], one[5:]):
        searching.hold(part)
    back = [searching.add(part) for part in (other[:13], other[13:])]
    scores, order = brute_force(other, one, 4)
    np.testing.assert_array_equal(np.concatenate([part.indices for part in back]), order)
    np.testing.assert_allclose(np.concatenate([part.scores for part in back]), scores, atol=1e-6)
    np.testing.assert_array_equal(searching.nearest.indices, brute_force(one, other, 4)[1])
    with pytest.raises(ValueError, match="hold all queries first"):
        searching.hold(one)


def test_of_equally_near_ones_the_first_wins():
    one = np.array([[1.0, 0.0], [0.0, 3.0]])
    other = np.array([[0.0, 1.0], [2.0, 0.0], [5.0, 0.0], [0.0, 7.0], [1.0, 0.0]])
    for block in (1, 2, 8):
        found = search.nearest(one, other, 2, block=block)
        assert found.indices.tolist() == [[1, 2], [0, 3]] and np.all(found.scores == 1.0)


@pytest.mark.parametrize("columns", [4, 5, 33, 256])
@pytest.mark.parametrize("k", [1, 4])
def test_the_best_of_groups_are_the_best_of_all_also_where_numbers_are_equal(columns, k):
    few = np.random.default_rng(columns).integers(0, 6, (64, columns)).astype(np.float32)
    few[:3] = -np.inf
    few[3, 1:] = -np.inf
    for scores in (few, vectors(0, 64, columns)):
        expected = jax.lax.top_k(scores, k)
        for found in (search.top_k(jnp.asarray(scores), k), search.top_k(jnp.asarray(scores.T), k, 0)):
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])


def test_length_does_not_count_and_zeros_are_near_nothing():
    found = search.nearest(np.array([[1.0, 1.0]]), np.array([[0.0, 0.0], [9.0, 0.0], [0.1, 0.1]]), 3, block=4)
    assert found.indices.tolist() == [[2, 1, 0]] and found.scores[0, 2] == 0.0
    assert found.scores.dtype == search.unit(np.ones((1, 2))).dtype == np.float32


def test_whole_blocks_are_compiled_once_and_the_last_is_as_large_as_it_needs(monkeypatch):
    shapes = []

    def noted(queries, candidates, *rest):
        shapes.append((len(queries), len(candidates)))
        return compare(queries, candidates, *rest)

    compare = search._compare
    monkeypatch.setattr(search, "_compare", noted)
    before = compare._cache_size()
    search.nearest(vectors(0, 64, 24), vectors(1, 320, 24), 4, block=32)
    assert set(shapes) == {(32, 32)} and len(shapes) == 20
    assert compare._cache_size() - before == 2, "for the first block of queries, and for the others"
    shapes.clear()
    search.nearest(vectors(2, 33, 24), vectors(3, 45, 24), 4, block=32)
    assert shapes == [(32, 32), (4, 32), (32, 16), (4, 16)], "in steps of an eighth"
    jax.clear_caches()
