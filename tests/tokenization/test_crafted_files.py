"""Files made to do harm, and the child process that they are first loaded in."""

import base64
import gc
import hashlib
import logging
import random
import shutil
import sys

import pytest
from helpers import real_tokenizer
from model_proto import (
    CLS,
    CONTROL,
    SEP,
    USER_DEFINED,
    message,
    model,
    number,
    piece,
    small_model,
)
from tokenization.tokenizer_files import BASE, CLASSES, TINY, change_json

from rembert_jax.tokenization import (
    RemBertTokenizer,
    RemBertTokenizerFast,
    TokenizerError,
    model_file,
    probe,
    protobuf,
    saved,
)


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


# Each byte of these is a field, or nearly: reading them in Python would take a minute and gigabytes.
FIELD = number(9, 1)
LARGE = {
    "fields of the model": model(TINY) + FIELD * (2 << 20),
    "fields of a piece": model([*TINY, message(1, message(1, b"a") + FIELD * 20 + number(3, USER_DEFINED))]),
    "settings of the trainer": model(TINY, trainer=FIELD * (1 << 18)),
    "settings of the normaliser": model(TINY, normalizer=FIELD * (1 << 18)),
}


@pytest.mark.parametrize("name", LARGE)
def test_models_of_many_fields_are_refused_before_anything_is_made_of_them(tmp_path, monkeypatch, name):
    (tmp_path / "large.model").write_bytes(LARGE[name])
    monkeypatch.setattr(model_file, "check_in_child", None)
    with pytest.raises(
        TokenizerError, match=r"large\.model: not a SentencePiece model \(more than [\d,]+ fields in one"
    ):
        RemBertTokenizer(tmp_path / "large.model")


def test_a_message_of_the_largest_size_is_read():
    fields = protobuf._fields(FIELD * 3, 3)
    assert list(fields) == [(9, 1)] * 3
    with pytest.raises(ValueError, match="more than 2 fields"):
        list(protobuf._fields(FIELD * 3, 2))


@pytest.mark.parametrize(("count", "length"), [(4096, 8), (40, 4000)])
def test_vocabularies_of_many_or_long_special_pieces_are_refused(tmp_path, count, length):
    names = [f"<{i:0{length - 2}}>" for i in range(count)]
    (tmp_path / "v.model").write_bytes(model([*TINY, *(piece(name, 0.0, CONTROL) for name in names)]))
    for kind in CLASSES:
        with pytest.raises(
            TokenizerError, match=rf"v\.model: {count + 6:,} special pieces of .*at most 4,096 of 131,072"
        ):
            kind(tmp_path / "v.model")


def test_a_json_of_many_values_is_not_parsed(folder, monkeypatch):
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-1] + b',"x":[' + b"[]," * (3 << 20) + b"0]}")
    monkeypatch.setattr(saved.json, "loads", lambda _: pytest.fail("parsed"))
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.json: 6,291,\d+ commas and brackets; expected at most 4,194,304"
    ):
        RemBertTokenizerFast(path)


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
    change_json(folder / "tokenizer.json", change)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json .*precompiled_charsmap is invalid.*get it anew"):
        RemBertTokenizerFast(folder)


PROGRAMS = {
    "crash": ("import os; os.abort()", r"crashed a child process \(SIGABRT\)"),
    "exit": ("raise SystemExit(3)", r"exit status 3"),
    "panic": ("raise RuntimeError('piece is too long')", r"piece is too long"),
    "hang": ("import time; time.sleep(60)", r"not loaded after 0\.5 seconds; do not use this file"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_whatever_the_file_does_to_the_child_is_an_error_here(tmp_path, monkeypatch, name):
    program, message_ = PROGRAMS[name]
    (tmp_path / "probe.py").write_text(program)
    (tmp_path / "v.model").write_bytes(model([*TINY, piece(name)]))
    monkeypatch.setattr(model_file, "PROBE", tmp_path / "probe.py")
    if name == "hang":
        monkeypatch.setattr(model_file, "PROBE_SECONDS", 0.5)
    digest = hashlib.sha256((tmp_path / "v.model").read_bytes()).hexdigest()
    with pytest.raises(TokenizerError, match=rf"v\.model \(sha256 {digest}\): .*{message_}"):
        RemBertTokenizer(tmp_path / "v.model")


def _no_executable(folder, monkeypatch):
    monkeypatch.setattr(sys, "executable", None)
    return r"sys\.executable does not name the Python program.*set sys\.executable to it"


def _missing_executable(folder, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(folder / "gone"))
    return r"gone could not be started \(.*No such file.*\); this says nothing of the file: see that"


def _another_program(folder, monkeypatch):
    (folder / "blender").write_text("#!/bin/sh\ncat > /dev/null\n")
    (folder / "blender").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "blender"))
    return r"blender did not run probe\.py; this says nothing of the file: set sys\.executable to a Python"


