"""Vocabulary training, the tokenizer over it, and what they say about wrong input."""

import re
from collections import Counter

import pytest
import sentencepiece
from helpers import real_tokenizer, synthetic_texts

from rembert_jax.tokenization import RemBertTokenizer, TokenizerError, VocabularyError, train_vocabulary
from rembert_jax.tokenization.vocabulary import MAX_CHARACTERS, sample_sentences

SCRIPTS = ["the cat sat.", "собака спит.", "η γάτα κοιμάται.", "猫は寝ている。", "कुत्ता सोता है।", "القط نائم."]

TEXTS = [*SCRIPTS * 3, "Aβγ ж! two spaces", *synthetic_texts(10)]


def _train(texts, path, **changes):
    options = {"vocab_size": 220, "character_coverage": 1.0} | changes
    train_vocabulary(iter(texts), path, **options)
    return path


def _raw_model(path, texts=TEXTS, vocab_size=220, **options):
    """A SentencePiece model with special pieces of any name."""
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=file, vocab_size=vocab_size, minloglevel=2, **options
        )
    return path


def test_special_pieces_come_first_in_their_order(tmp_path):
    tokenizer = RemBertTokenizer(_train(TEXTS, tmp_path / "v.model"))
    assert [tokenizer.pieces.id_to_piece(i) for i in range(5)] == ["[PAD]", "[CLS]", "[UNK]", "[SEP]", "[MASK]"]
    ids = (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.unk_token_id, tokenizer.sep_token_id)
    assert (*ids, tokenizer.mask_token_id) == (0, 1, 2, 3, 4)
    assert tokenizer.vocab_size == 220


def test_ids_are_read_from_the_model_not_assumed(tmp_path):
    path = _raw_model(
        tmp_path / "other.model",
        pad_id=3, pad_piece="<pad>", unk_id=0, unk_piece="<unk>", bos_id=2, bos_piece="[CLS]", eos_id=1,
        eos_piece="[SEP]", control_symbols=["unused", "[MASK]"],
    )  # fmt: skip
    tokenizer = RemBertTokenizer(path)
    found = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert [*found, tokenizer.mask_token_id] == [3, 0, 2, 1, 5]
    assert tokenizer.special_ids().tolist() == [0, 1, 2, 3, 4, 5]


def test_special_pieces_of_any_type_are_special(tmp_path):
    path = _raw_model(
        tmp_path / "other.model", pad_id=3, pad_piece="[PAD]", unk_piece="[UNK]", eos_piece="[SEP]",
        user_defined_symbols=["[CLS]", "[MASK]", "[own]"],
    )  # fmt: skip
    tokenizer = RemBertTokenizer(path)
    special = set(tokenizer.special_ids().tolist())
    assert {tokenizer.cls_token_id, tokenizer.mask_token_id} < special
    assert tokenizer.pieces.piece_to_id("[own]") not in special


@pytest.mark.parametrize("text", [*SCRIPTS, "two  spaces", "", "Aβγ ж!"])
def test_round_trip(tmp_path, text):
    tokenizer = RemBertTokenizer(_train(TEXTS, tmp_path / "v.model"))
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == re.sub(" +", " ", text)
    assert not set(ids) & set(tokenizer.special_ids().tolist())


def test_unseen_character_is_unknown():
    assert real_tokenizer().unk_token_id in real_tokenizer().encode("漢", add_special_tokens=False)


def test_starts_word_marks_the_first_piece_of_each_word():
    tokenizer = real_tokenizer()
    text = synthetic_texts(1)[0]
    starts = tokenizer.starts_word()
    assert starts.shape == (tokenizer.vocab_size,) and starts.dtype == bool
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert int(starts[ids].sum()) == len(re.findall(r"\w+|[^\w\s]", text)), "words and punctuation marks"
    assert starts[ids[0]] and not starts[tokenizer.special_ids()].any()


