"""The table at the end of an experiment of several stages: languages by tasks, with and without pre-training."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from rembert_jax.errors import RemBertError
from rembert_jax.reports import plots

Results = Mapping[str, Any]
"""What `trainer.run` returns for a stage, as saved in its results.json."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """One task of the report.

    Attributes:
      title: column title.
      pretrained: stage that fine-tunes the pre-trained encoder.
      scratch: stage that trains the same encoder without pre-training.
      expected: the lowest and the highest mean without labels (%) that other seeds gave with pre-training; empty if unknown.
    """

    title: str
    pretrained: str
    scratch: str
    expected: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.expected) not in (0, 2) or list(self.expected) != sorted(self.expected):
            raise RemBertError(f"expected={self.expected}: expected the lowest and the highest value, or nothing")


COLUMNS = ("pre-trained", "scratch", "no context")
"""With pre-training; the same encoder without it; the best guess that ignores context."""


def _columns(comparison: Comparison, results: Mapping[str, Results]) -> dict[str, dict[str, float]]:
    """Column name to language to the task's metric in percent."""
    pretrained, scratch = results[comparison.pretrained], results[comparison.scratch]
    metric = pretrained["metric"]

    def percent(values: Mapping[str, Any]) -> dict[str, float]:
        return {lang: 100 * value[metric] for lang, value in values.items() if lang != "average"}

    return {
        "pre-trained": percent(pretrained["test"]),
        "scratch": percent(scratch["test"]),
        "no context": percent(pretrained["baseline"]),
    }


def transfer_rows(comparison: Comparison, results: Mapping[str, Results]) -> dict[str, dict[str, float]]:
    """The task's metric in percent by language and column, then the mean over the languages without labels as "zero-shot"."""
    columns = _columns(comparison, results)
    labelled = results[comparison.pretrained]["train_language"]
    others = [language for language in columns["pre-trained"] if language != labelled]
    rows = {lang: {name: column[lang] for name, column in columns.items()} for lang in columns["pre-trained"]}
    if others:
        rows["zero-shot"] = {
            name: sum(column[lang] for lang in others) / len(others) for name, column in columns.items()
        }
    return rows


def write(comparisons: list[Comparison], results: Mapping[str, Results], workdir: pathlib.Path) -> None:
    """Prints the table and writes `results.md`, `results.json` and a figure for each task into `workdir`."""
    tables = {comparison.title: transfer_rows(comparison, results) for comparison in comparisons}
    labelled = {c.title: results[c.pretrained]["train_language"] for c in comparisons}
    measured = {c.title: f"{results[c.pretrained]['metric']} (%)" for c in comparisons}
    languages = list(
        dict.fromkeys(language for rows in tables.values() for language in rows if language != "zero-shot")
    )
    header = ["language", *[f"{title}, {name}" for title in tables for name in COLUMNS]]
    body = []
    for language in [*languages, "zero-shot"]:
        mark = " (labels)" if language in labelled.values() else ""
        name = "mean, no labels" if language == "zero-shot" else language + mark
        cells = [
            f"{rows[language][column]:.1f}" if language in rows else "–"
            for rows in tables.values()
            for column in COLUMNS
        ]
        body.append([name, *cells])
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *body)]
    notes = _expectation_lines(comparisons, tables, results)
    for stage, result in results.items():
        notes += pretraining_lines(stage, result) if result["kind"] == "pretraining" else []
    (workdir / "results.md").write_text(
        "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n", encoding="utf-8"
    )
    (workdir / "results.json").write_text(json.dumps(tables, indent=2) + "\n", encoding="utf-8")
    for title, rows in tables.items():
        groups = {column: {lang: row[column] for lang, row in rows.items()} for column in COLUMNS}
        name = title.lower().replace(" ", "_")
        plots.plot_languages(groups, workdir / f"{name}.png", f"{title}, trained on {labelled[title]}", measured[title])
    _print(header, body, notes, ", ".join(dict.fromkeys(measured.values())))


def pretraining_lines(stage: str, result: Results) -> list[str]:
    """What pre-training reached, beside what is reached without training, and how large the model is."""
    reached, untrained = result["test"]["average"], result["baseline"]["average"]
    counts = result["parameters"]
    lines = [
        f"{stage}: held-out loss {reached['loss']:.2f}, {100 * reached['accuracy']:.1f} % of the masked tokens right; "
        f"frequencies of words alone: {untrained['loss']:.2f}",
        f"{stage}: {counts['total']:,} parameters, {counts['output_head']:,} of them the output embedding and its head; "
        f"{counts['total'] - counts['output_head']:,} remain when it is dropped",
    ]
    if "retrieval_0" in reached:
        shown, fresh = (_by_layer(values) for values in (reached, untrained))
        lines.insert(1, f"{stage}: sentences that find their translations, by layer: {shown}; untrained: {fresh}")
    return lines


def _by_layer(metrics: Mapping[str, float]) -> str:
    layers = sum(name.startswith("retrieval_") for name in metrics)
    return " ".join(f"{100 * metrics[f'retrieval_{layer}']:.0f}" for layer in range(layers)) + " %"


def _expectation_lines(
    comparisons: list[Comparison],
    tables: Mapping[str, Mapping[str, Mapping[str, float]]],
    results: Mapping[str, Results],
) -> list[str]:
    """For each task whether the result lies where that of other seeds did."""
    lines = []
    for comparison in comparisons:
        if comparison.expected and "zero-shot" in tables[comparison.title]:
            low, high = comparison.expected
            value = round(tables[comparison.title]["zero-shot"]["pre-trained"], 1)
            verdict = "below" if value < low else "above" if value > high else "within"
            lines.append(
                f"{comparison.title}: seed {results[comparison.pretrained]['seed']} gave {value:.1f} without labels, "
                f"{verdict} the range of earlier runs, {low:.1f} to {high:.1f}"
            )
    return lines


def _print(header: list[str], body: list[list[str]], notes: list[str], title: str) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(header):
        narrow = name.replace(", ", "\n").replace("pre-", "pre-\n")
        table.add_column(narrow, justify="left" if number == 0 else "right")
    for row in body[:-1]:
        table.add_row(*row)
    table.add_section()
    table.add_row(*body[-1])
    console.print(table)
    for line in notes:
        console.print(line)