def _nothing_installed(folder, monkeypatch):
    (folder / "sentencepiece.py").write_text("raise ImportError('libsentencepiece.so.0: cannot open')")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return r"lacks what it needs \(ImportError: libsentencepiece.*\); this says nothing of the file: install"


def _killed(folder, monkeypatch):
    (folder / "probe.py").write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setattr(model_file, "PROBE", folder / "probe.py")
    return r"ended from outside \(SIGKILL\).*lack of memory: see that some GB are free and try again"


def _signal_without_a_name(folder, monkeypatch):
    (folder / "probe.py").write_text("import os; os.kill(os.getpid(), 40)")
    monkeypatch.setattr(model_file, "PROBE", folder / "probe.py")
    return r"ended from outside \(signal 40\)"


@pytest.mark.parametrize(
    "prepare",
    [_no_executable, _missing_executable, _another_program, _nothing_installed, _killed, _signal_without_a_name],
)
def test_what_is_not_the_files_fault_is_not_laid_on_it(tmp_path, monkeypatch, prepare):
    path = tmp_path / "v.model"
    path.write_bytes(model([*TINY, piece(prepare.__name__)]))
    with monkeypatch.context() as patch:
        message_ = prepare(tmp_path, patch)
        with pytest.raises(TokenizerError, match=rf"v\.model \(sha256 \w+\): not checked, since .*{message_}") as error:
            RemBertTokenizer(path)
    assert "damaged" not in str(error.value) and "crafted" not in str(error.value)
    assert RemBertTokenizer(path).vocab_size == 8, "once it can be checked"


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


def test_a_file_in_use_is_parsed_once(tmp_path, monkeypatch):
    for name in ("one.model", "two.model"):
        (tmp_path / name).write_bytes(model([*TINY, piece("shared")]))
    runs = []
    parse = protobuf.read_model_parts
    monkeypatch.setattr(protobuf, "read_model_parts", lambda content: runs.append(1) or parse(content))
    first = RemBertTokenizer(tmp_path / "one.model")
    second = RemBertTokenizerFast(tmp_path / "two.model")
    assert len(runs) == 1 and first._model.content is second._model.content
    assert (first.model_file.name, second.model_file.name) == ("one.model", "two.model")
    del first, second
    gc.collect()
    RemBertTokenizer(tmp_path / "one.model")
    assert len(runs) == 2, "nothing is kept of a file that nobody uses"


def test_a_file_made_here_needs_no_child(tmp_path, monkeypatch):
    monkeypatch.setattr(model_file, "PROBE", tmp_path / "nothing.py")
    assert RemBertTokenizer(real_tokenizer().model_file).vocab_size == 400
    RemBertTokenizerFast(real_tokenizer().model_file).save_pretrained(tmp_path)
    assert RemBertTokenizerFast(tmp_path).vocab_size == 400


def test_a_module_beside_the_probe_is_not_taken_for_the_library(tmp_path, monkeypatch):
    # Python looks beside the program that it runs before anywhere else.
    shutil.copy(probe.__file__, tmp_path / "probe.py")
    (tmp_path / "sentencepiece.py").write_text("raise SystemExit('taken')")
    (tmp_path / "v.model").write_bytes(model([*TINY, piece("beside")]))
    monkeypatch.setattr(model_file, "PROBE", tmp_path / "probe.py")
    assert RemBertTokenizer(tmp_path / "v.model").vocab_size == 8


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
