"""What a call to a tokenizer is asked for, and how texts are cut to length and padded.

Text to pieces is the tokenizers' own business; all the rest is here, once for both. Truncation, windows and their order
are those of the `tokenizers` library (Apache-2.0), so that results agree with it; what it answers with wrong rows or a
panic is refused here.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from rembert_jax.tokenization import tensors
from rembert_jax.tokenization.model_file import TokenizerError
from rembert_jax.tokenization.saved import SIDES, TokenizerSettings

logger = logging.getLogger(__name__)

Side = Literal["right", "left"]
STRATEGIES = ("longest_first", "only_first", "only_second")
PADDINGS = ("longest", "max_length")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CallOptions:
    """Options of a call; names, values and defaults are those of the well-known tokenizers but where it says so.

    Attributes:
      add_special_tokens: whether to put [CLS] and [SEP] around the texts.
      padding: False, True or "longest" (to the longest row, and no further whatever `max_length` says), or "max_length".
      truncation: None or False, True or "longest_first", "only_first", "only_second". None with a `max_length` and without
        padding means "longest_first".
      max_length: tokens of a row with [CLS] and [SEP]; None takes `model_max_length`, without which nothing is cut or padded.
      stride: pieces that a window of an overflowing text shares with the one before.
      is_split_into_words: whether a text is a list of words.
      pad_to_multiple_of: rows are padded on to a multiple of this.
      padding_side: "right" or "left"; None takes the tokenizer's own.
      return_tensors: None for lists, "np" or "jax" for int32 arrays, "pt" for int64 tensors.
      return_token_type_ids, return_attention_mask: None gives what `model_input_names` of the tokenizer has.
      return_overflowing_tokens: whether what is cut off comes back as more rows, with `overflow_to_sample_mapping`.
      return_special_tokens_mask: whether to mark [CLS], [SEP] and padding.
      return_offsets_mapping: whether to give (begin, end) of each piece in its text or word; fast tokenizer only.
      return_length: whether to give the length of each row.
      split_special_tokens: whether "[MASK]" and the like, written in a text, are plain text. By default they become the
        special pieces.
      verbose: whether to warn of options without effect and, once, of a text longer than the model.
    """

    add_special_tokens: bool = True
    padding: bool | str = False
    truncation: bool | str | None = None
    max_length: int | None = None
    stride: int = 0
    is_split_into_words: bool = False
    pad_to_multiple_of: int | None = None
    padding_side: Side | None = None
    return_tensors: str | None = None
    return_token_type_ids: bool | None = None
    return_attention_mask: bool | None = None
    return_overflowing_tokens: bool = False
    return_special_tokens_mask: bool = False
    return_offsets_mapping: bool = False
    return_length: bool = False
    split_special_tokens: bool = False
    verbose: bool = True

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any]) -> CallOptions:
        """Options from the keywords of a call; an unknown one is answered with the known ones."""
        names = [field.name for field in dataclasses.fields(cls)]
        if strange := sorted(set(keywords) - set(names)):
            raise TokenizerError(f"unknown option {', '.join(strange)}; expected some of {', '.join(names)}")
        return cls(**keywords)

    def __post_init__(self) -> None:
        for name, lowest in (("max_length", 1), ("stride", 0), ("pad_to_multiple_of", 1)):
            value = getattr(self, name)
            if (value is not None or name == "stride") and (
                not isinstance(value, (int, np.integer)) or value < lowest or value is True
            ):
                raise TokenizerError(f"{name}={value!r}: expected a whole number of at least {lowest}")
        for field in dataclasses.fields(self):
            if field.type in ("bool", "bool | None"):
                self._check_value(field.name, (False, True, *[None] * (field.type != "bool")))
        self._check_value("padding", (False, True, "do_not_pad", *PADDINGS))
        self._check_value("truncation", (None, False, True, "do_not_truncate", *STRATEGIES))
        self._check_value("padding_side", (None, *SIDES))
        self._check_value("return_tensors", (None, *tensors.KINDS))

    def _check_value(self, name: str, allowed: Sequence[Any]) -> None:
        value = getattr(self, name)
        if not any(value is option or (isinstance(value, str) and value == option) for option in allowed):
            raise TokenizerError(f"{name}={value!r}: expected one of {', '.join(map(repr, allowed))}")


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Truncation and padding of one call, worked out.

    Attributes:
      strategy: one of `STRATEGIES`, or None where nothing is cut.
      padding: one of `PADDINGS`, or None.
      max_length: None where neither needs it.
    """

    strategy: str | None
    padding: str | None
    max_length: int | None


