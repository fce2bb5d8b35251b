"""Token ids in files: the same batches as from text, made once, in worker processes too."""

import multiprocessing
import pathlib
import pickle

import pytest
from helpers import assert_same_batches, real_tokenizer, synthetic_texts

from rembert_jax.data import tokenized
from rembert_jax.data.pipeline import DataConfig, train_batches

ORIGIN = {"path": "here"}


@pytest.fixture
def texts():
    return {"a": [*synthetic_texts(10), "", "[MASK] is text"], "b": synthetic_texts(3)}


def batches(texts):
    config = DataConfig(source="text", seq_length=32)
    stream = train_batches(texts, config, real_tokenizer(), batch_size=4, seed=3)
    taken = [next(stream) for _ in range(12)]
    stream.close()
    return taken


def test_batches_from_files_of_token_ids_are_those_from_text(tmp_path, texts):
    ids = tokenized.shared(texts, real_tokenizer(), ORIGIN, tmp_path)
    assert [len(ids[language]) for language in texts] == [42, 12]
    assert ids["a"][40] == [] and ids["a"][41] == tokenized.encode(real_tokenizer(), "[MASK] is text")
    assert_same_batches(batches(ids), batches(texts))


def test_files_are_made_once_and_for_one_origin_language_and_number_of_texts(tmp_path, texts, monkeypatch):
    written = []
    write = tokenized.write
    monkeypatch.setattr(tokenized, "write", lambda *args: written.append(args[2].name) or write(*args))
    one = tokenized.shared(texts, real_tokenizer(), ORIGIN, tmp_path)
    again = tokenized.shared(texts, real_tokenizer(), ORIGIN, tmp_path)
    assert len(written) == 2
    assert [list(ids) for ids in one.values()] == [list(ids) for ids in again.values()]
    tokenized.shared({"a": texts["a"][:-1]}, real_tokenizer(), ORIGIN, tmp_path)
    tokenized.shared({"a": texts["a"]}, real_tokenizer(), {"path": "there"}, tmp_path)
    assert len(set(written)) == len(written) == 4


def test_what_a_killed_process_left_is_made_anew(tmp_path, texts):
    (target,) = [tmp_path / "tokens"]
    (tmp_path / "tokens.partial").mkdir()
    (tmp_path / "tokens.partial" / "ids.bin").write_bytes(b"half")
    tokenized.write(texts["b"], real_tokenizer(), target)
    assert tokenized.TokenizedTexts(target)[0] == tokenized.encode(real_tokenizer(), texts["b"][0])
    assert not (tmp_path / "tokens.partial").exists()


def test_more_texts_than_are_worth_it_stay_texts(tmp_path, texts, monkeypatch):
    monkeypatch.setattr(tokenized, "MOST_TEXTS", 20)
    found = tokenized.shared(texts, real_tokenizer(), ORIGIN, tmp_path)
    assert found["a"] is texts["a"] and isinstance(found["b"], tokenized.TokenizedTexts)


def test_pickled_ids_are_a_path_and_not_the_ids(tmp_path):
    tokenized.write(synthetic_texts(50), real_tokenizer(), tmp_path / "tokens")
    ids = tokenized.TokenizedTexts(tmp_path / "tokens")
    copy = pickle.dumps(ids)
    assert len(copy) < 1000
    assert list(pickle.loads(copy)) == list(ids)


def _make(folder: pathlib.Path, number: int) -> None:
    with tokenized.made_once(folder / "target") as missing:
        if missing:
            (folder / f"made-by-{number}").touch()
            (folder / "target").touch()


def test_of_several_processes_one_makes_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_make, args=(tmp_path, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(list(tmp_path.glob("made-by-*"))) == 1
