"""Scores folders of predictions as the official evaluation of XTREME does, with intervals and warnings of collapsed runs."""

from __future__ import annotations

import pathlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rembert_jax.xtreme import answers, benchmark, files, retrieval, spans
from rembert_jax.xtreme.benchmark import TASKS, Task
from rembert_jax.xtreme.files import FileError

RESAMPLES = 1000
"""Of the bootstrap."""

METRICS: dict[str, Callable[[np.ndarray], dict[str, np.ndarray]]] = {
    "labels": retrieval.accuracy,
    "indices": retrieval.accuracy,
    "tags": spans.metrics,
    "answers": answers.metrics,
    "pairs": retrieval.pair_metrics,
}
"""From sums of a language's counts to its metrics, by the kind of a task."""


def score_folder(predictions: pathlib.Path, labels: pathlib.Path, seed: int = 0) -> dict[str, Any]:
    """Scores all predictions for which there are labels.

    Args:
      predictions, labels: folders of `TASK/test-LANGUAGE.tsv` or `.json`.
      seed: of the bootstrap.

    Returns:
      `tasks`: of each task that has predictions `score`, `metrics` (means over its languages), `interval` (95 % of the score,
      over resampled examples of the same languages), `languages` (metrics and number of `examples`), `missing` languages and
      `warnings`; `overall`: mean of the nine tasks, `categories` and `category_average`: those of RemBERT's Table 7; both None
      if a task, or a language of one, is missing. Numbers are percent.

    Raises:
      FileError: for files that are not what they should be, or do not fit together; and if there are no predictions.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for folder in (predictions, labels):
        if not folder.is_dir():
            raise FileError(f"{folder}: no such folder; expected TASK/test-LANGUAGE.tsv or .json in it")
    for task in TASKS.values():
        if files.find(predictions, task):
            found[task.name] = _score_task(task, predictions, labels, rng)
    if not found:
        known = ", ".join(TASKS)
        raise FileError(f"{predictions}: no predictions; expected files as xnli/test-en.tsv in it, for {known}")
    complete = {name: result["score"] for name, result in found.items() if not result["missing"]}
    return {
        "tasks": found,
        "overall": benchmark.overall(complete),
        "categories": benchmark.categories(complete),
        "category_average": benchmark.category_average(complete),
    }


def _score_task(
    task: Task, predictions: pathlib.Path, labels: pathlib.Path, rng: np.random.Generator
) -> dict[str, Any]:
    paths, gold_paths = files.find(predictions, task), files.find(labels, task)
    counts, warnings = {}, []
    for language, path in paths.items():
        if language not in gold_paths:
            expected = labels / task.name / f"test-{language}.{task.suffix}"
            raise FileError(f"{path}: there are no labels for it; expected {expected}")
        gold = files.read_gold(gold_paths[language], task)
        predicted = files.read_predictions(path, task)
        check_gold(task, gold, gold_paths[language])
        check_fit(task, gold, predicted, path)
        counts[language] = count(task, language, gold, predicted)
        warnings += [f"{language}: {text}" for text in suspicions(task, gold, predicted)]
    by_language = {
        language: {name: float(value) for name, value in METRICS[task.kind](rows.sum(0)).items()}
        for language, rows in counts.items()
    }
    averages = benchmark.task_metrics(by_language)
    return {
        "score": 100 * benchmark.task_score(task, averages),
        "metrics": {name: 100 * value for name, value in averages.items()},
        "interval": [100 * value for value in interval(task, counts, rng)],
        "languages": {
            language: {
                **{name: 100 * value for name, value in metrics.items()},
                "examples": len(counts[language]),
            }
            for language, metrics in by_language.items()
        },
        "missing": [language for language in task.languages if language not in paths],
        "warnings": warnings,
    }


def count(task: Task, language: str, gold: Any, predicted: Any) -> np.ndarray:
    """Counts by example, [examples, …], whose sums `METRICS` turns into metrics."""
    if task.kind == "tags":
        return spans.counts(gold, predicted)
    if task.kind == "answers":
        return answers.counts(gold, predicted, answers.normaliser(task.name, language))
    if task.kind == "pairs":
        return retrieval.pair_counts(gold, predicted)
    return retrieval.equal_counts(gold, predicted)


def check_gold(task: Task, gold: Any, path: pathlib.Path) -> None:
    """Refuses labels that are placeholders, as XTREME's own test files have them.

    Raises:
      FileError: naming the file.
    """
    if task.kind == "answers":
        hidden = all(not any(texts) for texts in gold.values())
    else:
        flat = [tag for sentence in gold for tag in sentence] if task.kind == "tags" else list(gold)
        hidden = task.kind in ("labels", "tags") and len(set(flat)) == 1 and len(flat) > 1
    if hidden:
        raise FileError(
            f"{path}: all labels are the same, as in test files whose labels are hidden; a score of them would mean nothing. "
            "docs/xtreme.md says where the real ones are"
        )


def check_fit(task: Task, gold: Any, predicted: Any, path: pathlib.Path) -> None:
    """Checks that predictions belong to the labels.

    Raises:
      FileError: naming the file and what does not fit.
    """
    if task.kind == "answers":
        if strange := [question for question in predicted if question not in gold]:
            raise FileError(
                f"{path}: {len(strange)} questions that the labels do not have, the first is {strange[0]}; expected ids as "
                f"{next(iter(gold))}"
            )
        if not predicted:
            raise FileError(f"{path}: no answers, expected up to {len(gold)}")
    elif task.kind == "tags":
        try:
            spans.check_lengths(gold, predicted)
        except ValueError as error:
            raise FileError(f"{path}: {error}") from None
    elif task.kind != "pairs":
        if len(predicted) != len(gold):
            raise FileError(f"{path}: {len(predicted)} predictions, expected {len(gold)}, as many as there are labels")
        if task.kind == "indices" and max(predicted, default=0) >= len(gold):
            line = next(number for number, index in enumerate(predicted, start=1) if index >= len(gold))
            raise FileError(f"{path}, line {line}: found {predicted[line - 1]}, expected at most {len(gold) - 1}")


def suspicions(task: Task, gold: Any, predicted: Any) -> list[str]:
    """What makes predictions look like those of a run that has collapsed or has not been trained."""
    if task.kind == "answers":
        missing = len(gold) - len(predicted)
        empty = sum(not text.strip() for text in predicted.values())
        found = [f"{missing} of {len(gold)} questions have no answer and count as wrong"] if missing else []
        return found + ([f"{empty} of {len(predicted)} answers are empty"] if empty > len(predicted) / 2 else [])
    if task.kind == "pairs":
        return [] if predicted else ["no pair is predicted"]
    flat, wanted = predicted, gold
    if task.kind == "tags":
        flat, wanted = ([tag for sentence in side for tag in sentence] for side in (predicted, gold))
    (common, times), *_ = Counter(flat).most_common(1)
    if task.kind == "indices":
        return [f"{times} of {len(flat)} predictions are line {common}"] if times > max(2, len(flat) / 10) else []
    if times == len(flat):
        return [f"every prediction is {common!r}"]
    majority, share = Counter(wanted).most_common(1)[0]
    right = sum(one == other for one, other in zip(wanted, flat, strict=True))
    if right <= share:
        return [
            f"{100 * right / len(flat):.1f} % right, no more than always {majority!r} ({100 * share / len(flat):.1f} %)"
        ]
    return []


def interval(task: Task, counts: Mapping[str, np.ndarray], rng: np.random.Generator) -> tuple[float, float]:
    """The 2.5 % and 97.5 % points of a task's score over resampled examples of each language (bootstrap)."""
    scores = []
    for rows in counts.values():
        # Equal rows are drawn together: the same distribution, in a fraction of the time.
        distinct, times = np.unique(rows, axis=0, return_counts=True)
        drawn = rng.multinomial(len(rows), times / len(rows), RESAMPLES)
        sampled = METRICS[task.kind](drawn @ distinct)
        scores.append(np.mean([sampled[name] for name in task.metrics], axis=0))
    low, high = np.percentile(np.mean(scores, axis=0), [2.5, 97.5])
    return float(low), float(high)
