"""Spans and their F1: vectors worked by hand by the rules of seqeval 0.0.12."""

import numpy as np
import pytest

from rembert_jax.xtreme import spans


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        ("I-PER I-PER", [("PER", 0, 1)]),  # An I after nothing begins a span.
        ("B-PER B-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("B-PER I-LOC", [("PER", 0, 0), ("LOC", 1, 1)]),  # So does an I of another type.
        ("O I-LOC O", [("LOC", 1, 1)]),
        ("S-LOC I-LOC", [("LOC", 0, 0), ("LOC", 1, 1)]),
        ("B-LOC E-LOC E-LOC", [("LOC", 0, 1), ("LOC", 2, 2)]),
        ("O O", []),
        ("", []),
        # Parts of speech: equal neighbours are one span, …
        ("NOUN NOUN VERB", [("NOUN", 0, 1), ("VERB", 2, 2)]),
        ("INTJ INTJ", [("INTJ", 0, 1)]),
        # … but not those that begin with S, which stands for a single token.
        ("SYM SYM SCONJ", [("SYM", 0, 0), ("SYM", 1, 1), ("SCONJ", 2, 2)]),
        ("PROPN PRON PUNCT", [("PROPN", 0, 0), ("PRON", 1, 1), ("PUNCT", 2, 2)]),
        ("CCONJ SCONJ", [("CCONJ", 0, 0), ("SCONJ", 1, 1)]),  # seqeval 1.x cuts a letter off and makes them one type.
    ],
)
def test_spans_worked_by_hand(tags, expected):
    assert spans.spans(tags.split()) == expected


def scored(gold, predicted):
    total = spans.counts([line.split() for line in gold], [line.split() for line in predicted]).sum(0)
    return {name: float(value) for name, value in spans.metrics(total).items()}


def test_f1_is_over_all_sentences_and_accuracy_over_tokens():
    gold, predicted = ["B-PER I-PER O", "B-LOC O O O"], ["B-PER O O", "B-LOC O B-ORG O"]
    # Expected PER(0,1), LOC(0,0); found PER(0,0), LOC(0,0), ORG(2,2): one is right.
    assert scored(gold, predicted) == pytest.approx(
        {"f1": 2 / 5, "precision": 1 / 3, "recall": 1 / 2, "accuracy": 5 / 7}
    )


def test_one_wrong_part_of_speech_costs_the_span_of_its_neighbours():
    found = scored(["NOUN NOUN NOUN VERB"], ["NOUN PROPN NOUN VERB"])
    # Three of four tokens are right, but of the spans NOUN(0,2), VERB(3,3) only one is found, among four.
    assert found["accuracy"] == 0.75 and found["f1"] == pytest.approx(2 / 6)


def test_nothing_right_and_nothing_there_are_zero():
    assert scored(["B-PER"], ["O"]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 0.0}
    assert scored(["O"], ["O"]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 1.0}


def test_counts_are_by_sentence():
    np.testing.assert_array_equal(
        spans.counts([["B-PER", "O"], ["O"]], [["B-PER", "B-LOC"], ["O"]]), [[1, 2, 1, 1, 2], [0, 0, 0, 1, 1]]
    )


@pytest.mark.parametrize(
    ("predicted", "message"),
    [([["O"]], "1 sentences predicted, expected 2"), ([["O"], ["O", "O"]], "sentence 2: 2 tags predicted, expected 1")],
)
def test_other_lengths_are_refused(predicted, message):
    with pytest.raises(ValueError, match=message):
        spans.counts([["O"], ["O"]], predicted)
