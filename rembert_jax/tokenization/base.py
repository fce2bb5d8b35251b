"""What both tokenizers share: calls, the template, saving and loading."""

from __future__ import annotations

import abc
import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import tokenizers

from rembert_jax import hub
from rembert_jax.tokenization import extended, saved
from rembert_jax.tokenization.batch import (
    CallOptions,
    Row,
    Segment,
    make_rows,
    pad_rows,
    plan_lengths,
)
from rembert_jax.tokenization.encoding import BatchEncoding
from rembert_jax.tokenization.inputs import as_batch
from rembert_jax.tokenization.model_file import ModelFile, TokenizerError, trust
from rembert_jax.tokenization.pieces import ROLES, PieceTable
from rembert_jax.tokenization.saved import TokenizerSettings
from rembert_jax.tokenization.tensors import to_array

logger = logging.getLogger(__name__)

VOCABULARY_FILE = "sentencepiece.model"
JSON_FILE = "tokenizer.json"
MODEL_CONFIG_FILE = "config.json"
TOKENIZER_FILES = (
    VOCABULARY_FILE, JSON_FILE, saved.CONFIG_FILE, saved.SPECIAL_FILE, extended.ADDED_FILE, MODEL_CONFIG_FILE,
)  # fmt: skip
Words = Sequence[str]


class TokenizerBase(PieceTable):
    """Tokenizes texts and pairs by calls and keeps files, over any way to cut a text into pieces of its table."""

    _model: ModelFile | None  # The `.model` file, where there is one.
    _warned: bool = False  # Of a text that is longer than the model.

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], *, revision: str | None = None, **changes: Any) -> Self:
        """Opens the tokenizer in a folder, a vocabulary file or a repository of the hub.

        Args:
          path: such as "DIR", "sentencepiece.model" or "google/rembert".
          revision: branch, tag or commit of a repository.
          **changes: settings other than the saved ones, and special pieces by the names of their attributes, such as
            `pad_token="<pad>"`.

        Raises:
          TokenizerError: if there is none, a file is wrong, a setting is unknown, or a model's `config.json` in the folder
            says another size of vocabulary. Its `max_position_embeddings` are the tokenizer's `model_max_length` where
            nothing else says one.
        """
        place = pathlib.Path(path)
        if not place.exists():
            place = hub.find_folder(path, TOKENIZER_FILES, revision=revision)
        changes, ends = _by_role(changes)
        known = [field.name for field in dataclasses.fields(TokenizerSettings)]
        if strange := sorted(set(changes) - set(known)):
            raise TokenizerError(f"unknown setting {', '.join(strange)}; expected some of {', '.join(known)}")
        settings = saved.read_settings(place) if place.is_dir() else TokenizerSettings()
        if isinstance(changes.get("special"), Mapping):
            changes["special"] = {**settings.special, **changes["special"]}
        tokenizer = cls(place, dataclasses.replace(settings, **changes))
        tokenizer.name_or_path = str(path)
        for name, piece in ends.items():
            setattr(tokenizer, name, piece)  # Refuses another one.
        if place.is_dir():
            saved.warn_of_version_5(place, tokenizer.unk_token_id)
            length = _read_model_beside(place, tokenizer)
            if tokenizer.settings.model_max_length is None and "model_max_length" not in changes:
                tokenizer.model_max_length = length
        return tokenizer

    @abc.abstractmethod
    def __init__(self, path: str | os.PathLike[str], settings: TokenizerSettings | None = None) -> None: ...

    @abc.abstractmethod
    def _segments(self, texts: Sequence[str] | Sequence[Words], options: CallOptions) -> list[Segment]:
        """Each text, or list of words, as pieces without [CLS] and [SEP]."""

    @abc.abstractmethod
    def _plain_ids(self, text: str) -> list[int]:
        """Ids of a text in which nothing is special, at once."""

    # Calls.

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
        if chosen.max_length is None and chosen.verbose:
            self._warn_of_length(max(map(len, rows), default=0))
        pad_rows(rows, chosen, lengths, chosen.padding_side or self.settings.padding_side)
        fields = self._fields(rows, chosen)
        if chosen.return_tensors:
            fields = {name: to_array(name, values, chosen.return_tensors) for name, values in fields.items()}
        elif not batched and not chosen.return_overflowing_tokens:
            fields = {name: v[0] if isinstance(v[0], list) else v for name, v in fields.items()}
        return BatchEncoding(fields, rows, self.settings.special)

    def _warn_of_length(self, length: int) -> None:
        """Once for a tokenizer, as in transformers."""
        if length > self.model_max_length and not self._warned:
            self._warned = True
            logger.warning(
                "a text of %d tokens is longer than the %d of the model, which would refuse it; give truncation=True",
                length,
                self.model_max_length,
            )

    def _fields(self, rows: Sequence[Row], options: CallOptions) -> dict[str, list[Any]]:
        cls, sep, pad = self.cls_token_id, self.sep_token_id, self.pad_token_id
        fields: dict[str, list[Any]] = {"input_ids": [row.spread(lambda s, _: s.ids, cls, sep, pad) for row in rows]}
        wanted = self.settings.model_input_names
        types, mask = options.return_token_type_ids, options.return_attention_mask
        if ("token_type_ids" in wanted) if types is None else types:
            fields["token_type_ids"] = [row.types() for row in rows]
        if ("attention_mask" in wanted) if mask is None else mask:
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

    def tokenize(
        self, text: str | Words, pair: str | Words | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """Pieces of a text, or of a text and a second; from the fast tokenizer as they stand in the text."""
        found = self(text, pair, add_special_tokens=add_special_tokens, **options)
        return found.tokens() if self.is_fast else cast(list[str], self.convert_ids_to_tokens(found["input_ids"]))

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

    # Files.

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, model_max_length: int | None = None
    ) -> tuple[str, ...]:
        """Writes everything that `from_pretrained` and transformers need, and gives the paths.

        Args:
          folder: created if needed.
          model_max_length: length of the model that lies beside, for a tokenizer that has none of its own.
        """
        target = _folder(folder)
        length = self.settings.model_max_length or model_max_length
        settings = dataclasses.replace(self.settings, model_max_length=length)
        return (*self._save_files(target), *map(str, saved.write_settings(target, settings)))

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


