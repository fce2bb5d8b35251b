"""All nine tasks in the artificial languages, in the layout of `prepare`: the whole benchmark anywhere, offline, in minutes.

The languages stand in for real ones, whose names tasks and scorer know: qaa for English, the others as `STAND_INS` says.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

from rembert_jax.data import synthetic, synthetic_tasks
from rembert_jax.data.synthetic_tasks import Record
from rembert_jax.data.synthetic_world import LANGUAGES
from rembert_jax.errors import RemBertError
from rembert_jax.xtreme import prepare
from rembert_jax.xtreme.benchmark import TASKS

STAND_INS = {"qaa": ("en",), "qab": ("ru", "es"), "qac": ("de", "ar"), "qad": ("zh", "fi")}
"""Language to the names it goes by; of a task the first that it has."""

MAKERS: dict[str, Callable[[str, str, int, int], Record]] = {
    "xnli": synthetic_tasks.entailment,
    "pawsx": synthetic_tasks.paraphrase,
    "panx": synthetic_tasks.entities,
    "udpos": synthetic_tasks.parts_of_speech,
    **dict.fromkeys(("squad", "xquad", "mlqa", "tydiqa"), synthetic_tasks.question),
}
PAIRS = 120
"""At most, of a set of retrieval: a world has some 600 sentences that differ in every language."""
SPLITS = {"train": "train", "dev": "validation", "test": "test"}
"""Of a task, and of an artificial language."""


def languages(task: str) -> dict[str, str]:
    """Name of a language in a task to the artificial one that stands in for it."""
    known = TASKS[task].languages if task in TASKS else ("en",)
    found = {}
    for code in LANGUAGES:
        for name in STAND_INS[code]:
            if name in known:
                found[name] = code
                break
    return found


def write(output: pathlib.Path, size: int = 4000, seed: int = 0) -> dict[str, Any]:
    """Writes all tasks, and returns the manifest.

    Args:
      output: folder to write.
      size: examples to train on; development and test sets have an eighth of it, those of retrieval at most `PAIRS` pairs.
      seed: of the world.
    """
    if size < 64:
        raise RemBertError(f"size={size}: expected at least 64 examples")
    if seed < 0:
        raise RemBertError(f"seed={seed}: expected at least 0")
    counts = {"train": size, "dev": size // 8, "test": size // 8}
    found: dict[str, Any] = {}
    for task in ("squad", *(name for name in TASKS if name not in ("bucc2018", "tatoeba"))):
        for split in ("train", "dev", "test"):
            if split == ("test" if task == "squad" else "dev" if task == "tydiqa" else "") or (
                task in ("xquad", "mlqa") and split != "test"
            ):
                continue  # As the real ones have it.
            for name, code in languages(task).items():
                if split == "test" or name == "en":
                    # Different questions in each task.
                    start = 1_000_000 * (task == "mlqa") + 2_000_000 * (task == "tydiqa")
                    numbers = range(start, start + counts[split])
                    records = [MAKERS[task](code, SPLITS[split], number, seed) for number in numbers]
                    found |= _write(output, task, split, name, {"": records})
    found |= _write_retrieval(output, min(counts["test"], PAIRS), seed)
    manifest = {"protocol": "official", "seed": seed, "files": found, "problems": {}}
    (output / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def _write_retrieval(output: pathlib.Path, count: int, seed: int) -> dict[str, Any]:
    """So many pairs of Tatoeba, and of BUCC, in which half as many sentences again stand alone on each side."""
    found: dict[str, Any] = {}
    sentences = synthetic.translations(4 * count, seed)
    for name, code in languages("tatoeba").items():
        if name != "en":
            sources, english = sentences[code][:count], sentences["qaa"][:count]
            records = [{"id": str(number), "text": text} for number, text in enumerate(sources)]
            labelled = [{"id": str(n), "text": text, "translations": [str(n)]} for n, text in enumerate(english)]
            labelled.sort(key=lambda record: record["text"])
            found |= _write(output, "tatoeba", "test", name, {".source": records, ".english": labelled})
    for split, part in (("dev", slice(2 * count)), ("test", slice(2 * count, None))):
        for name, code in languages("bucc2018").items():
            sides = synthetic_tasks.corpora(sentences["qaa"][part], sentences[code][part], count, seed)
            found |= _write(output, "bucc2018", split, name, dict(zip((".source", ".english"), sides, strict=True)))
    return found


def _write(output: pathlib.Path, task: str, split: str, name: str, sides: dict[str, list[Record]]) -> dict[str, Any]:
    """The files of a language, and what they are scored against."""
    entries = {}
    for side, records in sides.items():
        file = prepare.File(f"{task}/{split}-{name}{side}", records, [], ["artificial"])
        entries[file.name] = prepare.write(file, output, None)
    if split == "test":
        target = output / "labels" / task / f"test-{name}.{TASKS[task].suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(prepare.LABEL_WRITERS[TASKS[task].kind](records), encoding="utf-8")
    return entries
