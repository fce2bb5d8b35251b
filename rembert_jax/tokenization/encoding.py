"""What a call to a tokenizer gives back, and which token, word and character of it stands where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from rembert_jax.tokenization.batch import Row, Segment
from rembert_jax.tokenization.model_file import TokenizerError


class CharSpan(NamedTuple):
    """Characters of a text or of a word."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens of a row."""

    start: int
    end: int


class BatchEncoding(dict[str, Any]):
    """Result of a call: a dict of lists or arrays, whose entries are attributes too.

    Methods that take a row and something in it may be given the latter alone: it is then looked for in row 0. All but
    `sequence_ids` need `RemBertTokenizerFast`. Which piece stands where is the `tokenizers` library's answer.
    """

    def __init__(self, fields: Mapping[str, Any], rows: Sequence[Row], names: Mapping[str, str]) -> None:
        super().__init__(fields)
        self._rows, self._names = rows, names

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self:
            raise AttributeError(name)
        return self[name]

    def __reduce__(self) -> tuple[Any, ...]:
        return BatchEncoding, (dict(self), self._rows, self._names)

    def to(self, *args: Any, **kwargs: Any) -> BatchEncoding:
        """The same on another device, by the `to` of PyTorch's tensors; what has none stays as it is."""
        moved = {name: v.to(*args, **kwargs) if hasattr(v, "to") else v for name, v in self.items()}
        return BatchEncoding(moved, self._rows, self._names)

    @property
    def is_fast(self) -> bool:
        """Whether it tells where pieces stand."""
        return any(row.first.encoding is not None for row in self._rows[:1])

    @property
    def n_sequences(self) -> int | None:
        """Texts in a row: 1, or 2 for pairs; None without rows."""
        return 1 + (self._rows[0].second is not None) if self._rows else None

    def sequence_ids(self, index: int = 0) -> list[int | None]:
        """Of row `index`: 0 for pieces of the first text, 1 for the second, None for special pieces and padding."""
        return self._rows[index].spread(lambda segment, which: [which] * len(segment.ids), None, None, None)

    def word_ids(self, index: int = 0) -> list[int | None]:
        """Of row `index`: which word of its text each piece belongs to, None for special pieces and padding."""
        self._check_fast("word_ids()")
        return self._rows[index].spread(lambda segment, _: segment.words, None, None, None)

    words = word_ids

    def tokens(self, index: int = 0) -> list[str]:
        """Of row `index`: the pieces as text; an unknown one as it stands in the text."""
        self._check_fast("tokens()")
        names = self._names
        return self._rows[index].spread(lambda segment, _: segment.tokens, names["cls"], names["sep"], names["pad"])

    def token_to_sequence(self, row_or_token: int, token: int | None = None) -> int | None:
        """Which text a token belongs to; None for special pieces and padding."""
        row, token = _in_row(row_or_token, token)
        return self.sequence_ids(row)[token]

    def token_to_word(self, row_or_token: int, token: int | None = None) -> int | None:
        """Which word of its text a token belongs to; None for special pieces and padding."""
        row, token = _in_row(row_or_token, token)
        return self.word_ids(row)[token]

    def token_to_chars(self, row_or_token: int, token: int | None = None) -> CharSpan | None:
        """Which characters of its text or word a token is made of; None for special pieces and padding."""
        self._check_fast("token_to_chars()")
        row, token = _in_row(row_or_token, token)
        found = self._rows[row].spread(lambda segment, _: segment.offsets, None, None, None)[token]
        return None if found is None else CharSpan(*found)

    def word_to_tokens(self, row_or_word: int, word: int | None = None, sequence_index: int = 0) -> TokenSpan | None:
        """Which tokens a word became; None where none of them is in the row."""
        found = self._pieces_of_word("word_to_tokens()", *_in_row(row_or_word, word), sequence_index)
        return None if found is None else TokenSpan(found[1][0], found[1][-1] + 1)

    def word_to_chars(self, row_or_word: int, word: int | None = None, sequence_index: int = 0) -> CharSpan | None:
        """From where to where the pieces of a word reach that are in the row; None where there are none."""
        row, word = _in_row(row_or_word, word)
        found = self._pieces_of_word("word_to_chars()", row, word, sequence_index)
        if found is None:
            return None
        offsets = cast(Segment, self._rows[row].text(sequence_index)).offsets
        return CharSpan(offsets[found[0][0]][0], offsets[found[0][-1]][1])

    def char_to_token(self, row_or_char: int, char: int | None = None, sequence_index: int = 0) -> int | None:
        """Which token a character of a text is in; None where it is in none of the row."""
        self._check_fast("char_to_token()")
        row, char = _in_row(row_or_char, char)
        text = self._rows[row].text(sequence_index)
        piece = None if text is None else text.encoding.char_to_token(char)
        return None if piece is None else self._rows[row].index(sequence_index, piece)

    def char_to_word(self, row_or_char: int, char: int | None = None, sequence_index: int = 0) -> int | None:
        """Which word a character of a text is in; None where no token of the row has it."""
        row, char = _in_row(row_or_char, char)
        token = self.char_to_token(row, char, sequence_index)
        return None if token is None else self.word_ids(row)[token]

    def _pieces_of_word(self, what: str, row: int, word: int, which: int) -> tuple[list[int], list[int]] | None:
        """The pieces of a word that were not cut off: where they stand in their text, and in the row."""
        self._check_fast(what)
        text = self._rows[row].text(which)
        found = None if text is None else text.encoding.word_to_tokens(word)
        places = [(piece, self._rows[row].index(which, piece)) for piece in range(*found or (0, 0))]
        kept = [(piece, at) for piece, at in places if at is not None]
        return ([piece for piece, _ in kept], [at for _, at in kept]) if kept else None

    def _check_fast(self, what: str) -> None:
        if self._rows and not self.is_fast:
            raise TokenizerError(f"{what}: this tokenizer does not tell; use RemBertTokenizerFast")


def _in_row(row_or_place: int, place: int | None) -> tuple[int, int]:
    return (0, row_or_place) if place is None else (row_or_place, place)
