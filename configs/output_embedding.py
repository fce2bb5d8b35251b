"""The paper's claim on the artificial languages of the quickstart: a wider output embedding pre-trains a better encoder.

    python -m rembert_jax.tools.launch_sweep --config=configs/output_embedding.py --workdir=runs/output_embedding
    python -m rembert_jax.tools.collect runs/output_embedding

Four widths of the output embedding, three seeds each; the encoder that is fine-tuned has the same size in all of them.
Everything else is configs/quickstart.py, without the fine-tunings from scratch, which no output embedding has a part in.
What came out of it: docs/sweeps.md. Argument: smoke (two widths, one seed, one task, a few steps).
"""

import ml_collections

from configs import common, quickstart
from rembert_jax.experiments import sweep as sweeps


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    full = quickstart.get_config(arg).to_dict()
    smoke = common.parse_arg(arg, seed=0, smoke=False).smoke
    names = [name for name in full["order"] if not name.endswith("_scratch")][: 2 if smoke else None]
    return common.experiment({name: full["stages"][name] for name in names}, {})


def sweep(arg: str | None = None) -> list[sweeps.Member]:
    smoke = common.parse_arg(arg, seed=0, smoke=False).smoke
    widths = sweeps.values("stages.pretrain.model.output_embedding_size", (32, 320) if smoke else (32, 96, 160, 320))
    return sweeps.product(widths, sweeps.seeds(1 if smoke else 3))
