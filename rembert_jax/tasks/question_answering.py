"""Answers as spans of a context: a question and a window of the context in each row, the best span of all windows.

As the script of SQuAD that XTREME's baselines use (transformers 2.8, run_squad.py), save that tokens come from the text as it
is and an answer is cut out of it by the offsets of its tokens. That script splits contexts at spaces first, and answers in
Chinese, Japanese or Thai come back with spaces that are not there, or not at all (google-research/xtreme issues 28 and 38).
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from rembert_jax.tasks.base import Example, Features, Guess, Prediction, Task, TaskConfig, TaskError, place
from rembert_jax.xtreme import answers as scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Section `task.options` of question answering.

    Attributes:
      doc_stride: tokens after which the next window of a context begins.
      max_query_length: tokens of a question; what is longer is cut.
      max_answer_length: tokens of an answer.
      n_best: best starts and ends of a window that are combined, and answers of a question that are kept.
      null_answers: whether a question may have no answer in its context, as in SQuAD 2.0.
      null_threshold: by how much the score of having no answer must exceed that of the best one to be predicted.
      normalisation: how answers are compared: "squad" (SQuAD, XQuAD, TyDiQA) or "mlqa" (by language).
    """

    doc_stride: int = 128
    max_query_length: int = 64
    max_answer_length: int = 30
    n_best: int = 20
    null_answers: bool = False
    null_threshold: float = 0.0
    normalisation: Literal["squad", "mlqa"] = "squad"

    def __post_init__(self) -> None:
        for name in ("doc_stride", "max_query_length", "max_answer_length", "n_best"):
            if getattr(self, name) < 1:
                raise TaskError(f"{name}={getattr(self, name)}: expected at least 1")


class Answer(NamedTuple):
    """Part of a context, and the sum of the logits of its ends; no text says that there is no answer."""

    text: str
    score: float


class Gold(NamedTuple):
    """Text of an answer, and its first character in the context."""

    text: str
    start: int


