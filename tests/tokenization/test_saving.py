"""Saving and loading: what is kept, and vocabularies of all kinds."""

import dataclasses
import hashlib
import logging
import pathlib

import pytest
from helpers import real_tokenizer, synthetic_texts
from model_proto import (
    BYTE,
    CAT,
    CLS,
    MASK,
    NORMAL,
    PAD,
    SEP,
    SPECIAL,
    THE,
    UNUSED,
    WORDS,
    model,
    number,
    piece,
    small_model,
)
from tokenization.tokenizer_files import BASE, CLASSES, change_json

from rembert_jax.tokenization import RemBertTokenizer, RemBertTokenizerFast, TokenizerError


def test_saved_files_give_the_same_tokenizer(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "sentencepiece.model", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip
    assert (folder / "sentencepiece.model").read_bytes() == small_model()
    text = "the cats [MASK] sat <url>"
    first = RemBertTokenizerFast(folder.parent / "small.model")
    for kind in CLASSES:
        again = kind.from_pretrained(folder)
        assert again.encode(text) == first.encode(text)
        assert again.sha256 == hashlib.sha256(small_model()).hexdigest()
        assert again.settings == dataclasses.replace(
            first.settings, do_lower_case=again.settings.do_lower_case, keep_accents=again.settings.keep_accents
        )


def test_settings_are_kept(folder, tmp_path):
    changed = {"model_max_length": 6, "padding_side": "left", "truncation_side": "left", "do_lower_case": True}
    paths = RemBertTokenizerFast.from_pretrained(folder, **changed).save_pretrained(tmp_path / "again")
    assert all(pathlib.Path(path).is_file() for path in paths) and len(paths) == 4
    again = RemBertTokenizerFast.from_pretrained(tmp_path / "again")
    assert {name: getattr(again.settings, name) for name in changed} == changed
    assert again("THE CAT", padding="max_length")["input_ids"] == [PAD, PAD, CLS, THE, CAT, SEP]
    assert RemBertTokenizerFast.from_pretrained(tmp_path / "again", model_max_length=3).settings.model_max_length == 3


def test_json_alone_is_enough(folder):
    (folder / "sentencepiece.model").unlink()
    tokenizer = RemBertTokenizerFast.from_pretrained(folder)
    assert tokenizer.model_file == folder / "tokenizer.json"
    assert tokenizer.sha256 == hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    assert tokenizer.encode("the [MASK]") == [CLS, THE, MASK, SEP]
    assert tokenizer.special_ids().tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(TokenizerError, match="there is no SentencePiece model beside it"):
        tokenizer.save_vocabulary(folder)
    assert RemBertTokenizerFast(folder / "tokenizer.json").encode("the") == [CLS, THE, SEP]


def test_vocabulary_is_written_byte_for_byte_under_any_prefix(folder, tmp_path):
    for kind in CLASSES:
        (path,) = kind(folder).save_vocabulary(tmp_path / "out", filename_prefix="my")
        assert path == str(tmp_path / "out" / "my-sentencepiece.model")
        assert pathlib.Path(path).read_bytes() == small_model()
    with pytest.raises(TokenizerError, match=r"my-sentencepiece\.model: is a file; expected a folder"):
        RemBertTokenizer(folder).save_pretrained(path)


def test_a_trained_vocabulary_serves_both():
    slow = real_tokenizer()
    fast = RemBertTokenizerFast(slow.model_file)
    assert (fast.sha256, fast.unk_token_id, fast.unk_token) == (slow.sha256, 2, "[UNK]")
    for text in [*synthetic_texts(3), "漢 unseen"]:
        assert fast.encode(text) == slow.encode(text)
    assert fast.special_ids().tolist() == slow.special_ids().tolist()
    assert fast.starts_word().tolist() == slow.starts_word().tolist()


def test_unknown_is_read_from_the_file(tmp_path):
    # transformers takes id 2 for it.
    entries = [("[UNK]", 0.0, 2), ("<pad>", 0.0, 3), *SPECIAL[3:], ("▁the", -1.0, NORMAL)]
    (tmp_path / "v.model").write_bytes(model([piece(*entry) for entry in entries]))
    for kind in CLASSES:
        tokenizer = kind(tmp_path / "v.model")
        assert (tokenizer.unk_token_id, tokenizer.pad_token_id, tokenizer.cls_token_id) == (0, 1, 2)
        assert tokenizer.encode("the q") == [2, 5, 0, 3]


def test_text_without_a_space_in_front(tmp_path):
    words = [piece(word, -1.0) for word in ["the", "▁the", "▁"]]
    (tmp_path / "v.model").write_bytes(model([*BASE, *words], normalizer=number(3, 0)))
    for kind in CLASSES:
        tokenizer = kind(tmp_path / "v.model")
        assert tokenizer.encode("the the") == [CLS, 6, 7, SEP] and tokenizer.decode([7, 6]) == " thethe"
        tokenizer.save_pretrained(tmp_path / kind.__name__)
        assert kind.from_pretrained(tmp_path / kind.__name__).encode("the") == [CLS, 6, SEP]
        with pytest.raises(TokenizerError, match="add_prefix_space=True, but the vocabulary was made with False"):
            kind.from_pretrained(tmp_path / "v.model", add_prefix_space=True)


def test_bytes_are_for_the_slow_tokenizer(tmp_path, caplog):
    pieces = [piece(f"<0x{value:02X}>", 0.0, BYTE) for value in range(256)]
    content = model([*BASE, *pieces, piece("▁the")], trainer=number(35, 1))
    (tmp_path / "v.model").write_bytes(content)
    slow = RemBertTokenizer(tmp_path / "v.model")
    ids = slow.encode("the猫", add_special_tokens=False)
    assert ids == [6 + 256, *(6 + value for value in "猫".encode())]
    assert slow.decode(ids) == "the猫" and slow.decode(ids[:-1]) == "the\ufffd"
    assert not slow.starts_word()[6 : 6 + 256].any()
    with pytest.raises(TokenizerError, match=r"v\.model: it has pieces for bytes; use RemBertTokenizer, which"):
        RemBertTokenizerFast(tmp_path / "v.model")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "tokenizer.json").write_text("another's")
    with caplog.at_level(logging.WARNING, "rembert_jax"):
        slow.save_pretrained(tmp_path / "saved")
    assert "no tokenizer.json written (it has pieces for bytes)" in caplog.text
    assert not (tmp_path / "saved" / "tokenizer.json").exists()
    assert RemBertTokenizer.from_pretrained(tmp_path / "saved").encode("the猫", add_special_tokens=False) == ids


