"""Figures of a run: loss over steps, metrics by language."""

from __future__ import annotations

import functools
import json
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

logger = logging.getLogger(__name__)


def _subplots(width: float, height: float, *grid: int, **options: Any) -> Any:
    """A figure of so many inches and its axes; needs no screen."""
    from matplotlib.figure import Figure  # Takes a second to import, for which no run should wait to begin.

    figure = Figure((width, height), layout="constrained")
    return figure, figure.subplots(*grid, **options)


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
    figure, axes = _subplots(7, 4)
    for name, label in (("train/loss", "training"), ("dev/average/loss", "held out, mean over languages")):
        if name in series:
            steps, values = zip(*series[name], strict=True)
            axes.plot(steps, values, label=label, marker="o" if len(steps) < 15 else None)
    axes.set(xlabel="step", ylabel="loss (nats per prediction)", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(target, dpi=120)


@_not_fatal
def plot_languages(groups: Mapping[str, Mapping[str, float]], target: pathlib.Path, title: str, unit: str) -> None:
    """Bars by language, one colour for each group (group name to language to value)."""
    languages = list(dict.fromkeys(language for values in groups.values() for language in values))
    figure, axes = _subplots(max(5.0, 0.9 * len(languages) + 2), 4)
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


@_not_fatal
def plot_groups(
    panels: Mapping[str, Mapping[str, Mapping[object, Sequence[float]]]], target: pathlib.Path, xlabel: str
) -> None:
    """A panel for each metric: a line for each group over the values of a setting, with all runs as points.

    Args:
      panels: metric to group to value of the setting to what its runs reached. Numbers are placed to scale, at equal distances
        all else.
      target: file to write.
      xlabel: name of the setting.
    """
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    figure, grid = _subplots(4.2 * across, 3.4 * down, down, across, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes, (metric, groups) in zip(grid.flat, panels.items(), strict=False):
        ticks = list(dict.fromkeys(value for values in groups.values() for value in values))
        numeric = all(isinstance(tick, (int, float)) and not isinstance(tick, bool) for tick in ticks)
        for group, values in groups.items():
            places = [tick if numeric else ticks.index(tick) for tick in values]
            means = [sum(runs) / len(runs) for runs in values.values()]
            points = [(place, run) for place, runs in zip(places, values.values(), strict=True) for run in runs]
            line = axes.plot(places, means, marker="_", markersize=14, linestyle="-" if numeric else "", label=group)
            axes.plot(*zip(*points, strict=True), "o", alpha=0.5, markersize=4, color=line[0].get_color())
        if numeric:
            axes.set_xticks(ticks)
        else:
            axes.set_xticks(range(len(ticks)), [str(tick) for tick in ticks], rotation=20, ha="right", fontsize=8)
            axes.margins(x=0.15)
        axes.set(title=metric, xlabel=xlabel)
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
        if len(groups) > 1:
            axes.legend(fontsize=8)
    figure.savefig(target, dpi=120)


@_not_fatal
def plot_bands(groups: Mapping[str, Sequence[Sequence[tuple[int, float]]]], target: pathlib.Path, ylabel: str) -> None:
    """Curves over steps: for each group the mean of its runs, where all have a value, in a band from the least to the most."""
    figure, axes = _subplots(7, 4)
    for group, runs in groups.items():
        common = sorted(set.intersection(*({step for step, _ in run} for run in runs)))
        columns = [[dict(run)[step] for run in runs] for step in common]
        line = axes.plot(
            common, [sum(column) / len(column) for column in columns], marker=".", label=f"{group} ({len(runs)})"
        )
        lows, highs = [min(column) for column in columns], [max(column) for column in columns]
        axes.fill_between(common, lows, highs, alpha=0.2, color=line[0].get_color())
    axes.set(xlabel="step", ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(target, dpi=120)
