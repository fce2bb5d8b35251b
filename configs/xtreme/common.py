"""What the configs of XTREME's tasks share: arguments, settings by name, and stages."""

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import ml_collections

from configs import common
from rembert_jax.experiments import sweep as sweeps
from rembert_jax.xtreme.benchmark import TASKS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """How a task is fine-tuned.

    Attributes:
      rates: learning rates; the first one unless a sweep takes all.
      batch_size, epochs, warmup_steps, weight_decay, eps: as in the sections `training` and `optimizer`.
    """

    rates: tuple[float, ...]
    batch_size: int
    epochs: int
    warmup_steps: int = 0
    weight_decay: float = 0.01
    eps: float = 1e-6


def parse(arg: str | None, settings: Mapping[str, Setting]) -> SimpleNamespace:
    """The arguments of a config that trains, with `setting` as what it names.

    Raises:
      ValueError: for an unknown argument or setting, or if data or encoder are not named.
    """
    args = parse_paths(arg, setting="rembert", learning_rate=0.0)
    if args.setting not in settings:
        raise ValueError(f"setting={args.setting}: expected one of {', '.join(settings)}")
    args.setting = settings[args.setting]
    return args


def parse_paths(arg: str | None, **own: Any) -> SimpleNamespace:
    """The arguments of every config and those that it has beside them.

    Raises:
      ValueError: for an unknown argument, or if data or encoder are not named.
    """
    args = common.parse_arg(arg, data="", init_from="", languages="", seed=0, smoke=False, **own)
    for name, what in (("data", "the output of tools.prepare_xtreme"), ("init_from", "a run to start from")):
        if not getattr(args, name):
            raise ValueError(
                f"configs/xtreme: {name} is missing; give {what}, as in data=xtreme,init_from=runs/pretrained"
            )
    return args


def sweep(arg: str | None, settings: Mapping[str, Setting]) -> list[sweeps.Member]:
    """Three seeds of each learning rate of the setting."""
    return sweeps.product(sweeps.values("learning_rate", parse(arg, settings).setting.rates), sweeps.seeds(3))


def fine_tuning(args: SimpleNamespace, task: Mapping[str, Any], *, eval_every: int) -> dict[str, Any]:
    """A stage that trains a task on English and predicts its test languages.

    Args:
      args: of `parse`.
      task: section `task`.
      eval_every: steps from one selection on English development data to the next.
    """
    setting = args.setting
    return {
        "seed": args.seed,
        "init_from": args.init_from,
        "task": dict(task),
        "optimizer": {
            "learning_rate": args.learning_rate or setting.rates[0],
            "warmup_steps": 0 if args.smoke else setting.warmup_steps,
            "weight_decay": setting.weight_decay,
            "eps": setting.eps,
        },
        "training": {
            "batch_size": 4 if args.smoke else setting.batch_size,
            "epochs": 1 if args.smoke else setting.epochs,
            "eval_every": 2 if args.smoke else eval_every,
            "checkpoint_every": 0 if args.smoke else eval_every,
        },
    }


def prediction(args: SimpleNamespace, task: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """A stage that predicts a task with what another stage has trained."""
    return {
        "seed": args.seed,
        "predict_with": f"{{workdir}}/{stage}",
        "task": dict(task),
        "training": {"batch_size": 4 if args.smoke else args.setting.batch_size},
    }


def task(args: SimpleNamespace, name: str, **section: Any) -> dict[str, Any]:
    """Section `task` of one of XTREME's tasks, or of SQuAD, on the files of `tools.prepare_xtreme`."""
    languages = tuple(args.languages.split()) or (TASKS[name].languages if name in TASKS else ("en",))
    return {
        "source": "array_record",
        "path": f"{args.data}/{name}/{{split}}-{{language}}.array_record",
        "train_language": "en",
        "test_languages": languages,
        "dev_split": "dev",
        **section,
    }


def pairs(args: SimpleNamespace, name: str) -> dict[str, Any]:
    """Of sentence pairs."""
    return task(args, name, kind="sequence_classification", labels=TASKS[name].labels, max_length=128)


def tags(args: SimpleNamespace, name: str) -> dict[str, Any]:
    """Of tagging; the metric is the F1 of spans, also for parts of speech (docs/xtreme.md)."""
    return task(
        args,
        name,
        kind="token_classification",
        labels=TASKS[name].labels,
        text_fields=("tokens",),
        label_field="tags",
        metric="f1",
        max_length=128,
    )


def answers(args: SimpleNamespace, name: str, **section: Any) -> dict[str, Any]:
    """Of question answering, with the lengths of XTREME's scripts."""
    normalisation = "mlqa" if name == "mlqa" else "squad"
    return task(
        args,
        name,
        kind="question_answering",
        text_fields=("question", "context"),
        label_field="answers",
        options={"doc_stride": 128, "max_query_length": 64, "max_answer_length": 30, "normalisation": normalisation},
        **{"max_length": 384, **section},
    )


def retrieval(args: SimpleNamespace, name: str, **section: Any) -> dict[str, Any]:
    """A stage that looks up English sentences by the vectors of `init_from`, and trains nothing."""
    looked_up = task(
        args,
        name,
        kind="retrieval",
        path=f"{args.data}/{name}/{{split}}-{{language}}.{{side}}.array_record",
        text_fields=("text",),
        label_field="translations",
        max_length=512,
    )
    options = {"layer": args.layer, "pooling": args.pooling, "memory_gib": args.memory_gib, **section.pop("options")}
    return {
        "seed": args.seed,
        "predict_with": args.init_from,
        "task": {**looked_up, "options": options, **section},
        "training": {"batch_size": 4 if args.smoke else 128},
    }


def experiment(stages: Mapping[str, Mapping[str, Any]]) -> ml_collections.ConfigDict:
    """The config of these stages."""
    return common.experiment(stages, {})
