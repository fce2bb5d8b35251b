"""Published averages to stand beside one's own, each with its source."""

from __future__ import annotations

PUBLISHED: dict[str, dict[str, object]] = {
    "mBERT": {
        "source": "mT5's README (averages, F1 only); XQuAD's README (exact match)",
        "xnli": 65.4, "pawsx": 81.9, "panx": 62.2, "xquad": (49.4, 64.5), "mlqa": (None, 61.4), "tydiqa": (None, 59.7),
    },
    "XLM-R Large": {
        "source": "RemBERT, arXiv:2010.12821v1, Table 16; retrieval: VECO",
        "xnli": 79.2, "pawsx": 86.4, "udpos": 73.8, "panx": 65.4, "xquad": (60.8, 76.6), "mlqa": (53.2, 71.6),
        "tydiqa": (45.0, 65.1), "bucc2018": 66.0, "tatoeba": 57.3,
    },
    "RemBERT": {
        "source": "arXiv:2010.12821v1, Table 16",
        "xnli": 80.8, "pawsx": 87.5, "udpos": 76.5, "panx": 70.1, "xquad": (64.0, 79.6), "mlqa": (55.0, 73.1),
        "tydiqa": (63.0, 77.0),
    },
    "mT5-XXL": {
        "source": "mT5's README (F1 only)",
        "xnli": 85.0, "pawsx": 90.0, "panx": 69.2, "xquad": (None, 82.5), "mlqa": (None, 76.0), "tydiqa": (None, 82.0),
    },
}  # fmt: skip
"""Model to task to score, or for answers (exact match, F1), in percent; all zero-shot from English."""


def score(model: str, task: str) -> float | None:
    """A model's score of a task as XTREME defines it; None where it, or one of its two halves, was not published."""
    value = PUBLISHED[model].get(task)
    if isinstance(value, tuple):
        exact, f1 = value
        return None if exact is None else (exact + f1) / 2
    return value if isinstance(value, float) else None


def shown(model: str, task: str) -> str:
    """The same as text: one number, or exact match and F1."""
    value = PUBLISHED[model].get(task)
    if isinstance(value, tuple):
        return " / ".join("–" if number is None else f"{number:.1f}" for number in value)
    return f"{value:.1f}" if isinstance(value, float) else "–"
