"""Every row of the paper's ablations (arXiv:2010.12821v1, Tables 2 to 6, 12 and 13) as a model that can be pre-trained.

    python train.py --config='configs/ablations.py:row=decoupled,text=DATA/{language}/{split}.txt' --workdir=runs/decoupled
    python -m rembert_jax.tools.launch_sweep --workdir=runs/ablations --print=gke --topology=4x4x4 \
      --config='configs/ablations.py:text=DATA/{language}/{split}.txt,tags=UD/{language}/{split}.conllu'

The sweep has a member for each row. With `tags` (CoNLL-U) it goes on to fine-tune a tagger on English, with the layers dropped
and the parameters frozen that the row says.

From the paper: widths, depths and sizes of vocabulary, no dropout in pre-training, the exponent 0.5 (of RemBERT itself), three
epochs and batches of 32 in fine-tuning (Table 10). Not in the paper, hence our choice, and the same in every row: sequences
of 512, a masking rate of 0.15, 256 of them a batch, 500,000 steps, AdamW with a peak of 2e-4 after 15,000 steps (those of
RemBERT itself) and a linear decay, feed-forward layers of four times the hidden size, 16 heads where it is 1024, and 3e-5 in
fine-tuning. The paper's text is Wikipedia in 104 languages, or English.

Arguments: row, text, tags, labelled, languages, seed, and smoke (a few steps of tiny models, for tests).
"""

from types import SimpleNamespace

import ml_collections

from configs import common
from rembert_jax.experiments import sweep as sweeps

