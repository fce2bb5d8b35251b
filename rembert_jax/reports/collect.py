"""From many runs to one table: rows by the settings that differ, mean and deviation over seeds."""

from __future__ import annotations

import csv
import dataclasses
import fnmatch
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import scipy.stats

from rembert_jax.reports.runs import ReportError, Run, check_alike

Key = tuple[Any, ...]
"""Values of the settings of a row, or of a column."""

RAW = ("loss", "seconds", "penalty")
"""Metrics that are shown as they are; all others are shares, shown in percent."""
REPORT_COLUMNS = ("pre-trained", "scratch", "no context", "gain")
"""Of the report of a whole run (`reports.report`); the gain is over the better of the two before it."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """Runs that differ in their seed only.

    Attributes:
      values: seed (or name, of a run without one) to value, in percent where the metric is a share.
    """

    values: dict[Any, float]

    @property
    def mean(self) -> float:
        """Over the runs."""
        return statistics.mean(self.values.values())

    @property
    def deviation(self) -> float:
        """Standard deviation over the runs; NaN of one run."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else math.nan

    def text(self, digits: int) -> str:
        """As "mean ± deviation (number of runs: least to most)"."""
        count, values = len(self.values), self.values.values()
        if count == 1:
            return f"{self.mean:.{digits}f} (1)"
        spread = f": {min(values):.{digits}f} to {max(values):.{digits}f}" if count > 2 else ""
        return f"{self.mean:.{digits}f} ± {self.deviation:.{digits}f} ({count}{spread})"


@dataclasses.dataclass(frozen=True)
class Table:
    """What `collect` makes of runs.

    Attributes:
      row_names, column_names: settings whose values are the rows and, under each metric, the columns.
      rows, columns: their values, in order.
      metrics: in order.
      cells: (row, column, metric) to the runs there.
      others: (name, settings, status) of the runs that are not in the table because they are not finished.
      pooled: settings that differ and are neither rows nor columns, so that a cell holds several of their values.
    """

    row_names: list[str]
    column_names: list[str]
    rows: list[Key]
    columns: list[Key]
    metrics: list[str]
    cells: dict[tuple[Key, Key, str], Cell]
    others: list[tuple[str, str, str]]
    pooled: list[str]

    def best(self, column: Key, metric: str) -> Key | None:
        """The row of the best mean of a column: the lowest loss or time, the highest of all else; None of one row."""
        means = {row: self.cells[row, column, metric].mean for row in self.rows if (row, column, metric) in self.cells}
        choose = min if is_cost(metric) else max
        return choose(means, key=means.__getitem__) if len(means) > 1 else None


def is_cost(metric: str) -> bool:
    """Whether less is better."""
    return metric.rpartition("/")[2] in RAW


def _scale(metric: str) -> float:
    return 1.0 if metric.rpartition("/")[2] in RAW else 100.0


def digits(metric: str) -> int:
    """Decimals that a metric is shown with."""
    return 2 if metric.rpartition("/")[2] in RAW else 1


def short(names: Sequence[str]) -> dict[str, str]:
    """Each dotted name by its last part, or by as many as set it apart from the others."""
    result = {}
    for name in names:
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            tail = ".".join(parts[-count:])
            if sum(f".{other}".endswith(f".{tail}") for other in names) == 1:
                break
        result[name] = tail
    return result


