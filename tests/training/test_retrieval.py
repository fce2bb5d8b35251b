"""Vectors of layers and what is found by them: as computed one by one, however much memory is allowed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import NumberTokenizer

from rembert_jax import sharding
from rembert_jax.config import Execution
from rembert_jax.sharding import MeshConfig
from rembert_jax.tasks.base import TaskConfig, TaskError
from rembert_jax.tasks.retrieval import Retrieval
from rembert_jax.training import program, search
from rembert_jax.training.feed import place_whole
from rembert_jax.training.optimizer import OptimizerConfig
from rembert_jax.training.retrieval import Retriever
from rembert_jax.training.settings import TrainingConfig
from rembert_jax.xtreme import retrieval


@pytest.fixture
def retriever(tiny_config, random_params):
    """From options and a block to a retriever on a mesh, and its parameters."""

    def make(block=8, mesh=(1, 1, 1), **options):
        config = TaskConfig(
            kind="retrieval", source="jsonl", path="{side}", train_language="en", test_languages=("de",),
            text_fields=("text",), label_field="gold", max_length=12, options={"method": "margin", **options},
        )  # fmt: skip
        data, fsdp, tensor = mesh
        devices = sharding.make_mesh(
            MeshConfig(data=data, fsdp=fsdp, tensor=tensor), jax.devices()[: data * fsdp * tensor]
        )
        made = program.fine_tuning(
            tiny_config, num_labels=0, total_steps=1, execution=Execution(), task=config, seed=0, mesh=devices,
            optimizer=OptimizerConfig(learning_rate=1.0), training=TrainingConfig(batch_size=4),
        )  # fmt: skip
        task = Retrieval(config, NumberTokenizer(), ())
        place = place_whole(tiny_config, devices)
        found = Retriever(task, made, tiny_config.hidden_size, batch_size=4, place=place, block=block)
        params = random_params(made.model, jax.ShapeDtypeStruct((1, 2), jnp.int32))
        return found, made, jax.device_put(params, made.shardings.params)

    return make


def sentences(seed, count):
    """Of different lengths; the second is the first once more."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(map(str, rng.integers(5, 48, rng.choice((1, 4, 9))))) for _ in range(count - 1)]
    return [{"id": f"{seed}-{number}", "text": text} for number, text in enumerate([texts[0], *texts])]


def one_by_one(made, params, examples, pooling):
    """The vectors of sentences, each in a batch of its own and without padding, [sentences, layers, width]."""
    states = jax.jit(
        lambda params, ids: made.model.apply({"params": params}, ids, output_hidden_states=True).hidden_states
    )
    found = []
    for example in examples:
        layers = np.stack(states(params, jnp.array([[2, *map(int, example["text"].split()), 3]])))[:, 0]
        found.append(layers.mean(1) if pooling == "mean" else layers[:, 0])
    return np.stack(found)


def expected(english, sources, k):
    """Pairs mined from all cosines."""
    cosines = search.unit(sources) @ search.unit(english).T
    sides = []
    for matrix in (cosines, cosines.T):
        order = np.argsort(-matrix, axis=1, kind="stable")[:, :k]
        sides.append((np.take_along_axis(matrix, order, axis=1), order))
    return retrieval.mine(*sides)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 2, 2)])
def test_pairs_of_every_layer_are_those_of_all_cosines(retriever, pooling, mesh):
    found, made, params = retriever(pooling=pooling, mesh=mesh, neighbours=3)
    english, sources = sentences(0, 21), sentences(1, 14)
    chosen = (0, 2) if pooling == "mean" else (1, 2)  # Every [CLS] has the same embedding.
    with made.on_mesh():
        layers = dict(found.matches(params, english, sources, chosen))
    assert tuple(layers) == chosen
    params = jax.tree.map(jnp.asarray, jax.device_get(params))
    # Equal sentences are compared once, hence all but the second.
    vectors = [one_by_one(made, params, side[:1] + side[2:], pooling) for side in (english, sources)]
    for layer, matches in layers.items():
        mined = expected(*(side[:, layer] for side in vectors), 3)
        mined = [(score, *(number + (number > 0) for number in pair)) for score, *pair in mined]
        assert {match[1:] for match in matches} == {pair[1:] for pair in mined} and len(matches) > 5
        np.testing.assert_allclose([match.score for match in matches], [pair[0] for pair in mined], rtol=1e-4)


def test_little_memory_takes_one_layer_after_the_other_and_finds_the_same(retriever, monkeypatch):
    english, sources = sentences(0, 21), sentences(1, 14)
    one_layer = 13 * 16 * 4 / 2**30  # Of thirteen different sentences, sixteen float32 each.
    taken, found = [], []
    for gib in (1.0, 2.5 * one_layer, one_layer):
        looking, made, params = retriever(memory_gib=gib)
        vectors = looking._vectors
        monkeypatch.setattr(
            looking, "_vectors", lambda *given, vectors=vectors: taken.append(given[-1]) or vectors(*given)
        )
        with made.on_mesh():
            found.append(list(looking.matches(params, english, sources, range(3))))
    assert found[0] == found[1] == found[2]
    both = [(0, 1, 2), (0, 1), (2,), (0,), (1,), (2,)]
    assert taken == [layers for layers in both for _ in ("sources", "english")]
    looking, _, _ = retriever(memory_gib=0.9 * one_layer)
    with pytest.raises(TaskError, match=r"memory_gib=.*: the vectors of 13 sentences take .* GiB; allow as much"):
        next(looking.matches(params, english, sources, [0]))


def test_sentences_of_several_blocks_are_numbered_through(retriever):
    english = sentences(0, 30)
    sources = [{**one, "id": f"s{one['id']}"} for one in reversed(english[1:])]
    looking, made, params = retriever(block=4)
    with made.on_mesh():
        ((_, matches),) = looking.matches(params, english, sources, [1])
    # Each is nearest to its own copy; of the sentence that stands twice the first is meant.
    pairs = {(match.source, match.english) for match in matches if match.score > 1.0}
    assert pairs == {(28, 0), *((29 - number, number) for number in range(2, 30))}
