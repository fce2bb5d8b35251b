"""The released model's pre-training: 993M parameters, 576M of them for fine-tuning.

    python train.py --config='configs/rembert.py:text=DATA/{language}/{split}.txt' --workdir=runs/rembert

What is published of it (Chung et al., 2021) is as published: batches of 2048 rows of 512 tokens, 1.76M steps, Adam, a learning
rate of 2e-4 after 15,000 steps. How it decays is not told; here it does so linearly. This command says whether it fits your
TPUs, on which mesh, and how fast it could be at most, and needs neither a TPU nor data (five slices: docs/scaling.md):

    python -m rembert_jax.tools.compile_for --config=configs/rembert.py --topology=v4:8x8x8 --search

Arguments:
  text: pattern for UTF-8 files (plain or .gz), a document a line; languages are found from folders, splits are train and dev.
  vocabulary: a SentencePiece model; without one, 250,300 pieces are learnt from the text.
  seed: of everything.
  smoke: a few steps of a small model on artificial languages, for tests.
"""

from types import SimpleNamespace

import ml_collections

from configs import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    args = common.parse_arg(arg, text="DATA/{language}/{split}.txt", vocabulary="", seed=0, smoke=False)
    return common.single(_pretraining(args))


def _pretraining(args: SimpleNamespace) -> dict:
    config = {
        "seed": args.seed,
        "model": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},  # All else is the released model's.
        "execution": {"compute_dtype": "bfloat16"},
        "tokenizer": {"path": args.vocabulary, "vocab_size": 250_300, "sample_sentences": 5_000_000},
        "data": {
            "source": "text",
            "path": args.text,
            "eval_split": "dev",
            "seq_length": 512,
            "alpha": 0.5,
            "mask_rate": 0.15,
        },
        "optimizer": {
            "learning_rate": 2e-4,
            "warmup_steps": 15_000,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-6,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
        },
        "training": {
            "batch_size": 2048,
            "steps": 1_760_000,
            "log_every": 100,
            "eval_every": 10_000,
            "checkpoint_every": 2_000,
        },
        "mesh": {"data": -1, "fsdp": 8, "tensor": 1},  # As fast as any on most slices.
    }
    if args.smoke:
        config["model"] |= {
            "hidden_size": 36, "num_hidden_layers": 4, "num_attention_heads": 2, "input_embedding_size": 8,
            "output_embedding_size": 52, "intermediate_size": 144,
        }  # fmt: skip
        config["tokenizer"] = {"vocab_size": 400, "sample_sentences": 400}
        config["data"] = {"source": "synthetic", "eval_split": "validation", "eval_texts": 4, "seq_length": 64}
        config["optimizer"] |= {"warmup_steps": 1}
        config["training"] |= {"batch_size": 16, "steps": 3, "log_every": 1, "eval_every": 0, "checkpoint_every": 0}
        config["mesh"] = {"data": -1}
    return config
