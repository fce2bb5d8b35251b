"""The SentencePiece tokenizer of RemBERT."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import sentencepiece

VOCABULARY_FILE = "sentencepiece.model"
SPECIAL_PIECES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
# Released models call padding and unknown by SentencePiece's own names.
ALTERNATIVE_PIECES = {"pad": "<pad>", "unk": "<unk>"}
WORD_START = "\u2581"  # SentencePiece's mark for a space.


class TokenizerError(ValueError):
    """A vocabulary file cannot be used."""


class RemBertTokenizer:
    """Plain SentencePiece pieces between [CLS] and [SEP].

    The ids of the special pieces are read from the model file, never assumed.

    Attributes:
      model_file: where the vocabulary was read from.
      sha256: hash of the vocabulary file; checkpoints carry it, so that a model never meets another vocabulary.
      vocab_size: number of pieces.
      pad_token_id, unk_token_id, cls_token_id, sep_token_id, mask_token_id: ids of the special pieces.
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
        """Sorted ids that are never masked and never drawn as replacement: control, unknown and unused pieces."""
        p = self.pieces
        return np.array(
            [i for i in range(self.vocab_size) if p.is_control(i) or p.is_unknown(i) or p.is_unused(i)], np.int32
        )

    def starts_word(self) -> np.ndarray:
        """For each id whether the piece begins a word: [vocab_size] bool."""
        return np.array([self.pieces.id_to_piece(i).startswith(WORD_START) for i in range(self.vocab_size)])
