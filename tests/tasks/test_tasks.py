"""Labelled tasks: reading, features worked by hand, metrics and baselines, errors."""

import pathlib

import numpy as np
import pytest
from helpers import NumberTokenizer, real_tokenizer, synthetic_texts

from rembert_jax.data import synthetic_tfds, synthetic_world
from rembert_jax.tasks.base import TaskConfig, TaskError
from rembert_jax.tasks.datasets import open_examples, open_task, read_conllu
from rembert_jax.tasks.sequence_classification import SequenceClassification, truncate_pair
from rembert_jax.tasks.token_classification import IGNORED_LABEL, TokenClassification

CLS, SEP, UNK = 2, 3, 1
NO = IGNORED_LABEL


def _config(**changes) -> TaskConfig:
    options = dict(
        kind="token_classification", source="conllu", path="{language}/{split}.conllu", train_language="en",
        test_languages=("en",), text_fields=("tokens",), label_field="upos", max_length=10,
    )  # fmt: skip
    return TaskConfig(**options | changes)


def _pairs(**changes) -> SequenceClassification:
    fields = {
        "kind": "sequence_classification",
        "source": "tfds",
        "text_fields": ("one", "two"),
        "label_field": "label",
    }
    return SequenceClassification(_config(**fields | changes), NumberTokenizer(), ["different", "same"])


def _tagging(**changes) -> TokenClassification:
    return TokenClassification(_config(**changes), NumberTokenizer(), ["NOUN", "VERB", "DET"])


def _lists(features):
    return {key: value.tolist() for key, value in features.items()}


def test_pair_features_worked_by_hand():
    features = _pairs().features({"one": "11 12", "two": "13", "label": 1})
    assert _lists(features) == {
        "input_ids": [CLS, 11, 12, SEP, 13, SEP, 0, 0, 0, 0],
        "attention_mask": [1, 1, 1, 1, 1, 1, 0, 0, 0, 0],
        "token_type_ids": [0, 0, 0, 0, 1, 1, 0, 0, 0, 0],
        "labels": 1,
    }
    assert all(value.dtype == np.int32 for value in features.values())


def test_single_text_features_worked_by_hand():
    task = _pairs(text_fields=("one",), max_length=6)
    assert _lists(task.features({"one": "11 12", "label": "different"})) == {
        "input_ids": [CLS, 11, 12, SEP, 0, 0],
        "attention_mask": [1, 1, 1, 1, 0, 0],
        "token_type_ids": [0] * 6,
        "labels": 0,
    }
    assert task.features({"one": "11 12 13 14 15 16", "label": 0})["input_ids"].tolist() == [CLS, 11, 12, 13, 14, SEP]


def test_padding_is_that_of_the_vocabulary():
    task = _pairs()
    task.tokenizer.pad_token_id = 7
    features = task.features({"one": "11", "two": "12", "label": 0})
    assert features["input_ids"].tolist() == [CLS, 11, SEP, 12, SEP, 7, 7, 7, 7, 7]


@pytest.mark.parametrize(
    ("first", "second", "room", "expected"),
    [
        (5, 2, 7, (5, 2)),  # It fits.
        (5, 2, 5, (3, 2)),  # Only the longer one is cut.
        (5, 4, 5, (3, 2)),  # 4+4, then in turn; of two equal ones the second is cut.
        (2, 9, 4, (2, 2)),
        (0, 9, 4, (0, 4)),
    ],
)
def test_pair_truncation_cuts_the_end_of_the_longer_text(first, second, room, expected):
    one, two = truncate_pair(list(range(first)), list(range(second)), room)
    assert (one, two) == (list(range(expected[0])), list(range(expected[1])))


def test_pair_that_is_too_long_fills_the_row():
    features = _pairs().features({"one": " ".join(map(str, range(10, 30))), "two": "40 41", "label": 0})
    assert features["input_ids"].tolist() == [CLS, 10, 11, 12, 13, 14, SEP, 40, 41, SEP]
    assert features["token_type_ids"].tolist() == [0] * 7 + [1] * 3


