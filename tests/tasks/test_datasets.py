"""Labelled datasets: CoNLL-U, JSON lines, array_record, TFDS; what is missing or wrong in them."""

import json
import pathlib

import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from helpers import NumberTokenizer

from rembert_jax.data import synthetic_tfds, synthetic_world
from rembert_jax.errors import RemBertError
from rembert_jax.tasks import datasets
from rembert_jax.tasks.base import IGNORED_LABEL, TaskConfig, TaskError
from rembert_jax.tasks.datasets import open_examples, open_task


def _config(**changes) -> TaskConfig:
    options = dict(
        kind="token_classification", source="conllu", path="{language}/{split}.conllu", train_language="en",
        test_languages=("en",), text_fields=("tokens",), label_field="upos", max_length=10,
    )  # fmt: skip
    return TaskConfig(**options | changes)


def _row(number, form, upos):
    return f"{number}\t{form}\t_\t{upos}\t_\t_\t_\t_\t_\t_"


GERMAN = "\n".join(
    ["# sent_id = 1", "# text = zum Haus", _row("1-2", "zum", "_"), _row(1, "zu", "ADP"), _row(2, "dem", "DET"),
     _row("2.1", "(er)", "PRON"), _row(3, "Haus", "NOUN"), _row(4, "?", "_"), "", "# sent_id = 2", _row(1, "Ja", "INTJ")]
)  # fmt: skip


def read(path):
    """Examples of a file."""
    return open_examples(_config(path=str(path)), "de", "train")


def test_files_of_a_language_are_joined_in_the_order_of_their_names(tmp_path):
    for name, form in (("b", "zwei"), ("a", "eins"), ("c", "drei")):
        (tmp_path / f"de-{name}.conllu").write_text(_row(1, form, "NUM") + "\n")
    found = open_examples(_config(path=str(tmp_path / "{language}-*.conllu")), "de", "train")
    assert [example["tokens"] for example in found] == [["eins"], ["zwei"], ["drei"]]


def test_a_family_without_classes_needs_no_names_of_them():
    options = {"text_fields": ("question", "context"), "label_field": "answers", "max_length": 384}
    config = _config(kind="question_answering", source="jsonl", **options)
    assert open_task(config, NumberTokenizer()).labels == ()


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_conllu_words_without_ranges_and_empty_nodes(tmp_path, end, newline):
    path = tmp_path / "de.conllu"
    path.write_bytes((GERMAN + end).replace("\n", newline).encode())
    first, second = read(path)
    assert (first["tokens"], first["upos"]) == (["zu", "dem", "Haus"], ["ADP", "DET", "NOUN"])
    assert (second["tokens"], second["upos"]) == (["Ja"], ["INTJ"])
    assert (first["where"], second["where"]) == (f"{path}:3", f"{path}:11"), "the first row of each"


def test_conllu_byte_order_mark_is_no_column(tmp_path):
    path = tmp_path / "de.conllu"
    path.write_bytes(b"\xef\xbb\xbf" + GERMAN.encode())
    assert [len(example["tokens"]) for example in read(path)] == [3, 1]


def test_conllu_comments_only_hold_no_sentence(tmp_path):
    path = tmp_path / "de.conllu"
    path.write_text("# newdoc\n\n# text = nothing\n\n\n")
    with pytest.raises(TaskError, match="no example for language 'de', split 'train'"):
        read(path)