@pytest.mark.parametrize(
    ("trainer", "message_"), [(number(3, 2), "no unigram model"), (number(24, 1), "space of a word to its end")]
)
def test_other_kinds_of_model_are_for_the_slow_tokenizer(tmp_path, trainer, message_):
    (tmp_path / "v.model").write_bytes(model([*BASE, *map(piece, WORDS)], trainer=trainer))
    with pytest.raises(TokenizerError, match=rf"v\.model: .*{message_}.*use RemBertTokenizer"):
        RemBertTokenizerFast(tmp_path / "v.model")


def test_unused_pieces_are_special_to_masking_only(tmp_path):
    (tmp_path / "v.model").write_bytes(model([*BASE, piece("▁"), piece("▁the"), piece("gone", -1.0, UNUSED)]))
    for kind in CLASSES:
        tokenizer = kind(tmp_path / "v.model")
        assert tokenizer.special_ids().tolist() == [0, 1, 2, 3, 4, 5, 8]
        assert tokenizer.get_special_tokens_mask([7, 8], already_has_special_tokens=True) == [0, 0]


def test_special_pieces_of_other_names(tmp_path):
    names = {"pad": "<p>", "unk": "<unk>", "cls": "<c>", "sep": "<e>", "mask": "<m>"}
    entries = [(names["pad"], 0.0, 3), ("<unk>", 0.0, 2), *((names[n], 0.0, 3) for n in ("cls", "sep", "mask"))]
    (tmp_path / "v.model").write_bytes(model([*(piece(*entry) for entry in entries), piece("▁the")]))
    for kind in CLASSES:
        with pytest.raises(TokenizerError, match=r"v\.model: the piece \[PAD\] is missing.*special="):
            kind(tmp_path / "v.model")
        tokenizer = kind.from_pretrained(tmp_path / "v.model", special=names)
        assert tokenizer.encode("the <m>") == [2, 5, 4, 3]
        tokenizer.save_pretrained(tmp_path / kind.__name__)
        assert kind.from_pretrained(tmp_path / kind.__name__).mask_token == "<m>"


def test_json_of_older_programs(folder):
    def change(values):
        del values["pre_tokenizer"]["prepend_scheme"], values["pre_tokenizer"]["split"]
        values["pre_tokenizer"]["add_prefix_space"] = True
        values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] != "[MASK]"]
        values["post_processor"] = None

    change_json(folder / "tokenizer.json", change)
    assert RemBertTokenizerFast(folder).encode("the [MASK]") == [CLS, THE, MASK, SEP]
