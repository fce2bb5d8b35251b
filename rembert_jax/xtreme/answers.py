"""Exact match and F1 of answers, as the official scripts of SQuAD 1.1 (XQuAD and TyDiQA-GoldP too) and of MLQA compute them."""

from __future__ import annotations

import functools
import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Normalise = Callable[[str], str]

ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
ENGLISH_ARTICLES = re.compile(r"\b(a|an|the)\b")

# By language: MLQA drops other words, and in Arabic the definite article wherever it stands. Its pattern for Arabic has an
# alternative that can never match (a line's start after a space); it is left out here.
MLQA_ARTICLES = {
    "en": ENGLISH_ARTICLES,
    "es": re.compile(r"\b(un|una|unos|unas|el|la|los|las)\b"),
    "de": re.compile(r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
    "vi": re.compile(r"\b(của|là|cái|chiếc|những)\b"),
    "ar": re.compile("ال"),
}
MLQA_LANGUAGES = ("en", "es", "de", "ar", "hi", "vi", "zh")


def normalise_squad(text: str) -> str:
    """Lower case, without ASCII punctuation and the English articles, single spaces; the same for every language."""
    return " ".join(ENGLISH_ARTICLES.sub(" ", text.lower().translate(ASCII_PUNCTUATION)).split())


@functools.cache
def _punctuation() -> str:
    """Every character whose Unicode category is punctuation, and what ASCII counts as such."""
    found = {chr(code) for code in range(sys.maxunicode) if unicodedata.category(chr(code)).startswith("P")}
    return "".join(found | set(string.punctuation))


@functools.cache
def _without_punctuation() -> dict[int, None]:
    return dict.fromkeys(map(ord, _punctuation()))


def normalise_mlqa(text: str, language: str) -> str:
    """Lower case, without punctuation of any script and the language's articles; each Chinese character a token of its own."""
    text = text.lower().translate(_without_punctuation())
    if articles := MLQA_ARTICLES.get(language):
        text = articles.sub(" ", text)
    if language == "zh":
        text = re.sub("([\u4e00-\u9fa5])", r" \1 ", text)
    return " ".join(text.split())


def normaliser(task: str, language: str) -> Normalise:
    """How a task normalises answers in a language."""
    if task == "mlqa":
        return lambda text: normalise_mlqa(text, language)
    return normalise_squad


def f1(predicted: str, gold: str) -> float:
    """Overlap of the tokens of two normalised answers; 0 where they share none, also of two empty ones."""
    predicted_tokens, gold_tokens = predicted.split(), gold.split()
    common = sum((Counter(predicted_tokens) & Counter(gold_tokens)).values())
    if not common:
        return 0.0
    precision, recall = common / len(predicted_tokens), common / len(gold_tokens)
    return 2 * precision * recall / (precision + recall)


def score_answer(predicted: str, gold: Sequence[str], normalise: Normalise) -> tuple[float, float]:
    """Exact match (0 or 1) and F1 of an answer against the best of the gold ones."""
    answer = normalise(predicted)
    wanted = [normalise(text) for text in gold]
    return float(answer in wanted), max(f1(answer, text) for text in wanted)


def counts(gold: Mapping[str, Sequence[str]], predicted: Mapping[str, str], normalise: Normalise) -> np.ndarray:
    """By question: exact match, F1, and 1, [questions, 3]; a question without a prediction has 0 in the first two.

    Args:
      gold: id of a question to its answers, at least one each.
      predicted: id of a question to the answer.
      normalise: of the task and language.
    """
    rows = np.zeros((len(gold), 3))
    rows[:, 2] = 1.0
    for row, (question, answers) in zip(rows, gold.items(), strict=True):
        if question in predicted:
            row[:2] = score_answer(predicted[question], answers, normalise)
    return rows


def metrics(total: np.ndarray) -> dict[str, np.ndarray]:
    """`exact_match` and `f1`, as shares, from sums of `counts` [..., 3]."""
    exact, overlap, questions = np.moveaxis(total, -1, 0)
    return {"exact_match": exact / np.maximum(questions, 1), "f1": overlap / np.maximum(questions, 1)}
