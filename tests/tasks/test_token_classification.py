"""Tagging: rows worked by hand, sentences over several rows, metrics, baseline, errors."""

import numpy as np
import pytest
from helpers import NumberTokenizer, real_tokenizer, synthetic_texts

from rembert_jax.tasks.base import IGNORED_LABEL, TaskConfig, TaskError
from rembert_jax.tasks.token_classification import TokenClassification

CLS, SEP, UNK = 2, 3, 1
NO = IGNORED_LABEL
TAGS = ["NOUN", "VERB", "DET"]


def _tagging(tokenizer=None, labels=TAGS, **changes) -> TokenClassification:
    options = dict(
        kind="token_classification", source="conllu", path="{language}/{split}.conllu", train_language="en",
        test_languages=("en",), text_fields=("tokens",), label_field="upos", max_length=10,
    )  # fmt: skip
    return TokenClassification(TaskConfig(**options | changes), tokenizer or NumberTokenizer(), labels)


def _lists(row):
    return {key: value.tolist() for key, value in row.items()}


def test_tag_stands_at_the_first_piece_of_each_word():
    task = _tagging()
    (row,) = task.rows({"tokens": ["10-11", "12", "13-14-15"], "upos": ["NOUN", "DET", "VERB"]})
    assert _lists(task.pad(row, 10)) == {
        "input_ids": [CLS, 10, 11, 12, 13, 14, 15, SEP, 0, 0],
        "attention_mask": [1] * 8 + [0, 0],
        "token_type_ids": [0] * 10,
        "labels": [NO, 0, NO, 2, 1, NO, NO, NO, NO, NO],
    }


def test_tag_never_stands_on_a_mere_space():
    tokenizer = real_tokenizer()
    space = tokenizer.space_token_id
    words = sorted({word for text in synthetic_texts(3) for word in text.split()})
    encoded = [tokenizer.encode(word, add_special_tokens=False) for word in words]
    assert sum(len(ids) > 1 and ids[0] == space for ids in encoded) > 5
    (row,) = _tagging(tokenizer, max_length=1000).rows({"tokens": words, "upos": [0] * len(words)})
    tagged = row["labels"] == 0
    assert tagged.sum() == len(words) and space not in row["input_ids"]
    firsts = [tokenizer.decode(ids[:1]) for ids in row["input_ids"][tagged][:, None].tolist()]
    assert all(first and word.startswith(first) for word, first in zip(words, firsts, strict=True))


def test_space_stays_where_a_word_is_nothing_else():
    tokenizer = NumberTokenizer()
    tokenizer.space_token_id = 30
    (row,) = _tagging(tokenizer).rows({"tokens": ["30", "30-11", "12-30"], "upos": [0, 0, 0]})
    assert row["input_ids"].tolist() == [CLS, 30, 11, 12, 30, SEP]
    assert row["labels"].tolist() == [NO, 0, 0, 0, NO, NO]


def test_word_that_vanishes_keeps_its_place():
    (row,) = _tagging().rows({"tokens": ["10", "\u200b", "12"], "upos": [0, 1, 2]})
    assert row["input_ids"].tolist() == [CLS, 10, UNK, 12, SEP]
    assert row["labels"].tolist() == [NO, 0, 1, 2, NO]


LONG = {"tokens": ["10", "11-12", "13-14", "15", "16-17-18-19", "20"], "upos": [0, 1, 2, 0, 1, 2]}


def test_a_sentence_goes_on_in_the_next_row_and_is_joined_again():
    task = _tagging(max_length=5)
    rows = task.rows(LONG)
    assert [row["input_ids"].tolist() for row in rows] == [
        [CLS, 10, 11, 12, SEP],
        [CLS, 13, 14, 15, SEP],
        [CLS, 16, 17, 18, SEP],  # A word that is longer than a row loses its end.
        [CLS, 20, SEP],
    ]
    assert [row["labels"].tolist() for row in rows] == [
        [NO, 0, 1, NO, NO],
        [NO, 2, NO, 0, NO],
        [NO, 1, NO, NO, NO],
        [NO, 2, NO],
    ]
    # Outputs are padded; those of positions without a tag are passed over.
    outputs = [{"classes": np.pad(np.where(row["labels"] == NO, 1, row["labels"]), (0, 3))} for row in rows]
    assert task.merge(LONG, rows, outputs) == ["NOUN", "VERB", "DET", "NOUN", "VERB", "DET"]


