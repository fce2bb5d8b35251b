"""The SentencePiece tokenizer of RemBERT."""

from __future__ import annotations

import hashlib
import os
import pathlib
import unicodedata
from collections.abc import Sequence

import numpy as np
import sentencepiece

from rembert_jax.errors import RemBertError

VOCABULARY_FILE = "sentencepiece.model"
SPECIAL_PIECES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
# Released models call padding and unknown by SentencePiece's own names.
ALTERNATIVE_PIECES = {"pad": "<pad>", "unk": "<unk>"}
WORD_START = "\u2581"  # SentencePiece's mark for a space.
# Scripts written without spaces, as their letters' Unicode names begin; Chinese is CJK.
UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


class TokenizerError(RemBertError):
    """A vocabulary file cannot be used."""


def _begins_word(piece: str) -> bool:
    if piece.startswith(WORD_START):
        return True
    category = unicodedata.category(piece[0])
    # Vowel signs and other marks (M), and signs that repeat or lengthen (Lm), go on with the letter before them.
    unspaced = category == "Lo" and unicodedata.name(piece[0], "").startswith(UNSPACED_SCRIPTS)
    return unspaced or category[0] in "PS"


class RemBertTokenizer:
    """Plain SentencePiece pieces between [CLS] and [SEP].

    The ids of the special pieces are read from the model file, never assumed.

    Attributes:
      model_file: where the vocabulary was read from.
      sha256: hash of the vocabulary file; checkpoints carry it, so that a model never meets another vocabulary.
      vocab_size: number of pieces.
      pad_token_id, unk_token_id, cls_token_id, sep_token_id, mask_token_id: ids of the special pieces.
      space_token_id: id of the piece that is a space and nothing else; None where there is none.
    """

    def __init__(self, model_file: str | os.PathLike[str]) -> None:
        """Reads a SentencePiece `.model` file, or the one named `sentencepiece.model` in a folder.

        Raises:
          TokenizerError: if the file is missing, is no SentencePiece model, or lacks a special piece.
        """
        path = pathlib.Path(model_file)
        self.model_file = path / VOCABULARY_FILE if path.is_dir() else path
        if not self.model_file.is_file():
            raise TokenizerError(f"{self.model_file}: no such vocabulary; expected a SentencePiece .model file")
        proto = self.model_file.read_bytes()
        self.sha256 = hashlib.sha256(proto).hexdigest()
        if not proto:
            raise TokenizerError(f"{self.model_file}: the file is empty; expected a SentencePiece .model file")
        try:
            self.pieces = sentencepiece.SentencePieceProcessor(model_proto=proto)
        except RuntimeError as error:
            raise TokenizerError(f"{self.model_file}: not a SentencePiece model ({error})") from error
        self.vocab_size: int = self.pieces.get_piece_size()
        self.pad_token_id = self._special("pad")
        self.unk_token_id = self._special("unk")
        self.cls_token_id = self._special("cls")
        self.sep_token_id = self._special("sep")
        self.mask_token_id = self._special("mask")
        space = self.pieces.piece_to_id(WORD_START)
        self.space_token_id: int | None = None if space == self.unk_token_id else space

    def _special(self, name: str) -> int:
        for piece in (SPECIAL_PIECES[name], ALTERNATIVE_PIECES.get(name)):
            if piece is not None and self.pieces.id_to_piece(self.pieces.piece_to_id(piece)) == piece:
                return self.pieces.piece_to_id(piece)
        raise TokenizerError(
            f"{self.model_file}: the piece {SPECIAL_PIECES[name]} is missing; train the vocabulary with "
            "rembert_jax.tokenization.train_vocabulary, or use RemBERT's own"
        )

    def encode(self, text: str) -> list[int]:
        """Piece ids of `text`, without special pieces."""
        return self.pieces.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of piece ids; control pieces such as [CLS] and padding disappear."""
        return self.pieces.decode([int(i) for i in ids])

    def special_ids(self) -> np.ndarray:
        """Sorted ids that are never masked and never drawn as replacement.

        They are the five special pieces, of whatever type in the model file, and control, unknown and unused pieces.
        """
        p = self.pieces
        others = [i for i in range(self.vocab_size) if p.is_control(i) or p.is_unknown(i) or p.is_unused(i)]
        named = [self.pad_token_id, self.unk_token_id, self.cls_token_id, self.sep_token_id, self.mask_token_id]
        return np.union1d(others, named).astype(np.int32)

    def starts_word(self) -> np.ndarray:
        """For each id whether the piece begins a word: [vocab_size] bool.

        A word begins after a space, at punctuation and symbols, and with each piece of a script written without spaces.
        """
        starts = np.array([_begins_word(self.pieces.id_to_piece(i)) for i in range(self.vocab_size)])
        starts[[i for i in range(self.vocab_size) if self.pieces.is_byte(i)]] = False  # Called "<0x41>".
        starts[self.special_ids()] = False  # Called "[PAD]".
        return starts
