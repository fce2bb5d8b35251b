"""The fast tokenizer against transformers', the slow one against plain SentencePiece, and both against each other."""

import json
import random
from collections import Counter

import pytest
import sentencepiece
from helpers import synthetic_texts

from rembert_jax.tokenization import RemBertTokenizer, RemBertTokenizerFast, TokenizerError

REASON = "needs transformers (pip install '.[torch]'), with which the fast tokenizer is compared"
SCRIPTS = [
    "the cat sat.",
    "собака спит.",
    "η γάτα κοιμάται.",
    "猫は寝ている。",
    "कुत्ता सोता है।",
    "القط نائم.",
    "한국어 é ÅÖ.",
]
MEGABYTE = 1_000_000
NASTY = {
    "empty": "",
    "one space": " ",
    "only spaces": "     ",
    "only tabs and newlines": "\t\n\r\n\v\f",
    "double spaces": "the  cat   sat    .",
    "outer spaces": "  the cat ",
    "wide spaces": "the\u3000\u3000cat\u00a0\u00a0sat\u2003.",
    "space of no width": "the\u200bcat\ufeff sat\u2060.",
    "quotes of the Penn Treebank": "`` the cat '' said ''the`` cat",
    "one backquote": "the `cat' sat ``` ''' .",
    "joined emoji": "the 👩‍👩‍👧‍👦 cat 🏳️‍🌈 👍🏽",
    "flags": "🇫🇮🇸🇪 cat 🇫",
    "marks of direction": "\u200fالقط\u200e the \u202bنائم\u202c \u2067cat\u2069.",
    "combining accents": "cafe\u0301 A\u030a o\u0308\u0301 \u0301 q\u0323\u0307",
    "many accents": "Z" + "\u0301" * 50 + " cat",
    "hangul in parts": "\u1112\u1161\u11ab\u1100\u116e\u11a8",
    "nukta": "ढऩे क\u093c",
    "ligatures and wide letters": "ﬁre ｔｈｅ ㎏ ½ ①",
    "NUL": "the\x00cat\x00",
    "control characters": "\x01the\x7f cat\x85\x1b[0m",
    "private use and non-characters": "\ue000\uffff\U0010ffff cat",
    "replacement character": "the \ufffd cat",
    "letters beyond the basic plane": "𝕥𝕙𝕖 𐌰𐌱 𠀀 cat",
    "marks for spaces": "▁the▁▁cat ▁",
    "names of special pieces": "[CLS] the [SEP] cat <pad> <unk> <s> [PAD] [UNK] [mask]",
    "masks": "the [MASK] cat [MASK][MASK]. \t [MASK]",
    "wide name of the mask": "the ［ＭＡＳＫ］ cat",
    "brackets": "[[MASK]] [ MASK ] [MASK [CLS",
    "user-defined piece": "the <url> cat<url>sat <URL>",
    "repeated full stops": "the cat............ sat..",
    "a line of a megabyte": "the cat sat. " * (MEGABYTE // 13),
    "a megabyte of spaces": " " * MEGABYTE + "the",
    "a long word": "a" * (MEGABYTE // 8),
    "long Chinese": "猫は" * (MEGABYTE // 24),
}
SURROGATES = {"high": "the \ud83d cat", "low": "\udc00", "pair in the wrong order": "\ude00\ud83d"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A vocabulary as released ones are laid out, saved by the fast tokenizer."""
    path = tmp_path_factory.mktemp("parity")
    texts = [*SCRIPTS * 3, 'she said "yes"', *synthetic_texts(10)]
    with (path / "sentencepiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=file, vocab_size=320, minloglevel=2, character_coverage=1.0,
            pad_id=0, pad_piece="<pad>", bos_id=1, bos_piece="<s>", unk_id=2, unk_piece="<unk>", eos_id=-1,
            control_symbols=["[CLS]", "[SEP]", "[MASK]"], user_defined_symbols=["<url>"],
        )  # fmt: skip
    RemBertTokenizerFast(path).save_pretrained(path / "saved")
    return path / "saved"


@pytest.fixture(scope="module")
def slow(folder):
    return RemBertTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def fast(folder):
    return RemBertTokenizerFast.from_pretrained(folder)


@pytest.fixture(scope="module")
def other(folder):
    """transformers' tokenizer from the files that ours saved."""
    return pytest.importorskip("transformers", reason=REASON).RemBertTokenizer.from_pretrained(str(folder))


def _assert_same(ours, theirs):
    assert dict(ours) == dict(theirs)
    for row in range(len(theirs.encodings)):
        assert ours.word_ids(row) == theirs.word_ids(row)
        assert ours.tokens(row) == theirs.tokens(row)
        assert ours.sequence_ids(row) == theirs.sequence_ids(row)


EVERYTHING = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "return_token_type_ids": True}


@pytest.mark.parametrize("name", NASTY)
def test_fast_equals_transformers_on_nasty_text(name, fast, other):
    text = NASTY[name]
    _assert_same(fast(text, **EVERYTHING), other(text, **EVERYTHING))
    ids = fast.encode(text)
    for skip in (False, True):
        assert fast.decode(ids, skip_special_tokens=skip) == other.decode(ids, skip_special_tokens=skip)
    if len(text) < MEGABYTE // 8:
        pairs = ["the", text], [text, "cat"]
        _assert_same(fast(*pairs, **EVERYTHING), other(*pairs, **EVERYTHING))


@pytest.mark.parametrize("name", NASTY)
def test_slow_equals_sentencepiece_on_nasty_text(name, folder, slow):
    plain = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.model")).encode(NASTY[name])
    ids = slow(NASTY[name], split_special_tokens=True)["input_ids"]
    assert ids == [slow.cls_token_id, *plain, slow.sep_token_id]
    assert slow.encode(NASTY[name], add_special_tokens=False, split_special_tokens=True) == plain


@pytest.mark.parametrize("name", SURROGATES)
def test_surrogates_are_refused_by_all(name, slow, fast, other):
    for tokenizer in (slow, fast):
        with pytest.raises(TokenizerError, match="half of a surrogate pair"):
            tokenizer(SURROGATES[name])
    with pytest.raises(TypeError):
        other(SURROGATES[name])


def _random_call(rng):
    def text():
        words = ["the", "cat", "sat.", "[MASK]", "собака", "漢", "<url>", "[SEP]"]
        return " ".join(rng.choices(words, k=rng.choice([0, 1, 3, 8, 20])))

    count = rng.choice([None, 1, 2, 3])
    pair = rng.random() < 0.5
    texts = [text() if count is None else [text() for _ in range(count)] for _ in range(1 + pair)]
    options = {
        "max_length": rng.choice([None, 3, 4, 5, 6, 7, 8, 10, 16]),
        "truncation": rng.choice([None, True, False, "longest_first", "only_first", "only_second"]),
        "padding": rng.choice([False, True, "max_length"]),
        "pad_to_multiple_of": rng.choice([None, None, 2, 4]),
        "padding_side": rng.choice([None, "left", "right"]),
        "add_special_tokens": rng.random() < 0.8,
        "return_length": rng.random() < 0.5,
    }
    if rng.random() < 0.5:
        options |= {"return_overflowing_tokens": True, "stride": rng.choice([0, 0, 1, 2])}
    if rng.random() < 0.2:
        options["is_split_into_words"] = True
        texts = [t.split() if isinstance(t, str) else [item.split() for item in t] for t in texts]
    return texts, options | EVERYTHING


@pytest.mark.parametrize("side", ["right", "left"])
def test_calls_equal_those_of_transformers(side, folder, other):
    fast = RemBertTokenizerFast.from_pretrained(folder, truncation_side=side)
    other.truncation_side = side
    rng = random.Random(0)
    seen = Counter()
    for _ in range(3000):
        texts, options = _random_call(rng)
        try:
            ours = fast(*texts, **options)
        except TokenizerError:
            seen["refused"] += 1  # test_calls.py has what is refused.
            continue
        if len(texts) == 2 and not texts[1]:
            continue  # A pair to us, one text to transformers unless in a list.
        theirs = None
        try:
            theirs = other(*texts, verbose=False, **options)
        except ValueError as error:
            # It refuses such a stride even where no text is long enough for it to matter.
            assert "stride" in str(error)
            seen["theirs alone"] += 1
        if theirs is not None:
            _assert_same(ours, theirs)
            seen["equal"] += 1
    assert seen["equal"] > 1000 and seen["theirs alone"] < 200, seen


def test_saved_tokenizer_is_the_one_that_transformers_builds(folder, fast, other):
    """The two engines are the same machine, so that they agree on every text."""
    ours = json.loads(fast._backend.to_str())
    # transformers leaves there what the last call asked for.
    theirs = json.loads(other.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}
    assert ours == theirs
    assert json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) == ours


@pytest.mark.parametrize(
    "changes", [{"do_lower_case": True}, {"keep_accents": False}, {"do_lower_case": True, "keep_accents": False}]
)
def test_letters_change_as_in_transformers(changes, folder):
    transformers = pytest.importorskip("transformers", reason=REASON)
    fast = RemBertTokenizerFast.from_pretrained(folder, **changes)
    other = transformers.RemBertTokenizer.from_pretrained(str(folder), **changes)
    for text in ("THE Cat É ÅÖ", "η ΓΆΤΑ", "A\u030a [MASK] İ"):
        _assert_same(fast(text, **EVERYTHING), other(text, **EVERYTHING))
    assert json.loads(fast._backend.to_str()) == json.loads(other.backend_tokenizer.to_str())
    with pytest.raises(TokenizerError, match=r"SentencePiece changes neither.*use RemBertTokenizerFast"):
        RemBertTokenizer.from_pretrained(folder, **changes)


def test_pieces_equal_those_that_transformers_reads_from_the_model_file(folder, fast, tmp_path):
    transformers = pytest.importorskip("transformers", reason=REASON)
    (tmp_path / "sentencepiece.model").write_bytes((folder / "sentencepiece.model").read_bytes())
    other = transformers.RemBertTokenizer.from_pretrained(str(tmp_path))
    options = {"add_special_tokens": False, **EVERYTHING}
    for text in [*SCRIPTS, NASTY["quotes of the Penn Treebank"], NASTY["joined emoji"], NASTY["double spaces"]]:
        _assert_same(fast(text, **options), other(text, **options))
    # From this file alone transformers 5 loses the template and the mask's space; from ours it keeps both.
    assert other("the")["input_ids"] == fast.encode("the", add_special_tokens=False)
    assert fast.encode("the [MASK]")[-2:] == [fast.mask_token_id, fast.sep_token_id]


def test_fast_and_slow_agree_on_ordinary_text(slow, fast):
    for text in [*SCRIPTS, *synthetic_texts(5), "the  cat", " the cat", "the [MASK] cat", "the <url>"]:
        assert slow.encode(text) == fast.encode(text), text


def test_differences_between_fast_and_slow(slow, fast):
    """Each row of the table in docs/tokenizers.md."""
    cases = {
        "``cat''": (fast.encode('"cat"'), slow.encode("``cat''")),
        "the ": ([*fast.encode("the")[:-1], fast.space_token_id, fast.sep_token_id], slow.encode("the")),
        "  ": ([fast.cls_token_id, fast.space_token_id, fast.sep_token_id], slow.encode("")),
        "the [SEP]": ([*fast.encode("the ")[:-1], fast.sep_token_id, fast.sep_token_id], slow.encode("the[SEP]")),
    }
    for text, (by_fast, by_slow) in cases.items():
        assert fast.encode(text) == by_fast and slow.encode(text) == by_slow and by_fast != by_slow
    spaces = "the\u00a0\u00a0cat"
    assert fast.encode(spaces) != slow.encode(spaces) == slow.encode("the cat") == fast.encode("the cat")
    assert fast.encode("▁▁cat") != slow.encode("▁▁cat") == slow.encode("cat")
    assert fast.encode("<url>cat") == fast.encode("<url> cat") != slow.encode("<url>cat")
    assert fast.mask_token_id in fast.encode("［ＭＡＳＫ］") and slow.mask_token_id not in slow.encode("［ＭＡＳＫ］")
    two, many = "e" + 2 * "\u0301", "e" + 4 * "\u0301"
    assert fast.encode(two) == fast.encode("é") == slow.encode("é") != slow.encode(two), "the second mark is lost"
    assert fast.encode(many) != slow.encode(many) == slow.encode("é" + 3 * "\u0301"), "not composed"
    assert slow.encode('"cat"') == fast.encode('"cat"'), "the same where the text has what the fast one puts in"


def test_what_the_slow_tokenizer_saves_is_right_in_transformers(folder, fast, slow, tmp_path):
    transformers = pytest.importorskip("transformers", reason=REASON)
    RemBertTokenizer(folder / "sentencepiece.model").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "rembert", "vocab_size": slow.vocab_size}))
    assert json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8")) == json.loads(fast._backend.to_str())
    for kind in (transformers.RemBertTokenizer, transformers.AutoTokenizer):
        other = kind.from_pretrained(str(tmp_path))
        for text in [*SCRIPTS, "the [MASK] cat", NASTY["masks"], NASTY["names of special pieces"], "the <url> cat"]:
            assert other(text)["input_ids"] == fast.encode(text)
    assert RemBertTokenizerFast.from_pretrained(tmp_path).encode("the [MASK] cat") == fast.encode("the [MASK] cat")
