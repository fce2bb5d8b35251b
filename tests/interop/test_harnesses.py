"""An exported encoder in harnesses that people score encoders with: mteb, through sentence-transformers, and EuroEval."""

import csv
import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import synthetic_texts
from interop.folders import make

from rembert_jax import RemBertModel, RemBertTokenizer, save_pretrained
from rembert_jax.tokenization import train_vocabulary

# In a process of its own: it warns, and it counts what it downloads, which is nothing.
MTEB = """
import json, sys, warnings
warnings.simplefilter("ignore")
import mteb
from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskBitextMining
from mteb.abstasks.task_metadata import TaskMetadata
from sentence_transformers import SentenceTransformer

folder, texts = sys.argv[1], json.loads(sys.argv[2])
unknown = dict.fromkeys(
    ("reference", "date", "domains", "task_subtypes", "license", "annotations_creators", "dialect", "sample_creation",
     "bibtex_citation")
)


class Own(AbsTaskBitextMining):
    metadata = TaskMetadata(
        name="Own", description="own sentences", dataset={"path": "own", "revision": "1"}, type="BitextMining", category="t2t",
        modalities=["text"], eval_splits=["test"], eval_langs=["eng-Latn", "deu-Latn"], main_score="accuracy", **unknown
    )

    def load_data(self, **kwargs):
        pairs = {"sentence1": texts, "sentence2": texts}
        self.dataset = DatasetDict({"test": Dataset.from_dict(pairs)})
        self.data_loaded = True


model = SentenceTransformer(folder, device="cpu")  # Mean pooling, as it says.
(result,) = mteb.evaluate(model, Own(), cache=None, show_progress_bar=False).task_results
print(json.dumps({"scores": result.scores["test"][0], "vectors": model.encode(texts).tolist()}))
"""

# EuroEval scores with code that it downloads, hence an accuracy of our own.
EUROEVAL = """
import dataclasses, json, sys
from euroeval import Benchmarker
from euroeval.data_models import DatasetConfig
from euroeval.languages import ENGLISH
from euroeval.metrics.base import Metric
from euroeval.tasks import TEXT_CLASSIFICATION


class Accuracy(Metric):
    def __call__(self, predictions, references, **kwargs):
        return sum(one == other for one, other in zip(predictions, references, strict=True)) / len(references)


folder, labels = sys.argv[1], json.loads(sys.argv[2])
task = dataclasses.replace(TEXT_CLASSIFICATION, metrics=[Accuracy("accuracy", "Accuracy")])
files = {split: f"{split}.csv" for split in ("train", "val", "test")}
own = DatasetConfig(name="own", pretty_name="Own", source=files, task=task, languages=[ENGLISH], _labels=labels)
options = {"num_iterations": 1, "progress_bar": False, "save_results": False, "raise_errors": True}
(found,) = Benchmarker(dataset=own, evaluate_test_split=True, **options).benchmark(folder)
print(json.dumps([found.num_model_parameters, found.max_sequence_length, found.vocabulary_size, found.results["total"]]))
"""


def _export(tiny_config, random_params, folder, **changes):
    """A random encoder in a folder of transformers; the model, its parameters and its tokenizer."""
    train_vocabulary(iter(synthetic_texts(40)), folder / "v.model", vocab_size=300)
    tokenizer = RemBertTokenizer(folder / "v.model")
    config = dataclasses.replace(tiny_config, vocab_size=tokenizer.vocab_size, **changes)
    model, params = make(RemBertModel, config, random_params)
    save_pretrained(model, params, folder / "hf", tokenizer)
    return model, params, tokenizer


def _run(python, program, *arguments, folder):
    variables = {"HF_HUB_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=folder,
        env=os.environ | variables,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow  # Importing it takes most of it.
def test_an_exported_encoder_runs_in_mteb(tiny_config, random_params, tmp_path):
    pytest.importorskip("mteb", reason="needs mteb (pip install '.[torch,harnesses]')")
    model, params, tokenizer = _export(tiny_config, random_params, tmp_path, max_position_embeddings=64)
    texts = [" ".join(text.split()[:8]) for text in synthetic_texts(6)]
    found = _run(sys.executable, MTEB, str(tmp_path / "hf"), json.dumps(texts), folder=tmp_path)
    assert found["scores"]["accuracy"] == 1.0
    for text, vector in zip(texts, found["vectors"], strict=True):
        ids = jnp.array([tokenizer.encode(text)])
        states = model.apply({"params": params}, ids).last_hidden_state
        np.testing.assert_allclose(vector, states[0].mean(0), atol=2e-5)


@pytest.mark.slow
@pytest.mark.skipif(
    "EUROEVAL_PYTHON" not in os.environ, reason="needs EUROEVAL_PYTHON, an interpreter that has EuroEval"
)
def test_an_exported_encoder_is_fine_tuned_by_euroeval(tiny_config, random_params, tmp_path):
    # EuroEval takes lengths under 128 for mistakes.
    changes = {"max_position_embeddings": 128, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    _, params, tokenizer = _export(tiny_config, random_params, tmp_path, **changes)
    words = sorted({word for text in synthetic_texts(6) for word in text.split() if word.isalpha()}, key=len)[-2:]
    for split, count in (("train", 128), ("val", 32), ("test", 64)):
        with open(tmp_path / f"{split}.csv", "w", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label"])
            # A random encoder, and a learning rate for trained ones: it only has to see which of two words stands there.
            rows.writerows((" ".join([words[i % 2]] * (1 + i % 7)), f"word{i % 2}") for i in range(count))
    found = _run(
        os.environ["EUROEVAL_PYTHON"], EUROEVAL, str(tmp_path / "hf"), json.dumps(["word0", "word1"]), folder=tmp_path
    )
    size, length, pieces, scores = found
    assert (length, pieces) == (128, tokenizer.vocab_size)
    assert size == sum(leaf.size for leaf in jax.tree.leaves(params)) + 2 * (tiny_config.hidden_size + 1)
    assert scores["test_accuracy"] > 90.0
