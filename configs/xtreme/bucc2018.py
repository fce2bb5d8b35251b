"""BUCC 2018 of XTREME: pairs of translations between two corpora. Nothing is trained; layer and thresholds come from dev.

    python train.py --config='configs/xtreme/bucc2018.py:data=xtreme,init_from=runs/pretrained' --workdir=runs/xtreme/bucc2018

A pair's score is its cosine divided by the mean of both sentences' cosines to their four nearest; pairs above a threshold,
which is fitted on the development pairs of each language, are predicted. Unless a layer is named, the one with the best mean F1
on the development sets of all languages is taken; that of every layer is in predictions/layers.json.

Arguments:
  data: what `tools.prepare_xtreme` wrote. init_from: the run, or converted checkpoint, whose vectors are compared; one that was
    fine-tuned, on XNLI say, will do too.
  layer: 0 is the projected embedding. pooling: mean of all tokens, or cls. memory_gib: of the vectors on a device; of the
    development sets as many layers are taken at a time.
  languages: with spaces between; all of the task's without it. seed. smoke: small batches, for tests.
"""

import ml_collections

from configs.xtreme import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    args = common.parse_paths(arg, layer=-1, pooling="mean", memory_gib=8.0)
    stage = common.retrieval(args, "bucc2018", options={"method": "margin", "neighbours": 4})
    return common.experiment({"bucc2018": stage})
