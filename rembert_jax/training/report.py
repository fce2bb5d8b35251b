"""The table at the end of an experiment of several stages: languages by tasks, with and without pre-training."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from rembert_jax.training import plots

Results = Mapping[str, Any]
"""What `trainer.run` returns for a stage, as saved in its results.json."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """One task of the report.

    Attributes:
      title: column title.
      pretrained: stage that fine-tunes the pre-trained encoder.
      scratch: stage that trains the same encoder without pre-training.
    """

    title: str
    pretrained: str
    scratch: str


COLUMNS = ("pre-trained", "scratch", "no context")
"""With pre-training; the same encoder without it; the best guess that ignores context."""


def _columns(comparison: Comparison, results: Mapping[str, Results]) -> dict[str, dict[str, float]]:
    """Column name to language to accuracy in percent."""

    def percent(values: Mapping[str, Any]) -> dict[str, float]:
        return {lang: 100 * value["accuracy"] for lang, value in values.items() if lang != "average"}

    pretrained, scratch = results[comparison.pretrained], results[comparison.scratch]
    return {
        "pre-trained": percent(pretrained["test"]),
        "scratch": percent(scratch["test"]),
        "no context": {lang: 100 * value for lang, value in pretrained["baseline"].items()},
    }


def transfer_rows(comparison: Comparison, results: Mapping[str, Results]) -> dict[str, dict[str, float]]:
    """Accuracy in percent by language and column, then the mean over the languages without labels as "zero-shot"."""
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
    counts = _parameter_lines(results)
    (workdir / "results.md").write_text("\n".join([*lines, "", *counts]) + "\n", encoding="utf-8")
    (workdir / "results.json").write_text(json.dumps(tables, indent=2) + "\n", encoding="utf-8")
    for title, rows in tables.items():
        groups = {column: {lang: row[column] for lang, row in rows.items()} for column in COLUMNS}
        name = title.lower().replace(" ", "_")
        plots.plot_languages(groups, workdir / f"{name}.png", f"{title}, trained on {labelled[title]}", "accuracy (%)")
    _print(header, body, counts)


def _parameter_lines(results: Mapping[str, Results]) -> list[str]:
    lines = []
    for stage, result in results.items():
        counts = result["parameters"]
        if result["kind"] == "pretraining":
            lines.append(
                f"{stage}: {counts['total']:,} parameters, {counts['output_head']:,} of them the output embedding "
                f"and its head; {counts['total'] - counts['output_head']:,} remain when it is dropped"
            )
    return lines


def _print(header: list[str], body: list[list[str]], counts: list[str]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    table = Table(title="accuracy (%)", title_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in body[:-1]:
        table.add_row(*row)
    table.add_section()
    table.add_row(*body[-1])
    console.print(table)
    for line in counts:
        console.print(line)
