"""Figures of a run: loss over steps, metrics by language."""

from __future__ import annotations

import functools
import json
import logging
import pathlib
from collections.abc import Callable, Mapping

import matplotlib

matplotlib.use("Agg")  # No screen needed.

import matplotlib.pyplot as plt

logger = logging.getLogger(__name__)


def _not_fatal(draw: Callable[..., None]) -> Callable[..., None]:
    """Turns whatever fails in drawing into a warning: results do not depend on figures."""

    @functools.wraps(draw)
    def attempt(*args: object) -> None:
        try:
            draw(*args)
        except Exception as error:
            logger.warning("%s failed, the figure is left out: %s", draw.__name__, error)

    return attempt


def read_metrics(path: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """Series by name from `metrics.jsonl`; of a step logged twice (after a resume) the last value counts.

    A line that a killed process left unfinished is passed over.
    """
    series: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        for name, value in record.items():
            if name not in ("step", "time") and isinstance(value, (int, float)):
                series.setdefault(name, {})[record["step"]] = float(value)
    return {name: sorted(points.items()) for name, points in series.items()}


@_not_fatal
def plot_loss(metrics: pathlib.Path, target: pathlib.Path, title: str) -> None:
    """Training loss and, where there is one, the average development loss, over steps."""
    series = read_metrics(metrics)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, label in (("train/loss", "training"), ("dev/average/loss", "held out, mean over languages")):
        if name in series:
            steps, values = zip(*series[name], strict=True)
            axes.plot(steps, values, label=label, marker="o" if len(steps) < 15 else None)
    axes.set(xlabel="step", ylabel="loss (nats per prediction)", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(target, dpi=120)
    plt.close(figure)


@_not_fatal
def plot_languages(groups: Mapping[str, Mapping[str, float]], target: pathlib.Path, title: str, unit: str) -> None:
    """Bars by language, one colour for each group (group name to language to value)."""
    languages = list(dict.fromkeys(language for values in groups.values() for language in values))
    figure, axes = plt.subplots(figsize=(max(5.0, 0.9 * len(languages) + 2), 4), layout="constrained")
    width = 0.8 / len(groups)
    for number, (group, values) in enumerate(groups.items()):
        places = [i + number * width - 0.4 + width / 2 for i in range(len(languages))]
        heights = [values.get(language, float("nan")) for language in languages]
        bars = axes.bar(places, heights, width, label=group)
        axes.bar_label(bars, fmt="%.2f" if max(heights) < 10 else "%.0f", fontsize=8)
    axes.set_xticks(range(len(languages)), languages)
    axes.set(ylabel=unit, title=title)
    axes.margins(y=0.15)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(target, dpi=120)
    plt.close(figure)
