"""Text sources: files in every state they come in, language discovery, TFDS without TensorFlow."""

import gzip
import json
import logging
import pickle
import sys
import tracemalloc

import numpy as np
import pytest
import tensorflow_datasets as tfds

from rembert_jax.data import synthetic, synthetic_world
from rembert_jax.data.pipeline import DataConfig, open_source, open_sources
from rembert_jax.data.sources import (
    GroupedLines,
    LineFiles,
    SourceError,
    SyntheticText,
    TfdsText,
    discover_languages,
    fill_pattern,
    find_files,
    json_text,
)
from rembert_jax.data.synthetic import SyntheticConfig


def _file(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["text.txt", "text.txt.gz"])
def test_lines_plain_and_gzipped(tmp_path, name):
    lines = LineFiles([_file(tmp_path / name, "first line\n\n  \t \nжизнь\n水は冷たい")])
    assert len(lines) == 3
    assert list(lines) == ["first line", "жизнь", "水は冷たい"]
    assert lines[-1] == "水は冷たい"
    with pytest.raises(IndexError):
        lines[3]


@pytest.mark.parametrize("ending", ["", "\n", "\n\n"])
def test_last_line_needs_no_end(tmp_path, ending):
    assert list(LineFiles([_file(tmp_path / "a", "one\ntwo" + ending)])) == ["one", "two"]


def test_windows_line_ends_and_byte_order_mark(tmp_path):
    assert list(LineFiles([_file(tmp_path / "a.txt", "\ufeffone\r\n\r\ntwo\r\n")])) == ["one", "two"]


def test_file_with_only_a_byte_order_mark_holds_no_text(tmp_path):
    assert len(LineFiles([_file(tmp_path / "a.txt", "\ufeff\r\n")])) == 0


def test_several_files_keep_their_order(tmp_path):
    paths = [_file(tmp_path / "b.txt", "3\n4\n"), _file(tmp_path / "a.txt.gz", "1\n2\n"), _file(tmp_path / "c.txt", "")]
    assert list(LineFiles(paths)) == ["3", "4", "1", "2"]


@pytest.mark.parametrize("name", ["bad.txt", "bad.txt.gz"])
def test_invalid_utf8_names_file_and_line(tmp_path, name):
    path = _file(tmp_path / name, b"fine\n\ngood \xff bad\nfine\n")
    with pytest.raises(SourceError, match=rf"{name}:3: not valid UTF-8 at byte 5 of the line.*on_invalid=\"skip\""):
        LineFiles([path])


def test_invalid_utf8_can_be_skipped_and_is_reported(tmp_path, caplog):
    path = _file(tmp_path / "bad.txt", b"one\n\xc3\x28\ntwo\n")
    with caplog.at_level(logging.WARNING):
        lines = LineFiles([path], on_invalid="skip")
    assert list(lines) == ["one", "two"]
    assert f"{path}:2" in caplog.text and "skipped 1 of 3 lines" in caplog.text


def test_json_lines(tmp_path):
    path = _file(tmp_path / "a.jsonl", '{"text": "one", "id": 1}\n\n{"id": 2, "text": "zwei ü"}\n')
    assert list(LineFiles([path], parse=json_text("text"))) == ["one", "zwei ü"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "not JSON"),
        ('{"other": "x"}', "no string under 'text'; set data.text_field"),
        ('{"text": 5}', "no string under 'text'"),
        ('["text"]', "no string under 'text'"),
        ("[" * 100_000, "not JSON"),
        ('{"text": "so \\ud83d it ends"}', "half of a surrogate pair at character 3 of 'text'"),
    ],
)
def test_bad_json_lines_are_named_or_skipped(tmp_path, line, message):
    path = _file(tmp_path / "a.jsonl", '{"text": "one"}\n' + line + "\n")
    with pytest.raises(SourceError, match=rf"a\.jsonl:2: {message}"):
        LineFiles([path], parse=json_text("text"))
    assert list(LineFiles([path], parse=json_text("text"), on_invalid="skip")) == ["one"]


