"""Saving and loading, and files that are damaged, of another kind, or made to do harm."""

import base64
import dataclasses
import hashlib
import json
import logging
import pathlib
import random
import sys

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
    UNK,
    UNUSED,
    WORDS,
    message,
    model,
    number,
    piece,
    small_model,
)

from rembert_jax.errors import RemBertError
from rembert_jax.interop import huggingface
from rembert_jax.tokenization import RemBertTokenizer, RemBertTokenizerFast, TokenizerError, model_file, probe, saved

CLASSES = [RemBertTokenizer, RemBertTokenizerFast]
BASE = [piece(*entry) for entry in SPECIAL]


@pytest.fixture
def folder(tmp_path):
    """A saved fast tokenizer of the small vocabulary: `.model`, `tokenizer.json` and both files of settings."""
    (tmp_path / "small.model").write_bytes(small_model())
    RemBertTokenizerFast(tmp_path / "small.model").save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def _change_json(path, change):
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


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
    assert (fast.sha256, fast.unk_token_id, fast.unk_token) == (slow.sha256, 1, "[UNK]")
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


def test_added_pieces_of_a_json_have_ids_after_the_vocabulary(folder):
    def add(values):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        values["added_tokens"] += [
            {"id": 16, "content": "<secret>", "special": True, **flags},
            {"id": 17, "content": "<tag>", "special": False, **flags},
        ]

    (folder / "sentencepiece.model").unlink()
    _change_json(folder / "tokenizer.json", add)
    tokenizer = RemBertTokenizerFast(folder)
    assert tokenizer.vocab_size == 18 and tokenizer.special_ids().tolist() == [0, 1, 2, 3, 4, 5, 16]
    text = "the<secret><tag>"
    assert tokenizer.encode(text) == [CLS, THE, 16, 17, SEP]
    assert tokenizer.encode(text, split_special_tokens=True) == [CLS, THE, UNK, 10, UNK, 17, SEP]
    assert tokenizer.decode([THE, 16, 17]) == text


def test_json_of_older_programs(folder):
    def change(values):
        del values["pre_tokenizer"]["prepend_scheme"], values["pre_tokenizer"]["split"]
        values["pre_tokenizer"]["add_prefix_space"] = True
        values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] != "[MASK]"]
        values["post_processor"] = None

    _change_json(folder / "tokenizer.json", change)
    assert RemBertTokenizerFast(folder).encode("the [MASK]") == [CLS, THE, MASK, SEP]


# Files that are wrong.


def _set(*path):
    *path, value = path

    def change(values):
        node = values
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value

    return change


REGEX = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}


@pytest.mark.parametrize(
    ("change", "message_"),
    [
        (_set("model", None), r"model is None, expected an object"),
        (_set("model", "type", "BPE"), r"model\.type is 'BPE', expected 'Unigram'"),
        (_set("model", "byte_fallback", True), r"model\.type is 'Unigram' with pieces for bytes"),
        (_set("model", "vocab", []), r"model\.vocab is missing or empty"),
        (_set("model", "vocab", 3, ["[CLS]"]), r"model\.vocab\[3\] is \['\[CLS\]'\], expected \[piece, score\]"),
        (_set("model", "vocab", 3, ["[CLS]", "0"]), r"model\.vocab\[3\]"),
        (_set("model", "vocab", 3, ["[CLS]", float("nan")]), r"model\.vocab\[3\]"),
        (_set("model", "vocab", 3, ["[CLS]", 10**400]), r"too large"),
        (_set("model", "vocab", 3, ["", 0.0]), r"model\.vocab\[3\]"),
        (_set("model", "vocab", 3, ["[SEP]", 0.0]), r"model\.vocab has a piece twice"),
        (_set("model", "unk_id", 16), r"model\.unk_id is 16, expected an id below 16"),
        (_set("model", "unk_id", None), r"model\.unk_id is None"),
        (_set("normalizer", None), r"normalizer is None"),
        (_set("normalizer", "normalizers", [REGEX]), r"normalizer has the steps Replace; expected"),
        (_set("normalizer", "normalizers", 2, "pattern", {"Regex": "(a+)+$"}), r"normalizer has the steps Replace, "),
        (_set("normalizer", "normalizers", 3, {"type": "Precompiled", "precompiled_charsmap": "?"}), r"no base64"),
        (_set("pre_tokenizer", {"type": "ByteLevel"}), r"pre_tokenizer is .*ByteLevel.*expected a Metaspace"),
        (_set("pre_tokenizer", "prepend_scheme", "first"), r"pre_tokenizer is .*first"),
        (_set("added_tokens", {}), r"added_tokens is \{\}, expected a list"),
        (_set("added_tokens", 0, "id", "0"), r"added_tokens\[0\] is .*with their types"),
        (_set("added_tokens", 0, "evil", 1), r"added_tokens\[0\] is .*expected exactly id, content"),
        (
            _set("added_tokens", 0, "content", "[CLS]"),
            r"added token '\[CLS\]' has id 0, where the vocabulary has another",
        ),
        (_set("added_tokens", 0, "id", 99), r"added token '<pad>' has id 99, where"),
    ],
)
def test_json_of_another_kind_is_named(folder, change, message_):
    def add_rules(values):
        values["normalizer"]["normalizers"].append({})
        change(values)

    path = folder / "tokenizer.json"
    (folder / "sentencepiece.model").unlink()
    _change_json(path, add_rules if "base64" in message_ else change)
    with pytest.raises(TokenizerError, match=rf"tokenizer\.json: .*{message_}") as error:
        RemBertTokenizerFast(folder)
    assert "get it anew" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message_"),
    [
        (b'{"model": "\xff"}', r"byte 0xff at 11 is not UTF-8; save the file as UTF-8"),
        ('{"a": "é"}'.encode("utf-16"), r"byte 0x.. at 0 is not UTF-8"),
        (b'{"model": ', r"not JSON .*the file is truncated or something else: get it anew"),
        (b"[" * 100_000, r"not JSON .*get it anew"),
        (b"[1]", r"found a JSON list, expected an object"),
        (b"", r"the file is empty"),
    ],
)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_file_that_is_no_json_is_named(folder, name, content, message_):
    (folder / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=rf"{name}: {message_}"):
        RemBertTokenizerFast(folder)


