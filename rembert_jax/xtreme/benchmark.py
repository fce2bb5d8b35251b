"""What XTREME consists of: its nine tasks, their languages, metrics and groups, and how scores are averaged.

Source: google-research/xtreme, evaluate.py; Hu et al. 2020 (arXiv:2003.11080).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

Kind = Literal["labels", "tags", "answers", "pairs", "indices"]


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of the benchmark.

    Attributes:
      name: as the official folders are called.
      group: of related tasks.
      kind: of a prediction: a label a line, a tag a line, answers by question in JSON, pairs of ids, or an index a line.
      languages: in the order of the official script.
      metrics: whose mean is a language's and the task's score.
      labels: those of a classification or tagging task.
    """

    name: str
    group: str
    kind: Kind
    languages: tuple[str, ...]
    metrics: tuple[str, ...]
    labels: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        """Of the files of its predictions and labels."""
        return "json" if self.kind == "answers" else "tsv"


def _split(codes: str) -> tuple[str, ...]:
    return tuple(codes.split())


UPOS = _split("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X")
IOB2 = _split("B-LOC B-ORG B-PER I-LOC I-ORG I-PER O")

TASKS = {
    task.name: task
    for task in (
        Task("pawsx", "classification", "labels", _split("de en es fr ja ko zh"), ("accuracy",), ("0", "1")),
        Task(
            "xnli", "classification", "labels", _split("ar bg de el en es fr hi ru sw th tr ur vi zh"), ("accuracy",),
            ("contradiction", "entailment", "neutral"),
        ),
        Task(
            "panx", "structured_prediction", "tags",
            _split("ar he vi id jv ms tl eu ml ta te af nl en de el bn hi mr ur fa fr it pt es bg ru ja ka ko th sw yo my zh "
                   "kk tr et fi hu"),
            ("f1",), IOB2,
        ),
        Task(
            "udpos", "structured_prediction", "tags",
            _split("af ar bg de el en es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi yo zh"),
            ("f1",), UPOS,
        ),
        Task("bucc2018", "retrieval", "pairs", _split("de fr ru zh"), ("f1",)),
        Task(
            "tatoeba", "retrieval", "indices",
            _split("ar he vi id jv tl eu ml ta te af nl de el bn hi mr ur fa fr it pt es bg ru ja ka ko th sw zh kk tr et fi "
                   "hu"),
            ("accuracy",),
        ),
        Task("xquad", "question_answering", "answers", _split("en es de el ru tr ar vi th zh hi"), ("exact_match", "f1")),
        Task("mlqa", "question_answering", "answers", _split("en es de ar hi vi zh"), ("exact_match", "f1")),
        Task("tydiqa", "question_answering", "answers", _split("en ar bn fi id ko ru sw te"), ("exact_match", "f1")),
    )
}  # fmt: skip
"""Name to task, in the order of the official script."""

PAPER_CATEGORIES = {
    "sentence-pair classification": ("xnli", "pawsx"),
    "structured prediction": ("udpos", "panx"),
    "question answering": ("xquad", "mlqa", "tydiqa"),
}
"""RemBERT's Table 7 averages these three and leaves retrieval out."""

LASER_CODES = {
    "ar": "ara", "he": "heb", "vi": "vie", "id": "ind", "jv": "jav", "tl": "tgl", "eu": "eus", "ml": "mal", "ta": "tam",
    "te": "tel", "af": "afr", "nl": "nld", "de": "deu", "el": "ell", "bn": "ben", "hi": "hin", "mr": "mar", "ur": "urd",
    "fa": "pes", "fr": "fra", "it": "ita", "pt": "por", "es": "spa", "bg": "bul", "ru": "rus", "ja": "jpn", "ka": "kat",
    "ko": "kor", "th": "tha", "sw": "swh", "zh": "cmn", "kk": "kaz", "tr": "tur", "et": "est", "fi": "fin", "hu": "hun",
}  # fmt: skip
"""Code of a language in the names of LASER's Tatoeba files."""


def mean(values: Sequence[float]) -> float:
    """The plain mean."""
    return sum(values) / len(values)


def task_metrics(by_language: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Each metric's plain mean over languages, English among them."""
    names = list(next(iter(by_language.values())))
    return {name: mean([metrics[name] for metrics in by_language.values()]) for name in names}


def task_score(task: Task, averages: Mapping[str, float]) -> float:
    """The score of a task from its averages over languages: F1, accuracy, or for answers the mean of exact match and F1."""
    return mean([averages[name] for name in task.metrics])


def overall(scores: Mapping[str, float]) -> float | None:
    """XTREME's own average, over all nine tasks; None if one is missing."""
    return mean([scores[name] for name in TASKS]) if all(name in scores for name in TASKS) else None


def category_average(scores: Mapping[str, float]) -> float | None:
    """RemBERT's average (Table 7): of the means of three categories, without retrieval; None if a task is missing."""
    groups = categories(scores)
    return mean(list(groups.values())) if len(groups) == len(PAPER_CATEGORIES) else None


def categories(scores: Mapping[str, float]) -> dict[str, float]:
    """The mean of each of RemBERT's categories whose tasks are all there."""
    return {
        name: mean([scores[task] for task in tasks])
        for name, tasks in PAPER_CATEGORIES.items()
        if all(task in scores for task in tasks)
    }
