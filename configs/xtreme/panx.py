"""PAN-X of XTREME: names of persons, places and organisations. Trained and selected on English, tested on all.

    python train.py --config='configs/xtreme/panx.py:data=xtreme,init_from=runs/pretrained' --workdir=runs/xtreme/panx

Arguments:
  data: what `tools.prepare_xtreme` wrote. init_from: the run, or converted checkpoint, to start from.
  setting: rembert (Table 15 of the paper; warm-up over 2 % of the steps, which it does not give); ablations: Table 10, of
    which the sweep takes every learning rate; xtreme (the scripts of the benchmark). learning_rate: another than the setting's.
  languages: tested on, with spaces between; all of the task's without it. seed. smoke: a step or two, for tests.
"""

import ml_collections

from configs.xtreme import common
from rembert_jax.experiments import sweep as sweeps

SETTINGS = {
    "rembert": common.Setting(rates=(8e-6,), batch_size=64, epochs=3, warmup_steps=19),
    "ablations": common.Setting(rates=(1e-5, 2e-5, 3e-5, 4e-5, 5e-5), batch_size=32, epochs=3),
    "xtreme": common.Setting(rates=(2e-5,), batch_size=32, epochs=10, weight_decay=0.0, eps=1e-8),
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    args = common.parse(arg, SETTINGS)
    return common.experiment({"panx": common.fine_tuning(args, common.tags(args, "panx"), eval_every=100)})


def sweep(arg: str | None = None) -> list[sweeps.Member]:
    """Three seeds of each learning rate."""
    return common.sweep(arg, SETTINGS)
