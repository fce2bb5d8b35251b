"""RemBERT's whole idea on two CPU cores in minutes, on artificial languages, with nothing to download.

    python train.py --config=configs/quickstart.py --workdir=runs/quickstart

Stages: train a vocabulary and pre-train a small encoder with a large output embedding; drop the output embedding and
fine-tune on one language's labels, for tagging and for sentence pairs; evaluate on the languages without labels. The same
two fine-tunings are run without pre-training. The table at the end compares them. Measured numbers: docs/results.md.

Argument `smoke` shrinks every stage to a few steps, for tests.
"""

import ml_collections

from configs import common

LANGUAGES = ("qaa", "qab", "qac", "qad")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    args = common.parse_arg(arg, smoke=False)
    stages = {"pretrain": _pretraining(args.smoke)}
    for task in ("tagging", "pairs"):
        stages[f"{task}_pretrained"] = _fine_tuning(task, "init_from", args.smoke)
        stages[f"{task}_scratch"] = _fine_tuning(task, "model_from", args.smoke)
    report = {
        task: {"title": title, "pretrained": f"{task}_pretrained", "scratch": f"{task}_scratch"}
        for task, title in (("tagging", "Tagging"), ("pairs", "Pairs"))
    }
    return common.experiment(stages, report)


def _pretraining(smoke: bool) -> dict:
    return {
        "seed": 0,
        "model": {
            "hidden_size": 96,
            "num_hidden_layers": 1 if smoke else 2,
            "num_attention_heads": 2,
            "input_embedding_size": 48,
            "output_embedding_size": 160,  # Larger than the hidden size, as in the paper; dropped after pre-training.
            "intermediate_size": 256,
            "hidden_act": "relu",  # Exact GELU costs a third of the step on a CPU.
            "max_position_embeddings": 64,
            "initializer_range": 0.1,  # About 1/sqrt(hidden_size), as 0.02 is for a model of RemBERT's width.
        },
        "execution": {"scan_layers": False},
        "tokenizer": {"vocab_size": 660, "sample_sentences": 1000 if smoke else 5000, "character_coverage": 1.0},
        "data": {
            "source": "synthetic",
            "languages": LANGUAGES,
            "eval_split": "validation",
            "eval_texts": 60,
            "seq_length": 64,
        },
        "optimizer": {"learning_rate": 1.5e-3, "warmup_steps": 2 if smoke else 200, "b2": 0.98},
        "training": {
            "batch_size": 16,
            "steps": 8 if smoke else 4000,
            "log_every": 4 if smoke else 100,
            "eval_every": 4 if smoke else 1000,
            "checkpoint_every": 4 if smoke else 1000,
        },
    }


def _fine_tuning(task: str, source: str, smoke: bool) -> dict:
    kinds = {
        "tagging": {
            "kind": "token_classification",
            "path": "synthetic_pos/{language}",
            "text_fields": ("tokens",),
            "label_field": "upos",
            "max_train_examples": 200,
        },
        "pairs": {
            "kind": "sequence_classification",
            "path": "synthetic_paws_x/{language}",
            "max_train_examples": 3200,
        },
    }
    return {
        "seed": 0,
        source: "{workdir}/pretrain",
        "execution": {"scan_layers": False},
        "task": {
            "source": "tfds",
            "data_dir": "{workdir}/data",
            "train_language": "qaa",
            "test_languages": LANGUAGES,
            "max_length": 40,
            **kinds[task],
            **({"max_train_examples": 64, "max_eval_examples": 32} if smoke else {}),
        },
        "optimizer": {
            "learning_rate": 1e-3,
            "warmup_steps": 2 if smoke else 20,
            "b2": 0.98,
            # Pulled back harder than in pre-training, a few hundred steps in one language spoil the others less.
            "weight_decay": 0.3 if task == "pairs" else 0.01,
        },
        "training": {
            "batch_size": 32,
            "epochs": 3 if smoke or task == "pairs" else 12,
            "eval_batch_size": 128,
            "log_every": 2 if smoke else 25,
            "eval_every": 2 if smoke else 50,
        },
    }
