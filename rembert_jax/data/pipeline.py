"""From text sources to batches for masked-language modelling.

With a given number of processes and of workers, one row is a pure function of (seed, number of the row): documents are
shuffled and mixed by index, packed in that order, and masked with a generator derived from the row's number. Each process
and each worker reads, mixes and packs its own part of every language. The iterator's state is a small JSON object, kept in
the checkpoint, from which training goes on with the very next batch.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import grain
import numpy as np
from absl import flags

from rembert_jax.data import mixture, packing, parallel, schedules, sources, synthetic, synthetic_world, tokenized
from rembert_jax.data.masking import Features, MaskTokens
from rembert_jax.data.synthetic import SyntheticConfig
from rembert_jax.errors import RemBertError
from rembert_jax.tokenization import RemBertTokenizer

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Section `data` of a pre-training config.

    Attributes:
      source: "text" (one text a line, plain or .gz), "jsonl", "tfds" or "synthetic".
      path: for files a pattern with {language} and {split}; for TFDS a dataset name with {language}.
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
      workers: worker processes that prepare batches in turn; 0 uses a thread of the main process.
      prefetch: batches that this thread prepares ahead.
    """

    source: Literal["text", "jsonl", "tfds", "synthetic"]
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
    workers: int = 0
    prefetch: int = 4

    def __post_init__(self) -> None:
        if self.seq_length < 3:
            raise RemBertError(f"seq_length={self.seq_length}: expected at least 3 ([CLS], a token, [SEP])")
        least = {"lines_per_document": 1, "max_predictions": 0, "eval_texts": 1, "parallel_texts": 0}
        least |= {"workers": 0, "prefetch": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise RemBertError(f"{name}={getattr(self, name)}: expected at least {smallest}")
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


def open_source(config: DataConfig, language: str, split: str) -> Sequence[str]:
    """The texts of one language and split.

    Raises:
      sources.SourceError: if they are missing, unreadable or empty; the message names the language.
    """
    if config.source == "synthetic":
        if language not in synthetic_world.LANGUAGES:
            known = ", ".join(synthetic_world.LANGUAGES)
            raise sources.SourceError(
                f"data.languages: unknown synthetic language {language!r}: expected one of {known}"
            )
        size = synthetic_world.LANGUAGES[language].documents if split == config.train_split else config.eval_texts
        texts: Sequence[str] = sources.SyntheticText(language, split, size, config.synthetic)
    elif config.source == "tfds":
        name = sources.fill_pattern(config.path, "data.path", language=language)
        texts = sources.TfdsText(name, split, config.data_dir, config.text_field)
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


def open_sources(config: DataConfig, split: str) -> dict[str, Sequence[str]]:
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


def _rows(
    documents: grain.IterDataset,
    config: DataConfig,
    tokenizer: RemBertTokenizer,
    seed: int,
    batch_size: int | None = None,
) -> grain.IterDataset:
    """Masked rows; of training, if `batch_size` says how many a step takes: shuffled and with the schedule of the rate."""
    special = {"cls_id": tokenizer.cls_token_id, "sep_id": tokenizer.sep_token_id, "pad_id": tokenizer.pad_token_id}
    shuffle_seed = None if batch_size is None else seed
    rows: grain.IterDataset = packing.PackedRows(documents, config.seq_length, **special, shuffle_seed=shuffle_seed)
    if batch_size is not None and config.mask_rate_schedule:
        every = max(1, config.workers)  # Workers make whole batches in turn.
        rows = rows.map_with_index(schedules.SetMaskRate(config.mask_rate_schedule, batch_size, every))
    return rows.seed(seed).random_map(_masking(config, tokenizer))


def train_batches(
    texts: Mapping[str, Sequence[str] | Sequence[list[int]]],
    config: DataConfig,
    tokenizer: RemBertTokenizer,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Endless training batches of this process.

    Each process reads its own share of every language, so all processes together see each text once per epoch.

    Args:
      texts: language to texts, or to their token ids (`tokenized.TokenizedTexts`), which gives the same batches.
      config, tokenizer: as named.
      batch_size: rows of this process in a batch.
      seed: of order and masking.
      process_index, process_count: which share of the data to read.

    Returns:
      An iterator over dicts of arrays [batch_size, seq_length] (`input_ids`, `segment_ids`, `position_ids`) and
      [batch_size, predictions] (`masked_positions`, `masked_labels`, `masked_weights`), with `get_state`/`set_state`.
    """
    counts = {language: len(source) for language, source in texts.items()}
    alpha = config.alpha_schedule or ((0, config.alpha),)
    mixture.log_shares(counts, mixture.language_shares(counts, schedules.value_at(alpha, 0)))
    # Languages are mixed in each worker. Mixed before, every n-th text would go to a worker, and as the order of languages
    # is periodic, a worker might never meet some of them.
    mixed = mixture.MixedTexts(
        list(texts.values()),
        _Encode(tokenizer).map,
        alpha=alpha,
        tokens_per_step=batch_size * config.seq_length / max(1, config.workers),
        seed=seed,
        index=process_index,
        count=process_count,
    )
    rows = _rows(mixed, config, tokenizer, seed + 1000 * process_index, batch_size)
    batches = rows.batch(batch_size, drop_remainder=True)
    if config.workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags, which only `absl.app` programs parse.
            flags.FLAGS.mark_as_parsed()
        return iter(batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=config.workers)))
    return iter(grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=config.prefetch))


def example_batches(
    examples: Sequence[Any],
    features: Callable[[Any], Features],
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Endless shuffled batches of labelled examples for this process, each example once per epoch and process group.

    Args:
      examples: random access to labelled examples.
      features: from an example to its arrays.
      batch_size: rows of this process in a batch.
      seed: of the order.
      process_index, process_count: which share of the data to read.
    """
    dataset = grain.MapDataset.source(_Records(examples)).seed(seed).shuffle()[process_index::process_count].repeat()
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(dataset.map(features).batch(batch_size).to_iter_dataset(ahead))


def eval_batches(
    texts: Mapping[str, Sequence[str]], config: DataConfig, tokenizer: RemBertTokenizer, *, batch_size: int, seed: int
) -> dict[str, list[Features]]:
    """Held-out batches by language, the same at every call; the last one is filled up with rows of weight 0."""
    batches: dict[str, list[Features]] = {}
    for language, source in texts.items():
        chosen = grain.MapDataset.source(_Records(source))[: config.eval_texts]
        encoded = chosen.map(_Encode(tokenizer)).to_iter_dataset(
            grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        )
        rows = list(_rows(encoded, config, tokenizer, seed))
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
