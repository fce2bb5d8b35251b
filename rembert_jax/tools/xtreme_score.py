"""Scores predictions of XTREME as its official evaluation does, for anyone's model.

    python -m rembert_jax.tools.xtreme_score --predictions DIR --labels DIR --output results.json

Both folders hold TASK/test-LANGUAGE.tsv, or .json for answers, in the official forms: a label a line (xnli, pawsx), a tag a
line and a blank line between sentences (panx, udpos), two ids a line (bucc2018), the number of a line a line (tatoeba), and
{"id": "answer"} (xquad, mlqa, tydiqa), whose labels are in the form of SQuAD 1.1. A part of the set is scored and called so.

Beside results.json it writes results.md (with every language), results_languages.png and results_tasks.png.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence

from rembert_jax import schema
from rembert_jax.tools import command_line
from rembert_jax.xtreme import conllu, scores, table


def run(options: argparse.Namespace) -> str:
    """Scores, writes and returns the table."""
    results = scores.score_folder(options.predictions, options.labels, options.seed)
    results = {"name": options.name, "protocol": options.protocol, **results}
    text = table.to_markdown(results, options.name)
    if "udpos" in results["tasks"]:
        text += f"\nParts of speech by the protocol {options.protocol!r} (docs/xtreme.md).\n"
    if options.output:
        output = options.output
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(schema.to_json(results), encoding="utf-8")
        languages = table.languages_to_markdown(results)
        output.with_suffix(".md").write_text(f"{text}\n{languages}", encoding="utf-8")
        table.plot_heat_map(results, output.with_name(f"{output.stem}_languages.png"))
        table.plot_bars(results, output.with_name(f"{output.stem}_tasks.png"), options.name)
    return text


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        "rembert_jax.tools.xtreme_score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--predictions", required=True, type=pathlib.Path, help="folder of predictions")
    add("--labels", required=True, type=pathlib.Path, help="folder of labels")
    add("--output", type=pathlib.Path, help="results.json to write; by default the table is only printed")
    add("--name", default="this run", help="how the predictions are called in tables")
    add(
        "--protocol",
        default="official",
        choices=conllu.PROTOCOLS,
        help="how the tokens of udpos were made (docs/xtreme.md)",
    )
    add("--seed", type=int, default=0, help="of the bootstrap")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; an error that we foresee is one message without a traceback."""
    command_line.run(lambda options: print(run(options), end=""), parser(), arguments)


if __name__ == "__main__":
    main()
