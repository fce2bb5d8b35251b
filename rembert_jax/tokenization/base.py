"""What both tokenizers share: special pieces, the template, calls, decoding, saving and loading."""

from __future__ import annotations

import abc
import dataclasses
import functools
import os
import pathlib
import unicodedata
from collections.abc import Sequence
from typing import Any, Self, cast

import numpy as np
import tokenizers

from rembert_jax.interop import huggingface
from rembert_jax.tokenization import saved
from rembert_jax.tokenization.batch import (
    BatchEncoding,
    CallOptions,
    Row,
    Segment,
    make_rows,
    pad_rows,
    plan_lengths,
    to_array,
)
from rembert_jax.tokenization.inputs import as_batch
from rembert_jax.tokenization.model_file import ModelFile, TokenizerError, trust
from rembert_jax.tokenization.saved import TokenizerSettings

VOCABULARY_FILE = "sentencepiece.model"
JSON_FILE = "tokenizer.json"
MODEL_CONFIG_FILE = "config.json"
TOKENIZER_FILES = (
    VOCABULARY_FILE, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", huggingface.CONFIG_FILE,
)  # fmt: skip
SPECIAL_PIECES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
# Released models call padding and unknown by SentencePiece's own names.
ALTERNATIVE_PIECES = {"pad": "<pad>", "unk": "<unk>"}
WORD_START = "\u2581"  # SentencePiece's mark for a space.
# Scripts written without spaces, as their letters' Unicode names begin; Chinese is CJK.
UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")

Words = Sequence[str]


def _begins_word(piece: str) -> bool:
    if piece.startswith(WORD_START):
        return True
    category = unicodedata.category(piece[0])
    # Vowel signs and other marks (M), and signs that repeat or lengthen (Lm), go on with the letter before them.
    unspaced = category == "Lo" and unicodedata.name(piece[0], "").startswith(UNSPACED_SCRIPTS)
    return unspaced or category[0] in "PS"