class QuestionAnswering(Task):
    """[CLS] question [SEP] window [SEP]; token type 0 up to the first [SEP], then 1.

    A window whose part of the context has not the whole answer is trained to point at [CLS].
    """

    Options = Options
    model, loss, outputs = "question_answering", "span", "span_logits"
    row_targets = ("start_positions", "end_positions")
    text_fields = (2,)
    metric_names = ("f1", "exact_match")
    suffix = "json"
    options: Options

    SPECIAL: ClassVar[int] = 3
    """[CLS] and two [SEP]."""

    @classmethod
    def check(cls, config: TaskConfig, options: Any) -> None:
        room = config.max_length - options.max_query_length - cls.SPECIAL
        if options.doc_stride > room:
            raise TaskError(
                f"options.doc_stride={options.doc_stride}: a window has {room} tokens (max_length={config.max_length} less "
                f"max_query_length={options.max_query_length} and {cls.SPECIAL}); tokens between windows would be lost"
            )

    def __init__(self, config: TaskConfig, tokenizer: Any, labels: Sequence[str]) -> None:
        super().__init__(config, tokenizer, labels)
        # Questions about the same context follow each other.
        self._tokens = functools.lru_cache(maxsize=64)(tokenizer.encode_with_offsets)

    def check_examples(self, examples: Sequence[Example]) -> None:
        """Also that no two questions have the same id."""
        seen: dict[str, str] = {}
        for example in examples:
            self._gold(example)
            name = self._id(example)
            if name in seen:
                raise TaskError(
                    f"{place(example)}: id {name!r} is that of {seen[name]} already; give each question its own"
                )
            seen[name] = place(example)

    def _id(self, example: Example) -> str:
        if not isinstance(example.get("id"), str):
            raise TaskError(f"{place(example)}: no string under 'id'; expected one for each question")
        return example["id"]

    def _gold(self, example: Example) -> list[Gold]:
        """The answers, each of which stands at its place in the context; none where the question has none."""
        found, context = example[self.config.label_field], example[self.config.text_fields[1]]
        if isinstance(found, Mapping):  # As TFDS has them.
            pairs = zip(found["text"], found["answer_start"], strict=True)
        else:
            pairs = ((one["text"], one["answer_start"]) for one in found)
        gold = [Gold(text, start) for text, start in pairs]
        if not gold and not self.options.null_answers:
            raise TaskError(
                f"{place(example)}: a question without an answer; set task.options.null_answers if there are such"
            )
        for text, start in gold:
            if not text or context[start : start + len(text)] != text:
                raise TaskError(
                    f"{place(example)}: the context has {context[start : start + len(text)]!r} at {start}, expected the answer "
                    f"{text!r}"
                )
        return gold

    def _question(self, example: Example) -> list[int]:
        return self.encode(example[self.config.text_fields[0]])[: self.options.max_query_length]

    def _windows(self, question: int, context: int) -> list[range]:
        """The tokens of the context in each row, by the numbers of tokens of question and context."""
        room = self.config.max_length - question - self.SPECIAL
        last = max(0, -(-(context - room) // self.options.doc_stride))
        starts = (number * self.options.doc_stride for number in range(last + 1))
        return [range(start, min(start + room, context)) for start in starts]

    def rows(self, example: Example) -> list[Features]:
        """A row for each window; targets are positions in the row."""
        question, (ids, offsets) = self._question(example), self._tokens(example[self.config.text_fields[1]])
        gold = self._gold(example)
        span = _token_span(offsets, gold[0].start, gold[0].start + len(gold[0].text)) if gold else None
        cls, sep, first = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id, len(question) + 2
        rows = []
        for window in self._windows(len(question), len(ids)):
            tokens = [cls, *question, sep, *ids[window.start : window.stop], sep]
            row = self.inputs(tokens, [0] * first + [1] * (len(window) + 1))
            inside = span is not None and span[0] in window and span[1] in window
            ends = [first + token - window.start for token in span] if span and inside else [0, 0]
            rows.append(row | dict(zip(self.row_targets, np.array(ends, np.int32), strict=True)))
        return rows

    def merge(self, example: Example, rows: Sequence[Features], outputs: Sequence[Features]) -> list[Answer]:
        """The best answers of all windows, the best one first; "" among them where questions may have none."""
        context = example[self.config.text_fields[1]]
        offsets, first = self._tokens(context)[1], len(self._question(example)) + 2
        best: dict[str, float] = {}
        nothing = np.inf
        for window, output in zip(self._windows(first - 2, len(offsets)), outputs, strict=True):
            starts, ends = (output[name][first : first + len(window)] for name in ("start_logits", "end_logits"))
            nothing = min(nothing, float(output["start_logits"][0] + output["end_logits"][0]))
            for score, begin, end in self._spans(starts, ends):
                text = context[offsets[window[begin]][0] : offsets[window[end]][1]].strip()
                if text:
                    best[text] = max(score, best.get(text, -np.inf))
        ranked = heapq.nlargest(
            self.options.n_best, (Answer(*item) for item in best.items()), key=lambda one: one.score
        )
        if not self.options.null_answers:
            return ranked or [Answer("", nothing)]
        place_of_none = not ranked or nothing - ranked[0].score > self.options.null_threshold
        return [Answer("", nothing), *ranked] if place_of_none else [*ranked, Answer("", nothing)]

    def _spans(self, starts: np.ndarray, ends: np.ndarray) -> list[tuple[float, int, int]]:
        """Score, first and last token of the spans that join the best starts and the best ends of a window."""
        count = min(self.options.n_best, len(starts))
        begin, end = (np.argsort(-logits, kind="stable")[:count] for logits in (starts, ends))
        score, length = starts[begin][:, None] + ends[end][None, :], end[None, :] - begin[:, None] + 1
        legal = np.argwhere((length >= 1) & (length <= self.options.max_answer_length))
        return [(float(score[i, j]), int(begin[i]), int(end[j])) for i, j in legal]

    def metrics(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], language: str
    ) -> dict[str, float]:
        """F1 and exact match of the best answer, as the scripts of SQuAD or MLQA compute them."""
        normalise = scores.normaliser(self.options.normalisation, language)
        rows = []
        for example, ranked in zip(examples, predictions, strict=True):
            gold, text = [answer.text for answer in self._gold(example)], ranked[0].text
            rows.append(scores.score_answer(text, gold, normalise) if gold else 2 * (float(not text),))
        exact, overlap = np.mean(rows, axis=0)
        return {"f1": float(overlap), "exact_match": float(exact)}

    def baseline(self, train: Sequence[Example]) -> Guess:
        """The tokens where answers usually stand, by the medians of place and length; reads no question."""
        places, sizes = [], []
        for example in train:
            offsets = self._tokens(example[self.config.text_fields[1]])[1]
            for text, start in self._gold(example)[:1]:
                if span := _token_span(offsets, start, start + len(text)):
                    places.append(span[0] / len(offsets))
                    sizes.append(span[1] - span[0])
        middle, size = (float(np.median(values)) if values else 0.0 for values in (places, sizes))

        def guess(example: Example) -> list[Answer]:
            context = example[self.config.text_fields[1]]
            if not (offsets := self._tokens(context)[1]):
                return [Answer("", 0.0)]
            begin = int(middle * len(offsets))
            end = min(begin + round(size), len(offsets) - 1)
            return [Answer(context[offsets[begin][0] : offsets[end][1]].strip(), 0.0)]

        return guess

    def to_text(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
        """An object in JSON from ids of questions to their answers."""
        found = {self._id(example): ranked[0].text for example, ranked in zip(examples, predictions, strict=True)}
        return json.dumps(found, ensure_ascii=False, indent=1) + "\n"

    def details(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
        """An object in JSON from ids of questions to their best answers with scores."""
        found = {
            self._id(example): [answer._asdict() for answer in ranked]
            for example, ranked in zip(examples, predictions, strict=True)
        }
        return json.dumps(found, ensure_ascii=False, indent=1) + "\n"


def _token_span(offsets: Sequence[tuple[int, int]], begin: int, end: int) -> tuple[int, int] | None:
    """First and last token that share a character with a span of characters; None where no token does."""
    inside = [number for number, (first, last) in enumerate(offsets) if first < end and last > begin]
    return (inside[0], inside[-1]) if inside else None
