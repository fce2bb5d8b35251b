"""Token ids made once: what a run reads from them is what it would read from the text."""

import sys

import pytest
from experiments.runs import on_one_device
from helpers import assert_same_batches, synthetic_texts, with_changes

from rembert_jax.data import pipeline, tokenized
from rembert_jax.errors import RemBertError
from rembert_jax.experiments import pretraining, run, settings
from rembert_jax.tokenization import RemBertTokenizer
from rembert_jax.tools import tokenize

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # In ml_collections.


@pytest.fixture(autouse=True)
def no_log(monkeypatch):
    monkeypatch.setattr(tokenize.writers, "log_to_terminal", lambda: None)


@pytest.fixture
def config(tmp_path):
    """Text of two languages; the vocabulary is trained on it."""
    for language, count in (("aa", 40), ("bb", 7)):
        for split in ("train", "dev"):
            (tmp_path / "text" / language).mkdir(parents=True, exist_ok=True)
            lines = "".join(f"{text}\n" for text in synthetic_texts(count))
            (tmp_path / "text" / language / f"{split}.txt").write_text(lines)
    return {
        "tokenizer": {"vocab_size": 300},
        "data": {"source": "text", "path": f"{tmp_path}/text/{{language}}/{{split}}.txt", "seq_length": 32},
        "optimizer": {"learning_rate": 1e-3},
        "training": {"batch_size": 4, "steps": 2, "checkpoint_every": 0, "eval_every": 0},
    }


def run_tool(config, output, *flags):
    file = output.with_suffix(".py")
    file.write_text(f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({config!r})\n")
    tokenize.main([f"--config={file}", f"--output={output}", *flags])


def first_batches(config, tokenizer):
    texts = pipeline.open_sources(config.data, "train")
    batches = pipeline.train_batches(texts, config.data, tokenizer, batch_size=4, seed=0)
    taken = [next(batches) for _ in range(30)]
    batches.close()
    return taken


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_token_ids_give_the_batches_that_the_text_gives(config, tmp_path, capsys, monkeypatch, processes):
    monkeypatch.setattr(tokenized, "CHUNK", 50)  # Of this process only: with two, all is one chunk.
    run_tool(config, tmp_path / "tokens", f"--processes={processes}")
    printed = dict(flag.strip("'").removeprefix("--config.").split("=") for flag in capsys.readouterr().out.split())
    assert printed["tokenizer.path"] == str(tmp_path / "tokens")
    printed["data.lines_per_document"] = int(printed["data.lines_per_document"])
    changed = settings.resolve(with_changes(config, printed))
    tokenizer = RemBertTokenizer.from_pretrained(tmp_path / "tokens")
    assert_same_batches(first_batches(changed, tokenizer), first_batches(settings.resolve(config), tokenizer))


def test_a_run_trains_on_token_ids_alone(config, tmp_path, monkeypatch):
    on_one_device(monkeypatch)
    run_tool(config, tmp_path / "tokens", "--processes=1")
    (tmp_path / "text").rename(tmp_path / "gone")
    model = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "input_embedding_size": 8}
    model |= {"output_embedding_size": 24, "intermediate_size": 32, "max_position_embeddings": 32}
    data = {"data.source": "tokens", "data.path": f"{tmp_path}/tokens/{{language}}/{{split}}"}
    changed = with_changes(config, {**data, "tokenizer.path": str(tmp_path / "tokens"), "model": model})
    results = run.run(changed, tmp_path / "run")
    assert set(results["test"]) == {"aa", "bb", "average"} and results["baseline"]["aa"]["loss"] > 0


def test_what_is_there_is_not_made_again_and_not_mistaken(config, tmp_path, monkeypatch):
    run_tool(config, tmp_path / "tokens", "--processes=1")
    written = []
    monkeypatch.setattr(tokenized, "write", lambda *arguments: written.append(arguments[2].name))
    run_tool(config, tmp_path / "tokens", "--processes=1")
    assert not written
    with (tmp_path / "text" / "bb" / "dev.txt").open("a") as file:
        file.write("one more\n")
    with pytest.raises(SystemExit, match=r"bb/dev has 28 documents by the vocabulary \w+, now they are 29 by"):
        run_tool(config, tmp_path / "tokens", "--processes=1")


def test_other_vocabularies_and_missing_folders_are_named(config, tmp_path):
    run_tool(config, tmp_path / "tokens", "--processes=1")
    path = {"data.source": "tokens", "data.path": f"{tmp_path}/tokens/{{language}}/{{split}}"}
    changed = settings.resolve(with_changes(config, path))
    texts = pipeline.open_sources(changed.data, "train")
    with pytest.raises(RemBertError, match=r"language 'aa': its token ids are of the vocabulary \w+, and the run has"):
        pretraining.tokenized.check_vocabulary(texts, RemBertTokenizer(str(other_vocabulary(tmp_path))))
    with pytest.raises(RemBertError, match=r"cc/train: no token ids there .* python -m rembert_jax\.tools\.tokenize"):
        pipeline.open_source(changed.data, "cc", "train")
    with pytest.raises(RemBertError, match="token ids are of whole documents"):
        settings.resolve(with_changes(config, {**path, "data.lines_per_document": 2}))
    with pytest.raises(SystemExit, match="the stage has no text to tokenise"):
        run_tool(with_changes(config, path), tmp_path / "again")
    with pytest.raises(SystemExit, match="--stage=x: no such stage"):
        run_tool(config, tmp_path / "again", "--stage=x")


def test_a_misspelt_override_is_one_line(config, tmp_path, monkeypatch):
    file, flag = tmp_path / "config.py", "--config.data.sorce=tfds"
    monkeypatch.setattr(sys, "argv", ["tokenize", f"--config={file}", f"--output={tmp_path}/tokens", flag])
    file.write_text(f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({config!r})\n")
    with pytest.raises(
        SystemExit, match=r"^--config\.data\.sorce: the config file has no key 'sorce' in config\.data; it"
    ):
        tokenize.main()


def other_vocabulary(folder):
    from rembert_jax.tokenization import train_vocabulary

    train_vocabulary(iter(synthetic_texts(40)), folder / "other.model", vocab_size=280)
    return folder / "other.model"
