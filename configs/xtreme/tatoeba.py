"""Tatoeba of XTREME: of which sentence an English one is the translation. Nothing is trained; all languages are looked up.

    python train.py --config='configs/xtreme/tatoeba.py:data=xtreme,init_from=runs/pretrained' --workdir=runs/xtreme/tatoeba

There is no development data, so the layer is that of the config: by default the one behind the middle, as XTREME's scripts have
it for other encoders (7 of 12, 13 of 24). The accuracy of every layer is in results.json.

Arguments:
  data: what `tools.prepare_xtreme` wrote. init_from: the run, or converted checkpoint, whose vectors are compared; one that was
    fine-tuned, on XNLI say, will do too.
  layer: 0 is the projected embedding. pooling: mean of all tokens, or cls. memory_gib: of the vectors on a device.
  languages: looked up, with spaces between; all of the task's without it. seed. smoke: small batches, for tests.
"""

import ml_collections

from configs.xtreme import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    args = common.parse_paths(arg, layer=-1, pooling="mean", memory_gib=8.0)
    stage = common.retrieval(args, "tatoeba", dev_split="", options={"method": "nearest"})
    return common.experiment({"tatoeba": stage})