def _by_role(changes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Keywords with special pieces by name of attribute gathered in `special`; and those of begin and end, which is [CLS] and
    [SEP] here."""
    pieces = {role: changes[f"{role}_token"] for role in ROLES if changes.get(f"{role}_token") is not None}
    rest = {name: value for name, value in changes.items() if name.removesuffix("_token") not in ROLES}
    pieces = {role: getattr(piece, "content", piece) for role, piece in pieces.items()}  # Other programs' AddedToken.
    special = {role: piece for role, piece in pieces.items() if ROLES[role] == role}
    if special:
        rest["special"] = {**(rest.get("special") or {}), **special}
    return rest, {f"{role}_token": piece for role, piece in pieces.items() if ROLES[role] != role}


def _read_model_beside(folder: pathlib.Path, tokenizer: TokenizerBase) -> int | None:
    """Longest sequence of the model whose `config.json` is in the same folder, which must have as many pieces.

    A run's own file of this name is passed over.
    """
    path = folder / MODEL_CONFIG_FILE
    if not path.is_file():
        return None
    values = saved.parse_json(path, saved.read_settings_file(path))
    if values.get("model_type") != "rembert":
        return None
    size, length = values.get("vocab_size"), values.get("max_position_embeddings")
    if type(size) is int and size != tokenizer.vocab_size:
        raise TokenizerError(
            f"{tokenizer.model_file}: {tokenizer.vocab_size} pieces, but {path} says vocab_size={size}; take the files that "
            "belong together, or fit the model to the vocabulary with resize_token_embeddings"
        )
    return length if type(length) is int and length > 0 else None


def _folder(folder: str | os.PathLike[str]) -> pathlib.Path:
    target = pathlib.Path(folder)
    if target.exists() and not target.is_dir():
        raise TokenizerError(f"{target}: is a file; expected a folder to save to")
    target.mkdir(parents=True, exist_ok=True)
    return target


def _template_row(ids: Sequence[int], pair_ids: Sequence[int] | None) -> Row:
    second = None if pair_ids is None else Segment(list(pair_ids))
    return Row(0, Segment(list(ids)), (0, len(ids)), second, (0, len(pair_ids or ())), special=True)
