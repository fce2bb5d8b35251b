"""Training of a SentencePiece unigram vocabulary on a smoothed multilingual sample."""

from __future__ import annotations

import io
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import sentencepiece

from rembert_jax.tokenization.tokenizer import SPECIAL_PIECES

logger = logging.getLogger(__name__)

# Fixed, so that the same text gives the same vocabulary on every machine.
TRAINER_THREADS = 4
MAX_SENTENCE_BYTES = 1 << 20


class VocabularyError(ValueError):
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


def train_vocabulary(
    sentences: Iterator[str],
    path: str | os.PathLike[str],
    *,
    vocab_size: int,
    character_coverage: float = 0.9995,
    user_defined_symbols: Sequence[str] = (),
) -> None:
    """Trains a unigram vocabulary with RemBERT's special pieces and writes it to `path`.

    Ids: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, then learnt pieces. Text is normalised by NFKC (SentencePiece's
    `nmt_nfkc`). The file appears complete or not at all.

    Raises:
      VocabularyError: if the text has too few or too many distinct pieces for `vocab_size`.
    """
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences,
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            max_sentence_length=MAX_SENTENCE_BYTES,
            num_threads=TRAINER_THREADS,
            minloglevel=2,
            pad_id=0,
            pad_piece=SPECIAL_PIECES["pad"],
            unk_id=1,
            unk_piece=SPECIAL_PIECES["unk"],
            bos_id=2,
            bos_piece=SPECIAL_PIECES["cls"],
            eos_id=3,
            eos_piece=SPECIAL_PIECES["sep"],
            control_symbols=[SPECIAL_PIECES["mask"]],
            user_defined_symbols=list(user_defined_symbols),
        )
    except RuntimeError as error:
        raise _explain(str(error), vocab_size) from error
    partial = target.with_suffix(".partial")
    partial.write_bytes(model.getvalue())
    partial.replace(target)
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