def test_every_truncation_of_a_json_is_an_error(folder):
    path = folder / "tokenizer.json"
    content = path.read_bytes()
    for end in random.Random(0).sample(range(len(content)), 20):
        path.write_bytes(content[:end])
        with pytest.raises(TokenizerError, match=r"tokenizer\.json: .*get it anew|tokenizer\.json: the file is empty"):
            RemBertTokenizerFast(folder)


@pytest.mark.parametrize(
    ("key", "value", "message_"),
    [
        ("do_lower_case", "no", r"do_lower_case='no'; expected true or false"),
        ("keep_accents", 1, r"keep_accents=1; expected true or false"),
        ("remove_space", False, r"remove_space=False; expected true, since"),
        ("split_special_tokens", True, r"split_special_tokens=True; expected false; give"),
        ("model_max_length", "512", r"model_max_length='512'; expected a whole number"),
        ("model_max_length", 0.5, r"model_max_length=0\.5"),
        ("padding_side", "top", r"padding_side='top'; expected right or left"),
        ("mask_token", ["[MASK]"], r"mask_token=\['\[MASK\]'\]; expected a string, or an object"),
        ("mask_token", {"lstrip": True}, r"mask_token=\{'lstrip': True\}; expected a string"),
    ],
)
def test_settings_of_a_wrong_type_are_refused(folder, key, value, message_):
    _change_json(folder / "tokenizer_config.json", _set(key, value))
    for kind in CLASSES:
        with pytest.raises(TokenizerError, match=rf"tokenizer_config\.json: {message_}"):
            kind.from_pretrained(folder)


def test_settings_that_nobody_knows_are_logged_and_go_nowhere(folder, caplog):
    _change_json(
        folder / "tokenizer_config.json", lambda v: v.update(auto_map={"x": "evil.py"}, trust=True, bos_token="x")
    )
    with caplog.at_level(logging.WARNING, "rembert_jax"):
        tokenizer = RemBertTokenizer.from_pretrained(folder)
    assert "tokenizer_config.json: unknown keys are ignored: auto_map, trust" in caplog.text
    assert not hasattr(tokenizer, "trust") and not hasattr(tokenizer.settings, "trust")


def test_no_limit_of_other_programs(folder):
    _change_json(folder / "tokenizer_config.json", _set("model_max_length", 1e30))
    assert RemBertTokenizer.from_pretrained(folder).settings.model_max_length is None


def test_missing_special_piece_of_the_settings_is_named(folder):
    _change_json(folder / "tokenizer_config.json", _set("mask_token", "<mask>"))
    (folder / "special_tokens_map.json").unlink()
    for kind in CLASSES:
        with pytest.raises(TokenizerError, match=r"sentencepiece\.model: the piece <mask> is missing"):
            kind.from_pretrained(folder)


def test_files_that_contradict_each_other_are_refused(folder):
    _change_json(folder / "special_tokens_map.json", _set("pad_token", "<s>"))
    with pytest.raises(
        TokenizerError, match=r"special_tokens_map\.json: pad_token is '<s>', but tokenizer_config\.json"
    ):
        RemBertTokenizer.from_pretrained(folder)
    (folder / "special_tokens_map.json").unlink()
    (folder / "sentencepiece.model").write_bytes(real_tokenizer().model_file.read_bytes())
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: its pieces are not those of sentencepiece\.model"):
        RemBertTokenizerFast.from_pretrained(folder)