def plan_lengths(options: CallOptions, settings: TokenizerSettings) -> Lengths:
    """What to cut and pad to; an option that has no effect is warned of.

    Raises:
      TokenizerError: if the length is no multiple of `pad_to_multiple_of`.
    """
    warn = logger.warning if options.verbose else logger.debug
    padding = "longest" if options.padding is True else options.padding
    padding = padding if padding in PADDINGS else None
    implied = options.truncation is None and options.max_length is not None and padding is None
    strategy = "longest_first" if options.truncation is True or implied else options.truncation
    strategy = strategy if strategy in STRATEGIES else None
    length = options.max_length
    if strategy is None and padding != "max_length":
        if length is not None and padding is not None:
            warn(
                "max_length=%s has no effect with padding=%r and without truncation; give truncation=True to cut, "
                "padding='max_length' to pad to it, or leave it out",
                length,
                options.padding,
            )
        return Lengths(None, str(padding) if padding else None, None)
    length = settings.model_max_length if length is None else length
    if length is None:
        warn(
            "neither max_length nor a model_max_length of the tokenizer is there, so that nothing is cut%s",
            " or padded" if padding == "max_length" else "",
        )
        return Lengths(None, padding if padding == "longest" else None, None)
    multiple = options.pad_to_multiple_of
    if strategy and padding and multiple and length % multiple:
        raise TokenizerError(f"max_length={length} is no multiple of pad_to_multiple_of={multiple}; change one of them")
    return Lengths(str(strategy) if strategy else None, str(padding) if padding else None, length)


def cut_lengths(first: int, second: int | None, room: int, strategy: str) -> tuple[int, int]:
    """How many pieces of each text fit into `room`.

    Raises:
      TokenizerError: if the one text that may be cut would have no piece left, or is not there.
    """
    lengths = [first, second or 0]
    excess = sum(lengths) - room
    if excess <= 0:
        return first, second or 0
    if strategy == "longest_first":
        return _cut_longest(first, second or 0, room)
    which = STRATEGIES.index(strategy) - 1
    if which == 1 and second is None:
        raise TokenizerError(f"truncation={strategy!r}: there is no second text; use 'only_first' or 'longest_first'")
    lengths[which] -= excess
    if lengths[which] <= 0:
        raise TokenizerError(
            f"truncation={strategy!r}: {excess} pieces are too many, but that text has only {lengths[which] + excess}; "
            "raise max_length or use 'longest_first'"
        )
    return lengths[0], lengths[1]


def _cut_longest(first: int, second: int, room: int) -> tuple[int, int]:
    """The shorter text is kept while it has less than half of the room; else both get half, the longer the odd piece."""
    short, long = min(first, second), max(first, second)
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if first > second else (short, long)


def windows(length: int, size: int, stride: int, side: Side) -> Iterator[tuple[int, int]]:
    """(begin, end) of windows of `size` pieces over a text, each `stride` into the one before, until all is seen."""
    if size >= length:
        yield 0, length
        return
    if stride >= size:
        raise TokenizerError(
            f"stride={stride}: a window of this text has {size} pieces, so that it would not move on; "
            "lower stride or raise max_length"
        )
    for at in range(0, length, size - stride):
        begin, end = (at, at + size) if side == "right" else (length - at - size, length - at)
        yield max(begin, 0), min(end, length)
        if begin <= 0 if side == "left" else end >= length:
            return


class Segment:
    """One tokenized text: `ids`, and from the fast tokenizer where each piece stands."""

    def __init__(self, ids: list[int], encoding: Any = None) -> None:
        self.ids, self.encoding = ids, encoding

    # Each is converted from Rust on every access, and a long text has many windows.
    @functools.cached_property
    def offsets(self) -> list[tuple[int, int]]:
        return self.encoding.offsets

    @functools.cached_property
    def words(self) -> list[int | None]:
        return self.encoding.word_ids

    @functools.cached_property
    def tokens(self) -> list[str]:
        return self.encoding.tokens


