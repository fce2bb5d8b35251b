"""Which texts a call was given, and why one of them is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rembert_jax.tokenization.model_file import TokenizerError


def as_batch(text: Any, pair: Any, words: bool) -> tuple[list[Any], list[Any] | None, bool]:
    """Texts, second texts if there are any, and whether several were given; pairs also as a list of pairs.

    An empty second text is a second text: rows of a batch must not differ in their template.
    """
    is_list = isinstance(text, (list, tuple))
    batched = is_list and (not words or (bool(text) and isinstance(text[0], (list, tuple))))
    texts = list(text) if batched else [text]
    if batched and pair is None and any(_is_pair(item, words) for item in texts):
        text, pair = _split_pairs(texts, words)
        texts = text
    pairs = None if pair is None else list(pair) if batched and isinstance(pair, (list, tuple)) else [pair]
    if pairs is not None and (len(pairs) != len(texts) or batched != (batched and isinstance(pair, (list, tuple)))):
        raise TokenizerError(f"{len(texts)} text(s) but {len(pairs)} second text(s); expected one for each")
    for which in (texts, pairs or []):
        for index, item in enumerate(which):
            _check_text(item, index, words)
    return texts, pairs, batched


def _is_pair(item: Any, words: bool) -> bool:
    """Whether it is meant as one: a tuple or list where a text is expected, or of lists where a list of words is."""
    is_list = isinstance(item, (list, tuple))
    return is_list and (not words or any(isinstance(part, (list, tuple)) for part in item))


def _split_pairs(items: list[Any], words: bool) -> tuple[list[Any], list[Any]]:
    expected = (
        f"expected two {'lists of words' if words else 'texts'} each, as in [({'[…], […]' if words else 'a, b'}), …]"
    )
    for index, item in enumerate(items):
        if not _is_pair(item, words):
            raise TokenizerError(f"text {index} is a {type(item).__name__} among pairs; {expected}")
        if len(item) != 2 or item[0] is None or item[1] is None:
            hint = "" if words else ", or is_split_into_words=True for lists of words"
            raise TokenizerError(f"pair {index} is {item!r:.80}; {expected}{hint}")
    return [first for first, _ in items], [second for _, second in items]


def _check_text(item: Any, index: int, words: bool) -> None:
    if not words and not isinstance(item, str):
        raise TokenizerError(f"text {index} is a {type(item).__name__}, expected a string")
    if words and not (isinstance(item, (list, tuple)) and all(isinstance(word, str) for word in item)):
        raise TokenizerError(f"is_split_into_words=True: text {index} is {item!r:.80}, expected a list of strings")


def explain_text(texts: Sequence[Any], error: Exception | None = None) -> TokenizerError:
    """The reason why one of `texts` could not be tokenized."""
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            return TokenizerError(f"text {index} is a {type(text).__name__}, expected a string")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as wrong:
            return TokenizerError(
                f"text {index}: character {wrong.start} is {text[wrong.start]!r}, half of a surrogate pair and no character; "
                "decode the text with errors='replace', or drop it"
            )
    return TokenizerError(f"the text could not be tokenized ({error})")
