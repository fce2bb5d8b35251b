"""Files that are damaged, of another kind, or contradict each other, and settings that make no sense."""

import json
import logging
import random

import pytest
from helpers import real_tokenizer
from tokenization.tokenizer_files import CLASSES, change_json, set_value

from rembert_jax import hub
from rembert_jax.errors import RemBertError
from rembert_jax.tokenization import RemBertTokenizer, RemBertTokenizerFast, TokenizerError, saved

REGEX = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}


@pytest.mark.parametrize(
    ("change", "message_"),
    [
        (set_value("model", None), r"model is None, expected an object"),
        (set_value("model", "type", "BPE"), r"model\.type is 'BPE', expected 'Unigram'"),
        (set_value("model", "byte_fallback", True), r"model\.type is 'Unigram' with pieces for bytes"),
        (set_value("model", "vocab", []), r"model\.vocab is missing or empty"),
        (set_value("model", "vocab", 3, ["[CLS]"]), r"model\.vocab\[3\] is \['\[CLS\]'\], expected \[piece, score\]"),
        (set_value("model", "vocab", 3, ["[CLS]", "0"]), r"model\.vocab\[3\]"),
        (set_value("model", "vocab", 3, ["[CLS]", float("nan")]), r"model\.vocab\[3\]"),
        (set_value("model", "vocab", 3, ["[CLS]", 10**400]), r"too large"),
        (set_value("model", "vocab", 3, ["", 0.0]), r"model\.vocab\[3\]"),
        (set_value("model", "vocab", 3, ["[SEP]", 0.0]), r"model\.vocab has a piece twice"),
        (set_value("model", "unk_id", 16), r"model\.unk_id is 16, expected an id below 16"),
        (set_value("model", "unk_id", None), r"model\.unk_id is None"),
        (set_value("normalizer", None), r"normalizer is None"),
        (set_value("normalizer", "normalizers", [REGEX]), r"normalizer has the steps Replace; expected"),
        (
            set_value("normalizer", "normalizers", 2, "pattern", {"Regex": "(a+)+$"}),
            r"normalizer has the steps Replace, ",
        ),
        (set_value("normalizer", "normalizers", 3, {"type": "Precompiled", "precompiled_charsmap": "?"}), r"no base64"),
        (set_value("pre_tokenizer", {"type": "ByteLevel"}), r"pre_tokenizer is .*ByteLevel.*expected a Metaspace"),
        (set_value("pre_tokenizer", "prepend_scheme", "first"), r"pre_tokenizer is .*first"),
        (set_value("added_tokens", {}), r"added_tokens is \{\}, expected a list"),
        (set_value("added_tokens", 0, "id", "0"), r"added_tokens\[0\] is .*with their types"),
        (set_value("added_tokens", 0, "evil", 1), r"added_tokens\[0\] is .*expected exactly id, content"),
        (
            set_value("added_tokens", 0, "content", "[CLS]"),
            r"added token '\[CLS\]' has id 0, where the vocabulary has another",
        ),
        (set_value("added_tokens", 0, "id", 99), r"added token '<pad>' has id 99, where"),
    ],
)
def test_json_of_another_kind_is_named(folder, change, message_):
    def add_rules(values):
        values["normalizer"]["normalizers"].append({})
        change(values)

    path = folder / "tokenizer.json"
    (folder / "sentencepiece.model").unlink()
    change_json(path, add_rules if "base64" in message_ else change)
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
    change_json(folder / "tokenizer_config.json", set_value(key, value))
    for kind in CLASSES:
        with pytest.raises(TokenizerError, match=rf"tokenizer_config\.json: {message_}"):
            kind.from_pretrained(folder)


def test_settings_that_nobody_knows_are_logged_and_go_nowhere(folder, caplog):
    change_json(
        folder / "tokenizer_config.json", lambda v: v.update(auto_map={"x": "evil.py"}, trust=True, bos_token="x")
    )
    with caplog.at_level(logging.WARNING, "rembert_jax"):
        tokenizer = RemBertTokenizer.from_pretrained(folder)
    assert "tokenizer_config.json: unknown keys are ignored: auto_map, trust" in caplog.text
    assert not hasattr(tokenizer, "trust") and not hasattr(tokenizer.settings, "trust")


def test_no_limit_of_other_programs(folder):
    change_json(folder / "tokenizer_config.json", set_value("model_max_length", 1e30))
    assert RemBertTokenizer.from_pretrained(folder).settings.model_max_length is None


def test_missing_special_piece_of_the_settings_is_named(folder):
    change_json(folder / "tokenizer_config.json", set_value("mask_token", "<mask>"))
    (folder / "special_tokens_map.json").unlink()
    for kind in CLASSES:
        with pytest.raises(TokenizerError, match=r"sentencepiece\.model: the piece <mask> is missing"):
            kind.from_pretrained(folder)


def test_files_that_contradict_each_other_are_refused(folder):
    change_json(folder / "special_tokens_map.json", set_value("pad_token", "<s>"))
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

    monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", download)
    names = [
        "added_tokens.json", "config.json", "sentencepiece.model", "special_tokens_map.json", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
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


@pytest.mark.parametrize(
    ("name", "value", "message_"),
    [
        ("model_max_length", "512", r"model_max_length='512'; expected a whole number of at least 1 or None"),
        ("model_max_length", 0, r"model_max_length=0; expected a whole number"),
        ("model_max_length", 2.5, r"model_max_length=2\.5; expected a whole number"),
        ("model_max_length", True, r"model_max_length=True; expected a whole number"),
        ("model_max_length", float("nan"), r"model_max_length=nan; expected a whole number"),
        ("padding_side", "middle", r"padding_side='middle'; expected right or left$"),
        ("padding_side", None, r"padding_side=None; expected right or left$"),
        ("truncation_side", 1, r"truncation_side=1; expected right or left$"),
        ("do_lower_case", 3, r"do_lower_case=3; expected true or false or None"),
        ("keep_accents", "yes", r"keep_accents='yes'; expected true or false or None"),
        ("add_prefix_space", 0, r"add_prefix_space=0; expected true or false or None"),
        ("clean_up_tokenization_spaces", None, r"clean_up_tokenization_spaces=None; expected true or false$"),
        ("special", {"bos": "<s>"}, r"special=\['bos'\]: unknown names; expected some of pad, unk, cls, sep, mask"),
        ("special", ["<s>"], r"special=\['<s>'\]: expected a mapping"),
        ("special", {"pad": 0}, r"special: 'pad' is 0; expected a piece, as a string"),
        ("special", {"pad": ""}, r"special: 'pad' is ''; expected a piece"),
    ],
)
def test_settings_by_keyword_are_checked_as_those_of_files(folder, name, value, message_):
    for kind in CLASSES:
        with pytest.raises(TokenizerError, match=message_):
            kind.from_pretrained(folder, **{name: value})


@pytest.mark.parametrize(
    ("given", "kept"), [(10**30, None), (10**9, None), (1e30, None), (10**9 - 1, 10**9 - 1), (512.0, 512), (None, None)]
)
def test_a_huge_length_is_no_limit(folder, given, kept):
    settings = RemBertTokenizer.from_pretrained(folder, model_max_length=given).settings
    assert settings.model_max_length == kept and type(settings.model_max_length) is type(kept)


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