def test_json_text_of_blanks_is_no_text(tmp_path):
    path = _file(tmp_path / "a.jsonl", '{"text": "one"}\n{"text": " "}\n{"text": ""}\n')
    assert list(LineFiles([path], parse=json_text("text"))) == ["one"]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_source_survives_the_way_to_a_worker_process(tmp_path, name):
    lines = LineFiles([_file(tmp_path / name, "one\ntwo\n")])
    assert lines[1] == "two"
    sent = pickle.dumps(lines)
    assert list(pickle.loads(sent)) == ["one", "two"]


def test_pickled_size_does_not_grow_with_the_text(tmp_path):
    short = pickle.dumps(LineFiles([_file(tmp_path / "aa", "x\n" * 20)]))
    long = pickle.dumps(LineFiles([_file(tmp_path / "bb", ("x" * 5000 + "\n") * 20)]))
    assert len(long) < len(short) + 500


def test_index_holds_few_bytes_a_line(tmp_path):
    path = _file(tmp_path / "a", "x\n" * 20_000)
    tracemalloc.start()
    lines = LineFiles([path])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(lines) == 20_000 and held < 40 * len(lines)


def _damaged(tmp_path, kind):
    packed = gzip.compress(np.random.default_rng(0).bytes(5000))
    contents = {
        "plain.gz": b"not gzip",
        "short.gz": packed[:-2000],
        "flipped.gz": packed[:20] + b"\xff" * 50 + packed[70:],
    }
    path = tmp_path / kind
    path.mkdir() if kind in ("folder", "folder.gz") else path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize("kind", ["plain.gz", "short.gz", "flipped.gz", "folder", "folder.gz"])
@pytest.mark.parametrize("on_invalid", ["fail", "skip"])
def test_file_that_cannot_be_read_is_named(tmp_path, kind, on_invalid):
    with pytest.raises(SourceError, match=rf"{kind}: cannot be read \(.+\); expected a complete (gzip|text) file"):
        LineFiles([_damaged(tmp_path, kind)], on_invalid=on_invalid)


def test_grouped_lines():
    grouped = GroupedLines(["a", "b", "c", "d", "e"], 2)
    assert len(grouped) == 3
    assert list(grouped) == ["a b", "c d", "e"]
    assert grouped[-1] == "e"


def test_synthetic_text_is_indexable_and_ends():
    texts = SyntheticText("qaa", "train", 3, SyntheticConfig(seed=2))
    assert len(list(texts)) == len(set(texts)) == 3
    assert texts[-1] == texts[2] == synthetic.document("qaa", "train", 2, SyntheticConfig(seed=2))
    with pytest.raises(IndexError):
        texts[3]


def test_wildcards_find_files_in_order(tmp_path):
    for name in ("de/part-2.txt", "de/part-1.txt", "en/part-1.txt"):
        _file(tmp_path / name, name)
    found = find_files(f"{tmp_path}/{{language}}/part-*.txt", "de", "train")
    assert [path.name for path in found] == ["part-1.txt", "part-2.txt"]
    assert list(LineFiles(found)) == ["de/part-1.txt", "de/part-2.txt"]


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("{language}/{split}.txt", ["de/train.txt", "en/train.txt", "en/dev.txt"]),
        ("{language}/{split}.txt.gz", ["de/train.txt.gz", "en/train.txt.gz"]),
        ("{language}.txt", ["de.txt", "en.txt"]),
        ("{language}.{split}.txt", ["de.train.txt", "en.train.txt"]),
        ("wiki_{language}.txt", ["wiki_de.txt", "wiki_en.txt"]),
        ("{language}/text/{split}/*.txt", ["de/text/train/1.txt", "en/text/train/1.txt"]),
        ("{split}/{language}.txt", ["train/de.txt", "train/en.txt", "dev/de.txt"]),
    ],
)
def test_languages_are_discovered(tmp_path, pattern, files):
    for name in [*files, "README.md", "empty/notes.rst"]:
        _file(tmp_path / name, "text\n")
    assert discover_languages(f"{tmp_path}/{pattern}") == ["de", "en"]