def test_tag_stands_at_the_first_piece_of_each_word():
    features = _tagging().features({"tokens": ["10-11", "12", "13-14-15"], "upos": ["NOUN", "DET", "VERB"]})
    assert _lists(features) == {
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
    task = TokenClassification(_config(max_length=1000), tokenizer, ["NOUN"])
    features = task.features({"tokens": words, "upos": [0] * len(words)})
    tagged = features["labels"] == 0
    assert tagged.sum() == len(words) and space not in features["input_ids"]
    firsts = [tokenizer.decode(ids[:1]) for ids in features["input_ids"][tagged][:, None].tolist()]
    assert all(first and word.startswith(first) for word, first in zip(words, firsts, strict=True))


def test_space_stays_where_a_word_is_nothing_else():
    tokenizer = NumberTokenizer()
    tokenizer.space_token_id = 30
    task = TokenClassification(_config(), tokenizer, ["NOUN"])
    features = task.features({"tokens": ["30", "30-11", "12-30"], "upos": [0, 0, 0]})
    assert features["input_ids"].tolist()[:6] == [CLS, 30, 11, 12, 30, SEP]
    assert features["labels"].tolist()[:6] == [NO, 0, 0, 0, NO, NO]


def test_word_that_vanishes_keeps_its_place():
    features = _tagging().features({"tokens": ["10", "\u200b", "12"], "upos": [0, 1, 2]})
    assert features["input_ids"].tolist()[:5] == [CLS, 10, UNK, 12, SEP]
    assert features["labels"].tolist()[:5] == [NO, 0, 1, 2, NO]


def test_words_beyond_the_row_lose_their_place_and_count_as_wrong():
    task = _tagging(max_length=5)
    example = {"tokens": ["10", "11", "12-13", "14"], "upos": [0, 1, 2, 0]}
    features = task.features(example)
    assert features["input_ids"].tolist() == [CLS, 10, 11, 12, SEP]
    assert features["labels"].tolist() == [NO, 0, 1, 2, NO]
    perfect = np.where(features["labels"] == NO, 0, features["labels"])[None]
    assert task.metrics(perfect, features["labels"][None], [example]) == {"accuracy": 0.75, "truncated": 0.25}


def test_tagging_accuracy_counts_words_not_positions():
    task = _tagging()
    examples = [{"tokens": ["10-11", "12"], "upos": [0, 1]}, {"tokens": ["13"], "upos": [2]}]
    labels = np.stack([task.features(example)["labels"] for example in examples])
    predictions = np.zeros_like(labels)  # Right for the first word only, and for every position that does not count.
    assert task.metrics(predictions, labels, examples) == {"accuracy": pytest.approx(1 / 3), "truncated": 0.0}


def test_pair_accuracy_worked_by_hand():
    metrics = _pairs().metrics(np.array([1, 0, 0, 1]), np.array([1, 0, 1, 1]), [{}] * 4)
    assert metrics == {"accuracy": 0.75}


def test_pair_baseline_is_the_most_frequent_training_label():
    train, *tests = ([{"label": label} for label in labels] for labels in ([1, "same", 0], [1, 0, 0, 0], ["same"]))
    assert _pairs().context_free_baseline(train, dict(zip("ab", tests, strict=True))) == {"a": 0.25, "b": 1.0}


def test_tagging_baseline_is_each_words_most_frequent_tag():
    train = [{"tokens": ["run", "run", "run", "cat", "dog", "the"], "upos": [0, 1, 1, 0, 0, 2]}]
    # run -> VERB, cat -> NOUN, the -> DET; unseen words -> NOUN, the most frequent tag (3 of 6).
    test = [{"tokens": ["run", "cat", "the", "new", "odd"], "upos": [1, 0, 0, 0, 1]}]
    assert _tagging().context_free_baseline(train, {"a": test, "b": train}) == {"a": 3 / 5, "b": 5 / 6}


class _Counted(list):
    """Counts how often each example is read."""

    def __init__(self, examples):
        super().__init__(examples)
        self.reads = 0

    def __iter__(self):
        self.reads += len(self)
        return super().__iter__()


@pytest.mark.parametrize(
    ("task", "example"), [(_pairs, {"label": 1}), (_tagging, {"tokens": ["10", "11"], "upos": [0, 1]})]
)
def test_baseline_reads_the_training_set_once(task, example):
    train = _Counted([example] * 4)
    assert task().context_free_baseline(train, {lang: [example] for lang in "abc"}) == dict.fromkeys("abc", 1.0)
    assert train.reads == 4


def _both_uses(task):
    """Features and baseline check an example alike, whichever meets it first."""
    good = {"one": "10", "two": "11", "tokens": ["10"], "upos": [0], "label": 0}
    return [
        task.features,
        lambda example: task.context_free_baseline([good, good | example], {"a": [good]}),
        lambda example: task.context_free_baseline([good], {"a": [good, good | example]}),
    ]


@pytest.mark.parametrize("use", _both_uses(_pairs()))
@pytest.mark.parametrize("label", [-1, 2, 99, 0.7, None, [0]])
def test_label_that_is_no_index_names_the_example(label, use):
    with pytest.raises(TaskError, match=r"de\.tsv:7: label .* is no whole number in 0 … 1 \(different, same\)"):
        use({"one": "10", "two": "11", "label": label, "where": "de.tsv:7"})


@pytest.mark.parametrize("use", _both_uses(_tagging()))
def test_unknown_label_lists_the_known_ones(use):
    with pytest.raises(TaskError, match=r"de\.conllu:9: unknown label 'NOUNS'; expected one of NOUN, VERB, DET"):
        use({"tokens": ["10"], "upos": ["NOUNS"], "where": "de.conllu:9"})


@pytest.mark.parametrize("use", _both_uses(_tagging()))
def test_words_and_tags_of_different_number_are_named(use):
    with pytest.raises(TaskError, match="x:3: 2 words but 1 tags"):
        use({"tokens": ["10", "11"], "upos": [0], "where": "x:3"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_languages": ()}, "test_languages is empty"),
        ({"max_length": 2}, "max_length=2: expected at least 3"),
        ({"text_fields": ()}, "found 0 for kind=token_classification, expected the one that holds the words"),
        ({"text_fields": ("a", "b")}, "found 2 for kind=token_classification, expected the one"),
        ({"max_train_examples": -1}, "max_train_examples=-1: expected 0"),
        ({"max_eval_examples": -5}, "max_eval_examples=-5: expected 0"),
        ({"kind": "sequence_classification"}, "source=conllu: CoNLL-U holds tagged words"),
    ],
)
def test_senseless_settings_are_refused(changes, message):
    with pytest.raises(TaskError, match=message):
        _config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 4}, "max_length=4: expected at least 5"),
        ({"text_fields": ("one",), "max_length": 2}, "max_length=2: expected at least 3"),
        ({"text_fields": ()}, "found 0 for kind=sequence_classification, expected one or two"),
        ({"text_fields": ("a", "b", "c")}, "found 3 for kind=sequence_classification, expected one or two"),
    ],
)
def test_senseless_settings_of_pairs_are_refused(changes, message):
    with pytest.raises(TaskError, match=message):
        _pairs(**changes)


