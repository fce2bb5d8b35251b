"""Parity on the lines of the real text in `shared/data`, where a copy lies beside the repository.

The ordinary run tokenizes each twelfth line, more than 50,000 of them, with both tokenizers and with what each must equal;
most of its time is the `tokenizers` library's own, which cuts them twice. `pytest -m slow` takes them all, in some minutes,
and with them 25 files of one line that hold a fifth of the characters.
"""

import json
from collections.abc import Iterator

import pytest
import sentencepiece
from helpers import ROOT

from rembert_jax.tokenization import RemBertTokenizer, RemBertTokenizerFast

DATA = ROOT.parent / "shared" / "data"
BATCH = 4000
LONG = 1000
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.xdist_group("every_line"),  # One process reads the lines.
]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """Every line of every file, once: running text, tables, treebanks, and JSON files of one line."""
    found = set()
    for path in DATA.rglob("*"):
        if path.is_file():
            found.update(path.read_bytes().decode("utf-8").split("\n"))
    assert len(found) > 600_000
    return sorted(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A vocabulary of all languages, laid out as released ones."""
    path = tmp_path_factory.mktemp("every")
    texts = sorted(DATA.glob("pretrain/*/dev.txt"))
    assert len(texts) == 12
    sample = [line for text in texts for line in text.read_text(encoding="utf-8").split("\n")[:120]]
    with (path / "sentencepiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample), model_writer=file, vocab_size=4000, minloglevel=2,
            pad_id=0, pad_piece="<pad>", bos_id=1, bos_piece="<s>", unk_id=2, unk_piece="<unk>", eos_id=-1,
            control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        )  # fmt: skip
    RemBertTokenizerFast(path).save_pretrained(path)
    return path


EVERY = pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.slow)])


def _chosen(lines: list[str], step: int) -> list[str]:
    chosen = lines if step == 1 else [line for line in lines if len(line) < LONG][::step]
    assert len(set(chosen)) > 50_000
    return chosen


def _batches(lines: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(lines), BATCH):
        yield lines[start : start + BATCH]


@EVERY
def test_slow_equals_sentencepiece(step, folder, lines):
    slow = RemBertTokenizer.from_pretrained(folder)
    plain = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.model"))
    cls, sep = slow.cls_token_id, slow.sep_token_id
    assert not any(name in line for line in lines for name in ("[CLS]", "[SEP]", "[MASK]"))
    for batch in _batches(_chosen(lines, step)):
        expected = [[cls, *ids, sep] for ids in plain.encode(batch)]
        found = slow(batch, return_attention_mask=False, return_token_type_ids=False)["input_ids"]
        if found != expected:
            assert dict(zip(batch, found, strict=True)) == dict(zip(batch, expected, strict=True))


def test_slow_pairs_equal_sentencepiece(folder, lines):
    slow = RemBertTokenizer.from_pretrained(folder)
    plain = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.model"))
    cls, sep = slow.cls_token_id, slow.sep_token_id
    few = lines[::40]
    one, two = few[: len(few) // 2], few[len(few) // 2 : len(few) // 2 * 2]
    found = slow(one, two)
    for first, second, ids, types in zip(
        plain.encode(one), plain.encode(two), found["input_ids"], found["token_type_ids"], strict=True
    ):
        assert ids == [cls, *first, sep, *second, sep]
        assert types == [0] * (len(first) + 2) + [1] * (len(second) + 1)


@pytest.mark.long
@EVERY
def test_fast_equals_transformers(step, folder, lines):
    transformers = pytest.importorskip("transformers", reason="needs transformers, with which it is compared")
    other = transformers.RemBertTokenizer.from_pretrained(str(folder))
    fast = RemBertTokenizerFast.from_pretrained(folder)
    assert json.loads(fast._backend.to_str()) == json.loads(other.backend_tokenizer.to_str())
    options = {"return_offsets_mapping": True, "return_attention_mask": False}
    for batch in _batches(_chosen(lines, step)):
        ours = fast(batch, **options)
        theirs = other(batch, return_token_type_ids=True, verbose=False, **options)
        for key in ("input_ids", "offset_mapping", "token_type_ids"):
            if ours[key] != theirs[key]:
                pairs = zip(batch, ours[key], theirs[key], strict=True)
                assert [pair for pair in pairs if pair[1] != pair[2]] == [], key
