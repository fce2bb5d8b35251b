import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rembert_jax import losses
from rembert_jax.tasks import token_classification

LN2, LN3 = np.log(2.0), np.log(3.0)
FEATURES = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
TABLE = jnp.array([[0.0, 0.0], [LN2, 0.0], [0.0, LN3]])


def numpy_losses(logits, labels):
    logits = np.asarray(logits, np.float64)
    largest = logits.max(-1, keepdims=True)
    normaliser = largest[..., 0] + np.log(np.exp(logits - largest).sum(-1))
    return normaliser - np.take_along_axis(logits, labels[..., None], -1)[..., 0]


def test_losses_and_tasks_ignore_the_same_label():
    # Tasks do without JAX, so each side has its own constant.
    assert losses.IGNORED_LABEL == token_classification.IGNORED_LABEL


def test_masked_lm_loss_of_a_worked_example():
    # Probabilities of the three positions: 1:2:1 of 4, 1:1:3 of 5, 1:2:3 of 6. The last word of the vocabulary is among
    # the labels; the third position has weight 0.
    sums = losses.masked_lm_loss(FEATURES, TABLE, jnp.zeros(3), jnp.array([1, 2, 0]), jnp.array([1.0, 1.0, 0.0]))
    assert float(sums["loss"]) == pytest.approx(0.6931472 + 0.5108256, rel=1e-6)  # -ln 1/2 - ln 3/5
    assert (float(sums["weight"]), float(sums["correct"])) == (2.0, 2.0)


def test_output_bias_enters_the_logits():
    # A bias of ln 4 on word 0 gives 4:2:1 of 7 and 4:1:3 of 8.
    sums = losses.masked_lm_loss(
        FEATURES, TABLE, jnp.array([2 * LN2, 0.0, 0.0]), jnp.array([1, 2, 0]), jnp.array([1.0, 1.0, 0.0])
    )
    assert float(sums["loss"]) == pytest.approx(1.2527630 + 0.9808293, rel=1e-6)  # ln 7/2 + ln 8/3
    assert (float(sums["weight"]), float(sums["correct"])) == (2.0, 0.0)


def test_z_loss_is_a_penalty_beside_the_loss():
    # The exponentials sum to 4, 5 and 6; the third position has weight 0.
    plain, penalised = (
        losses.masked_lm_loss(
            FEATURES, TABLE, jnp.zeros(3), jnp.array([1, 2, 0]), jnp.array([1.0, 1.0, 0.0]), z_loss=z_loss
        )
        for z_loss in (0.0, 0.1)
    )
    assert float(penalised.pop("penalty")) == pytest.approx(0.1 * (np.log(4) ** 2 + np.log(5) ** 2), rel=1e-6)
    assert penalised == plain


def test_positions_of_weight_zero_change_nothing():
    def loss(features, labels):
        return losses.masked_lm_loss(features, TABLE, jnp.zeros(3), labels, jnp.array([1.0, 1.0, 0.0]))

    one = loss(FEATURES, jnp.array([1, 2, 0]))
    other = loss(FEATURES.at[2].set(jnp.array([7.0, -3.0])), jnp.array([1, 2, 2]))
    assert jax.tree.map(float, one) == jax.tree.map(float, other)


