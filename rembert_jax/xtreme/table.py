"""The results of XTREME as Markdown and as two figures."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rembert_jax.xtreme import published
from rembert_jax.xtreme.benchmark import TASKS


def to_markdown(results: Mapping[str, Any], name: str = "this run") -> str:
    """Tasks, averages, published rows beside them, and what is missing or suspicious.

    Args:
      results: of `scores.score_folder`.
      name: how the scored predictions are called.
    """
    tasks = results["tasks"]
    parts = [_table(_task_rows(tasks)), _averages(results), _table(_beside(tasks, name)), _sources()]
    if warnings := [f"- {task}, {text}" for task, result in tasks.items() for text in result["warnings"]]:
        parts.insert(0, "Look at these before you believe the numbers:\n\n" + "\n".join(warnings))
    return "\n\n".join(parts) + "\n"


def languages_to_markdown(results: Mapping[str, Any]) -> str:
    """Every metric of every language, a table for each task."""
    parts = [f"## {task}\n\n{_table(_language_rows(result))}" for task, result in results["tasks"].items()]
    return "\n\n".join(parts) + "\n"


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


def _task_rows(tasks: Mapping[str, Any]) -> list[list[str]]:
    rows = [["task", "score", "95 % interval", "metrics", "languages"]]
    for name, result in tasks.items():
        metrics = ", ".join(f"{metric.replace('_', ' ')} {value:.1f}" for metric, value in result["metrics"].items())
        low, high = result["interval"]
        languages = f"{len(result['languages'])} of {len(TASKS[name].languages)}"
        if result["missing"]:
            languages += f", without {' '.join(result['missing'])}"
        rows.append([name, f"{result['score']:.1f}", f"{low:.1f} to {high:.1f}", metrics, languages])
    return rows


def _averages(results: Mapping[str, Any]) -> str:
    missing = [name for name in TASKS if name not in results["tasks"] or results["tasks"][name]["missing"]]
    lines = []
    if results["overall"] is not None:
        lines.append(f"- XTREME, mean of nine tasks: {results['overall']:.1f}")
    for name, value in results["categories"].items():
        lines.append(f"- {name}: {value:.1f}")
    if results["category_average"] is not None:
        lines.append(f"- mean of these three categories, as in RemBERT's Table 7: {results['category_average']:.1f}")
    if missing:
        lines.append(
            f"- a partial set: {', '.join(missing)} are missing or lack languages, so averages over them are left out"
        )
    return "\n".join(lines)


def _beside(tasks: Mapping[str, Any], name: str) -> list[list[str]]:
    rows = [["model", *TASKS]]
    own = []
    for task in TASKS:
        if task not in tasks:
            own.append("–")
            continue
        metrics = tasks[task]["metrics"]
        text = " / ".join(f"{metrics[metric]:.1f}" for metric in TASKS[task].metrics)
        own.append(text + ("*" if tasks[task]["missing"] else ""))
    rows.append([f"**{name}**", *own])
    return rows + [[model, *(published.shown(model, task) for task in TASKS)] for model in published.PUBLISHED]


def _sources() -> str:
    lines = [f"- {model}: {row['source']}" for model, row in published.PUBLISHED.items()]
    return "Answers: exact match / F1. A star marks a task that lacks languages. Sources:\n\n" + "\n".join(lines)


def _language_rows(result: Mapping[str, Any]) -> list[list[str]]:
    names = list(next(iter(result["languages"].values())))
    rows = [["language", *(name.replace("_", " ") for name in names)]]
    for language, values in result["languages"].items():
        rows.append([language, *(str(values[name]) if name == "examples" else f"{values[name]:.1f}" for name in names)])
    return rows


def plot_heat_map(results: Mapping[str, Any], target: pathlib.Path) -> None:
    """Scores by language and task."""
    tasks = results["tasks"]
    languages = sorted({language for result in tasks.values() for language in result["languages"]})
    grid = np.full((len(tasks), len(languages)), np.nan)
    for row, (name, result) in enumerate(tasks.items()):
        for language, values in result["languages"].items():
            grid[row, languages.index(language)] = np.mean([values[metric] for metric in TASKS[name].metrics])
    figure = Figure((3 + 0.42 * len(languages), 1.6 + 0.42 * len(tasks)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(grid, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for row, column in zip(*np.nonzero(~np.isnan(grid)), strict=True):
        value = grid[row, column]
        axes.text(
            column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color="white" if value < 60 else "black"
        )
    axes.set_xticks(range(len(languages)), languages, fontsize=8)
    axes.set_yticks(range(len(tasks)), list(tasks), fontsize=8)
    figure.colorbar(image, label="score (%)")
    figure.savefig(target, dpi=120)


def plot_bars(results: Mapping[str, Any], target: pathlib.Path, name: str = "this run") -> None:
    """Scores of the tasks with their intervals, beside published ones."""
    tasks = list(results["tasks"])
    models = {model: [published.score(model, task) for task in tasks] for model in published.PUBLISHED}
    # Room for the legend above, whatever the number of tasks.
    figure = Figure((max(6.5, 2 + 1.3 * len(tasks)), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / (1 + len(models))
    own = [results["tasks"][task] for task in tasks]
    errors = np.array([[one["score"] - one["interval"][0], one["interval"][1] - one["score"]] for one in own]).T
    places = np.arange(len(tasks)) - 0.4 + width / 2
    axes.bar(places, [one["score"] for one in own], width, yerr=np.maximum(errors, 0), capsize=2, label=name)
    for number, (model, values) in enumerate(models.items(), start=1):
        axes.bar(places + number * width, [np.nan if value is None else value for value in values], width, label=model)
    axes.set_xticks(range(len(tasks)), tasks, fontsize=8)
    axes.set(ylabel="score (%)", ylim=(0, 100))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=7, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(target, dpi=120)