def test_words_of_scripts_without_spaces(tmp_path):
    # Each symbol is one piece, so it is known where pieces begin.
    symbols = (
        "我们",
        "ねこ",
        "ネコ",
        "แมว",
        "ແມວ",
        "ឆ្មា",
        "ကြောင်",
        "ཞི",
        "(",
        "€",
        "ー",
        "\u0e49",
        "\u093f",
        "cat",
        "कुत्ता",
        "7",
    )
    path = _train(TEXTS, tmp_path / "v.model", user_defined_symbols=symbols)
    tokenizer = RemBertTokenizer(path)
    starts = tokenizer.starts_word()
    found = [symbol for symbol in symbols if starts[tokenizer.pieces.piece_to_id(symbol)]]
    assert found == list(symbols[:10]), "not lengthening and combining marks, nor scripts with spaces"


def test_space_piece_is_known_where_there_is_one(tmp_path):
    tokenizer = real_tokenizer()
    assert tokenizer.pieces.id_to_piece(tokenizer.space_token_id) == "\u2581"
    path = _raw_model(
        tmp_path / "v.model", texts=["abba"], vocab_size=8, model_type="char", add_dummy_prefix=False, pad_id=3,
        bos_piece="[CLS]", eos_piece="[SEP]", control_symbols=["[MASK]"],
    )  # fmt: skip
    assert RemBertTokenizer(path).space_token_id is None


def test_text_is_normalised_by_nfkc(tmp_path):
    tokenizer = RemBertTokenizer(_train(TEXTS, tmp_path / "v.model"))
    for given, plain in (("ﬁne", "fine"), ("Ｔｈｅ", "The"), ("e\u0301", "é"), ("①", "1")):
        assert tokenizer.encode(given) == tokenizer.encode(plain)


def test_user_symbols_are_one_piece(tmp_path):
    tokenizer = RemBertTokenizer(_train(TEXTS, tmp_path / "v.model", user_defined_symbols=("<url>",)))
    url = tokenizer.pieces.piece_to_id("<url>")
    assert url in tokenizer.encode("see <url> there")
    assert url not in tokenizer.special_ids()


def test_same_text_gives_the_same_bytes(tmp_path):
    first, second = (_train(synthetic_texts(20), tmp_path / f"{i}" / "v.model", vocab_size=200) for i in range(2))
    assert first.read_bytes() == second.read_bytes()
    other = _train(synthetic_texts(19), tmp_path / "other.model", vocab_size=200)
    assert RemBertTokenizer(first).sha256 == RemBertTokenizer(second).sha256 != RemBertTokenizer(other).sha256


def test_training_leaves_no_partial_file(tmp_path):
    _train(TEXTS, tmp_path / "v.model")
    assert [path.name for path in tmp_path.iterdir()] == ["v.model"]


def test_folder_stands_for_the_file_in_it(tmp_path):
    _train(TEXTS, tmp_path / "sentencepiece.model")
    assert RemBertTokenizer(tmp_path).model_file == tmp_path / "sentencepiece.model"


def test_sample_follows_the_shares_and_small_languages_start_over():
    sources = {"large": [f"large {i}" for i in range(1000)], "small": [f"small {i}" for i in range(10)]}
    sample = list(sample_sentences(sources, {"large": 0.7, "small": 0.3}, 100, seed=0))
    counts = Counter(text.split()[0] for text in sample)
    assert counts == {"large": 70, "small": 30}
    large = [text for text in sample if text.startswith("large")]
    assert len(set(large)) == 70, "no repetition before a language is used up"
    small = [text for text in sample if text.startswith("small")]
    passes = [small[i : i + 10] for i in range(0, 30, 10)]
    assert all(sorted(part) == sorted(sources["small"]) for part in passes)
    assert passes[0] != passes[1], "a new pass has a new order"