def test_language_names_with_script_or_region(tmp_path):
    for name in ("zh-Hant", "sr_Latn"):
        _file(tmp_path / f"{name}.txt", "text\n")
    assert discover_languages(f"{tmp_path}/{{language}}.txt") == ["sr_Latn", "zh-Hant"]


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"the folder .*nowhere does not exist"):
        discover_languages(f"{tmp_path}/nowhere/{{language}}/{{split}}.txt")


def test_folder_without_matching_files_is_named(tmp_path):
    _file(tmp_path / "de/train.csv", "x")
    with pytest.raises(SourceError, match=r"no language found under .*name them in data\.languages"):
        discover_languages(f"{tmp_path}/{{language}}/{{split}}.txt")


def _text_config(tmp_path, **changes) -> DataConfig:
    return DataConfig(**{"source": "text", "path": f"{tmp_path}/{{language}}/{{split}}.txt"} | changes)


def test_missing_language_is_named(tmp_path):
    _file(tmp_path / "de/train.txt", "x")
    with pytest.raises(SourceError, match=r"no file for language 'sw', split 'train': nothing matches .*sw/train\.txt"):
        open_sources(_text_config(tmp_path, languages=("de", "sw")), "train")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_language_without_text_is_named(tmp_path, content):
    _file(tmp_path / "de/train.txt", "x")
    _file(tmp_path / "sw/train.txt", content)
    with pytest.raises(SourceError, match="language 'sw', split 'train': no text"):
        open_sources(_text_config(tmp_path), "train")


def test_empty_language_list_takes_all_that_are_found(tmp_path):
    _file(tmp_path / "sw/train.txt", "a\nb\nc\n")
    _file(tmp_path / "de/train.txt", "x\n")
    opened = open_sources(_text_config(tmp_path, lines_per_document=2), "train")
    assert {language: list(texts) for language, texts in opened.items()} == {"de": ["x"], "sw": ["a b", "c"]}


def test_json_source_by_config(tmp_path):
    _file(tmp_path / "de/train.jsonl", json.dumps({"body": "hallo"}) + "\n")
    config = _text_config(tmp_path, source="jsonl", path=f"{tmp_path}/{{language}}/{{split}}.jsonl", text_field="body")
    assert list(open_source(config, "de", "train")) == ["hallo"]


def test_pattern_with_an_unknown_placeholder_is_explained(tmp_path):
    with pytest.raises(SourceError, match=r"\{lang\}.*\{language\}"):
        open_source(_text_config(tmp_path, path=f"{tmp_path}/{{lang}}.txt"), "de", "train")


@pytest.mark.parametrize("pattern", ["{lang}/x", "{}/x", "{language", "{language.x}", "{language[x]}"])
def test_pattern_that_cannot_be_filled_names_its_key(pattern):
    assert fill_pattern("{{{language}}}", "task.path", language="de") == "{de}"
    with pytest.raises(SourceError, match=r"task\.path=.*cannot fill in .*expected no placeholder but \{language\};"):
        fill_pattern(pattern, "task.path", language="de")


def test_tfds_mixture_needs_named_languages():
    with pytest.raises(SourceError, match=r"data\.languages is empty; name the languages of a TFDS mixture"):
        open_sources(DataConfig(source="tfds", path="wiki/{language}"), "train")