MULTILINGUAL = {"vocab_size": 120_000, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
ENGLISH = {**MULTILINGUAL, "vocab_size": 30_000, "input_embedding_size": 128}


def _row(
    base: dict, tables: str, paper: tuple[int, int], *, drop: int = 0, freeze: tuple = (), **model: object
) -> dict:
    return {"model": {**base, **model}, "tables": tables, "paper": paper, "drop": drop, "freeze": freeze}


def _coupled(width: int) -> dict:
    return {"input_embedding_size": width, "output_embedding_size": width, "tie_word_embeddings": True}


def _decoupled(in_width: int, out_width: int) -> dict:
    return {"input_embedding_size": in_width, "output_embedding_size": out_width}


ROWS = {
    "coupled": _row(MULTILINGUAL, "2 6 12", (177, 177), **_coupled(768)),
    "decoupled": _row(MULTILINGUAL, "2", (269, 177), **_decoupled(768, 768)),
    "in_768_out_128": _row(MULTILINGUAL, "3", (192, 177), **_decoupled(768, 128)),
    "in_128_out_768": _row(MULTILINGUAL, "3 4 5 6", (192, 100), **_decoupled(128, 768)),
    "in_128_out_128": _row(MULTILINGUAL, "4", (115, 100), **_decoupled(128, 128)),
    "in_128_out_3072": _row(MULTILINGUAL, "4", (469, 100), **_decoupled(128, 3072)),
    # The text gives no output width; with 128 the count is the paper's.
    "layers_23_drop_11": _row(MULTILINGUAL, "5", (193, 100), drop=11, num_hidden_layers=23, **_decoupled(128, 128)),
    "hidden_1024": _row(
        MULTILINGUAL, "6", (260, 168), hidden_size=1024, num_attention_heads=16, **_decoupled(128, 768)
    ),
    "layers_23": _row(MULTILINGUAL, "6", (270, 178), num_hidden_layers=23, **_decoupled(128, 768)),
    # A control in a footnote: the same with a fixed input embedding, so that as many parameters are trained.
    "frozen_in_768_out_768": _row(MULTILINGUAL, "-", (269, 177), freeze=("word_embeddings",), **_decoupled(768, 768)),
    "frozen_in_128_out_768": _row(MULTILINGUAL, "-", (192, 100), freeze=("word_embeddings",), **_decoupled(128, 768)),
    "coupled_128": _row(MULTILINGUAL, "12", (100, 100), **_coupled(128)),
    "english_coupled": _row(ENGLISH, "12 13", (110, 110), **_coupled(768)),
    "english_coupled_128": _row(ENGLISH, "12", (89, 89), **_coupled(128)),
    "english_out_128": _row(ENGLISH, "13", (93, 89), output_embedding_size=128),
    "english_out_768": _row(ENGLISH, "13", (112, 89), output_embedding_size=768),
    "english_out_3072": _row(ENGLISH, "13", (181, 89), output_embedding_size=3072),
    "english_layers_15_drop_3": _row(ENGLISH, "13", (114, 89), drop=3, num_hidden_layers=15, output_embedding_size=128),
    "english_layers_24_drop_12": _row(
        ENGLISH, "13", (178, 89), drop=12, num_hidden_layers=24, output_embedding_size=128
    ),
}
"""Name of a row to its model, the tables it is in, the paper's parameters in pre-training and in fine-tuning (millions, without
task heads), the layers dropped before fine-tuning, and what is frozen in it."""

SMALL = {768: 24, 1024: 32, 3072: 96, 128: 8, 12: 2, 23: 3, 15: 3, 24: 3, 16: 4, 120_000: 200, 30_000: 200}
"""Sizes of the smoke variant."""


def sweep() -> list[sweeps.Member]:
    """All rows."""
    return sweeps.values("row", ROWS)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    args = common.parse_arg(
        arg, row="decoupled", text="", tags="", labelled="en", languages="en de es hi zh", seed=0, smoke=False
    )
    if args.row not in ROWS:
        raise ValueError(f"row={args.row} is unknown; known: {', '.join(ROWS)}")
    if not args.text:
        raise ValueError("configs/ablations.py needs your text, as text=DATA/{language}/{split}.txt")
    stages = {"pretrain": _pretraining(args)}
    if args.tags:
        stages["tagging"] = _fine_tuning(args)
    return common.experiment(stages, {})


def _model(args: SimpleNamespace) -> dict:
    model = dict(ROWS[args.row]["model"])
    if args.smoke:
        model = {key: value if isinstance(value, bool) else SMALL[value] for key, value in model.items()}
        model |= {"num_attention_heads": 2, "max_position_embeddings": 64}
    return {"intermediate_size": 4 * model["hidden_size"], **model}


def _pretraining(args: SimpleNamespace) -> dict:
    model = _model(args)
    return {
        "seed": args.seed,
        "tokenizer": {"vocab_size": model.pop("vocab_size"), "sample_sentences": 500 if args.smoke else 10_000_000},
        "model": model,
        "execution": {"compute_dtype": "float32" if args.smoke else "bfloat16", "scan_layers": True},
        "data": {
            "source": "text",
            "path": args.text,
            "eval_split": "dev",
            "eval_texts": 2 if args.smoke else 500,
            "seq_length": 32 if args.smoke else 512,
        },
        "optimizer": {"learning_rate": 2e-4, "warmup_steps": 2 if args.smoke else 15_000},
        "training": {
            "batch_size": 4 if args.smoke else 256,
            "steps": 4 if args.smoke else 500_000,
            "log_every": 2 if args.smoke else 100,
            "eval_every": 2 if args.smoke else 10_000,
            "checkpoint_every": 2 if args.smoke else 5_000,
        },
    }


def _fine_tuning(args: SimpleNamespace) -> dict:
    row = ROWS[args.row]
    return {
        "seed": args.seed,
        "init_from": "{workdir}/pretrain",
        "drop_top_layers": min(row["drop"], 1) if args.smoke else row["drop"],
        "execution": {"compute_dtype": "float32" if args.smoke else "bfloat16", "scan_layers": True},
        "task": common.tagging(args.tags, args.labelled, args.languages, 64 if args.smoke else 128),
        "optimizer": {"learning_rate": 3e-5, "warmup_steps": 1 if args.smoke else 100, "freeze": row["freeze"]},
        "training": {
            "batch_size": 4 if args.smoke else 32,
            "epochs": 1 if args.smoke else 3,
            "log_every": 2 if args.smoke else 50,
            "eval_every": 2 if args.smoke else 500,
        },
    }
