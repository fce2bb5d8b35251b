"""Training of a SentencePiece unigram vocabulary on a smoothed multilingual sample."""

from __future__ import annotations

import io
import logging
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import sentencepiece

from rembert_jax.errors import RemBertError
from rembert_jax.tokenization.model_file import trust
from rembert_jax.tokenization.pieces import SPECIAL_PIECES
from rembert_jax.tokenization.saved import write_file

logger = logging.getLogger(__name__)

MIN_COVERAGE = 0.98  # SentencePiece's own limit.
# Fixed, so that the same text gives the same vocabulary on every machine.
TRAINER_THREADS = 4
# Longer texts are cut: SentencePiece needs time with the square of a text without spaces, fails on one of 97,000 Chinese
# characters, and leaves out what is longer than its limit in bytes without a word.
MAX_CHARACTERS = 4096


class VocabularyError(RemBertError):
    """The requested vocabulary cannot be learnt from the text."""


def sample_sentences(
    sources: Mapping[str, Sequence[str]], shares: Mapping[str, float], total: int, seed: int
) -> Iterator[str]:
    """Draws about `total` texts, language l with probability `shares[l]`.

    Within a language texts come in a random order without repetition; a language whose share exceeds its size starts over
    in a new order, exactly as it does in pre-training.
    """
    for number, (language, source) in enumerate(sources.items()):
        rng = np.random.default_rng([seed, number])
        wanted = max(1, round(total * shares[language]))
        while wanted > 0:
            order = rng.permutation(len(source))[:wanted]
            for index in order:
                yield source[int(index)]
            wanted -= len(order)


def _check(vocab_size: int, character_coverage: float, symbols: Sequence[str]) -> None:
    special = set(SPECIAL_PIECES.values())
    if taken := special.intersection(symbols):
        raise VocabularyError(
            f"tokenizer.user_defined_symbols: {', '.join(sorted(taken))} is a special piece already; take it out"
        )
    if repeated := sorted({symbol for symbol in symbols if symbols.count(symbol) > 1 or not symbol}):
        raise VocabularyError(
            f"tokenizer.user_defined_symbols: {', '.join(map(repr, repeated))} is empty or given twice; give each one once"
        )
    reserved = len(special) + len(symbols)
    if vocab_size <= reserved:
        raise VocabularyError(
            f"tokenizer.vocab_size={vocab_size}: expected more than the {reserved} special pieces and user-defined symbols"
        )
    if not MIN_COVERAGE <= character_coverage <= 1.0:
        raise VocabularyError(
            f"tokenizer.character_coverage={character_coverage}: expected a share between {MIN_COVERAGE} and 1"
        )


def _cut(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for start in range(0, len(text), MAX_CHARACTERS):
            yield text[start : start + MAX_CHARACTERS]


def train_vocabulary(
    sentences: Iterator[str],
    path: str | os.PathLike[str],
    *,
    vocab_size: int,
    character_coverage: float = 0.9995,
    user_defined_symbols: Sequence[str] = (),
) -> None:
    """Trains a unigram vocabulary with RemBERT's special pieces and writes it to `path`.

    Ids: [PAD] 0, [CLS] 1, [UNK] 2, [SEP] 3, [MASK] 4, then learnt pieces; 2 is where transformers 5 looks for the unknown
    piece, whatever a file says. Text is normalised by NFKC (SentencePiece's `nmt_nfkc`). The file appears complete or not at
    all.

    Raises:
      VocabularyError: if the text has too few or too many distinct pieces for `vocab_size`, or a setting makes no sense.
    """
    _check(vocab_size, character_coverage, user_defined_symbols)
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_cut(sentences),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            max_sentence_length=4 * MAX_CHARACTERS,  # UTF-8 has up to four bytes a character.
            num_threads=TRAINER_THREADS,
            minloglevel=2,
            pad_id=0,
            pad_piece=SPECIAL_PIECES["pad"],
            bos_id=1,
            bos_piece=SPECIAL_PIECES["cls"],
            unk_id=2,
            unk_piece=SPECIAL_PIECES["unk"],
            eos_id=3,
            eos_piece=SPECIAL_PIECES["sep"],
            control_symbols=[SPECIAL_PIECES["mask"]],
            user_defined_symbols=list(user_defined_symbols),
        )
    except RuntimeError as error:
        raise _explain(str(error), vocab_size) from error
    write_file(target, model.getvalue())
    trust(model.getvalue())  # Made here, so it need not be tried out in another process.
    logger.info("wrote a vocabulary of %d pieces to %s", vocab_size, target)


def _explain(message: str, vocab_size: int) -> VocabularyError:
    """Says in our words what SentencePiece's internal checks mean."""
    if found := re.search(r"size to a value <= (\d+)|to a value <= (\d+)", message):
        largest = int(found.group(1) or found.group(2))
        return VocabularyError(
            f"tokenizer.vocab_size={vocab_size}: the sampled text supports at most {largest} pieces; "
            f"set tokenizer.vocab_size={largest} or less, or give more text (or a larger tokenizer.sample_sentences)"
        )
    if found := re.search(r"smaller than required_chars\. (\d+) vs (\d+)", message):
        return VocabularyError(
            f"tokenizer.vocab_size={vocab_size}: the text has {found.group(2)} required characters and special pieces; "
            "raise tokenizer.vocab_size or lower tokenizer.character_coverage"
        )
    if any(check in message for check in ("sentences_.empty()", "!sentences_", "(all_chars_count) > (0)")):
        return VocabularyError("the text to learn the vocabulary from is empty; check data.path")
    return VocabularyError(f"SentencePiece could not learn {vocab_size} pieces: {message}")