class TinyText(tfds.core.GeneratorBasedBuilder):
    """Three texts with an id each."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="de", version="1.0.0", description="German")]  # noqa: RUF012

    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "id": tfds.features.Scalar(np.int64)})
        return tfds.core.DatasetInfo(builder=self, description="Three texts.", features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number, text in enumerate(["eins", "zwei ü", "水"]):
            yield number, {"text": text, "id": number}


@pytest.fixture
def tfds_folder(tmp_path, monkeypatch):
    tfds.disable_progress_bar()
    builder = TinyText(config="de", data_dir=str(tmp_path))
    skip = tfds.download.DownloadConfig(compute_stats=tfds.download.ComputeStatsMode.SKIP)
    builder.download_and_prepare(file_format="array_record", download_config=skip)
    return str(tmp_path)


def test_tfds_text_without_tensorflow(tfds_folder):
    config = DataConfig(source="tfds", path="tiny_text/{language}", data_dir=tfds_folder)
    texts = open_source(config, "de", "train")
    assert len(texts) == 3 and sorted(texts) == ["eins", "zwei ü", "水"]
    assert "tensorflow" not in sys.modules


def test_tfds_text_is_a_sequence(tfds_folder):
    texts = TfdsText("tiny_text/de", "train", tfds_folder, "text")
    assert texts[-1] == texts[2]
    with pytest.raises(IndexError):
        texts[3]


def test_tfds_text_survives_the_way_to_a_worker_process(tfds_folder):
    texts = TfdsText("tiny_text/de", "train", tfds_folder, "text")
    assert list(pickle.loads(pickle.dumps(texts))) == list(texts)


def test_tfds_wrong_field_lists_the_features(tfds_folder):
    texts = TfdsText("tiny_text/de", "train", tfds_folder, "body")
    with pytest.raises(SourceError, match=r"no feature 'body'; it has (text, id|id, text); set data\.text_field"):
        texts[0]


@pytest.mark.parametrize(
    ("name", "split"), [("tiny_text/de", "dev"), ("tiny_text/fr", "train"), ("nothing_here", "train")]
)
def test_tfds_dataset_that_is_not_there_is_named(tfds_folder, name, split):
    with pytest.raises(SourceError, match=rf"TFDS dataset '{name}', split '{split}'.*Prepare it with") as error:
        TfdsText(name, split, tfds_folder, "text")
    assert len(str(error.value)) < 600, "no list of all datasets"


@pytest.mark.parametrize("length", [0, 2])
def test_rows_too_short_for_a_token_are_refused(length):
    with pytest.raises(ValueError, match=f"seq_length={length}: expected at least 3"):
        DataConfig(source="text", seq_length=length)


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("lines_per_document", 0, 1),
        ("max_predictions", -1, 0),
        ("eval_texts", 0, 1),
        ("prefetch", 0, 1),
    ],
)
def test_numbers_below_their_range_are_refused(name, value, least):
    DataConfig(source="text", **{name: least})
    with pytest.raises(ValueError, match=f"{name}={value}: expected at least {least}"):
        DataConfig(source="text", **{name: value})


def test_prediction_slots_follow_the_rate_unless_given():
    assert DataConfig(source="text", seq_length=512).predictions == 77
    assert DataConfig(source="text", seq_length=3).predictions == 1
    assert DataConfig(source="text", seq_length=512, max_predictions=80).predictions == 80


def test_synthetic_source_has_the_languages_own_size_or_a_share_of_it():
    texts = open_sources(DataConfig(source="synthetic", languages=("qad",), eval_texts=7), "train")
    assert {language: len(source) for language, source in texts.items()} == {"qad": 6000}
    fewer = DataConfig(source="synthetic", languages=("qac", "qad"), synthetic=SyntheticConfig(documents=0.5))
    found = open_sources(fewer, "train")
    assert {language: len(source) for language, source in found.items()} == {"qac": 4500, "qad": 3000}
    assert found["qad"][2999] == texts["qad"][2999]
    held_out = open_sources(DataConfig(source="synthetic", eval_texts=7), "validation")
    assert {language: len(source) for language, source in held_out.items()} == dict.fromkeys(
        synthetic_world.LANGUAGES, 7
    )
