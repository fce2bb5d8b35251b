"""Plausible bugs, each of which some test must notice.

    python tests/mutations.py [WORDS…]

Applies each of `MUTATIONS` (or those that hold one of the words) to a copy of the repository, one by one, runs the tests that
are named beside it, and says which nothing noticed; exit code 1 if there are any. More: docs/development.md.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Mutation(NamedTuple):
    """What stands in which file of the package, what to put there instead, and the tests that should notice."""

    file: str
    old: str
    new: str
    tests: str


OBJECTIVES, DROPOUT = "tests/training/test_objectives.py", "tests/modeling/test_dropout.py"
LATE = "deterministic=deterministic"
MUTATIONS = [
    # What an objective sees.
    Mutation("training/objectives.py", 'segment_ids=batch["segment_ids"],\n', "", OBJECTIVES),
    Mutation("training/objectives.py", 'position_ids=batch["position_ids"],\n', "", OBJECTIVES),
    Mutation("training/objectives.py", 'token_type_ids=batch["token_type_ids"],\n', "", OBJECTIVES),
    Mutation("training/objectives.py", 'attention_mask=batch["attention_mask"],\n', "", OBJECTIVES),
    Mutation("training/objectives.py", 'batch["attention_mask"], output_hidden', "output_hidden", OBJECTIVES),
    Mutation("training/objectives.py", "True} if key is None else", "True} if True else", OBJECTIVES),
    # Dropout.
    Mutation("modeling/encoder.py", '"dropout": True}', '"dropout": False}', DROPOUT),
    Mutation("modeling/encoder.py", f'name="attention_LayerNorm")(x + dropout(attended, {LATE}))',
             'name="attention_LayerNorm")(x + attended)', DROPOUT),
    Mutation("modeling/encoder.py", f'name="crossattention_LayerNorm")(x + dropout(attended, {LATE}))',
             'name="crossattention_LayerNorm")(x + attended)', DROPOUT),
    Mutation("modeling/encoder.py", f"x + dropout(y, {LATE})", "x + y", DROPOUT),
    Mutation("modeling/attention.py", f"self.dropout(probabilities, {LATE})", "probabilities", DROPOUT),
    Mutation("modeling/embeddings.py", f"nn.Dropout(c.hidden_dropout_prob)(x, {LATE})", "x", DROPOUT),
]  # fmt: skip


def apply(mutation: Mutation, root: pathlib.Path) -> str:
    """Puts a mutation into a copy of the repository, and gives what was there."""
    path = root / "rembert_jax" / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        sys.exit(
            f"{mutation.file} holds {mutation.old!r} {text.count(mutation.old)} times, expected once; correct the list"
        )
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    return text


def is_noticed(mutation: Mutation, root: pathlib.Path) -> bool:
    """Whether one of its tests fails."""
    text = apply(mutation, root)
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", *mutation.tests.split()]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=1200)
    finally:
        (root / "rembert_jax" / mutation.file).write_text(text, encoding="utf-8")
    if done.returncode not in (0, 1):
        sys.exit(f"{mutation.tests}: pytest ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 1


def main() -> None:
    """Runs the command line."""
    words = sys.argv[1:]
    chosen = [m for m in MUTATIONS if not words or any(word in " ".join(m) for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "copy"
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".git", "__pycache__", "runs", ".venv"))
        alive = []
        for mutation in chosen:
            noticed = is_noticed(mutation, root)
            print(
                "noticed" if noticed else "ALIVE  ",
                mutation.file,
                repr(mutation.old),
                "->",
                repr(mutation.new),
                flush=True,
            )
            alive += [] if noticed else [mutation]
    print(f"{len(chosen)} mutations, {len(alive)} alive")
    sys.exit(1 if alive else 0)


if __name__ == "__main__":
    main()
