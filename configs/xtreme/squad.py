"""XQuAD and MLQA of XTREME: answers in a text. Trained on SQuAD 1.1, selected on its development set, tested on all languages.

    python train.py --config='configs/xtreme/squad.py:data=xtreme,init_from=runs/pretrained' --workdir=runs/xtreme/squad

Arguments:
  data: what `tools.prepare_xtreme` wrote. init_from: the run, or converted checkpoint, to start from.
  setting: rembert (Table 15 of the paper; warm-up over 2 % of the steps, which it does not give); ablations: Table 10, of which
    the sweep takes every learning rate; xtreme (the scripts of the benchmark). learning_rate: another than the setting's.
  languages: tested on, with spaces between; all of each task's without it. seed. smoke: a step or two, for tests.
"""

import ml_collections

from configs.xtreme import common
from rembert_jax.experiments import sweep as sweeps

SETTINGS = {
    "rembert": common.Setting(rates=(9e-6,), batch_size=128, epochs=3, warmup_steps=42),
    "ablations": common.Setting(rates=(2e-5, 3e-5, 4e-5), batch_size=32, epochs=3),
    "xtreme": common.Setting(rates=(3e-5,), batch_size=32, epochs=3, warmup_steps=500, weight_decay=1e-4, eps=1e-8),
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    args = common.parse(arg, SETTINGS)
    english = common.answers(args, "squad", test_split="dev") | {"test_languages": ("en",)}
    return common.experiment(
        {
            "squad": common.fine_tuning(args, english, eval_every=200),
            "xquad": common.prediction(args, common.answers(args, "xquad"), "squad"),
            "mlqa": common.prediction(args, common.answers(args, "mlqa"), "squad"),
        }
    )


def sweep(arg: str | None = None) -> list[sweeps.Member]:
    """Three seeds of each learning rate."""
    return common.sweep(arg, SETTINGS)