def test_masked_lm_loss_and_gradients_equal_float64():
    rng = np.random.default_rng(0)
    rows, slots, width, vocab = 3, 4, 5, 40
    # Logits reach some 60 in size: exp would overflow float32 sums less careful than log-sum-exp.
    features = (8 * rng.standard_normal((rows, slots, width))).astype(np.float32)
    table = (3 * rng.standard_normal((vocab, width))).astype(np.float32)
    bias = rng.standard_normal(vocab).astype(np.float32)
    labels = rng.integers(0, vocab, (rows, slots)).astype(np.int32)
    labels[0, 0] = vocab - 1
    weights = (np.arange(rows * slots).reshape(rows, slots) % 3 > 0).astype(np.float32)

    @jax.jit
    def loss_and_gradients(features, table, bias):
        def loss(*args):
            return losses.masked_lm_loss(*args, jnp.asarray(labels), jnp.asarray(weights))["loss"]

        return jax.value_and_grad(loss, argnums=(0, 1, 2))(features, table, bias)

    value, (to_features, to_table, to_bias) = loss_and_gradients(features, table, bias)
    wide_features, wide_table = features.astype(np.float64), table.astype(np.float64)
    logits = np.einsum("bpe,ve->bpv", wide_features, wide_table) + bias
    assert float(value) == pytest.approx((numpy_losses(logits, labels) * weights).sum(), rel=1e-6)
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    to_logits = (probabilities - np.eye(vocab)[labels]) * weights[..., None]
    # Logits of size 60 carry an absolute float32 error of about 1e-5, and so do probabilities of order one.
    np.testing.assert_allclose(to_features, to_logits @ wide_table, atol=1e-4)
    np.testing.assert_allclose(to_table, np.einsum("bpv,bpe->ve", to_logits, wide_features), atol=2e-4)
    np.testing.assert_allclose(to_bias, to_logits.sum((0, 1)), atol=2e-5)


def test_no_predictions_give_zero_loss_and_zero_gradients():
    def loss(features, table, bias):
        sums = losses.masked_lm_loss(features, table, bias, jnp.array([1, 2, 0]), jnp.zeros(3))
        return sums["loss"], sums["weight"]

    (value, weight), gradients = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(FEATURES, TABLE, jnp.ones(3))
    assert (float(value), float(weight)) == (0.0, 0.0)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0.0)


def test_bfloat16_features_are_multiplied_with_float32_sums():
    # 256 products of 1 and one of 1: a bfloat16 sum would stop at 256.
    features = jnp.ones((1, 257), jnp.bfloat16)
    table = jnp.stack([jnp.ones(257), jnp.zeros(257)])
    sums = losses.masked_lm_loss(features, table, jnp.zeros(2), jnp.array([1]), jnp.ones(1))
    assert sums["loss"].dtype == jnp.float32
    assert float(sums["loss"]) == 257.0


def test_classification_loss_ignores_marked_labels():
    # Probabilities 1:2:1 of 4, 1:1:3 of 5, 1:2:3 of 6; the middle one is ignored.
    logits = jnp.array([[0.0, LN2, 0.0], [0.0, 0.0, LN3], [0.0, LN2, LN3]])
    sums = losses.classification_loss(logits, jnp.array([1, losses.IGNORED_LABEL, 0]))
    assert float(sums["loss"]) == pytest.approx(0.6931472 + 1.7917595, rel=1e-6)  # -ln 1/2 - ln 1/6
    assert (float(sums["weight"]), float(sums["correct"])) == (2.0, 1.0)


def test_an_ignored_position_whose_largest_logit_is_class_0_is_not_correct():
    sums = losses.classification_loss(jnp.array([[5.0, 0.0]]), jnp.array([losses.IGNORED_LABEL]))
    assert jax.tree.map(float, sums) == {"loss": 0.0, "weight": 0.0, "correct": 0.0}


def test_classification_loss_of_token_labels_equals_float64():
    rng = np.random.default_rng(1)
    logits = (20 * rng.standard_normal((4, 6, 7))).astype(np.float32)
    labels = rng.integers(0, 7, (4, 6)).astype(np.int32)
    ignored = rng.random((4, 6)) < 0.3
    sums = losses.classification_loss(
        jnp.asarray(logits), jnp.asarray(np.where(ignored, losses.IGNORED_LABEL, labels).astype(np.int32))
    )
    assert float(sums["loss"]) == pytest.approx(numpy_losses(logits, labels)[~ignored].sum(), rel=1e-6)
    assert float(sums["weight"]) == (~ignored).sum()
    assert float(sums["correct"]) == (logits.argmax(-1) == labels)[~ignored].sum()


# The heads of the family.


def test_next_token_loss_compares_with_the_label_behind():
    # Odds 1:3, 1:1 and 9:1; the first label is not used, the last logits are not used, the third label is ignored.
    logits = jnp.array([[[0.0, LN3], [0.0, 0.0], [2 * LN3, 0.0], [50.0, 0.0]]])
    sums = losses.next_token_loss(logits, jnp.array([[1, 1, losses.IGNORED_LABEL, 0]]))
    assert float(sums["loss"]) == pytest.approx(np.log(4 / 3) + np.log(10 / 9), rel=1e-6)
    assert (float(sums["weight"]), float(sums["correct"])) == (2.0, 2.0)


