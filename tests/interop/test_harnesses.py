"""An exported encoder in a harness that people score encoders with: mteb, through sentence-transformers."""

import dataclasses
import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import synthetic_texts
from interop.folders import make

from rembert_jax import RemBertModel, RemBertTokenizer, save_pretrained
from rembert_jax.tokenization import train_vocabulary

# In a process of its own: it warns, and it counts what it downloads, which is nothing.
CHILD = """
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


@pytest.mark.slow  # Importing it takes most of it.
def test_an_exported_encoder_runs_in_mteb(tiny_config, random_params, tmp_path):
    pytest.importorskip("mteb", reason="needs mteb (pip install '.[torch,harnesses]')")
    train_vocabulary(iter(synthetic_texts(40)), tmp_path / "v.model", vocab_size=300)
    tokenizer = RemBertTokenizer(tmp_path / "v.model")
    config = dataclasses.replace(tiny_config, vocab_size=tokenizer.vocab_size, max_position_embeddings=64)
    model, params = make(RemBertModel, config, random_params)
    save_pretrained(model, params, tmp_path / "hf", tokenizer)
    texts = [" ".join(text.split()[:8]) for text in synthetic_texts(6)]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "hf"), json.dumps(texts)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["scores"]["accuracy"] == 1.0
    for text, vector in zip(texts, found["vectors"], strict=True):
        ids = jnp.array([tokenizer.encode(text)])
        states = model.apply({"params": params}, ids).last_hidden_state
        np.testing.assert_allclose(vector, states[0].mean(0), atol=2e-5)
