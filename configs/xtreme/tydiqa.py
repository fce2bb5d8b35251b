"""TyDiQA-GoldP of XTREME: answers in a text. Trained on its English part, tested on all its languages.

    python train.py --config='configs/xtreme/tydiqa.py:data=xtreme,init_from=runs/pretrained' --workdir=runs/xtreme/tydiqa

XTREME tests on the development set, so there is nothing to select on: the last parameters are tested. Its scripts warm up for
500 steps, which is more than the run has; here there is no warm-up.

Arguments:
  data: what `tools.prepare_xtreme` wrote. init_from: the run, or converted checkpoint, to start from.
  setting: rembert (SQuAD's of Table 15 in the paper, which has no row for TyDiQA); xtreme (the scripts of the benchmark).
    learning_rate: another than the setting's.
  languages: tested on, with spaces between; all of the task's without it. seed. smoke: a step or two, for tests.
"""

import ml_collections

from configs.xtreme import common
from rembert_jax.experiments import sweep as sweeps

SETTINGS = {
    "rembert": common.Setting(rates=(9e-6,), batch_size=128, epochs=3),
    "xtreme": common.Setting(rates=(3e-5,), batch_size=32, epochs=3, weight_decay=1e-4, eps=1e-8),
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    args = common.parse(arg, SETTINGS)
    task = common.answers(args, "tydiqa", dev_split="")
    return common.experiment({"tydiqa": common.fine_tuning(args, task, eval_every=0)})


def sweep(arg: str | None = None) -> list[sweeps.Member]:
    """Three seeds of each learning rate."""
    return common.sweep(arg, SETTINGS)
