"""The table of pieces: ids, special pieces, what is asked of a tokenizer by attribute, and ids back to text."""

from __future__ import annotations

import abc
import dataclasses
import functools
import pathlib
import unicodedata
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import numpy as np
from tokenizers import AddedToken

from rembert_jax.tokenization.model_file import TokenizerError
from rembert_jax.tokenization.saved import TokenizerSettings
from rembert_jax.tokenization.unigram import Added

SPECIAL_PIECES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
# Released models call padding and unknown by SentencePiece's own names.
ALTERNATIVE_PIECES = {"pad": "<pad>", "unk": "<unk>"}
WORD_START = "\u2581"  # SentencePiece's mark for a space.
# Scripts written without spaces, as their letters' Unicode names begin; Chinese is CJK.
UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")

# More, or longer names, than any vocabulary has; looking for them in a text costs time with each.
MAX_SPECIAL = 4096
MAX_SPECIAL_CHARACTERS = 1 << 17
# How other programs write that there is no limit.
NO_MAX_LENGTH = int(1e30)
# In transformers' order; [CLS] and [SEP] are the begin and the end there too.
ROLES = {"bos": "cls", "eos": "sep", "unk": "unk", "sep": "sep", "pad": "pad", "cls": "cls", "mask": "mask"}
# Where clean-up takes spaces away.
SPACED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


def _begins_word(piece: str) -> bool:
    if piece.startswith(WORD_START):
        return True
    category = unicodedata.category(piece[0])
    # Vowel signs and other marks (M), and signs that repeat or lengthen (Lm), go on with the letter before them.
    unspaced = category == "Lo" and unicodedata.name(piece[0], "").startswith(UNSPACED_SCRIPTS)
    return unspaced or category[0] in "PS"


def _clean_up(text: str) -> str:
    for spaced in SPACED:
        text = text.replace(spaced, spaced.strip())
    return text


def _read_only(name: str, get: Callable[[Any], Any], advice: str) -> property:
    """An attribute that says what to do instead to whoever assigns another value."""

    def refuse(self: Any, value: Any) -> None:
        if value != get(self):
            raise TokenizerError(f"{name}={value!r:.80}: an open tokenizer has {get(self)!r}; {advice}")

    return property(get, refuse)


def _token(role: str) -> property:
    name = ROLES[role]
    advice = f"open it again with from_pretrained(…, special={{{name!r}: …}})"
    return _read_only(f"{role}_token", lambda self: self.settings.special[name], advice)


def _token_id(role: str) -> property:
    name = ROLES[role]
    advice = f"the vocabulary says the ids; open it again with from_pretrained(…, special={{{name!r}: …}})"
    return _read_only(f"{role}_token_id", lambda self: self._special_ids[name], advice)


def _fixed_setting(name: str) -> property:
    advice = f"open it again with from_pretrained(…, {name}=…)"
    return _read_only(name, lambda self: getattr(self.settings, name), advice)


def _setting(name: str) -> property:
    """A setting that may be changed at any time."""

    def change(self: Any, value: Any) -> None:
        self.settings = dataclasses.replace(self.settings, **{name: value})

    return property(lambda self: getattr(self.settings, name), change)


