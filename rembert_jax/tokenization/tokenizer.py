"""The SentencePiece tokenizer of RemBERT."""

from __future__ import annotations

import logging
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import sentencepiece

from rembert_jax.tokenization import extended, saved, unigram
from rembert_jax.tokenization.base import JSON_FILE, VOCABULARY_FILE, TokenizerBase, Words, save_json
from rembert_jax.tokenization.batch import CallOptions, Segment
from rembert_jax.tokenization.inputs import explain_text
from rembert_jax.tokenization.model_file import TokenizerError, read_model
from rembert_jax.tokenization.saved import TokenizerSettings
from rembert_jax.tokenization.unigram import Added

logger = logging.getLogger(__name__)

# Unicode's White_Space, which the fast tokenizer strips before [MASK]; Python's own notion has four characters more.
SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


class RemBertTokenizer(TokenizerBase):
    """SentencePiece's own pieces, exactly; see the base classes for attributes and methods."""

    is_fast = False

    def __init__(self, path: str | os.PathLike[str], settings: TokenizerSettings | None = None) -> None:
        """Reads a SentencePiece `.model` file, or the one named `sentencepiece.model` in a folder.

        Without `settings` those saved in the folder are read, if it is one.

        Raises:
          TokenizerError: if the file is missing, is no SentencePiece model, or lacks a special piece; or if settings ask
            to change letters, which SentencePiece does not do, or other files of the folder add tokens.
        """
        place = pathlib.Path(path)
        if settings is None:
            settings = saved.read_settings(place) if place.is_dir() else TokenizerSettings()
        self.model_file = place / VOCABULARY_FILE if place.is_dir() else place
        if settings.do_lower_case or settings.keep_accents is False:
            raise TokenizerError(
                f"{place}: do_lower_case={bool(settings.do_lower_case)}, keep_accents={settings.keep_accents is not False}: "
                "SentencePiece changes neither letters nor accents; use RemBertTokenizerFast"
            )
        self._model = read_model(self.model_file)
        self.sha256, self._prefix = self._model.sha256, self._model.prefix
        self._open()
        self.vocab_size = self.pieces.get_piece_size()
        ids, p = range(self.vocab_size), self.pieces
        self._control = frozenset(i for i in ids if p.is_control(i) or p.is_unknown(i))
        self._unused = frozenset(i for i in ids if p.is_unused(i))
        self._bytes = {i for i in ids if p.is_byte(i)}
        self._finish(settings)
        names = {p.id_to_piece(i) for i in self._special}
        self._limit_special(names)
        # The longest first, so that none hides another that it begins.
        self._in_text = re.compile("|".join(map(re.escape, sorted(names, key=lambda name: (-len(name), name)))))
        if place.is_dir():
            json_file = place / JSON_FILE
            whole = self._special | set(self._model.user_defined)
            extended.check_added(place, self, whole, json_file if json_file.is_file() else None)

    def _open(self) -> None:
        assert self._model is not None
        self.pieces: sentencepiece.SentencePieceProcessor = self._model.processor()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "pieces"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _find(self, piece: str) -> int | None:
        found = self.pieces.piece_to_id(piece)
        return found if self.pieces.id_to_piece(found) == piece else None

    def _list_pieces(self) -> list[str]:
        return cast(list[str], self.pieces.id_to_piece(list(range(self.vocab_size))))

    def _added_tokens(self) -> Sequence[Added]:
        assert self._model is not None
        special = [Added(i, self._pieces[i], special=True, lstrip=i == self.mask_token_id) for i in self._special]
        return [*special, *(Added(i, self._pieces[i], special=False) for i in self._model.user_defined)]

    def _plain_ids(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise explain_text([text])
        try:
            return self.pieces.encode(text)
        except RuntimeError as error:
            raise explain_text([text], error) from None

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a text without [CLS] and [SEP], and of each the characters that it stands for, (begin, end) in the text.

        Names of special pieces are plain text. A piece may stand for no character, as the space before a text.

        Raises:
          TokenizerError: for what is no text.
        """
        if not isinstance(text, str):
            raise explain_text([text])
        try:
            found: Any = self.pieces.encode(text, return_type="offset_mapping")
        except RuntimeError as error:
            raise explain_text([text], error) from None
        return found["ids"], found["offsets"]

    def _segments(self, texts: Sequence[str] | Sequence[Words], options: CallOptions) -> list[Segment]:
        if options.return_offsets_mapping:
            raise TokenizerError("return_offsets_mapping: this tokenizer gives none; use RemBertTokenizerFast")
        split = options.split_special_tokens
        if options.is_split_into_words:
            return [Segment([i for word in words for i in self._ids(word, split)]) for words in texts]
        lines = cast(Sequence[str], texts)
        # SentencePiece works on a list in several threads.
        plain = [i for i, line in enumerate(lines) if split or not self._in_text.search(line)]
        try:
            found = dict(zip(plain, self.pieces.encode([lines[i] for i in plain]), strict=True))
        except (RuntimeError, TypeError) as error:
            raise explain_text(lines, error) from None
        return [Segment(found[i] if i in found else self._ids(line, split)) for i, line in enumerate(lines)]

    def _ids(self, text: str, split: bool) -> list[int]:
        """Ids of a text in which the names of special pieces stand for these; [MASK] takes the space to its left."""
        if split:
            return self._plain_ids(text)
        ids, at = [], 0
        for match in self._in_text.finditer(text):
            before, name = text[at : match.start()], match.group()
            ids += self._plain_ids(before.rstrip(SPACES) if name == self.mask_token else before) if before else []
            ids.append(cast(int, self._find(name)))
            at = match.end()
        return ids + self._plain_ids(text[at:])

    def _save_files(self, folder: pathlib.Path) -> tuple[str, ...]:
        assert self._model is not None
        paths = self.save_vocabulary(folder)
        if reasons := unigram.obstacles(self._model):
            # One left there by another tokenizer would be taken for this one's.
            (folder / JSON_FILE).unlink(missing_ok=True)
            logger.warning(
                "%s: no %s written (%s); transformers would need one, and cannot load this tokenizer",
                folder,
                JSON_FILE,
                reasons,
            )
            return paths
        # From the .model alone transformers adds no [CLS] and [SEP].
        parts = unigram.from_model(self._model).with_special(self._special, self.mask_token_id)
        return (*paths, save_json(parts.build((self.cls_token, self.sep_token)), folder))

    def _concatenate(self, pieces: list[str]) -> str:
        if not self._bytes:
            return super()._concatenate(pieces)
        # A byte is called "<0x41>"; neighbours make a character together.
        is_byte = [self._find(piece) in self._bytes for piece in pieces]
        parts = [bytes([int(p[1:-1], 16)]) if byte else p.encode() for p, byte in zip(pieces, is_byte, strict=True)]
        return b"".join(parts).decode("utf-8", "replace")

    def starts_word(self) -> np.ndarray:
        starts = super().starts_word()
        starts[list(self._bytes)] = False
        return starts
