"""From text sources to batches for masked-language modelling.

Each row of a batch comes from a stream of its own, which reads, mixes, packs and masks its part of every language; there are
as many streams as rows in the batch of all processes. So a row is a function of the seed, the step and its number in the
batch, and the same whichever process makes it. Where each stream stands is kept in the checkpoint, from which training goes
on with the very next batch, on as many processes as there are then.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import grain
import numpy as np

from rembert_jax.data import mixture, packing, parallel, schedules, sources, synthetic, synthetic_world, tokenized
from rembert_jax.data.masking import Features, MaskTokens
from rembert_jax.data.shuffled import Shuffled, ShuffledStream
from rembert_jax.data.synthetic import SyntheticConfig
from rembert_jax.errors import RemBertError
from rembert_jax.tokenization import RemBertTokenizer

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Section `data` of a pre-training config.

    Attributes:
      source: "text" (one text a line, plain or .gz), "jsonl", "tfds", "tokens" (made by `tools.tokenize`) or "synthetic".
      path: for files, and folders of tokens, a pattern with {language} and {split}; for TFDS a dataset name with {language}.
      data_dir: TFDS data folder.
      text_field: key of the text in JSON lines and TFDS.
      languages: which languages; empty takes all that are found.
      train_split, eval_split: names of the splits.
      lines_per_document: consecutive texts to join, for files with one sentence a line.
      on_invalid: what to do with lines that are not UTF-8.
      alpha: exponent of the language mixture.
      alpha_schedule: points (step, alpha) of an exponent that changes over the run (`schedules.Schedule`); empty keeps `alpha`.
      seq_length: tokens in a row.
      mask_rate, max_predictions, whole_word_masking: see `masking.MaskTokens`; max_predictions 0 takes rate x length.
      mask_rate_schedule: points (step, rate) of a rate that changes over the run; held-out text keeps `mask_rate`, so that
        its loss can be compared over the steps.
      eval_texts: texts of each language's `eval_split` used for evaluation.
      synthetic: the world of the synthetic languages.
      parallel: pattern with {language} of files with lines "key<TAB>sentence", where a key names the same sentence in every
        language, to measure whether the encoder finds translations; empty for none, save that synthetic languages bring theirs.
      parallel_texts: sentences of each language to measure it on; 0 does not measure it.
      prefetch: batches that a thread prepares ahead.
    """

    source: Literal["text", "jsonl", "tfds", "tokens", "synthetic"]
    path: str = ""
    data_dir: str = ""
    text_field: str = "text"
    languages: tuple[str, ...] = ()
    train_split: str = "train"
    eval_split: str = "dev"
    lines_per_document: int = 1
    on_invalid: Literal["fail", "skip"] = "fail"
    alpha: float = 0.5
    alpha_schedule: schedules.Schedule = ()
    seq_length: int = 512
    mask_rate: float = 0.15
    mask_rate_schedule: schedules.Schedule = ()
    max_predictions: int = 0
    whole_word_masking: bool = False
    eval_texts: int = 500
    synthetic: SyntheticConfig = SyntheticConfig()
    parallel: str = ""
    parallel_texts: int = 200
    prefetch: int = 4

    def __post_init__(self) -> None:
        if self.seq_length < 3:
            raise RemBertError(f"seq_length={self.seq_length}: expected at least 3 ([CLS], a token, [SEP])")
        least = {"lines_per_document": 1, "max_predictions": 0, "eval_texts": 1, "parallel_texts": 0, "prefetch": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise RemBertError(f"{name}={getattr(self, name)}: expected at least {smallest}")
        if self.source == "tokens" and self.lines_per_document > 1:
            raise RemBertError("lines_per_document: token ids are of whole documents; join lines when they are made")
        if not 0.0 <= self.alpha <= 1.0:
            raise RemBertError(f"alpha={self.alpha}: expected a number between 0 and 1")
        if not 0.0 < self.mask_rate < 1.0:
            raise RemBertError(f"mask_rate={self.mask_rate}: expected a share between 0 and 1")
        schedules.check_schedule("alpha_schedule", self.alpha_schedule, 0.0, 1.0)
        schedules.check_schedule("mask_rate_schedule", self.mask_rate_schedule, 0.001, 0.999)
        if len(set(self.languages)) < len(self.languages):
            raise RemBertError(f"languages={', '.join(self.languages)}: name each language once")

    @property
    def predictions(self) -> int:
        """Prediction slots of a row."""
        rate = max([self.mask_rate, *(rate for _, rate in self.mask_rate_schedule)])
        return self.max_predictions or max(1, round(self.seq_length * rate))


def _languages(config: DataConfig) -> list[str]:
    if config.languages:
        return list(config.languages)
    if config.source == "synthetic":
        return list(synthetic_world.LANGUAGES)
    if config.source == "tfds":
        raise sources.SourceError("data.languages is empty; name the languages of a TFDS mixture")
    return sources.discover_languages(config.path)


def open_source(config: DataConfig, language: str, split: str) -> Sequence[Any]:
    """The texts of one language and split, or their token ids.

    Raises:
      sources.SourceError: if they are missing, unreadable or empty; the message names the language.
    """
    if config.source == "synthetic":
        if language not in synthetic_world.LANGUAGES:
            known = ", ".join(synthetic_world.LANGUAGES)
            raise sources.SourceError(
                f"data.languages: unknown synthetic language {language!r}: expected one of {known}"
            )
        size = config.eval_texts
        if split == config.train_split:
            size = round(synthetic_world.LANGUAGES[language].documents * config.synthetic.documents)
        texts: Any = sources.SyntheticText(language, split, size, config.synthetic)
    elif config.source == "tfds":
        name = sources.fill_pattern(config.path, "data.path", language=language)
        texts = sources.TfdsText(name, split, config.data_dir, config.text_field)
    elif config.source == "tokens":
        texts = tokenized.TokenizedTexts(sources.fill_pattern(config.path, "data.path", language=language, split=split))
    else:
        parse = sources.json_text(config.text_field) if config.source == "jsonl" else None
        files = sources.find_files(config.path, language, split)
        texts = sources.LineFiles(files, on_invalid=config.on_invalid, parse=parse)
    if not len(texts):
        raise sources.SourceError(
            f"language {language!r}, split {split!r}: no text in {config.path or config.source}; "
            "add some or take the language out of data.languages"
        )
    return sources.GroupedLines(texts, config.lines_per_document) if config.lines_per_document > 1 else texts


def open_sources(config: DataConfig, split: str) -> dict[str, Sequence[Any]]:
    """The texts of every language of `config` in a split."""
    return {language: open_source(config, language, split) for language in _languages(config)}


def open_parallel(config: DataConfig, languages: Sequence[str]) -> dict[str, list[str]]:
    """The same sentences by language, for those languages that have them; empty if there are none.

    Raises:
      sources.SourceError: if `config.parallel` names no files, or such that do not fit together.
    """
    if not config.parallel_texts or len(languages) < 2:
        return {}
    if config.parallel:
        return parallel.keyed_sentences(config.parallel, languages, config.parallel_texts)
    if config.source != "synthetic":
        return {}
    sentences = synthetic.translations(config.parallel_texts, config.synthetic.seed)
    return {language: sentences[language] for language in languages}


def check_sources(config: DataConfig) -> None:
    """Raises `sources.SourceError` if a language lacks one of its two splits; looks for files and does not read them."""
    if config.parallel and config.parallel_texts:
        parallel.keyed_files(config.parallel, _languages(config))
    for language in _languages(config):
        for split in (config.train_split, config.eval_split):
            if config.source in ("text", "jsonl"):
                sources.find_files(config.path, language, split)
            else:  # Opens in no time.
                open_source(config, language, split)


@dataclasses.dataclass(frozen=True)
class _Encode(grain.transforms.Map):
    tokenizer: RemBertTokenizer

    def map(self, element: str | list[int]) -> list[int]:
        """Token ids of a text, or those that are given."""
        return tokenized.encode(self.tokenizer, element) if isinstance(element, str) else element


class _Records:
    """Any sequence as Grain's random-access source."""

    def __init__(self, records: Sequence[Any]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        return self.records[int(index)]

    def __repr__(self) -> str:
        return f"{type(self.records).__name__}({len(self)})"


def _masking(config: DataConfig, tokenizer: RemBertTokenizer) -> MaskTokens:
    return MaskTokens(
        mask_token_id=tokenizer.mask_token_id,
        special_ids=tokenizer.special_ids(),
        vocab_size=tokenizer.vocab_size,
        rate=config.mask_rate,
        max_predictions=config.predictions,
        starts_word=tokenizer.starts_word() if config.whole_word_masking else None,
    )


def _pack(
    documents: grain.IterDataset, config: DataConfig, tokenizer: RemBertTokenizer, **order: int
) -> grain.IterDataset:
    special = {"cls_id": tokenizer.cls_token_id, "sep_id": tokenizer.sep_token_id, "pad_id": tokenizer.pad_token_id}
    return packing.PackedRows(documents, config.seq_length, **special, **order)


def train_batches(
    texts: Mapping[str, Sequence[str] | Sequence[list[int]]],
    config: DataConfig,
    tokenizer: RemBertTokenizer,
    *,
    batch_size: int,
    seed: int,
    rows: Sequence[int] | None = None,
) -> grain.DatasetIterator:
    """Endless training batches, or the rows of them that a process needs.

    Args:
      texts: language to texts, or to their token ids (`tokenized.TokenizedTexts`), which gives the same batches.
      config, tokenizer: as named.
      batch_size: rows of a batch.
      seed: of order and masking.
      rows: which of them to make, in rising order; None makes all. What is in a row does not depend on it.

    Returns:
      An iterator over dicts of arrays [rows, seq_length] (`input_ids`, `segment_ids`, `position_ids`) and
      [rows, predictions] (`masked_positions`, `masked_labels`, `masked_weights`), with `get_state`/`set_state`.
    """
    counts = {language: len(source) for language, source in texts.items()}
    alpha = config.alpha_schedule or ((0, config.alpha),)
    mixture.log_shares(counts, mixture.language_shares(counts, schedules.value_at(alpha, 0)))
    orders = [Shuffled(source, [seed, number]) for number, source in enumerate(texts.values())]
    encode, mask = _Encode(tokenizer).map, _masking(config, tokenizer)
    # Evenly around the circle of languages, so that a batch holds each by its share.
    starts = (np.random.default_rng(seed).permutation(batch_size) + 0.5) / batch_size

    def stream(row: int) -> grain.IterDataset:
        rng = np.random.default_rng([seed, row])
        mixed = mixture.MixedTexts(
            orders,
            list(counts.values()),
            encode,
            alpha=alpha,
            tokens_per_step=config.seq_length,
            start=float(starts[row]),
            index=row,
            count=batch_size,
        )
        # The first groups are of different sizes, so that streams do not all pack a group at the same step.
        first = 1 + row % packing.OPEN_ROWS
        packed = _pack(mixed, config, tokenizer, shuffle_seed=int(rng.integers(2**31)), first_rows=first)
        if config.mask_rate_schedule:
            packed = packed.map_with_index(schedules.SetMaskRate(config.mask_rate_schedule))
        return packed.seed(int(rng.integers(2**31))).random_map(mask)

    return _prefetched([stream(row) for row in (range(batch_size) if rows is None else rows)], config.prefetch)


def example_batches(
    examples: Sequence[Features],
    *,
    batch_size: int,
    seed: int,
    rows: Sequence[int] | None = None,
) -> grain.DatasetIterator:
    """Endless shuffled batches of labelled examples, each example once per epoch.

    Args:
      examples: random access to the arrays of each, made when they are asked for.
      batch_size: rows of a batch.
      seed: of the order.
      rows: which of them to make, in rising order; None makes all. What is in a row does not depend on it.
    """
    order = Shuffled(examples, [seed])
    streams = [
        ShuffledStream(order, index=row, count=batch_size) for row in (range(batch_size) if rows is None else rows)
    ]
    return _prefetched(streams, 4)


def _prefetched(streams: Sequence[grain.IterDataset], ahead: int) -> grain.DatasetIterator:
    return iter(grain.experimental.ThreadPrefetchIterDataset(RowBatches(streams), prefetch_buffer_size=ahead))


class RowBatches(grain.IterDataset):
    """Batches of which each row is the next element of a stream of its own; the state is the list of their states."""

    def __init__(self, streams: Sequence[grain.IterDataset]) -> None:
        super().__init__(streams)
        self.streams = streams

    def __iter__(self) -> grain.DatasetIterator:
        return _RowBatchesIterator([iter(stream) for stream in self.streams])


class _RowBatchesIterator(grain.DatasetIterator):
    def __init__(self, streams: Sequence[grain.DatasetIterator]) -> None:
        super().__init__(streams)
        self._streams = streams

    def __next__(self) -> Features:
        rows = [next(stream) for stream in self._streams]
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

    def get_state(self) -> list[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return [stream.get_state() for stream in self._streams]

    def set_state(self, state: list[Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for stream, own in zip(self._streams, state, strict=True):
            stream.set_state(own)


def eval_batches(
    texts: Mapping[str, Sequence[Any]], config: DataConfig, tokenizer: RemBertTokenizer, *, batch_size: int, seed: int
) -> dict[str, list[Features]]:
    """Held-out batches by language, the same at every call; the last one is filled up with rows of weight 0."""
    batches: dict[str, list[Features]] = {}
    for language, source in texts.items():
        chosen = grain.MapDataset.source(_Records(source))[: config.eval_texts]
        encoded = chosen.map(_Encode(tokenizer)).to_iter_dataset(
            grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        )
        rows = list(_pack(encoded, config, tokenizer).seed(seed).random_map(_masking(config, tokenizer)))
        batches[language] = batch_rows(rows, batch_size)
    return batches


def sentence_batches(
    sentences: Sequence[str], tokenizer: RemBertTokenizer, *, length: int, batch_size: int
) -> list[Features]:
    """Batches of `input_ids` and `attention_mask` [batch_size, length], a sentence a row; longer ones are cut."""
    rows = []
    for sentence in sentences:
        ids = tokenized.encode(tokenizer, sentence)[: length - 2]
        padding = (0, length - len(ids) - 2)
        whole = np.array([tokenizer.cls_token_id, *ids, tokenizer.sep_token_id], np.int32)
        rows.append(
            {
                "input_ids": np.pad(whole, padding, constant_values=tokenizer.pad_token_id),
                "attention_mask": np.pad(np.ones_like(whole), padding),
            }
        )
    return batch_rows(rows, batch_size)


def batch_rows(rows: Sequence[Features], batch_size: int) -> list[Features]:
    """Stacks rows into batches of equal size; a short last batch is filled with zero rows (weight 0, padding)."""
    result = []
    for start in range(0, len(rows), batch_size):
        part = list(rows[start : start + batch_size])
        filler = {key: np.zeros_like(value) for key, value in part[0].items()}
        part += [filler] * (batch_size - len(part))
        result.append({key: np.stack([row[key] for row in part]) for key in part[0]})
    return result
