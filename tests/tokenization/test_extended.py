"""Tokens that were added to a vocabulary: taken from `tokenizer.json`, and never lost or renumbered without a word."""

import hashlib
import json
import logging
import time

import pytest
from model_proto import CAT, CLS, MASK, SEP, THE, UNK, model, piece, small_model
from tokenization.tokenizer_files import BASE, CLASSES, change_json

from rembert_jax.tokenization import RemBertTokenizer, RemBertTokenizerFast, TokenizerError

FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
ADDED = [
    {"id": 16, "content": "<secret>", "special": True, **FLAGS},
    {"id": 17, "content": "<tag>", "special": False, **FLAGS},
]


@pytest.fixture
def extended(folder):
    """The folder with two tokens added in `tokenizer.json`."""
    change_json(folder / "tokenizer.json", lambda values: values["added_tokens"].extend(ADDED))
    return folder


@pytest.mark.parametrize("with_model", [False, True])
def test_added_tokens_have_ids_after_the_vocabulary(extended, with_model):
    if not with_model:
        (extended / "sentencepiece.model").unlink()
    tokenizer = RemBertTokenizerFast(extended)
    assert tokenizer.vocab_size == len(tokenizer) == 18 and tokenizer.special_ids().tolist() == [0, 1, 2, 3, 4, 5, 16]
    text = "the<secret><tag>"
    assert tokenizer.encode(text) == [CLS, THE, 16, 17, SEP]
    assert tokenizer.encode(text, split_special_tokens=True) == [CLS, THE, UNK, 10, UNK, 17, SEP]
    assert tokenizer.decode([THE, 16, 17]) == text


def test_hash_and_file_are_those_of_what_was_used(extended, caplog):
    digest = hashlib.sha256((extended / "tokenizer.json").read_bytes()).hexdigest()
    with caplog.at_level(logging.INFO, "rembert_jax"):
        tokenizer = RemBertTokenizerFast(extended)
    assert (tokenizer.sha256, tokenizer.model_file) == (digest, extended / "tokenizer.json")
    assert f"tokenizer.json: sha256 {digest}" in caplog.text
    plain = RemBertTokenizerFast(extended / "sentencepiece.model")
    assert plain.sha256 == hashlib.sha256(small_model()).hexdigest() and plain.vocab_size == 16


def test_sentencepiece_refuses_a_vocabulary_that_it_cannot_extend(extended):
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.json: added_tokens has the token '<secret>' with id 16, but .*sentencepiece\.model "
        r"has no such piece; RemBertTokenizerFast reads added tokens",
    ):  # fmt: skip
        RemBertTokenizer.from_pretrained(extended)
    assert RemBertTokenizer(extended / "sentencepiece.model").vocab_size == 16, "by its name alone"


def test_transformers_gives_the_same_ids(extended):
    transformers = pytest.importorskip("transformers", reason="needs transformers, with which it is compared")
    other = transformers.RemBertTokenizer.from_pretrained(str(extended))
    fast = RemBertTokenizerFast(extended)
    text = "the <secret> cat<tag>[MASK] <tag>"
    assert fast.encode(text) == other(text)["input_ids"] and {16, 17, MASK} < set(fast.encode(text))
    assert (len(fast), fast.get_vocab()) == (len(other), other.get_vocab())
    fast.save_pretrained(extended / "again")
    assert RemBertTokenizerFast(extended / "again").encode(text) == fast.encode(text)
    assert transformers.RemBertTokenizer.from_pretrained(str(extended / "again"))(text)["input_ids"] == fast.encode(
        text
    )


def _write(name, **values):
    def write(folder):
        if (folder / name).exists():
            change_json(folder / name, lambda found: found.update(values))
        else:
            (folder / name).write_text(json.dumps(values))

    return write