def test_shortest_rows_hold_a_token_of_each_text():
    example = {"one": "10 11", "two": "12 13", "label": 0}
    assert _pairs(max_length=5).features(example)["input_ids"].tolist() == [CLS, 10, SEP, 12, SEP]
    assert _pairs(max_length=3, text_fields=("one",)).features(example)["input_ids"].tolist() == [CLS, 10, SEP]


def test_default_fields_are_those_of_pairs():
    config = TaskConfig(
        kind="sequence_classification", source="tfds", path="x", train_language="en", test_languages=("en",)
    )
    assert len(config.text_fields) == 2


def _row(number, form, upos):
    return f"{number}\t{form}\t_\t{upos}\t_\t_\t_\t_\t_\t_"


GERMAN = "\n".join(
    ["# sent_id = 1", "# text = zum Haus", _row("1-2", "zum", "_"), _row(1, "zu", "ADP"), _row(2, "dem", "DET"),
     _row("2.1", "(er)", "PRON"), _row(3, "Haus", "NOUN"), _row(4, "?", "_"), "", "# sent_id = 2", _row(1, "Ja", "INTJ")]
)  # fmt: skip


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_conllu_words_without_ranges_and_empty_nodes(tmp_path, end, newline):
    path = tmp_path / "de.conllu"
    path.write_bytes((GERMAN + end).replace("\n", newline).encode())
    first, second = read_conllu(path)
    assert (first["tokens"], first["upos"]) == (["zu", "dem", "Haus"], ["ADP", "DET", "NOUN"])
    assert (second["tokens"], second["upos"]) == (["Ja"], ["INTJ"])
    assert (first["where"], second["where"]) == (f"{path}:3", f"{path}:11"), "the first row of each"