def test_repositories_of_the_hub(folder, monkeypatch):
    asked = []

    def download(repository, revision, allow_patterns):
        asked.append((repository, revision, sorted(allow_patterns)))
        if repository == "no/network":
            raise OSError("cannot connect")
        return str(folder)

    monkeypatch.setattr(huggingface.huggingface_hub, "snapshot_download", download)
    names = ["config.json", "sentencepiece.model", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    for kind in CLASSES:
        found = kind.from_pretrained("google/rembert", revision="v2")
        assert found.sha256 == kind.from_pretrained(folder).sha256
        assert asked[-1] == ("google/rembert", "v2", names)
        with pytest.raises(RemBertError, match=r"no/network: .*\(cannot connect\); check the name and the connection"):
            kind.from_pretrained("no/network")


def test_what_is_not_there_is_named(tmp_path):
    for kind in CLASSES:
        with pytest.raises(RemBertError, match=r"nowhere: no such folder, and no repository name"):
            kind.from_pretrained(tmp_path / "nowhere")
        with pytest.raises(TokenizerError, match=r"no such vocabulary; expected"):
            kind.from_pretrained(tmp_path)
        with pytest.raises(TokenizerError, match=r"unknown setting dropout; expected some of do_lower_case"):
            kind.from_pretrained(tmp_path, dropout=0.1)
    for name, value in (("padding_side", "top"), ("model_max_length", 0), ("special", {"bos": "<s>"})):
        with pytest.raises(TokenizerError, match=name):
            RemBertTokenizer.from_pretrained(tmp_path, **{name: value})


def test_a_model_of_another_size_in_the_folder_is_reported(folder):
    config = folder / "config.json"
    config.write_text('{"model_type": "rembert", "vocab_size": 250300}')
    for kind in CLASSES:
        with pytest.raises(
            TokenizerError, match=r"16 pieces, but .*config\.json says vocab_size=250300.*resize_token_emb"
        ):
            kind.from_pretrained(folder)
    # Its own size, a run's configuration, another kind of model.
    for values in (
        {"model_type": "rembert", "vocab_size": 16},
        {"vocab_size": 9},
        {"model_type": "bert", "vocab_size": 9},
    ):
        config.write_text(json.dumps(values))
        assert RemBertTokenizer.from_pretrained(folder).vocab_size == 16


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        saved.write_file(tmp_path / "taken", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("soft", [-1, 1 << 30])
def test_memory_of_the_child_is_limited_where_the_system_can(monkeypatch, soft):
    limits = []
    monkeypatch.setattr(probe.resource, "getrlimit", lambda _: (soft, probe.resource.RLIM_INFINITY))
    monkeypatch.setattr(probe.resource, "setrlimit", lambda _, pair: limits.append(pair[0]))
    probe.limit_memory()
    assert limits == [8 << 30 if soft < 0 else soft]

    def refuse(*_):
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(probe.resource, "setrlimit", refuse)
    probe.limit_memory()


# Files made to do harm.

TINY = [*BASE, piece("▁the")]
CRAFTED = {
    "piece of 200 kB": model([*TINY, piece("a" * 200_000)]),
    "NUL in a piece": model([*TINY, piece("a\0b")]),
    "empty piece": model([*TINY, piece("")]),
    "piece that is not UTF-8": model([*TINY, piece(b"\xff\xfe")]),
    "piece twice": model([*TINY, piece("▁the")]),
    "score that is no number": model([*TINY, piece("b", float("nan"))]),
    "no unknown piece": model([piece("▁the")]),
    "rules of one byte": model(TINY, charsmap=b"\x01"),
    "rules that end after their end": model(TINY, charsmap=b"\xff\xff\xff\xff" + b"abc\0"),
    "rules that point anywhere": model(
        TINY, charsmap=(1024).to_bytes(4, "little") + random.Random(0).randbytes(1024) + b"abc\0"
    ),
    "message that is longer than the file": model(TINY) + b"\x0a\xff\xff\xff\x7f",
    "number without end": model(TINY) + b"\x80" * 30,
    "group": model(TINY) + b"\x0b",
    "settings that are a number": model(TINY) + number(2, 1),
    "rules that are a number": model(TINY, normalizer=number(2, 5)),
    "random bytes": random.Random(1).randbytes(4096),
    "text": b"hello world",
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_models_end_in_an_error(tmp_path, name):
    path = tmp_path / "crafted.model"
    path.write_bytes(CRAFTED[name])
    with pytest.raises(TokenizerError, match=r"crafted\.model.*not a SentencePiece model.*get it anew"):
        RemBertTokenizer(path)


def test_every_truncation_of_a_model_is_an_error(tmp_path):
    path = tmp_path / "cut.model"
    content = small_model()
    for end in [1, 5, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:end])
        with pytest.raises(TokenizerError, match=r"cut\.model"):
            RemBertTokenizerFast(path)


def test_rules_of_a_json_are_tried_in_a_child_too(folder):
    def change(values):
        rules = base64.b64encode((1024).to_bytes(4, "little") + random.Random(0).randbytes(1024) + b"abc\0").decode()
        values["normalizer"]["normalizers"].append({"type": "Precompiled", "precompiled_charsmap": rules})

    (folder / "sentencepiece.model").unlink()
    _change_json(folder / "tokenizer.json", change)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json .*precompiled_charsmap is invalid.*get it anew"):
        RemBertTokenizerFast(folder)


PROGRAMS = {
    "crash": ("import os; os.abort()", r"crashed a child process \(SIGABRT\)"),
    "exit": ("raise SystemExit(3)", r"exit status 3"),
    "panic": ("raise RuntimeError('piece is too long')", r"piece is too long"),
    "hang": ("import time; time.sleep(60)", r"not loaded after 0\.5 seconds; do not use this file"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_whatever_happens_to_the_child_is_an_error_here(tmp_path, monkeypatch, name):
    program, message_ = PROGRAMS[name]
    (tmp_path / "probe.py").write_text(program)
    (tmp_path / "v.model").write_bytes(model([*TINY, piece(name)]))
    monkeypatch.setattr(model_file, "PROBE", tmp_path / "probe.py")
    if name == "hang":
        monkeypatch.setattr(model_file, "PROBE_SECONDS", 0.5)
    digest = hashlib.sha256((tmp_path / "v.model").read_bytes()).hexdigest()
    with pytest.raises(TokenizerError, match=rf"v\.model \(sha256 {digest}\): .*{message_}"):
        RemBertTokenizer(tmp_path / "v.model")


def test_an_unknown_file_is_loaded_in_a_child_once(tmp_path, monkeypatch, caplog):
    content = model([*TINY, piece("once")])
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "v.model").write_bytes(content)
    runs = []
    run = model_file.subprocess.run
    monkeypatch.setattr(model_file.subprocess, "run", lambda *a, **k: runs.append(a[0]) or run(*a, **k))
    with caplog.at_level(logging.INFO, "rembert_jax"):
        for kind in (*CLASSES, RemBertTokenizer):
            assert kind(tmp_path / "v.model").sha256 == digest
    assert [command[0] for command in runs] == [sys.executable]
    assert f"v.model: sha256 {digest}, unknown" in caplog.text and f"sha256 {digest}, known" in caplog.text


def test_a_file_made_here_needs_no_child(tmp_path, monkeypatch):
    monkeypatch.setattr(model_file, "PROBE", tmp_path / "nothing.py")
    assert RemBertTokenizer(real_tokenizer().model_file).vocab_size == 400
    RemBertTokenizerFast(real_tokenizer().model_file).save_pretrained(tmp_path)
    assert RemBertTokenizerFast(tmp_path).vocab_size == 400


def test_a_module_beside_the_program_is_not_taken_for_the_library(tmp_path, monkeypatch):
    (tmp_path / "sentencepiece.py").write_text("raise SystemExit('taken')")
    (tmp_path / "v.model").write_bytes(model([*TINY, piece("beside")]))
    monkeypatch.chdir(tmp_path)
    assert RemBertTokenizer("v.model").vocab_size == 8


def test_files_that_are_too_large_are_not_read(tmp_path, monkeypatch):
    (tmp_path / "v.model").write_bytes(small_model())
    monkeypatch.setattr(model_file, "MAX_MODEL_BYTES", 100)
    with pytest.raises(TokenizerError, match=r"v\.model: larger than 100 bytes; expected a SentencePiece"):
        RemBertTokenizer(tmp_path / "v.model")


def test_settings_that_are_too_large_are_not_read(folder):
    (folder / "tokenizer_config.json").write_bytes(b" " * (5 << 20))
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json: larger than 4,194,304 bytes"):
        RemBertTokenizer(folder)


def test_a_message_in_parts_is_one_message(tmp_path):
    # As protocol buffers say; a reader that takes the last part only would miss that there is no space in front.
    parts = message(3, number(3, 0)) + message(3, number(4, 1))
    (tmp_path / "v.model").write_bytes(model([*BASE, piece("the"), piece("▁")]) + parts)
    for kind in CLASSES:
        assert kind(tmp_path / "v.model").encode("the") == [CLS, 6, SEP]
