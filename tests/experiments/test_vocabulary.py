"""What a run's vocabulary is learnt from, and what its model takes from a vocabulary."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import TINY_PRETRAINING, with_changes

from rembert_jax.experiments import architecture, settings, vocabulary
from rembert_jax.training import checkpoint

TEXTS = {"qaa": [f"a{i}" for i in range(900)], "qab": [f"b{i}" for i in range(100)]}


@pytest.fixture
def learnt(tmp_path, monkeypatch):
    """The texts and settings that the vocabulary of a config is trained with."""

    def train(sentences, path, **options):
        train.found = list(sentences), options
        path.write_bytes(b"a vocabulary")

    monkeypatch.setattr(vocabulary, "train_vocabulary", train)
    monkeypatch.setattr(
        vocabulary.RemBertTokenizer, "from_pretrained", lambda _: SimpleNamespace(vocab_size=1, sha256="")
    )

    def run(**changes):
        config = settings.resolve(with_changes(TINY_PRETRAINING, changes))
        vocabulary.open_tokenizer(config, tmp_path, TEXTS)
        return train.found

    return run


def test_a_run_that_goes_on_keeps_its_vocabulary(learnt, tmp_path):
    first, again = learnt(), learnt(**{"tokenizer.sample_sentences": 100})
    assert again is not first, "a failed start with other settings"
    checkpoint.save_params(tmp_path, {"a": np.zeros(2, np.float32)}, {})
    assert learnt(**{"tokenizer.sample_sentences": 200}) is again


def test_a_vocabulary_is_learnt_from_languages_in_the_shares_of_pre_training(learnt):
    # By the roots of 900 and 100, three to one; by their sizes, nine to one.
    for alpha, shares in ((0.5, {"a": 300, "b": 100}), (1.0, {"a": 360, "b": 40}), (0.0, {"a": 200, "b": 200})):
        texts, _ = learnt(**{"data.alpha": alpha, "tokenizer.sample_sentences": 400})
        assert Counter(text[0] for text in texts) == shares


def test_a_vocabulary_is_learnt_with_the_settings_and_the_seed_of_the_run(learnt):
    tokenizer = {"vocab_size": 321, "character_coverage": 0.99, "user_defined_symbols": ("<url>", "<user>")}
    changes = {f"tokenizer.{name}": value for name, value in tokenizer.items()}
    texts, options = learnt(**changes)
    assert options == tokenizer
    assert Counter(text[0] for text in texts) == {"a": 112, "b": 38}, "150 texts, as the config says"
    assert learnt(**changes)[0] == texts != learnt(**changes, seed=1)[0]


def test_a_model_takes_the_size_and_the_special_ids_of_its_vocabulary():
    ids = {"pad_token_id": 7, "cls_token_id": 3, "sep_token_id": 5}
    made = SimpleNamespace(vocab_size=300, model_file="v.model", sha256="0", **ids)
    config = architecture.model_config(settings.resolve(TINY_PRETRAINING), made, None)
    assert (config.vocab_size, config.hidden_size) == (300, 16)
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (7, 3, 5)