@dataclasses.dataclass(slots=True)
class Row:
    """One row of a result: a window of a text, maybe one of a second, and padding."""

    sample: int
    first: Segment
    span: tuple[int, int]
    second: Segment | None
    second_span: tuple[int, int]
    special: bool
    padding: int = 0
    side: Side = "right"

    def __len__(self) -> int:
        texts = self.span[1] - self.span[0] + self.second_span[1] - self.second_span[0]
        return texts + (2 + (self.second is not None) if self.special else 0)

    def spread(self, values: Callable[[Segment, int], list[Any]], begin: Any, end: Any, fill: Any) -> list[Any]:
        """Values of the pieces of each text (0 or 1) between `begin` and `end` at the special pieces, then padding."""
        row = values(self.first, 0)[slice(*self.span)]
        row = [begin, *row, end] if self.special else row
        if self.second is not None:
            row += values(self.second, 1)[slice(*self.second_span)]
            if self.special:
                row.append(end)
        if self.padding > 0:
            row = [fill] * self.padding + row if self.side == "left" else row + [fill] * self.padding
        return row

    def types(self) -> list[int]:
        """0 up to the first [SEP], then 1; 0 for padding."""
        ones = 0
        if self.second is not None:
            ones = self.second_span[1] - self.second_span[0] + self.special
        row = [0] * (len(self) - ones) + [1] * ones
        return self._padded(row)

    def mask(self) -> list[int]:
        """1 for tokens, 0 for padding."""
        return self._padded([1] * len(self))

    def index(self, which: int, piece: int) -> int | None:
        """Where piece `piece` of text `which` (0 or 1) stands in the row; None if it was cut off."""
        begin, end = self.second_span if which else self.span
        if not begin <= piece < end:
            return None
        before = self.span[1] - self.span[0] + self.special if which else 0
        return (self.padding if self.side == "left" else 0) + self.special + before + piece - begin

    def text(self, which: int) -> Segment | None:
        """The first or the second text."""
        return self.second if which else self.first

    def _padded(self, row: list[int]) -> list[int]:
        filler = [0] * self.padding
        return filler + row if self.side == "left" else row + filler


def make_rows(
    sample: int, first: Segment, second: Segment | None, options: CallOptions, lengths: Lengths, side: Side
) -> Iterator[Row]:
    """The row of a text or a pair, and those of what overflows if it is asked for.

    Where both texts overflow, every window of one meets every window of the other.
    """
    special = options.add_special_tokens
    sizes = len(first.ids), len(second.ids) if second else 0
    room = sum(sizes)
    if lengths.strategy is not None and lengths.max_length is not None:
        room = lengths.max_length - (2 + (second is not None) if special else 0)
    if sum(sizes) <= room:  # Most texts.
        yield Row(sample, first, (0, sizes[0]), second, (0, sizes[1]), special)
        return
    if room < 0 or (room == 0 and options.return_overflowing_tokens):
        raise TokenizerError(
            f"max_length={lengths.max_length} leaves no place for text beside [CLS] and [SEP]; raise it"
        )
    cut = cut_lengths(sizes[0], sizes[1] if second else None, room, str(lengths.strategy))
    if not options.return_overflowing_tokens:
        spans = [(0, kept) if side == "right" else (size - kept, size) for size, kept in zip(sizes, cut, strict=True)]
        yield Row(sample, first, spans[0], second, spans[1], special)
        return
    if any(size and not kept for size, kept in zip(sizes, cut, strict=True)):
        raise TokenizerError(f"max_length={lengths.max_length} leaves no place for one of the two texts; raise it")
    (begin, *more), beside = (
        list(windows(size, kept, options.stride, side)) for size, kept in zip(sizes, cut, strict=True)
    )
    # The order of the `tokenizers` library: windows of the first text one after the other, and last those of the second
    # beside the first window of the first.
    pairs = [(begin, beside[0]), *((one, two) for one in more for two in beside), *((begin, two) for two in beside[1:])]
    for span, second_span in pairs:
        yield Row(sample, first, span, second, second_span, special)


def pad_rows(rows: Sequence[Row], options: CallOptions, lengths: Lengths, side: Side) -> None:
    """Gives each row the padding that it lacks."""
    if lengths.padding is None:
        return
    target = lengths.max_length if lengths.padding == "max_length" else max(map(len, rows), default=0)
    multiple = options.pad_to_multiple_of or 1
    target = -(-(target or 0) // multiple) * multiple
    for row in rows:
        row.padding, row.side = max(0, target - len(row)), side
