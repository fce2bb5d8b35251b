"""The fast tokenizer of RemBERT: the same vocabulary in the `tokenizers` library, with offsets."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import tokenizers

from rembert_jax.tokenization import extended, saved, unigram
from rembert_jax.tokenization.base import JSON_FILE, VOCABULARY_FILE, TokenizerBase, Words, save_json
from rembert_jax.tokenization.batch import CallOptions, Segment
from rembert_jax.tokenization.inputs import explain_text
from rembert_jax.tokenization.model_file import (
    MAX_JSON_BYTES,
    TokenizerError,
    check_in_child,
    check_json_size,
    read_file,
    read_model,
)
from rembert_jax.tokenization.saved import TokenizerSettings
from rembert_jax.tokenization.unigram import Added, UnigramParts


class RemBertTokenizerFast(TokenizerBase):
    """The tokenizer of other programs' fast RemBERT, id for id; see the base classes for attributes and methods.

    It differs from SentencePiece in quotes and spaces: docs/tokenizers.md.
    """

    is_fast = True

    def __init__(self, path: str | os.PathLike[str], settings: TokenizerSettings | None = None) -> None:
        """Reads a `tokenizer.json` or a SentencePiece `.model`; of a folder the first of these that is there.

        Without `settings` those saved in the folder are read, if it is one. Where a folder has both files they must have
        the same pieces, and `sha256` is that of the `.model`, unless the other adds tokens.

        Raises:
          TokenizerError: if there is no such file, it is damaged or of another kind, lacks a special piece, or adds tokens
            that only other files name.
        """
        place = pathlib.Path(path)
        if settings is None:
            settings = saved.read_settings(place) if place.is_dir() else TokenizerSettings()
        json_file, model_file = _files(place)
        self._model = read_model(model_file) if model_file else None
        parts = unigram.from_model(self._model) if self._model else None
        if json_file is not None:
            self.model_file = json_file
            self.sha256, parts = _read_json(json_file, parts)
        assert parts is not None
        if self._model is not None and not parts.beyond():
            self.model_file, self.sha256 = self._model.path, self._model.sha256
        lower = parts.do_lower_case if settings.do_lower_case is None else settings.do_lower_case
        keep = parts.keep_accents if settings.keep_accents is None else settings.keep_accents
        self._parts = dataclasses.replace(parts, do_lower_case=lower, keep_accents=keep)
        self._open(dataclasses.replace(settings, do_lower_case=lower, keep_accents=keep))
        if place.is_dir():
            extended.check_added(place, self, {token.id for token in self._parts.added}, None)

    def _open(self, settings: TokenizerSettings) -> None:
        parts = self._parts
        beyond = parts.beyond()
        self.vocab_size = len(parts.pieces) + len(beyond)
        self._prefix, self._unused = parts.prefix, parts.unused
        self._control = frozenset(token.id for token in parts.added if token.special) | {parts.unk_id}
        self._names = [piece for piece, _ in parts.pieces] + [token.content for token in beyond]
        self._ids = {piece: i for i, piece in enumerate(self._names)}
        self._finish(settings)
        self._limit_special([self._names[i] for i in self._special])
        self._parts = parts.with_special(self._special, self.mask_token_id)
        self._backend = self._parts.build((self.cls_token, self.sep_token))

    def __getstate__(self) -> dict[str, Any]:
        made_again = ("_backend", "_plain")
        return {key: value for key, value in super().__getstate__().items() if key not in made_again}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._backend = self._parts.build((self.cls_token, self.sep_token))

    def _find(self, piece: str) -> int | None:
        return self._ids.get(piece)

    def _list_pieces(self) -> list[str]:
        return self._names

    def _added_tokens(self) -> Sequence[Added]:
        return self._parts.added

    @functools.cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        return self._parts.without_special().build(None)

    def _plain_ids(self, text: str) -> list[int]:
        return self._run(self._plain, [text], words=False)[0].ids

    def _segments(self, texts: Sequence[str] | Sequence[Words], options: CallOptions) -> list[Segment]:
        backend = self._plain if options.split_special_tokens else self._backend
        return [Segment(found.ids, found) for found in self._run(backend, texts, options.is_split_into_words)]

    def _run(self, backend: tokenizers.Tokenizer, texts: Sequence[Any], words: bool) -> list[Any]:
        try:
            return backend.encode_batch(list(texts), is_pretokenized=words, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            flat = [word for text in texts for word in text] if words else texts
            raise explain_text(flat, error) from None

    def _save_files(self, folder: pathlib.Path) -> tuple[str, ...]:
        models = self.save_vocabulary(folder) if self._model else ()
        return (*models, save_json(self._backend, folder))


def _files(place: pathlib.Path) -> tuple[pathlib.Path | None, pathlib.Path | None]:
    """The `tokenizer.json` and the `.model` to read, at least one of them."""
    if not place.is_dir():
        return (place, None) if place.suffix == ".json" else (None, place)
    json_file, model_file = place / JSON_FILE, place / VOCABULARY_FILE
    found = json_file if json_file.is_file() else None, model_file if model_file.is_file() else None
    if found == (None, None):
        raise TokenizerError(f"{place}: no such vocabulary; expected {JSON_FILE} or {VOCABULARY_FILE} in the folder")
    return found


def _read_json(path: pathlib.Path, model: UnigramParts | None) -> tuple[str, UnigramParts]:
    """Hash and parts of a `tokenizer.json`, whose pieces must be those of `model`."""
    content = read_file(path, MAX_JSON_BYTES, "a tokenizer.json")
    check_json_size(path, content)
    # Python's own reader of JSON comes to no harm, and says what is wrong in plainer words than the library in the child.
    parts = unigram.read_json(path, saved.parse_json(path, content))
    digest = check_in_child(path, "json", content, parts.charsmap)
    if model is None:
        return digest, parts
    if [piece for piece, _ in parts.pieces] != [piece for piece, _ in model.pieces] or parts.unk_id != model.unk_id:
        raise TokenizerError(
            f"{path}: its pieces are not those of {VOCABULARY_FILE} in the same folder; they belong to different models: "
            "take away the one that is wrong"
        )
    return digest, dataclasses.replace(parts, unused=model.unused)
