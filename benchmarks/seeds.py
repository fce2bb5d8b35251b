"""The same experiment with several seeds: mean, deviation and the worst of them.

    python benchmarks/seeds.py --config=configs/quickstart.py --workdir=runs/seeds --seeds=0-9 --parallel=2

Runs `train.py` with `seed=K` among the arguments of the config, for each seed in a folder of its own; the same command again
goes on where it stopped. Further flags are handed to `train.py`. Writes `seeds.md`, `seeds.json`, and two figures: accuracy
without labels of each seed, and held-out loss over the steps of pre-training.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import pathlib
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # No screen needed.

import matplotlib.pyplot as plt

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rembert_jax.reports.plots import read_metrics  # noqa: E402

Table = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Task to language to column to accuracy in percent, as `train.py` writes it."""


def parse_seeds(text: str) -> list[int]:
    """Seeds of "0-9", "3" or "0-2,7".

    Raises:
      ValueError: if it is anything else, or names a seed twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        if not (match := re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())):
            raise ValueError(f"--seeds={text}: {part!r} is neither a number nor a range as 0-9")
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds={text}: expected seeds, each of them once")
    return seeds


def run_seed(config: str, folder: pathlib.Path, seed: int, flags: Sequence[str]) -> int:
    """Runs `train.py` for a seed, with its output in `folder`/log.txt; returns its exit status."""
    file, _, arguments = config.partition(":")
    target = f"{file}:{','.join(filter(None, [arguments, f'seed={seed}']))}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        command = [sys.executable, str(ROOT / "train.py"), f"--config={target}", f"--workdir={folder}", *flags]
        return subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False).returncode


def spread(values: Sequence[float]) -> str:
    """Mean and, of several values, their standard deviation."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def language_rows(tables: Mapping[int, Table]) -> list[list[str]]:
    """Header and a row for each language, the last one being the mean without labels: mean and deviation over the seeds."""
    first = next(iter(tables.values()))
    columns = [(task, column) for task, rows in first.items() for column in next(iter(rows.values()))]
    languages = dict.fromkeys(language for rows in first.values() for language in rows)
    ordered = [
        *(name for name in languages if name != "zero-shot"),
        *(["zero-shot"] if "zero-shot" in languages else []),
    ]
    body = [
        [language.replace("zero-shot", "mean, no labels")]
        + [
            spread([table[task][language][column] for table in tables.values()]) if language in first[task] else "–"
            for task, column in columns
        ]
        for language in ordered
    ]
    return [["language", *(f"{task}, {column}" for task, column in columns)], *body]


def gain_rows(tables: Mapping[int, Table]) -> list[list[str]]:
    """Header and a row for each task: what pre-training adds without labels, mean, deviation and the worst seed."""
    rows = [["without labels", "pre-trained", "worst", "over scratch", "worst", "over no context", "worst"]]
    for task in next(iter(tables.values())):
        cells: list[str] = [task]
        for other in (None, "scratch", "no context"):
            values = {
                seed: table[task]["zero-shot"]["pre-trained"] - (table[task]["zero-shot"][other] if other else 0.0)
                for seed, table in tables.items()
            }
            worst = min(values, key=values.__getitem__)
            cells += [spread(list(values.values())), f"{values[worst]:.1f} (seed {worst})"]
        rows.append(cells)
    return rows


def pretraining_rows(results: Mapping[int, Mapping[str, Any]]) -> list[list[str]]:
    """Header and a row for each metric of pre-training on held-out text: mean, deviation, and what no training reaches."""
    rows = [["held-out text", "pre-trained", "untrained"]]
    names = next(iter(results.values()))["test"]["average"]
    for name in names:
        scale = 1.0 if name == "loss" else 100.0
        sides = [
            [scale * result[side]["average"][name] for result in results.values() if name in result[side]["average"]]
            for side in ("test", "baseline")
        ]
        digits = [f"{statistics.mean(v):.2f} ± {statistics.stdev(v) if len(v) > 1 else 0:.2f}" for v in sides if v]
        shown = digits if name == "loss" else [spread(values) for values in sides if values]
        label = {"loss": "loss (untrained: frequencies of words)", "accuracy": "masked tokens right (%)"}.get(
            name, f"translations found, layer {name.rpartition('_')[2]} (%)"
        )
        rows.append([label, *shown, *["–"] * (2 - len(shown))])
    return rows


