"""A classifier with a vocabulary of our own, through `AutoTokenizer` and `pipeline` of transformers 5 and of 4.57.

The older one lies in a folder of its own, made by
`pip install --no-deps --target DIR transformers==4.57.3 'huggingface_hub<1' 'tokenizers<=0.23'`, which TRANSFORMERS_4 names.
"""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
from helpers import ROOT, synthetic_texts

from rembert_jax import (
    RemBertConfig,
    RemBertForSequenceClassification,
    RemBertTokenizer,
    RemBertTokenizerFast,
    save_pretrained,
)
from rembert_jax.tokenization import train_vocabulary

REASON = "needs PyTorch and transformers (pip install '.[torch]')"
TEXTS = ["", "😊", "the 😊 [MASK] 漢", *(text[:40] for text in synthetic_texts(4))]
PAIRS = [[a, b] for a, b in zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True) if b]  # An empty second: docs/tokenizers.md.
# Anything that is printed besides goes to standard error.
CHILD = """
import json, sys, warnings
warnings.simplefilter("ignore")
import transformers
from transformers import AutoTokenizer, RemBertTokenizerFast, pipeline
transformers.logging.set_verbosity_error()
texts, pairs = json.loads(sys.argv[1])
found = {"version": transformers.__version__}
for folder in sys.argv[2:]:
    of_folder = found[folder] = {}
    for name, kind in (("auto", AutoTokenizer), ("by name", RemBertTokenizerFast)):
        tokenizer = kind.from_pretrained(folder)
        rows = [tokenizer(text) for text in texts] + [tokenizer(*pair) for pair in pairs]
        of_folder[name] = [[row["input_ids"], row["token_type_ids"], row["attention_mask"]] for row in rows]
        of_folder["length"] = tokenizer.model_max_length
    run = pipeline("text-classification", folder, device=-1, top_k=None)
    scores = [run(item) for item in texts + [{"text": first, "text_pair": second} for first, second in pairs]]
    scores = [item[0] if isinstance(item[0], list) else item for item in scores]
    of_folder["scores"] = [{entry["label"]: entry["score"] for entry in item} for item in scores]
print(json.dumps(found))
"""


def older():
    """Environment in which transformers is 4.57."""
    folder = os.environ.get("TRANSFORMERS_4")
    if not folder:
        pytest.skip(
            "needs transformers 4.57 in a folder of its own, named by TRANSFORMERS_4 (see the docstring of the file)"
        )
    return {**newer(), "PYTHONPATH": folder}


def newer():
    return {**os.environ, "USE_TF": "0"}


def layout_of_today(path):
    train_vocabulary(iter(synthetic_texts(40)), path, vocab_size=300)


def layout_of_before(path):
    """[UNK] at 1 and [CLS] at 2, which a class of transformers 5 takes for the unknown piece."""
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(synthetic_texts(40)), model_writer=file, vocab_size=300, minloglevel=2,
            pad_id=0, pad_piece="[PAD]", unk_id=1, unk_piece="[UNK]", bos_id=2, bos_piece="[CLS]", eos_id=3,
            eos_piece="[SEP]", control_symbols=["[MASK]"],
        )  # fmt: skip


def random_params(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Classifiers of random parameters with tokenizers of both layouts."""
    made = {}
    for layout in (layout_of_today, layout_of_before):
        folder = tmp_path_factory.mktemp("classifier")
        layout(folder / "vocabulary.model")
        tokenizer = RemBertTokenizer(folder / "vocabulary.model")
        config = RemBertConfig.named("tiny", vocab_size=300, pad_token_id=tokenizer.pad_token_id)
        model = RemBertForSequenceClassification(config, num_labels=3, labels=("no", "maybe", "yes"))
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
        params = random_params(shapes)
        save_pretrained(model, params, folder / "saved", tokenizer)
        made[layout] = folder / "saved"
    return made


def scores(model, params, batch):
    probabilities = np.asarray(jax.nn.softmax(model.apply({"params": params}, **batch).logits))
    return [dict(zip(model.labels, row.tolist(), strict=True)) for row in probabilities]


@pytest.mark.parametrize("environment", [newer, older])
@pytest.mark.long
def test_a_saved_classifier_is_the_same_there(folders, environment):
    pytest.importorskip("torch", reason=REASON)
    pytest.importorskip("transformers", reason=REASON)
    command = [sys.executable, "-c", CHILD, json.dumps([TEXTS, PAIRS]), *map(str, folders.values())]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout)
    assert answers["version"].startswith("5." if environment is newer else "4.57.")
    for layout, folder in folders.items():
        found = answers[str(folder)]
        tokenizer = RemBertTokenizerFast.from_pretrained(folder)
        rows = [tokenizer(text) for text in TEXTS] + [tokenizer(*pair) for pair in PAIRS]
        expected = [[row["input_ids"], row["token_type_ids"], row["attention_mask"]] for row in rows]
        assert any(tokenizer.unk_token_id in row[0] for row in expected) and any(1 in row[1] for row in expected)
        assert found["auto"] == expected and found["length"] == 128
        wrong_by_name = layout is layout_of_before and environment is newer
        assert (found["by name"] != expected) is wrong_by_name, "docs/tokenizers.md says where the class by name errs"
        model, params = RemBertForSequenceClassification.from_pretrained(folder)
        batches = [tokenizer(items, padding=True, return_tensors="jax") for items in (TEXTS, PAIRS)]
        ours = [row for batch in batches for row in scores(model, params, batch)]
        for text, theirs, mine in zip(TEXTS + PAIRS, found["scores"], ours, strict=True):
            assert theirs == pytest.approx(mine, abs=1e-5), text
