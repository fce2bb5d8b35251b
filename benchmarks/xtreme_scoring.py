"""Seconds to score half a million predictions of XTREME, beside seqeval 0.0.12, which the official script takes for spans.

    python benchmarks/xtreme_scoring.py [--scale 1.0] [--output results.json]

Predictions and labels are random, of all nine tasks and all their languages. seqeval is compared where it is installed (on the
tags of PAN-X and UDPOS, F1 alone); its version is printed.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from rembert_jax.xtreme import files, scores
from rembert_jax.xtreme.benchmark import TASKS, Task

try:
    from seqeval.metrics import sequence_labeling
except ImportError:
    sequence_labeling = None

# Examples of each language: those of the benchmark for labels and answers; of tags sentences of ten tokens.
EXAMPLES = {
    "xnli": 5010, "pawsx": 2000, "panx": 420, "udpos": 420, "bucc2018": 5000, "tatoeba": 1000, "xquad": 1190, "mlqa": 5000,
    "tydiqa": 560,
}  # fmt: skip
WORDS = "the cat sat on a mat and saw der Hund 北京 و في".split()


def contents(task: Task, count: int, rng: random.Random) -> tuple[str, str, int]:
    """Labels, predictions that are right in six of ten cases, and the number of predictions."""

    def guess(value: str, choices: Any) -> str:
        return value if rng.random() < 0.6 else rng.choice(choices)

    if task.kind == "labels":
        gold = [rng.choice(task.labels) for _ in range(count)]
        return "\n".join(gold), "\n".join(guess(label, task.labels) for label in gold), count
    if task.kind == "tags":
        gold_tags = [[rng.choice(task.labels) for _ in range(10)] for _ in range(count)]
        predicted = [[guess(tag, task.labels) for tag in sentence] for sentence in gold_tags]
        gold_text, text = ("\n\n".join("\n".join(sentence) for sentence in side) for side in (gold_tags, predicted))
        return gold_text, text, 10 * count
    if task.kind == "answers":
        answers = {f"q{i}": " ".join(rng.choices(WORDS, k=rng.randint(1, 5))) for i in range(count)}
        questions = [{"id": name, "question": "", "answers": [{"text": text}]} for name, text in answers.items()]
        squad = {"data": [{"paragraphs": [{"context": "", "qas": questions}]}]}
        predictions = {name: guess(text, WORDS) for name, text in answers.items()}
        return json.dumps(squad), json.dumps(predictions), count
    if task.kind == "pairs":
        pairs = [(f"x-{i}", f"en-{i}") for i in range(count)]
        found = [(one, guess(other, [f"en-{i}x"])) for i, (one, other) in enumerate(pairs)]
        return "\n".join("\t".join(pair) for pair in pairs), "\n".join("\t".join(pair) for pair in found), count
    order = rng.sample(range(count), count)
    return "\n".join(map(str, order)), "\n".join(guess(str(i), [str(rng.randrange(count))]) for i in order), count


def write(folder: pathlib.Path, scale: float, seed: int) -> int:
    """Writes labels and predictions of all tasks and returns the number of predictions."""
    rng, total = random.Random(seed), 0
    for task in TASKS.values():
        for language in task.languages:
            gold, predicted, count = contents(task, max(2, round(scale * EXAMPLES[task.name])), rng)
            total += count
            for side, text in (("labels", gold), ("predictions", predicted)):
                path = folder / side / task.name / f"test-{language}.{task.suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text + "\n", encoding="utf-8")
    return total


def timed(function: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def tag_files(folder: pathlib.Path) -> list[tuple[list[list[str]], list[list[str]]]]:
    """Gold and predicted tags of each language of both tagging tasks."""
    found = []
    for task in (task for task in TASKS.values() if task.kind == "tags"):
        for language in task.languages:
            paths = [folder / side / task.name / f"test-{language}.tsv" for side in ("labels", "predictions")]
            found.append((files.read_tags(paths[0], task.labels), files.read_tags(paths[1], task.labels)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the examples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        total = write(folder, options.scale, options.seed)
        seconds = {
            "all tasks, with intervals": timed(lambda: scores.score_folder(folder / "predictions", folder / "labels"))
        }
        tags = tag_files(folder)
        seconds["spans of panx and udpos"] = timed(
            lambda: [scores.spans.metrics(scores.spans.counts(gold, predicted).sum(0)) for gold, predicted in tags]
        )
        if sequence_labeling is not None:
            f1_score = sequence_labeling.f1_score
            seconds["the same by seqeval"] = timed(lambda: [f1_score(gold, predicted) for gold, predicted in tags])
    version = metadata.version("seqeval") if sequence_labeling is not None else "not installed, not compared"
    print(f"{total:,} predictions, {platform.machine()}, Python {platform.python_version()}, seqeval {version}\n")
    print("| what | seconds |\n| --- | --- |")
    for what, value in seconds.items():
        print(f"| {what} | {value:.2f} |")
    if options.output:
        result = {"predictions": total, "seqeval": version, "seconds": seconds, "python": platform.python_version()}
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