def test_multi_label_loss_of_a_worked_example():
    # Probabilities 3/4, 1/2 and 1/4 of labels of which the first two apply.
    sums = losses.multi_label_loss(jnp.array([[LN3, 0.0, -LN3]]), jnp.array([[1.0, 1.0, 0.0]]))
    assert float(sums["loss"]) == pytest.approx(2 * np.log(4 / 3) + LN2, rel=1e-6)
    assert float(sums["weight"]) == 3.0


def test_multi_label_loss_is_finite_for_large_logits():
    sums = losses.multi_label_loss(jnp.array([[200.0, -200.0]]), jnp.array([[0.0, 1.0]]))
    assert float(sums["loss"]) == pytest.approx(400.0)


def test_regression_loss_takes_one_number_or_several():
    several = losses.regression_loss(jnp.array([[1.0, 2.0], [0.0, -1.0]]), jnp.array([[0.0, 4.0], [0.0, 1.0]]))
    assert (float(several["loss"]), float(several["weight"])) == (9.0, 4.0)
    # Broadcasting [B, 1] with [B] would compare every prediction with every target.
    one = losses.regression_loss(jnp.array([[1.0], [5.0]]), jnp.array([2.0, 5.0]))
    assert (float(one["loss"]), float(one["weight"])) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("width", "labels", "same_as"),
    [
        (1, jnp.array([2.0, 3.0]), losses.regression_loss),
        (3, jnp.array([2, 0]), losses.classification_loss),
        (3, jnp.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), losses.multi_label_loss),
    ],
)
def test_the_kind_of_problem_follows_from_labels(width, labels, same_as):
    logits = jnp.array([[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]])[:, :width]
    found, expected = losses.sequence_classification_loss(logits, labels), same_as(logits, labels)
    assert {name: float(value) for name, value in found.items()} == {k: float(v) for k, v in expected.items()}


def test_an_unknown_kind_of_problem_is_refused():
    with pytest.raises(ValueError, match=r"problem_type='ranking': expected one of single_label_classification, multi"):
        losses.sequence_classification_loss(jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32), "ranking")


def test_question_answering_loss_ignores_positions_beyond_the_sequence():
    # Row 0: start 1 of odds 1:3, end 0 of odds 1:1. Row 1: the answer lies outside. Row 2: only the end does.
    logits = jnp.array([[0.0, LN3], [9.0, 0.0], [0.0, 0.0]])
    sums = losses.question_answering_loss(logits, jnp.zeros((3, 2)), jnp.array([1, 2, 0]), jnp.array([0, 7, 2]))
    starts, ends = (np.log(4 / 3) + LN2) / 2, LN2
    assert float(sums["loss"] / sums["weight"]) == pytest.approx((starts + ends) / 2, rel=1e-6)
    assert (float(sums["weight"]), float(sums["correct"])) == (2.0, 1.0)
    nothing = losses.question_answering_loss(logits, logits, jnp.array([2, 3, 4]), jnp.array([2, 2, 2]))
    assert (float(nothing["loss"]), float(nothing["weight"])) == (0.0, 0.0)


def test_question_answering_sums_add_up_over_parts_of_a_batch():
    rng = np.random.default_rng(1)
    start, end = jnp.asarray(rng.standard_normal((2, 6, 5)), jnp.float32)
    first, last = jnp.array([0, 9, 3, 4, 5, 1]), jnp.array([2, 9, 3, 4, 5, 4])  # Inside or outside together.
    whole = losses.question_answering_loss(start, end, first, last)
    parts = [losses.question_answering_loss(start[p], end[p], first[p], last[p]) for p in (slice(0, 2), slice(2, 6))]
    for name in ("loss", "weight", "correct"):
        assert float(whole[name]) == pytest.approx(sum(float(part[name]) for part in parts), rel=1e-6), name