class TokenizerBase(abc.ABC):
    """A vocabulary with special pieces, over any way to cut text into its pieces.

    Attributes:
      model_file: where the vocabulary was read from.
      sha256: hash of that file; checkpoints carry it, so that a model never meets another vocabulary.
      vocab_size: number of pieces.
      settings: how text is padded and cut where a call does not say.
      pad_token, unk_token, cls_token, sep_token, mask_token: the special pieces.
      pad_token_id, unk_token_id, cls_token_id, sep_token_id, mask_token_id: their ids, read from the file, never assumed.
      space_token_id: id of the piece that is a space and nothing else; None where there is none.
    """

    model_file: pathlib.Path
    sha256: str
    vocab_size: int
    settings: TokenizerSettings
    _model: ModelFile | None  # The `.model` file, where there is one.
    _prefix: bool  # Whether a text gets a space at its beginning.
    _control: frozenset[int]  # Ids of pieces that the file itself declares special.
    _unused: frozenset[int]

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], *, revision: str | None = None, **changes: Any) -> Self:
        """Opens the tokenizer in a folder, a vocabulary file or a repository of the hub.

        Args:
          path: such as "DIR", "sentencepiece.model" or "google/rembert".
          revision: branch, tag or commit of a repository.
          **changes: settings other than the saved ones.

        Raises:
          TokenizerError: if there is none, a file is wrong, a setting is unknown, or a model's `config.json` in the folder
            says another size of vocabulary.
        """
        place = pathlib.Path(path)
        if not place.exists():
            place = huggingface.find_folder(path, TOKENIZER_FILES, revision=revision)
        known = [field.name for field in dataclasses.fields(TokenizerSettings)]
        if strange := sorted(set(changes) - set(known)):
            raise TokenizerError(f"unknown setting {', '.join(strange)}; expected some of {', '.join(known)}")
        settings = saved.read_settings(place) if place.is_dir() else TokenizerSettings()
        tokenizer = cls(place, dataclasses.replace(settings, **changes))
        if place.is_dir():
            _check_model_beside(place, tokenizer)
        return tokenizer

    @abc.abstractmethod
    def __init__(self, path: str | os.PathLike[str], settings: TokenizerSettings | None = None) -> None: ...

    @abc.abstractmethod
    def _find(self, piece: str) -> int | None:
        """Id of a piece, None where there is none."""

    @abc.abstractmethod
    def _list_pieces(self) -> list[str]:
        """All pieces, by id."""

    @abc.abstractmethod
    def _segments(self, texts: Sequence[str] | Sequence[Words], options: CallOptions) -> list[Segment]:
        """Each text, or list of words, as pieces without [CLS] and [SEP]."""

    @abc.abstractmethod
    def _plain_ids(self, text: str) -> list[int]:
        """Ids of a text in which nothing is special, at once."""

    def _finish(self, settings: TokenizerSettings) -> None:
        """Looks up the special pieces, once the vocabulary is there."""
        special = {name: self._special_piece(name, settings.special.get(name)) for name in SPECIAL_PIECES}
        prefix = settings.add_prefix_space
        if prefix is not None and prefix != self._prefix:
            raise TokenizerError(
                f"{self.model_file}: add_prefix_space={prefix}, but the vocabulary was made with {self._prefix}; take it out"
            )
        self.settings = dataclasses.replace(settings, special=special, add_prefix_space=self._prefix)
        self.pad_token, self.unk_token, self.cls_token, self.sep_token, self.mask_token = special.values()
        ids = [cast(int, self._find(piece)) for piece in special.values()]
        self.pad_token_id, self.unk_token_id, self.cls_token_id, self.sep_token_id, self.mask_token_id = ids
        self._special = frozenset(ids) | self._control
        self.space_token_id = self._find(WORD_START)

    def _special_piece(self, name: str, given: str | None) -> str:
        candidates = [given] if given else [SPECIAL_PIECES[name], *filter(None, [ALTERNATIVE_PIECES.get(name)])]
        for piece in candidates:
            if self._find(piece) is not None:
                return piece
        raise TokenizerError(
            f"{self.model_file}: the piece {candidates[0]} is missing; train the vocabulary with "
            "rembert_jax.tokenization.train_vocabulary, use RemBERT's own, or name another piece with "
            f"special={{{name!r}: …}}"
        )

    def __len__(self) -> int:
        return self.vocab_size

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_pieces"}  # Made again when needed.

    @functools.cached_property
    def _pieces(self) -> list[str]:
        return self._list_pieces()

    # Text to ids.

    def __call__(
        self, text: str | Sequence[str] | Sequence[Words], text_pair: Any = None, **options: Any
    ) -> BatchEncoding:
        """Tokenizes a text, a pair, or lists of either; `CallOptions` says with which options.

        Returns:
          `input_ids` and what else is asked for: lists of numbers for one text, lists of rows for several, for overflow and
          for arrays.

        Raises:
          TokenizerError: for an option that is unknown or makes no sense, and for text that is none.
        """
        chosen = CallOptions.from_keywords(options)
        lengths = plan_lengths(chosen, self.settings)
        texts, pairs, batched = as_batch(text, text_pair, chosen.is_split_into_words)
        first = self._segments(texts, chosen)
        second = [None] * len(first) if pairs is None else self._segments(pairs, chosen)
        side = self.settings.truncation_side
        rows = [
            row
            for sample, pair in enumerate(zip(first, second, strict=True))
            for row in make_rows(sample, *pair, chosen, lengths, side)
        ]
        pad_rows(rows, chosen, lengths, chosen.padding_side or self.settings.padding_side)
        fields = self._fields(rows, chosen)
        if chosen.return_tensors:
            fields = {name: to_array(name, values) for name, values in fields.items()}
        elif not batched and not chosen.return_overflowing_tokens:
            fields = {name: v[0] if isinstance(v[0], list) else v for name, v in fields.items()}
        return BatchEncoding(fields, rows, self.settings.special)

    def _fields(self, rows: Sequence[Row], options: CallOptions) -> dict[str, list[Any]]:
        cls, sep, pad = self.cls_token_id, self.sep_token_id, self.pad_token_id
        fields: dict[str, list[Any]] = {"input_ids": [row.spread(lambda s, _: s.ids, cls, sep, pad) for row in rows]}
        if options.return_token_type_ids:
            fields["token_type_ids"] = [row.types() for row in rows]
        if options.return_attention_mask:
            fields["attention_mask"] = [row.mask() for row in rows]
        if options.return_special_tokens_mask:
            fields["special_tokens_mask"] = [row.spread(lambda s, _: [0] * len(s.ids), 1, 1, 1) for row in rows]
        if options.return_offsets_mapping:
            nowhere = (0, 0)
            fields["offset_mapping"] = [row.spread(lambda s, _: s.offsets, nowhere, nowhere, nowhere) for row in rows]
        if options.return_length:
            fields["length"] = [len(ids) for ids in fields["input_ids"]]
        if options.return_overflowing_tokens:
            fields["overflow_to_sample_mapping"] = [row.sample for row in rows]
        return fields

    def encode(
        self,
        text: str | Words,
        text_pair: str | Words | None = None,
        add_special_tokens: bool = True,
        *,
        split_special_tokens: bool = False,
        **options: Any,
    ) -> list[int]:
        """`input_ids` of a call with these options."""
        if split_special_tokens and text_pair is None and not (add_special_tokens or options):
            return self._plain_ids(cast(str, text))  # The way of the data pipeline.
        options |= {"add_special_tokens": add_special_tokens, "split_special_tokens": split_special_tokens}
        return self(text, text_pair, **options)["input_ids"]

    # The template: [CLS] A [SEP] or [CLS] A [SEP] B [SEP].

    def build_inputs_with_special_tokens(self, ids: Sequence[int], pair_ids: Sequence[int] | None = None) -> list[int]:
        """Ids of one or two texts with [CLS] and [SEP] around them."""
        return _template_row(ids, pair_ids).spread(lambda s, _: s.ids, self.cls_token_id, self.sep_token_id, None)

    def create_token_type_ids_from_sequences(
        self, ids: Sequence[int], pair_ids: Sequence[int] | None = None
    ) -> list[int]:
        """For each token of the built input the text it belongs to: 0 up to the first [SEP], then 1."""
        return _template_row(ids, pair_ids).types()

    def get_special_tokens_mask(
        self, ids: Sequence[int], pair_ids: Sequence[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 for special pieces and 0 for others, of the built input; or of `ids` as they are if these are built already.

        In built input every special piece counts, so padding and masks too.
        """
        if not already_has_special_tokens:
            return _template_row(ids, pair_ids).spread(lambda s, _: [0] * len(s.ids), 1, 1, None)
        if pair_ids is not None:
            raise TokenizerError("already_has_special_tokens=True: give the whole input as one list, without a second")
        return [int(int(i) in self._special) for i in ids]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """2 for a text, 3 for a pair."""
        return 3 if pair else 2

    # Ids to text.

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | list[int]:
        """Id of a piece, or ids of pieces; that of the unknown piece where there is none."""
        if isinstance(tokens, str):
            found = self._find(tokens)
            return self.unk_token_id if found is None else found
        return [cast(int, self.convert_tokens_to_ids(token)) for token in tokens]

    def convert_ids_to_tokens(
        self, ids: int | Sequence[int] | np.ndarray, skip_special_tokens: bool = False
    ) -> str | list[str]:
        """The piece of an id, or pieces of ids, without special ones if asked.

        Raises:
          TokenizerError: if there is no such id.
        """
        if isinstance(ids, (int, np.integer)):
            return self._lookup([int(ids)])[0]
        numbers = [int(i) for i in ids]
        return self._lookup([i for i in numbers if i not in self._special] if skip_special_tokens else numbers)

    def _lookup(self, ids: list[int]) -> list[str]:
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise TokenizerError(
                f"id {wrong}: the vocabulary has ids 0 … {self.vocab_size - 1}; is it another model's?"
            )
        pieces = self._pieces
        return [pieces[i] for i in ids]

    def decode(self, ids: int | Sequence[int] | np.ndarray, skip_special_tokens: bool = False) -> str:
        """The text of ids; special pieces appear by name unless they are skipped.

        Raises:
          TokenizerError: if there is no such id, or `ids` are several rows.
        """
        given = np.atleast_1d(np.asarray(ids)) if isinstance(ids, (int, np.ndarray, np.integer)) else ids
        if any(isinstance(i, Sequence) or np.ndim(i) for i in given):
            raise TokenizerError("decode: found rows of ids, expected one row; use batch_decode")
        return self._join(cast(list[str], self.convert_ids_to_tokens(given, skip_special_tokens)))

    def batch_decode(self, rows: Sequence[Sequence[int]] | np.ndarray, skip_special_tokens: bool = False) -> list[str]:
        """The text of each row of ids."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    def _join(self, pieces: list[str]) -> str:
        if pieces and self._prefix:
            pieces = [pieces[0].replace(WORD_START, ""), *pieces[1:]]
        return self._concatenate(pieces).replace(WORD_START, " ")

    def _concatenate(self, pieces: list[str]) -> str:
        return "".join(pieces)

    # The vocabulary as a whole.

    def special_ids(self) -> np.ndarray:
        """Sorted ids that are never masked and never drawn as replacement.

        They are the five special pieces, of whatever type in the file, and control, unknown and unused pieces.
        """
        return np.array(sorted(self._special | self._unused), np.int32)

    def starts_word(self) -> np.ndarray:
        """For each id whether the piece begins a word: [vocab_size] bool.

        A word begins after a space, at punctuation and symbols, and with each piece of a script written without spaces.
        """
        starts = np.array([_begins_word(piece) for piece in self._pieces])
        starts[self.special_ids()] = False  # Called "[PAD]".
        return starts

    # Files.

    def save_pretrained(self, folder: str | os.PathLike[str]) -> tuple[str, ...]:
        """Writes everything that `from_pretrained` needs, and gives the paths."""
        target = _folder(folder)
        return (*self._save_files(target), *map(str, saved.write_settings(target, self.settings)))

    def _save_files(self, folder: pathlib.Path) -> tuple[str, ...]:
        return self.save_vocabulary(folder)

    def save_vocabulary(self, folder: str | os.PathLike[str], filename_prefix: str | None = None) -> tuple[str, ...]:
        """Writes the SentencePiece model alone, byte for byte as it was read, and gives its path.

        Raises:
          TokenizerError: if the tokenizer was made from a `tokenizer.json` alone.
        """
        if self._model is None:
            raise TokenizerError(
                f"{self.model_file}: there is no SentencePiece model beside it; save_pretrained writes a tokenizer.json"
            )
        name = f"{filename_prefix}-{VOCABULARY_FILE}" if filename_prefix else VOCABULARY_FILE
        path = _folder(folder) / name
        saved.write_file(path, self._model.content)
        return (str(path),)


def save_json(backend: tokenizers.Tokenizer, folder: pathlib.Path) -> str:
    """Writes `tokenizer.json`, from which transformers loads, and gives its path."""
    content = backend.to_str().encode()
    saved.write_file(folder / JSON_FILE, content)
    trust(content)
    return str(folder / JSON_FILE)


def _check_model_beside(folder: pathlib.Path, tokenizer: TokenizerBase) -> None:
    """A model's `config.json` in the same folder must have as many pieces; a run's own file of this name is passed over."""
    path = folder / MODEL_CONFIG_FILE
    if not path.is_file():
        return
    values = saved.parse_json(path, saved.read_settings_file(path))
    size = values.get("vocab_size")
    if values.get("model_type") == "rembert" and type(size) is int and size != tokenizer.vocab_size:
        raise TokenizerError(
            f"{tokenizer.model_file}: {tokenizer.vocab_size} pieces, but {path} says vocab_size={size}; take the files that "
            "belong together, or fit the model to the vocabulary with resize_token_embeddings"
        )


def _folder(folder: str | os.PathLike[str]) -> pathlib.Path:
    target = pathlib.Path(folder)
    if target.exists() and not target.is_dir():
        raise TokenizerError(f"{target}: is a file; expected a folder to save to")
    target.mkdir(parents=True, exist_ok=True)
    return target


def _template_row(ids: Sequence[int], pair_ids: Sequence[int] | None) -> Row:
    second = None if pair_ids is None else Segment(list(pair_ids))
    return Row(0, Segment(list(ids)), (0, len(ids)), second, (0, len(pair_ids or ())), special=True)