def test_conllu_byte_order_mark_is_no_column(tmp_path):
    path = tmp_path / "de.conllu"
    path.write_bytes(b"\xef\xbb\xbf" + GERMAN.encode())
    assert [len(example["tokens"]) for example in read_conllu(path)] == [3, 1]


def test_conllu_comments_only_hold_no_sentence(tmp_path):
    path = tmp_path / "de.conllu"
    path.write_text("# newdoc\n\n# text = nothing\n\n\n")
    assert read_conllu(path) == []


@pytest.mark.parametrize("row", ["1\tJa\tINTJ", _row(1, "Ja", "INTJ") + "\tx", "1 Ja _ INTJ _ _ _ _ _ _"])
def test_conllu_row_with_other_columns_names_file_and_line(tmp_path, row):
    path = tmp_path / "de.conllu"
    path.write_text(f"# text\n{_row(1, 'a', 'X')}\n\n{row}\n")
    with pytest.raises(TaskError, match=r"de\.conllu:4: \d+ columns, expected the 10 of CoNLL-U"):
        read_conllu(path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_conllu_in_another_encoding_names_the_line(tmp_path, mark):
    path = tmp_path / "de.conllu"
    path.write_bytes(mark + b"# one\n" + _row(1, "über", "ADP").encode("latin-1") + b"\n\n# two\n")
    with pytest.raises(TaskError, match=r"de\.conllu:2: not valid UTF-8"):
        read_conllu(path)


def test_folder_in_place_of_a_conllu_file_is_named(tmp_path):
    with pytest.raises(TaskError, match=r"cannot be read .*check task\.path"):
        read_conllu(tmp_path)


def _conllu_config(tmp_path, **changes):
    (tmp_path / "de").mkdir()
    (tmp_path / "de" / "train.conllu").write_text(GERMAN)
    return _config(path=f"{tmp_path}/{{language}}/{{split}}.conllu", **changes)


def test_conllu_task_knows_the_universal_tags(tmp_path):
    config = _conllu_config(tmp_path)
    task = open_task(config, NumberTokenizer())
    assert task.labels == synthetic_world.UPOS and len(task.labels) == 17
    examples = open_examples(config, "de", "train")
    assert [len(example["tokens"]) for example in examples] == [3, 1]
    assert len(open_examples(config, "de", "train", limit=1)) == 1
    labels = task.features(examples[0])["labels"]
    assert [task.labels[i] for i in labels[labels != NO]] == ["ADP", "DET", "NOUN"]


@pytest.mark.parametrize(("language", "split"), [("sw", "train"), ("de", "dev")])
def test_missing_conllu_file_is_named(tmp_path, language, split):
    with pytest.raises(TaskError, match=rf"no file for language '{language}', split '{split}'.*check task\.path"):
        open_examples(_conllu_config(tmp_path), language, split)


@pytest.mark.parametrize("source", ["conllu", "tfds"])
def test_path_with_an_unknown_placeholder_is_explained(source):
    config = _config(source=source, path="{lang}/x")
    with pytest.raises(
        TaskError, match=r"^task\.path=\{lang\}/x: cannot fill in .*expected no placeholder but \{language\}"
    ):
        open_examples(config, "de", "train")


def test_missing_field_lists_what_there_is(tmp_path):
    config = _conllu_config(tmp_path, text_fields=("words",))
    with pytest.raises(TaskError, match=r"no field 'words', found tokens, upos; set task\.text_fields"):
        open_examples(config, "de", "train")


def test_empty_conllu_file_names_language_and_split(tmp_path):
    config = _conllu_config(tmp_path)
    (tmp_path / "de" / "dev.conllu").write_text("")
    with pytest.raises(TaskError, match="no example for language 'de', split 'dev'"):
        open_examples(config, "de", "dev")


@pytest.fixture
def tfds_config(tmp_path) -> TaskConfig:
    return _config(source="tfds", path="synthetic_pos/{language}-0-32", data_dir=str(tmp_path), train_language="qaa")


def test_tfds_examples_are_plain_python(tfds_config):
    examples = open_examples(tfds_config, "qab", "test", limit=3)
    assert len(examples) == 3 and len(list(examples)) == 3
    assert all(isinstance(token, str) for token in examples[0]["tokens"])
    assert all(isinstance(tag, int) for tag in examples[0]["upos"])
    assert examples[1]["where"] == "synthetic_pos/qab-0-32/1.0.0/test[1]"
    with pytest.raises(IndexError):
        examples[3]


def test_tfds_task_takes_label_names_from_the_dataset(tfds_config):
    assert open_task(tfds_config, NumberTokenizer()).labels == (*synthetic_world.UPOS, "_")
    pairs = {"kind": "sequence_classification", "path": "synthetic_paws_x/{language}-0-32", "label_field": "label"}
    config = TaskConfig(**vars(tfds_config) | pairs | {"text_fields": ("sentence1", "sentence2")})
    assert open_task(config, NumberTokenizer()).labels == ("different_meaning", "paraphrase")


def test_missing_tfds_split_lists_the_splits(tfds_config):
    with pytest.raises(
        TaskError, match=r"synthetic_pos/qab-0-32/1\.0\.0: no split 'train'; it has (test|validation), "
    ):
        open_examples(tfds_config, "qab", "train")


def test_missing_tfds_label_field_is_named(tfds_config):
    config = TaskConfig(**vars(tfds_config) | {"label_field": "tag"})
    with pytest.raises(TaskError, match=r"no field 'tag', found .*upos.*set .*task\.label_field"):
        open_task(config, NumberTokenizer())
    with pytest.raises(TaskError, match=r"no field 'tag', found .*upos.*set .*task\.label_field"):
        open_examples(config, "qaa", "train")


def test_tfds_label_field_without_class_names_is_named(tfds_config):
    config = TaskConfig(**vars(tfds_config) | {"label_field": "tokens"})
    with pytest.raises(TaskError, match=r"field 'tokens' is .*Text.*expected a ClassLabel.*set task\.label_field"):
        open_task(config, NumberTokenizer())


def test_tfds_dataset_that_is_not_prepared_says_how(tfds_config):
    config = TaskConfig(**vars(tfds_config) | {"path": "paws_x_wiki/{language}"})
    with pytest.raises(TaskError, match=r"'paws_x_wiki/de/.*it is not prepared\..*download_and_prepare\(file_format="):
        open_examples(config, "de", "train")


def test_tfds_dataset_in_another_file_format_says_how(tfds_config):
    synthetic_tfds.prepare("synthetic_pos/qab-0-32", tfds_config.data_dir)
    (info,) = pathlib.Path(tfds_config.data_dir).rglob("dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(
        TaskError, match=r"TFRECORD is not supported\. Check.*prepare it with .*\(file_format=\"array_record\"\)"
    ) as error:
        open_examples(tfds_config, "qab", "test")
    assert isinstance(error.value.__cause__, NotImplementedError)


@pytest.mark.parametrize("path", ["synthetic_pos/qzz", "synthetic_nothing/qaa", "paws_y/{language}"])
def test_unknown_tfds_dataset_is_named(tfds_config, path):
    config = TaskConfig(**vars(tfds_config) | {"path": path})
    with pytest.raises(TaskError, match=r"TFDS dataset '.*' under task\.data_dir=") as error:
        open_examples(config, "qaa", "test")
    assert len(str(error.value)) < 700, "no list of all datasets"
