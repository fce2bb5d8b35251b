"""An encoder that can learn all nine tasks of XTREME in the artificial languages: twice the quickstart's width and depth.

    python train.py --config=configs/pretrain_synthetic.py --workdir=runs/synthetic

What to do with it: docs/xtreme.md. The quickstart's two layers hardly learn to look for what a question names. Three documents
of ten say everything twice, so that to look it up is learnt before there are questions.

Arguments:
  seed: of everything, as in configs/quickstart.py.
  smoke: a few steps and two languages, for tests.
"""

import ml_collections

from configs import common, quickstart


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    args = common.parse_arg(arg, seed=0, smoke=False)
    stage = quickstart.pretraining(args)
    stage["model"] |= {
        "hidden_size": 128,
        "num_hidden_layers": 1 if args.smoke else 4,
        "num_attention_heads": 4,
        "input_embedding_size": 64,
        "output_embedding_size": 256,
        "intermediate_size": 256,
        "initializer_range": 0.08,
    }
    stage["data"]["synthetic"]["retold"] = 0.3
    stage["optimizer"] |= {"name": "muon", "learning_rate": 4e-3, "weight_decay": 0.01}
    return common.single(stage)
