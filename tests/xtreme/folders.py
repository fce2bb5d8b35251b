"""Small folders of predictions and labels in the official layout."""

import json
import pathlib

from rembert_jax.xtreme.benchmark import TASKS

SQUAD = {
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": "c",
                    "qas": [
                        {
                            "id": "q1",
                            "question": "?",
                            "answers": [{"text": "the cat", "answer_start": 0}, {"text": "cats"}],
                        },
                        {"id": "q2", "question": "?", "answers": [{"text": "a dog", "answer_start": 3}]},
                    ],
                }
            ],
        }
    ]
}
LABELS = {
    "pawsx": "0\n1\n1\n0\n",
    "xnli": "neutral\nentailment\ncontradiction\nneutral\n",
    "panx": "B-PER\nI-PER\nO\n\nB-LOC\nO\n",
    "udpos": "NOUN\nNOUN\nVERB\n\nSYM\nDET\n",
    "bucc2018": "de-1\ten-1\nde-2\ten-2\nde-3\ten-3\n",
    "tatoeba": "2\n0\n1\n3\n",
    "xquad": json.dumps(SQUAD),
    "mlqa": json.dumps(SQUAD),
    "tydiqa": json.dumps(SQUAD["data"]),
}
PREDICTIONS = {
    "pawsx": "0\n1\n0\n0\n",  # 3 of 4
    "xnli": "neutral\nneutral\ncontradiction\nneutral\n",  # 3 of 4
    "panx": "B-PER\nI-PER\nO\n\nB-ORG\nO\n",  # one of two spans right, two found: F1 1/2
    "udpos": "NOUN\nNOUN\nVERB\n\nSYM\nADJ\n",  # 3 of 4 spans, 4 found: F1 3/4; 4 of 5 tokens
    "bucc2018": "de-1\ten-1\nde-2\ten-9\n",  # 1 right, 2 found, 3 expected: F1 2/5
    "tatoeba": "2\n0\n3\n3\n",  # 3 of 4
    "xquad": json.dumps({"q1": "Cat", "q2": "big dog"}),  # exact 1/2, F1 (1 + 2/3) / 2
    "mlqa": json.dumps({"q1": "Cat", "q2": "big dog"}),  # The same in English only.
    "tydiqa": json.dumps({"q1": "Cat"}),  # exact 1/2, F1 1/2
}
SCORES = {
    "pawsx": 75.0, "xnli": 75.0, "panx": 50.0, "udpos": 75.0, "bucc2018": 40.0, "tatoeba": 75.0,
    "xquad": (50 + 250 / 3) / 2, "tydiqa": 50.0,
    # Outside of English "the" and "a" are words like others: nothing is exact, F1 is (2/3 + 1/2) / 2.
    "mlqa": ((50 + 250 / 3) / 2 + 6 * (0 + 175 / 3) / 2) / 7,
}  # fmt: skip
"""Of the predictions above, worked by hand, in percent."""


def write(
    folder: pathlib.Path, contents: dict[str, str], languages: dict[str, tuple[str, ...]] | None = None
) -> pathlib.Path:
    """The same file for each language of a task, or for some of them."""
    for name, text in contents.items():
        task = TASKS[name]
        for language in (languages or {}).get(name, task.languages):
            path = folder / name / f"test-{language}.{task.suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return folder