@pytest.mark.parametrize(
    ("write", "message_"),
    [
        (_write("added_tokens.json", **{"<new>": 16}), r"added_tokens\.json has the token '<new>' with id 16, but .* no such"),
        (_write("added_tokens.json", **{"▁the": 99}), r"'▁the' with id 99, but .*model has id 7 for it"),
        (_write("added_tokens.json", **{"<new>": "16"}), r"added_tokens\.json: found '<new>' with id '16'; expected a token"),
        (
            _write("tokenizer_config.json", added_tokens_decoder={"16": {"content": "<new>", "special": True}}),
            r"tokenizer_config\.json: added_tokens_decoder has the token '<new>' with id 16, but",
        ),
        (_write("tokenizer_config.json", added_tokens_decoder={"5": "<m>"}), r"has the token '<m>' with id 5, but"),
        (_write("tokenizer_config.json", added_tokens_decoder=["<m>"]), r"added_tokens_decoder is \['<m>'\]; expected an o"),
        (_write("tokenizer_config.json", added_tokens_decoder={"x": "<m>"}), r"found '<m>' with id 'x'; expected a token"),
        (_write("tokenizer_config.json", extra_special_tokens={"image": "<new>"}), r"extra_special_tokens has the token"),
        (_write("special_tokens_map.json", additional_special_tokens=["<new>"]), r"additional_special_tokens has the token"),
        (_write("special_tokens_map.json", additional_special_tokens="<new>"), r"is '<new>'; expected a list or an object"),
    ],
)  # fmt: skip
def test_tokens_that_no_tokenizer_json_has_are_refused(folder, write, message_):
    write(folder)
    for kind in CLASSES:
        with pytest.raises(TokenizerError, match=message_):
            kind.from_pretrained(folder)


def test_files_that_agree_with_the_vocabulary_are_no_obstacle(folder, caplog):
    _write("added_tokens.json", **{"[MASK]": 5, "<url>": 15})(folder)
    decoder = {"5": {"content": "[MASK]", "lstrip": True}, "15": {"content": "<url>"}, "1": {"content": "<s>"}}
    _write("tokenizer_config.json", added_tokens_decoder=decoder, extra_special_tokens=[])(folder)
    _write("special_tokens_map.json", additional_special_tokens=[{"content": "<s>"}])(folder)
    with caplog.at_level(logging.WARNING, "rembert_jax"):
        for kind in CLASSES:
            assert kind.from_pretrained(folder).encode("the [MASK]") == [CLS, THE, MASK, SEP]
    assert caplog.text == ""


def test_a_piece_that_stays_whole_elsewhere_is_warned_of(folder, caplog):
    _write("added_tokens.json", **{"▁cat": CAT})(folder)
    for kind in CLASSES:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "rembert_jax"):
            kind.from_pretrained(folder)
        assert "added_tokens.json says that '▁cat' stays whole in every text" in caplog.text


@pytest.mark.parametrize("content", [b'{"added_tokens": [{"id": 1', b'{"added_tokens": ' + b"[" * 100_000])
def test_sentencepiece_says_so_if_it_cannot_tell_what_was_added(folder, content):
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: its added_tokens cannot be read .*ids might differ"):
        RemBertTokenizer(folder)


def test_sentencepiece_asks_nothing_else_of_a_tokenizer_json(folder):
    for content in ("", "another's", '{"added_tokens": null}', '{"added_tokens": []}'):
        (folder / "tokenizer.json").write_text(content)
        assert RemBertTokenizer(folder).encode("the") == [CLS, THE, SEP]


def test_many_user_defined_pieces_open_in_time_that_grows_with_their_number(tmp_path):
    # Added one by one each goes over those before it: 6,000 take 20 seconds, and 30,000 twenty-five times that.
    pieces = [piece(f"<{i}>", 0.0, 4) for i in range(30_000)]
    (tmp_path / "v.model").write_bytes(model([*BASE, piece("▁the"), *pieces]))
    begin = time.process_time()
    assert RemBertTokenizerFast(tmp_path / "v.model").encode("the<29999>") == [CLS, 6, 7 + 29_999, SEP]
    assert time.process_time() - begin < 60