def test_every_word_gets_one_tag_whatever_the_length():
    rng = np.random.default_rng(0)
    for length in range(3, 12):
        words = ["-".join(map(str, range(10, 10 + count))) for count in rng.integers(1, 9, 20)]
        example = {"tokens": words, "upos": rng.integers(0, 3, 20).tolist()}
        task = _tagging(max_length=length)
        rows = task.rows(example)
        assert all(len(row["input_ids"]) <= length for row in rows)
        found = task.merge(example, rows, [{"classes": row["labels"]} for row in rows])
        assert found == [TAGS[tag] for tag in example["upos"]]


def test_accuracy_counts_words():
    examples = [{"tokens": ["10-11", "12"], "upos": [0, 1]}, {"tokens": ["13"], "upos": [2]}]
    found = _tagging().metrics(examples, [["NOUN", "NOUN"], ["NOUN"]], "en")
    assert found["accuracy"] == pytest.approx(1 / 3)


def test_span_scores_worked_by_hand():
    task = _tagging(labels=["O", "B-PER", "I-PER"], metric="f1")
    examples = [{"tokens": ["1", "2", "3", "4"], "upos": ["B-PER", "I-PER", "O", "B-PER"]}]
    found = task.metrics(examples, [["B-PER", "I-PER", "B-PER", "O"]], "en")
    assert found == {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert task.metric == "f1" and _tagging().metric == "accuracy"


def test_baseline_is_each_words_most_frequent_tag():
    train = [{"tokens": ["run", "run", "run", "cat", "dog", "the"], "upos": [0, 1, 1, 0, 0, 2]}]
    # run -> VERB, cat -> NOUN, the -> DET; unseen words -> NOUN, the most frequent tag (3 of 6).
    guess = _tagging().baseline(train)
    words = ["run", "cat", "the", "new", "odd"]
    assert guess({"tokens": words, "upos": [0] * 5}) == ["VERB", "NOUN", "DET", "NOUN", "NOUN"]


def test_predictions_are_a_tag_a_line_with_a_blank_line_between_sentences():
    assert _tagging().to_text([{}, {}], [["DET", "NOUN"], ["VERB"]]) == "DET\nNOUN\n\nVERB\n"


GOOD = {"tokens": ["10"], "upos": [0]}
USES = [
    lambda example: _tagging().rows(example),
    lambda example: _tagging().baseline([GOOD, example]),
    lambda example: _tagging().metrics([GOOD, example], [["NOUN"], ["NOUN"]], "en"),
]


@pytest.mark.parametrize("use", USES)
def test_unknown_label_lists_the_known_ones(use):
    with pytest.raises(TaskError, match=r"de\.conllu:9: unknown label 'NOUNS'; expected one of NOUN, VERB, DET"):
        use({"tokens": ["10"], "upos": ["NOUNS"], "where": "de.conllu:9"})


@pytest.mark.parametrize("use", USES)
def test_words_and_tags_of_different_number_are_named(use):
    with pytest.raises(TaskError, match="x:3: 2 words but 1 tags"):
        use({"tokens": ["10", "11"], "upos": [0], "where": "x:3"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 2}, "max_length=2: expected at least 3"),
        ({"text_fields": ()}, "found 0 for kind=token_classification, expected 1"),
        ({"text_fields": ("a", "b")}, "found 2 for kind=token_classification, expected 1"),
    ],
)
def test_senseless_settings_are_refused(changes, message):
    with pytest.raises(TaskError, match=message):
        _tagging(**changes)
