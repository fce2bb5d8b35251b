"""Real text and treebanks of many languages, where a copy lies in `shared/data` beside the repository."""

import functools
import itertools

import pytest
from helpers import ROOT

from rembert_jax.data.parallel import keyed_sentences
from rembert_jax.data.sources import LineFiles, discover_languages, find_files
from rembert_jax.tasks.base import TaskConfig
from rembert_jax.tasks.datasets import open_examples, open_task
from rembert_jax.tokenization import RemBertTokenizer, train_vocabulary

DATA = ROOT.parent / "shared" / "data"
pytestmark = pytest.mark.real_data


@functools.cache
def _manifest() -> dict[str, int]:
    """Path to number of lines, sentences, pairs, ..."""
    lines = (DATA / "MANIFEST.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return {path: int(count) for path, count, *_ in (line.split("\t") for line in lines)}


def _files(folder, suffix) -> dict[str, int]:
    return {path: n for path, n in _manifest().items() if path.startswith(folder + "/") and path.endswith(suffix)}


@pytest.mark.parametrize("split", ["train", "dev"])
def test_every_text_opens_with_the_listed_number_of_lines(split):
    expected = {path.split("/")[1]: n for path, n in _files("pretrain", f"{split}.txt").items()}
    pattern = f"{DATA}/pretrain/{{language}}/{{split}}.txt"
    assert discover_languages(pattern) == sorted(expected) and len(expected) == 12
    opened = {language: LineFiles(find_files(pattern, language, split)) for language in expected}
    assert {language: len(lines) for language, lines in opened.items()} == expected
    assert all(lines[0].strip() and lines[len(lines) - 1].strip() for lines in opened.values())


def test_small_vocabulary_covers_every_language(tmp_path):
    languages = sorted({path.split("/")[1] for path in _files("pretrain", "dev.txt")})
    lines = {lang: LineFiles([DATA / "pretrain" / lang / "dev.txt"]) for lang in languages}
    sample = {lang: [text[i] for i in range(0, 120, 2)] for lang, text in lines.items()}
    train_vocabulary(itertools.chain.from_iterable(sample.values()), tmp_path / "v.model", vocab_size=2000)
    tokenizer = RemBertTokenizer(tmp_path / "v.model")
    assert tokenizer.vocab_size == 2000

    def unknown(texts):
        ids = [i for text in texts for i in tokenizer.encode(text, add_special_tokens=False)]
        return ids.count(tokenizer.unk_token_id) / len(ids)

    seen = {lang: unknown(texts) for lang, texts in sample.items()}
    assert max(seen.values()) < 0.01, seen
    # Other lines of the same file; Chinese and Japanese have more characters than such a vocabulary has pieces.
    unseen = {
        lang: unknown(text[i] for i in range(1, 121, 2)) for lang, text in lines.items() if lang not in ("ja", "zh")
    }
    assert max(unseen.values()) < 0.01, unseen


def test_every_treebank_reads_with_the_listed_number_of_sentences():
    expected = _files("udpos", ".conllu")
    assert len(expected) == 11
    found = {}
    for path in expected:
        config = TaskConfig(
            kind="token_classification",
            source="conllu",
            path=str(DATA / path),
            train_language="en",
            test_languages=("en",),
            text_fields=("tokens",),
            label_field="upos",
        )
        examples = open_examples(config, "en", "train")
        found[path] = len(examples)
        open_task(config, None).check_examples(examples)
        assert all(example["tokens"] for example in examples)
    assert found == expected


def test_bible_verses_are_aligned_by_their_numbers():
    pattern, languages = f"{DATA}/bible/{{language}}/mark-luke.tsv", ("en", "de", "es", "hi", "zh")
    verses = keyed_sentences(pattern, languages, 200)
    assert set(verses) == {"en", "de", "es", "zh"}, "there is no Hindi file"
    assert {len(set(texts)) for texts in verses.values()} == {200}
    said = {
        language: ["Jesus" in text or "Jesús" in text for text in verses[language]] for language in ("en", "de", "es")
    }
    for language in ("de", "es"):
        same = sum(one == other for one, other in zip(said["en"], said[language], strict=True))
        moved = sum(one == other for one, other in zip(said["en"], said[language][1:], strict=False))
        assert same > moved + 20, "a name stands in the same verses"