def settings_of(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What sets each run apart: the settings that their sweep varies or, for runs from anywhere, those that differ."""
    if runs[0].sweep and all(run.sweep == runs[0].sweep for run in runs):
        return [run.varied for run in runs]
    started = [run for run in runs if run.settings]
    names = dict.fromkeys(name for run in started for name in run.settings)
    differ = [name for name in names if len({repr(run.settings.get(name)) for run in started}) > 1]
    return [{name: run.settings.get(name) for name in differ} for run in runs]


def choose_metrics(runs: Sequence[Run], wanted: Sequence[str]) -> list[str]:
    """The metrics that fit patterns as "*/zero-shot/accuracy"; without patterns the main one of each stage or task.

    Raises:
      ReportError: listing the known ones, if no run has one that fits.
    """
    known = list(dict.fromkeys(name for run in runs for name in run.metrics))
    if not known:
        return []
    if wanted:
        chosen = [name for pattern in wanted for name in known if fnmatch.fnmatchcase(name, pattern)]
        for pattern in wanted:
            if not fnmatch.filter(known, pattern):
                raise ReportError(f"--metric={pattern}: no run has it; known are {', '.join(known)}")
        return list(dict.fromkeys(chosen))
    groups = dict.fromkeys(name.rpartition("/")[0].rpartition("/")[0] for name in known if name.count("/") >= 1)
    main_metrics = {stage: metric for run in runs for stage, metric in run.main.items()}
    reported = [group for group in groups if f"{group}/zero-shot/gain" in known]
    main = [f"{group}/zero-shot/{column}" for group in reported for column in REPORT_COLUMNS]
    for group in groups:
        prefix = f"{group}/" if group else ""
        metric = main_metrics.get(group, "accuracy")
        wanted = ["average/loss"] if reported else ["average/loss", f"zero-shot/{metric}", f"average/{metric}"]
        main += [f"{prefix}{name}" for name in wanted if f"{prefix}{name}" in known][:1]
    return main


def make_table(
    runs: Sequence[Run], *, rows: Sequence[str] = (), columns: Sequence[str] = (), metrics: Sequence[str] = ()
) -> Table:
    """Puts runs into a table.

    Args:
      runs: of one experiment.
      rows, columns: settings, by their name or the end of it; without `rows`, all that differ and are not columns.
      metrics: patterns.

    Raises:
      ReportError: for runs of different experiments, a setting that does not differ, a metric that no run has.
    """
    check_alike(runs)
    settings = settings_of(runs)
    names = list(dict.fromkeys(name for one in settings for name in one))
    column_names = [_setting(name, names) for name in columns]
    row_names = [_setting(name, names) for name in rows] or [name for name in names if name not in column_names]
    finished = [(run, one) for run, one in zip(runs, settings, strict=True) if not run.status]
    chosen = choose_metrics([run for run, _ in finished], metrics)

    def keys(which: Sequence[str]) -> list[Key]:
        return _ordered({tuple(one.get(name) for name in which) for one in settings})

    cells: dict[tuple[Key, Key, str], Cell] = {}
    for run, one in finished:
        row, column = (tuple(one.get(name) for name in which) for which in (row_names, column_names))
        for metric in chosen:
            if metric in run.metrics:
                values = cells.setdefault((row, column, metric), Cell({})).values
                label = run.name if run.seed is None or run.seed in values else run.seed
                values[label] = _scale(metric) * run.metrics[metric]
    others = [
        (run.name, _describe(one, run.seed), run.status) for run, one in zip(runs, settings, strict=True) if run.status
    ]
    pooled = [name for name in names if name not in row_names and name not in column_names]
    return Table(row_names, column_names, keys(row_names), keys(column_names), chosen, cells, others, pooled)


def _setting(wanted: str, names: Sequence[str]) -> str:
    found = [name for name in names if f".{name}".endswith(f".{wanted}")]
    if len(found) != 1:
        what = (
            f"fits {', '.join(found)}" if found else f"does not differ; what differs: {', '.join(names) or 'nothing'}"
        )
        raise ReportError(f"setting {wanted!r} {what}")
    return found[0]


def _ordered(keys: set[Key]) -> list[Key]:
    def rank(value: Any) -> tuple[int, float, str]:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return (0, float(value), "") if number else (1, 0.0, str(value))

    return sorted(keys, key=lambda key: [rank(value) for value in key])


def _describe(settings: Mapping[str, Any], seed: int | None) -> str:
    named = short(list(settings))
    parts = [f"{named[name]}={value}" for name, value in settings.items()]
    return ", ".join([*parts, *([] if seed is None else [f"seed={seed}"])])


def label(names: Sequence[str], key: Key) -> str:
    """A row or column in words, as "learning_rate=0.001, steps=100"."""
    named = short(names)
    return ", ".join(f"{named[name]}={value}" for name, value in zip(names, key, strict=True))


def to_markdown(table: Table) -> str:
    """The table, with the best of each column in bold, and below it what is not in it. A single row is printed as a column."""
    heads = [(column, metric) for metric in table.metrics for column in table.columns]
    titles = [", ".join(filter(None, [_unit(metric), label(table.column_names, column)])) for column, metric in heads]
    texts = {row: [_text(table, row, *head) for head in heads] for row in table.rows}
    if len(table.rows) == 1:
        (row,) = table.rows
        lines = [
            ["metric", label(table.row_names, row) or "all runs"],
            *map(list, zip(titles, texts[row], strict=True)),
        ]
    else:
        named = short(table.row_names)
        lines = [[named[name] for name in table.row_names] + titles]
        lines += [[str(value) for value in row] + texts[row] for row in table.rows]
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    rows.insert(1, "|" + " --- |" * len(lines[0]))
    notes = [f"- not in the table: {name} ({settings}): {status}" for name, settings, status in table.others]
    if table.pooled:
        notes.append(f"- pooled, though different: {', '.join(table.pooled)}")
    legend = "Mean ± standard deviation (number of runs: least to most)" if table.metrics else ""
    legend += "; the best mean of a column in bold." if legend and len(table.rows) > 1 else "." if legend else ""
    return "\n".join([*rows, *(["", legend] if legend else []), *(["", *notes] if notes else [])]) + "\n"


def _text(table: Table, row: Key, column: Key, metric: str) -> str:
    cell = table.cells.get((row, column, metric))
    if cell is None:
        return "–"
    text = cell.text(digits(metric))
    return f"**{text}**" if table.best(column, metric) == row else text


def _unit(metric: str) -> str:
    unit = {"loss": "nats", "penalty": "nats", "seconds": "s"}.get(metric.rpartition("/")[2], "%")
    return metric if metric.endswith("seconds") else f"{metric} ({unit})"


def to_csv(table: Table) -> str:
    """A line for each run and metric: settings, seed, metric, value."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*table.row_names, *table.column_names, "seed", "metric", "value"])
    for (row, column, metric), cell in table.cells.items():
        for seed, value in cell.values.items():
            writer.writerow([*row, *column, seed, metric, repr(value)])
    return file.getvalue()


@dataclasses.dataclass(frozen=True)
class Difference:
    """One row less another, over the seeds that both have.

    Attributes:
      seeds: those.
      mean: of the differences.
      half_width: of the 95 % confidence interval of the mean (Student's t); NaN of one seed.
    """

    seeds: list[Any]
    mean: float
    half_width: float


def compare(table: Table, one: Key, other: Key, column: Key, metric: str) -> Difference:
    """Paired comparison of two rows: seed by seed, so that what a seed makes easy or hard cancels.

    Raises:
      ReportError: if they share no seed.
    """
    cells = [table.cells.get((row, column, metric)) for row in (one, other)]
    seeds = [seed for seed in cells[0].values if seed in cells[1].values] if cells[0] and cells[1] else []
    if not seeds:
        names = " and ".join(label(table.row_names, row) for row in (one, other))
        raise ReportError(f"{names} have no finished run with the same seed for {metric}")
    assert cells[0] and cells[1]
    differences = [cells[0].values[seed] - cells[1].values[seed] for seed in seeds]
    count = len(differences)
    half_width = math.nan
    if count > 1:
        quantile = float(scipy.stats.t.ppf(0.975, count - 1))
        half_width = quantile * statistics.stdev(differences) / math.sqrt(count)
    return Difference(seeds, statistics.mean(differences), half_width)


def find_row(table: Table, wanted: str) -> Key:
    """The row that "setting=value, setting=value" names, or a single value where one setting makes the rows.

    Raises:
      ReportError: listing the rows, if it is none or several.
    """
    parts = {part.strip() for part in wanted.split(",")}
    found = [
        row
        for row in table.rows
        if parts <= {part.strip() for part in label(table.row_names, row).split(",")}
        or wanted == str(row[0] if row else "")
    ]
    if len(found) != 1:
        known = "; ".join(label(table.row_names, row) for row in table.rows)
        raise ReportError(f"{wanted!r} names {len(found)} rows, expected one of: {known}")
    return found[0]