def to_markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is the header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def plot_seeds(tables: Mapping[int, Table], target: pathlib.Path) -> None:
    """A point for each seed, task and column: accuracy without labels."""
    tasks = list(next(iter(tables.values())))
    columns = list(next(iter(next(iter(tables.values()))[tasks[0]].values())))
    figure, axes = plt.subplots(figsize=(2 + 2 * len(tasks), 4), layout="constrained")
    for number, column in enumerate(columns):
        points = [
            (place + 0.22 * (number - 1), table[task]["zero-shot"][column])
            for place, task in enumerate(tasks)
            for table in tables.values()
        ]
        axes.plot(*zip(*points, strict=True), "o", alpha=0.5, label=column)
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set(ylabel="accuracy without labels (%)", title=f"{len(tables)} seeds")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(target, dpi=120)
    plt.close(figure)


def plot_curves(metrics: Mapping[int, Mapping[str, list[tuple[int, float]]]], target: pathlib.Path) -> None:
    """Held-out loss over the steps of pre-training, a line for each seed."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for seed, series in metrics.items():
        axes.plot(*zip(*series["dev/average/loss"], strict=True), marker=".", alpha=0.7, label=f"seed {seed}")
    axes.set(xlabel="step", ylabel="held-out loss (nats per masked token)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(target, dpi=120)
    plt.close(figure)


def report(folders: Mapping[int, pathlib.Path], workdir: pathlib.Path) -> str:
    """Writes tables and figures of finished runs into `workdir` and returns the tables."""
    tables = {seed: json.loads((folder / "results.json").read_text("utf-8")) for seed, folder in folders.items()}
    pretraining = {
        seed: json.loads((folder / "pretrain" / "results.json").read_text("utf-8")) for seed, folder in folders.items()
    }
    text = f"Seeds: {', '.join(map(str, folders))}.\n\n" + "\n\n".join(
        map(to_markdown, (language_rows(tables), gain_rows(tables), pretraining_rows(pretraining)))
    )
    (workdir / "seeds.md").write_text(text + "\n", encoding="utf-8")
    values = {str(seed): {"tasks": tables[seed], "pretrain": pretraining[seed]} for seed in folders}
    (workdir / "seeds.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    plot_seeds(tables, workdir / "seeds.png")
    metrics = {seed: read_metrics(folder / "pretrain" / "metrics.jsonl") for seed, folder in folders.items()}
    plot_curves(metrics, workdir / "loss.png")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="config file with a report and an argument seed")
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--seeds", default="0-9", help="for example 0-9 or 3,5")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    options, flags = parser.parse_known_args()
    try:
        seeds = parse_seeds(options.seeds)
    except ValueError as error:
        parser.error(str(error))
    folders = {seed: options.workdir.absolute() / f"seed_{seed}" for seed in seeds}
    with concurrent.futures.ThreadPoolExecutor(max(1, options.parallel)) as pool:
        running = {pool.submit(run_seed, options.config, folder, seed, flags): seed for seed, folder in folders.items()}
        failed = []
        for done in concurrent.futures.as_completed(running):
            seed, status = running[done], done.result()
            print(f"seed {seed}: {f'failed, see {folders[seed]}/log.txt' if status else 'finished'}", flush=True)
            failed += [seed] if status else []
    finished = {seed: folder for seed, folder in folders.items() if seed not in failed}
    if finished:
        print(report(finished, options.workdir))
    if failed:
        sys.exit(f"failed: {', '.join(map(str, sorted(failed)))}; the same command tries them again")


if __name__ == "__main__":
    main()