class PieceTable(abc.ABC):
    """A vocabulary with special pieces.

    Attributes:
      model_file: where the vocabulary was read from.
      sha256: hash of that file; checkpoints carry it, so that a model never meets another vocabulary.
      vocab_size: number of pieces.
      settings: how text is padded and cut where a call does not say.
      padding_side, truncation_side, model_max_length, clean_up_tokenization_spaces: of these settings; can be assigned.
      do_lower_case, keep_accents, add_prefix_space: of these settings; fixed once the tokenizer is open.
      pad_token, unk_token, cls_token, sep_token, mask_token: the special pieces; `bos_token` and `eos_token` are [CLS] and
        [SEP].
      pad_token_id, unk_token_id, …: their ids, read from the file, never assumed.
      space_token_id: id of the piece that is a space and nothing else; None where there is none.
      is_fast: whether it tells offsets and words.
      model_input_names: which fields a call gives unless it says otherwise; can be assigned.
      max_len_single_sentence, max_len_sentences_pair: `model_max_length` without [CLS] and [SEP].
      added_tokens_decoder: pieces that are looked for in a text before it is cut, by id, as `tokenizers.AddedToken`.
      name_or_path: what `from_pretrained` was given.
      pad_token_type_id: type of padding, 0.
    """

    is_fast: bool
    model_file: pathlib.Path
    sha256: str
    vocab_size: int
    settings: TokenizerSettings
    _prefix: bool  # Whether a text gets a space at its beginning.
    _control: frozenset[int]  # Ids of pieces that the file itself declares special.
    _unused: frozenset[int]

    name_or_path: str = ""
    pad_token_type_id = 0
    padding_side = _setting("padding_side")
    truncation_side = _setting("truncation_side")
    clean_up_tokenization_spaces = _setting("clean_up_tokenization_spaces")
    do_lower_case = _fixed_setting("do_lower_case")
    keep_accents = _fixed_setting("keep_accents")
    add_prefix_space = _fixed_setting("add_prefix_space")
    pad_token, pad_token_id = _token("pad"), _token_id("pad")
    unk_token, unk_token_id = _token("unk"), _token_id("unk")
    cls_token, cls_token_id = _token("cls"), _token_id("cls")
    sep_token, sep_token_id = _token("sep"), _token_id("sep")
    mask_token, mask_token_id = _token("mask"), _token_id("mask")
    bos_token, bos_token_id = _token("bos"), _token_id("bos")
    eos_token, eos_token_id = _token("eos"), _token_id("eos")

    @property
    def model_max_length(self) -> int:
        """Length to cut and pad to where a call does not say; a huge number where there is none."""
        return self.settings.model_max_length or NO_MAX_LENGTH

    @model_max_length.setter
    def model_max_length(self, value: int | None) -> None:
        self.settings = dataclasses.replace(self.settings, model_max_length=value)

    @property
    def model_input_names(self) -> list[str]:
        """Fields that a call gives unless it says otherwise."""
        return list(self.settings.model_input_names)

    @model_input_names.setter
    def model_input_names(self, value: Sequence[str]) -> None:
        self.settings = dataclasses.replace(self.settings, model_input_names=value)

    @property
    def max_len_single_sentence(self) -> int:
        """Pieces of a text that fit into `model_max_length`."""
        return self.model_max_length - 2

    @property
    def max_len_sentences_pair(self) -> int:
        """Pieces of both texts of a pair that fit into `model_max_length`."""
        return self.model_max_length - 3

    @abc.abstractmethod
    def _added_tokens(self) -> Sequence[Added]:
        """Pieces that are looked for in a text before it is cut."""

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Id of each piece that is looked for in a text before it is cut, and how."""
        return {token.id: token.token() for token in sorted(self._added_tokens(), key=lambda token: token.id)}

    def get_added_vocab(self) -> dict[str, int]:
        """Each piece that is looked for in a text before it is cut, to its id."""
        return {token.content: i for i, token in self.added_tokens_decoder.items()}

    @abc.abstractmethod
    def _find(self, piece: str) -> int | None:
        """Id of a piece, None where there is none."""

    @abc.abstractmethod
    def _list_pieces(self) -> list[str]:
        """All pieces, by id."""

    def _finish(self, settings: TokenizerSettings) -> None:
        """Looks up the special pieces, once the vocabulary is there."""
        special = {name: self._special_piece(name, settings.special.get(name)) for name in SPECIAL_PIECES}
        prefix = settings.add_prefix_space
        if prefix is not None and prefix != self._prefix:
            raise TokenizerError(
                f"{self.model_file}: add_prefix_space={prefix}, but the vocabulary was made with {self._prefix}; take it out"
            )
        self.settings = dataclasses.replace(settings, special=special, add_prefix_space=self._prefix)
        self._special_ids = {name: cast(int, self._find(piece)) for name, piece in special.items()}
        self._special = frozenset(self._special_ids.values()) | self._control
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

    def _limit_special(self, names: Collection[str]) -> None:
        """Refuses a file whose special pieces would make every search for them slow."""
        if len(names) > MAX_SPECIAL or sum(map(len, names)) > MAX_SPECIAL_CHARACTERS:
            raise TokenizerError(
                f"{self.model_file}: {len(names):,} special pieces of {sum(map(len, names)):,} characters; expected at most "
                f"{MAX_SPECIAL:,} of {MAX_SPECIAL_CHARACTERS:,}: this is no vocabulary of RemBERT, get it anew"
            )

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Name of each special piece, such as "pad_token", to the piece."""
        return {f"{role}_token": self.settings.special[name] for role, name in ROLES.items()}

    @property
    def all_special_tokens(self) -> list[str]:
        """The special pieces, each once."""
        return list(dict.fromkeys(self.special_tokens_map.values()))

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of `all_special_tokens`; `special_ids()` has other control pieces of the file too."""
        return cast(list[int], self.convert_tokens_to_ids(self.all_special_tokens))

    def get_vocab(self) -> dict[str, int]:
        """Every piece to its id."""
        return {piece: i for i, piece in enumerate(self._pieces)}

    @property
    def vocab(self) -> dict[str, int]:
        """Every piece to its id, made anew at each access."""
        return self.get_vocab()

    def __len__(self) -> int:
        return self.vocab_size

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_pieces"}  # Made again when needed.

    @functools.cached_property
    def _pieces(self) -> list[str]:
        return self._list_pieces()

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

    def decode(
        self,
        ids: int | Sequence[int] | np.ndarray,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """The text of ids; special pieces appear by name unless they are skipped.

        Cleaning up takes away spaces before punctuation and English endings; None leaves it to the setting.

        Raises:
          TokenizerError: if there is no such id, or `ids` are several rows.
        """
        given = np.atleast_1d(np.asarray(ids)) if isinstance(ids, (int, np.ndarray, np.integer)) else ids
        if any(isinstance(i, Sequence) or np.ndim(i) for i in given):
            raise TokenizerError("decode: found rows of ids, expected one row; use batch_decode")
        text = self._join(cast(list[str], self.convert_ids_to_tokens(given, skip_special_tokens)))
        clean = clean_up_tokenization_spaces
        return _clean_up(text) if (self.clean_up_tokenization_spaces if clean is None else clean) else text

    def batch_decode(
        self,
        rows: Sequence[Sequence[int]] | np.ndarray,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """The text of each row of ids."""
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in rows]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of pieces, special ones by name."""
        return self._join(list(tokens))

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
