"""Makes one table of many runs, finished or not: a sweep, or any folders of runs of one experiment.

    python -m rembert_jax.tools.collect runs/width
    python -m rembert_jax.tools.collect runs/a runs/b --metric '*/zero-shot/accuracy' --columns learning_rate --output DIR

Rows are the settings that differ; a cell is mean, standard deviation and number over seeds, the best mean of a column bold.
Runs that are not finished are listed below with what they lack. Writes collected.md, collected.csv (a line for each run and
metric), collected.png and curves.png.
"""

from __future__ import annotations

import argparse
import math
import pathlib
from collections.abc import Sequence

from rembert_jax.reports import collect, plots
from rembert_jax.reports.runs import ReportError, Run, find_runs
from rembert_jax.tools import command_line

CURVES = ("dev/average/loss", "dev/average/accuracy", "train/loss")
"""What is drawn over the steps: the first of these that the runs have, in the first stage that has a metric in the table."""


def comparison(table: collect.Table, one: str, other: str) -> str:
    """Two rows against each other in every column, as Markdown."""
    rows = [collect.find_row(table, wanted) for wanted in (one, other)]
    lines = [f"{one} less {other}, seed by seed, mean and 95 % confidence interval:", ""]
    for metric in table.metrics:
        for column in table.columns:
            found = collect.compare(table, rows[0], rows[1], column, metric)
            digits = collect.digits(metric)
            interval = "one seed, no interval"
            if not math.isnan(found.half_width):
                low, high = found.mean - found.half_width, found.mean + found.half_width
                interval = f"{low:+.{digits}f} to {high:+.{digits}f}"
            name = ", ".join(filter(None, [metric, collect.label(table.column_names, column)]))
            lines.append(f"- {name}: {found.mean:+.{digits}f} ({interval}; {len(found.seeds)} seeds)")
    return "\n".join(lines) + "\n"


def draw(table: collect.Table, runs: Sequence[Run], folder: pathlib.Path) -> None:
    """Writes the two figures."""
    if not table.cells:
        return
    by_value = len(table.row_names) == 1
    panels: dict[str, dict[str, dict[object, list[float]]]] = {}
    for row in table.rows:
        for column in table.columns:
            for metric in table.metrics:
                if cell := table.cells.get((row, column, metric)):
                    place = row[0] if by_value else collect.label(table.row_names, row) or "all"
                    groups = panels.setdefault(metric, {}).setdefault(collect.label(table.column_names, column), {})
                    groups[place] = list(cell.values.values())
    xlabel = collect.short(table.row_names)[table.row_names[0]] if by_value else ""
    plots.plot_groups(panels, folder / "collected.png", xlabel)
    shown = [metric.rpartition("/")[0].rpartition("/")[0] for metric in table.metrics]
    known = {stage for run in runs for stage in run.stages}
    stage = next((stage for stage in shown if stage in known), "")  # A report's tasks are no stages.
    groups, name = curves(table, runs, stage)
    if groups:
        plots.plot_bands(groups, folder / "curves.png", f"{stage} {name}".strip())


def curves(
    table: collect.Table, runs: Sequence[Run], stage: str
) -> tuple[dict[str, list[list[tuple[int, float]]]], str]:
    """The curves of a stage by row and column, and what they show."""
    settings = collect.settings_of(runs)
    series = {number: run.series(stage) for number, run in enumerate(runs) if stage in run.stages and not run.status}
    name = next((name for name in CURVES if all(name in one for one in series.values())), "") if series else ""
    groups: dict[str, list[list[tuple[int, float]]]] = {}
    if name:
        names = [*table.row_names, *table.column_names]
        keys = [(row, column) for row in table.rows for column in table.columns]
        for row, column in keys:
            label = collect.label(names, (*row, *column)) or "all"
            for number, one in series.items():
                if tuple(settings[number].get(key) for key in names) == (*row, *column):
                    groups.setdefault(label, []).append(one[name])
    return groups, name


def run(options: argparse.Namespace) -> str:
    """Collects, writes and returns the text."""
    if options.output is None and len(options.runs) > 1:
        raise ReportError("--output: with several folders, name the one to write to")
    runs = [run for folder in options.runs for run in find_runs(folder)]
    table = collect.make_table(runs, rows=options.rows, columns=options.columns, metrics=options.metric)
    text = collect.to_markdown(table)
    if options.compare:
        text += "\n" + comparison(table, *options.compare)
    folder = options.output or options.runs[0]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "collected.md").write_text(text, encoding="utf-8")
    (folder / "collected.csv").write_text(collect.to_csv(table), encoding="utf-8")
    draw(table, runs, folder)
    return text


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        "rembert_jax.tools.collect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("runs", nargs="+", type=pathlib.Path, help="folders of runs")
    add(
        "--rows",
        nargs="+",
        default=[],
        metavar="SETTING",
        help="settings that make the rows; by default all that differ",
    )
    add("--columns", nargs="+", default=[], metavar="SETTING", help="settings that make columns")
    add("--metric", nargs="+", default=[], metavar="PATTERN", help="as pretrain/average/loss or '*/zero-shot/accuracy'")
    add("--compare", nargs=2, metavar="ROW", help="two rows, as 'name=value, name=value', to compare seed by seed")
    add("--output", type=pathlib.Path, help="folder to write to; by default that of the runs")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; an error that we foresee is one message without a traceback."""
    command_line.run(lambda options: print(run(options), end=""), parser(), arguments)


if __name__ == "__main__":
    main()