@pytest.mark.parametrize("row", ["1\tJa\tINTJ", _row(1, "Ja", "INTJ") + "\tx", "1 Ja _ INTJ _ _ _ _ _ _"])
def test_conllu_row_with_other_columns_names_file_and_line(tmp_path, row):
    path = tmp_path / "de.conllu"
    path.write_text(f"# text\n{_row(1, 'a', 'X')}\n\n{row}\n")
    with pytest.raises(RemBertError, match=r"de\.conllu, line 4: found \d+ columns, expected the 10 of CoNLL-U"):
        read(path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_conllu_in_another_encoding_names_the_line(tmp_path, mark):
    path = tmp_path / "de.conllu"
    path.write_bytes(mark + b"# one\n" + _row(1, "über", "ADP").encode("latin-1") + b"\n\n# two\n")
    with pytest.raises(RemBertError, match=r"de\.conllu, line 2: byte \d+ is not UTF-8"):
        read(path)


def test_folder_in_place_of_a_conllu_file_is_named(tmp_path):
    with pytest.raises(TaskError, match=r"cannot be read .*check task\.path"):
        read(tmp_path)


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
    (row,) = task.rows(examples[0])
    assert [task.labels[i] for i in row["labels"] if i != IGNORED_LABEL] == ["ADP", "DET", "NOUN"]


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
    with pytest.raises(TaskError, match=r"no field 'words', found tokens, tags, upos; set task\.text_fields"):
        open_examples(config, "de", "train")


def test_empty_conllu_file_names_language_and_split(tmp_path):
    config = _conllu_config(tmp_path)
    (tmp_path / "de" / "dev.conllu").write_text("")
    with pytest.raises(TaskError, match="no example for language 'de', split 'dev'"):
        open_examples(config, "de", "dev")


RECORDS = [{"tokens": ["10", "11"], "upos": ["B", "A"]}, {"tokens": ["é"], "upos": ["A"]}]


def _write_records(path, records):
    """As JSON lines with a blank line between, or as array_record, by the name."""
    texts = [json.dumps(record, ensure_ascii=False) for record in records]
    if path.suffix == ".jsonl":
        path.write_text("\n\n".join(texts) + "\n")
    else:
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for text in texts:
            writer.write(text.encode())
        writer.close()


@pytest.mark.parametrize(("source", "second"), [("jsonl", 3), ("array_record", 2)])
def test_json_objects_are_examples(tmp_path, source, second):
    path = tmp_path / f"train-de.{source}"
    _write_records(path, RECORDS)
    config = _config(source=source, path=f"{tmp_path}/{{split}}-{{language}}.{source}", labels=("A", "B"))
    examples = open_examples(config, "de", "train")
    assert [{**example} for example in examples] == [
        {**RECORDS[0], "where": f"{path}:1"}, {**RECORDS[1], "where": f"{path}:{second}"},
    ]  # fmt: skip
    (first,) = open_examples(config, "de", "train", limit=1)
    assert first == examples[0]
    assert open_task(config, NumberTokenizer()).labels == ("A", "B")
    with pytest.raises(TaskError, match=r"task\.labels is empty; name the classes"):
        open_task(_config(source=source, path=config.path), NumberTokenizer())


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_what_is_no_json_object_is_named(tmp_path, text):
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"tokens": [], "upos": []}}\n{text}\n')
    examples = open_examples(_config(source="jsonl", path=str(path), labels=("A",)), "de", "train")
    with pytest.raises(
        TaskError, match=r"x\.jsonl:2: (no JSON .*; expected an object|found a list, expected an object)"
    ):
        examples[1]


def test_a_damaged_array_record_is_named(tmp_path):
    path = tmp_path / "x.array_record"
    path.write_bytes(b"nothing")
    with pytest.raises(TaskError, match=r"x\.array_record: no array_record \(.*; make it again"):
        open_examples(_config(source="array_record", path=str(path), labels=("A",)), "de", "train")


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


@pytest.mark.parametrize(("data_dir", "expected"), [("/prepared", "/prepared"), ("", None)])
def test_a_dataset_is_looked_for_in_the_folder_of_the_config(monkeypatch, data_dir, expected):
    asked = []

    def builder(name, data_dir):
        asked.append((name, data_dir))
        raise ValueError("not there")

    monkeypatch.setattr(tfds, "builder", builder)
    config = _config(source="tfds", path="xtreme_pos/xtreme_pos_{language}", data_dir=data_dir)
    with pytest.raises(TaskError, match="not there"):
        open_examples(config, "de", "test")
    assert asked == [("xtreme_pos/xtreme_pos_de", expected)]


@pytest.mark.parametrize("train", [True, False])
def test_every_split_that_a_run_needs_is_looked_for_before_it(monkeypatch, train):
    asked = []
    monkeypatch.setattr(datasets, "_open_tfds", lambda config, *split: asked.append(split))
    splits = {"train_split": "train", "dev_split": "validation", "test_split": "test"}
    config = _config(source="tfds", path="xtreme_pos/xtreme_pos_{language}", test_languages=("de", "hi"), **splits)
    datasets.check_examples(config, train=train)
    learnt = [("en", "train", 0), ("en", "validation", 0)]
    assert asked == [*(learnt if train else []), ("de", "test", 0), ("hi", "test", 0)]


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
        TaskError,
        match=r"'synthetic_pos/qab-0-32/1\.0\.0' .*TFRECORD is not supported\. Check.*"
        r"prepare it with .*\(file_format=\"array_record\"\)",
    ) as error:
        open_examples(tfds_config, "qab", "test")
    assert isinstance(error.value.__cause__, NotImplementedError)


@pytest.mark.parametrize("path", ["synthetic_pos/qzz", "synthetic_nothing/qaa", "paws_y/{language}"])
def test_unknown_tfds_dataset_is_named(tfds_config, path):
    config = TaskConfig(**vars(tfds_config) | {"path": path})
    with pytest.raises(TaskError, match=r"TFDS dataset '.*' under task\.data_dir=") as error:
        open_examples(config, "qaa", "test")
    assert len(str(error.value)) < 700, "no list of all datasets"
