"""Brings the data of XTREME, as its owners publish it or as the official scripts leave it, into one layout with a manifest.

    python -m rembert_jax.tools.prepare_xtreme --input DOWNLOADED --output xtreme

What is missing, empty, hidden or of another number than it should be is listed by name with where it comes from; the rest is
prepared all the same. `--sources` only prints where each task's data is published; `--fetch` downloads it into the input
folder first, goes on where it stopped, and compares checksums where they are known. `--artificial` writes all in artificial
languages instead, which stand in for English and three others of each task.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence

from rembert_jax.tools import command_line
from rembert_jax.xtreme import artificial, conllu, origins, prepare
from rembert_jax.xtreme.benchmark import TASKS


def sources() -> str:
    """Where the data of each task is published."""
    lines = []
    for name, origin in origins.origins().items():
        lines.append(f"{name} (licence: {origin.licence})" + (f": {origin.note}" if origin.note else ""))
        lines += [f"  {address}  sha256 {digest or 'not known'}" for address, digest in origin.files]
    return "\n".join(lines)


def fetch(options: argparse.Namespace) -> None:
    """Downloads the data of the chosen tasks; what cannot be had is named, and the rest is fetched all the same."""
    wanted = options.tasks or list(origins.LICENCES)
    names = [*wanted, *(["multinli"] if "xnli" in wanted and "multinli" not in wanted else [])]
    for name in names:
        print(f"fetching {name}", flush=True)
        try:
            origins.fetch(origins.origins()[name], options.input / name)
        except origins.FetchError as error:
            print(f"  {error}", flush=True)


def run(options: argparse.Namespace) -> str:
    """Prepares, and returns what to say of it."""
    if options.sources:
        return sources()
    if options.fetch:
        fetch(options)
    if options.artificial:
        manifest = artificial.write(options.output, options.size, options.seed)
    else:
        manifest = prepare.prepare(
            options.input, options.output, options.tasks, options.protocol, options.tfds_data_dir
        )
    counts: dict[str, list[int]] = {}
    for name, file in manifest["files"].items():
        counts.setdefault(name.partition("/")[0], []).append(file["records"])
    lines = [f"{task}: {len(numbers)} files, {sum(numbers):,} records" for task, numbers in counts.items()]
    said = {} if options.artificial else manifest["files"]
    remarks = [f"{name}: {remark}" for name, file in said.items() for remark in file["remarks"]]
    problems = {f"Problems of {task}": texts for task, texts in manifest["problems"].items()}
    for title, found in {"Remarks": remarks, **problems}.items():
        if found:
            lines += ["", f"{title}:", *(f"- {text}" for text in found)]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        "rembert_jax.tools.prepare_xtreme", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--input", type=pathlib.Path, default=pathlib.Path("."), help="folder with what was downloaded and unpacked")
    add("--output", type=pathlib.Path, default=pathlib.Path("xtreme"), help="folder to write")
    add("--tasks", nargs="+", default=[], choices=("squad", *TASKS), metavar="TASK", help="by default all")
    add("--protocol", default="official", choices=conllu.PROTOCOLS, help="tokens of udpos (docs/xtreme.md)")
    add("--tfds_data_dir", metavar="DIR", help="take what is not found as a file from datasets that TFDS prepared here")
    add("--fetch", action="store_true", help="download into --input first")
    add("--artificial", action="store_true", help="write all tasks in artificial languages; nothing is read")
    add("--size", type=int, default=4000, help="of --artificial: examples to train on; an eighth of it to test on")
    add("--seed", type=int, default=0, help="of --artificial: of its world, as in the config of the checkpoint")
    add("--sources", action="store_true", help="print where the data is published, and prepare nothing")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; an error that we foresee is one message without a traceback."""
    command_line.run(lambda options: print(run(options)), parser(), arguments)


if __name__ == "__main__":
    main()
