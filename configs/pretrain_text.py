"""A small model on your own text, and what its pre-training is worth for part-of-speech tagging.

    python train.py --workdir=runs/text \
      --config='configs/pretrain_text.py:text=DATA/{language}/{split}.txt,tags=UD/{language}/{split}.conllu'

`text` is a pattern for UTF-8 files (plain or .gz) with one sentence a line; languages are found from the folders, splits are
called train and dev. With `tags`, a pattern for CoNLL-U files, the encoder is then fine-tuned on `labelled` (split train,
selected on dev) and tested on `languages` (split test), against the same encoder without pre-training and against each
word's most frequent tag. Without `tags` the run ends after pre-training.

Other arguments: `vocab` (pieces), `steps` (of pre-training), `smoke` (a few steps, for tests).
"""

from types import SimpleNamespace

import ml_collections

from configs import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    args = common.parse_arg(
        arg, text="", tags="", labelled="en", languages="en de es hi zh", vocab=16000, steps=3000, smoke=False
    )
    if not args.text:
        raise ValueError(
            "configs/pretrain_text.py needs your text: --config='configs/pretrain_text.py:text=DATA/{language}/{split}.txt'"
        )
    stages = {"pretrain": _pretraining(args)}
    report = {}
    if args.tags:
        stages["tagging_pretrained"] = _fine_tuning(args, "init_from")
        stages["tagging_scratch"] = _fine_tuning(args, "model_from")
        report["tagging"] = {"title": "POS", "pretrained": "tagging_pretrained", "scratch": "tagging_scratch"}
    return common.experiment(stages, report)


def _pretraining(args: SimpleNamespace) -> dict:
    return {
        "seed": 0,
        "model": {
            "hidden_size": 128,
            "num_hidden_layers": 1 if args.smoke else 3,
            "num_attention_heads": 4,
            "input_embedding_size": 64,
            "output_embedding_size": 192,
            "intermediate_size": 512,
            "hidden_act": "relu",
            "max_position_embeddings": 128,
            "initializer_range": 0.08,
        },
        "execution": {"scan_layers": False},
        "tokenizer": {"vocab_size": args.vocab, "sample_sentences": 200_000},
        "data": {
            "source": "text",
            "path": args.text,
            "lines_per_document": 4,
            "eval_split": "dev",
            "eval_texts": 2 if args.smoke else 100,
            "seq_length": 128,
        },
        "optimizer": {"learning_rate": 1.5e-3, "warmup_steps": 2 if args.smoke else args.steps // 20, "b2": 0.98},
        "training": {
            "batch_size": 2 if args.smoke else 16,
            "steps": 4 if args.smoke else args.steps,
            "log_every": 2 if args.smoke else 100,
            "eval_every": 2 if args.smoke else 1000,
            "checkpoint_every": 2 if args.smoke else 1000,
        },
    }


def _fine_tuning(args: SimpleNamespace, source: str) -> dict:
    return {
        "seed": 0,
        source: "{workdir}/pretrain",
        "execution": {"scan_layers": False},
        "task": {
            "kind": "token_classification",
            "source": "conllu",
            "path": args.tags,
            "train_language": args.labelled,
            "test_languages": tuple(args.languages.split()),
            "dev_split": "dev",
            "text_fields": ("tokens",),
            "label_field": "upos",
            "max_length": 128,
        },
        "optimizer": {"learning_rate": 5e-4, "warmup_steps": 1 if args.smoke else 50, "b2": 0.98},
        "training": {
            "batch_size": 2 if args.smoke else 32,
            "epochs": 1 if args.smoke else 3,
            "log_every": 2 if args.smoke else 50,
            "eval_every": 2 if args.smoke else 125,
        },
    }