def test_sample_depends_on_the_seed_only():
    sources = {"a": [str(i) for i in range(50)]}
    first, again, other = (list(sample_sentences(sources, {"a": 1.0}, 20, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_missing_file_is_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"nothing\.model: no such vocabulary"):
        RemBertTokenizer(tmp_path / "nothing.model")


@pytest.mark.parametrize(("content", "message"), [(b"hello world", "not a SentencePiece model"), (b"", "is empty")])
def test_file_that_is_no_model_is_named(tmp_path, content, message):
    path = tmp_path / "bad.model"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=rf"bad\.model.*{message}"):
        RemBertTokenizer(path)


@pytest.mark.parametrize("missing", ["[CLS]", "[SEP]", "[MASK]", "[PAD]"])
def test_missing_special_piece_is_named(tmp_path, missing):
    names = {"[CLS]": "bos_piece", "[SEP]": "eos_piece", "[PAD]": "pad_piece"}
    pieces = {"bos_piece": "[CLS]", "eos_piece": "[SEP]", "pad_piece": "[PAD]", "pad_id": 3, "unk_piece": "[UNK]"}
    if missing == "[MASK]":
        path = _raw_model(tmp_path / "v.model", **pieces)
    else:
        path = _raw_model(tmp_path / "v.model", control_symbols=["[MASK]"], **pieces | {names[missing]: "<odd>"})
    with pytest.raises(TokenizerError, match=re.escape(f"the piece {missing} is missing")):
        RemBertTokenizer(path)


def test_vocabulary_larger_than_the_text_names_the_largest_possible(tmp_path):
    path = tmp_path / "v.model"
    with pytest.raises(
        VocabularyError, match=r"vocab_size=5000: the sampled text supports at most \d+ pieces"
    ) as error:
        _train(TEXTS, path, vocab_size=5000)
    assert not path.exists()
    largest = int(re.search(r"at most (\d+)", str(error.value)).group(1))
    assert RemBertTokenizer(_train(TEXTS, path, vocab_size=largest)).vocab_size == largest


def test_vocabulary_smaller_than_the_alphabet_names_what_is_needed(tmp_path):
    with pytest.raises(VocabularyError, match=r"vocab_size=20: the text has \d+ required characters.*raise tokenizer"):
        _train(TEXTS, tmp_path / "v.model", vocab_size=20)


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_empty_text_is_said(tmp_path, texts):
    with pytest.raises(VocabularyError, match=r"text to learn the vocabulary from is empty; check data\.path"):
        _train(texts, tmp_path / "v.model")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": -1}, r"vocab_size=-1: expected more than the 5 special pieces"),
        ({"vocab_size": 6, "user_defined_symbols": ("<a>",)}, r"vocab_size=6: expected more than the 6 special pieces"),
        ({"character_coverage": 0.9}, r"character_coverage=0\.9: expected a share between 0\.98 and 1"),
        ({"character_coverage": 1.1}, r"character_coverage=1\.1: expected a share between 0\.98 and 1"),
        ({"user_defined_symbols": ("<a>", "<b>", "<a>")}, r"user_defined_symbols: '<a>' is empty or given twice"),
        ({"user_defined_symbols": ("",)}, r"user_defined_symbols: '' is empty or given twice"),
        ({"user_defined_symbols": ("[MASK]",)}, r"user_defined_symbols: \[MASK\] is a special piece already"),
    ],
)
def test_senseless_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(VocabularyError, match=message):
        _train(TEXTS, tmp_path / "v.model", **settings)


def test_long_texts_are_used_to_their_end(tmp_path):
    long = "a word " * MAX_CHARACTERS + "鼠"
    tokenizer = RemBertTokenizer(_train([*TEXTS, long], tmp_path / "v.model"))
    assert tokenizer.unk_token_id not in tokenizer.encode("鼠")


def test_text_of_four_byte_characters_is_used(tmp_path):
    tokenizer = RemBertTokenizer(_train([*TEXTS, "𐌰" * MAX_CHARACTERS], tmp_path / "v.model"))
    assert tokenizer.unk_token_id not in tokenizer.encode("𐌰")
