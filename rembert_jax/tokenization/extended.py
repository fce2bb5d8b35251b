"""Tokens that were added to a vocabulary, in the files beside it: no id may differ from theirs without a word.

Other programs keep such tokens in up to four files. `RemBertTokenizerFast` takes them from `tokenizer.json`; of the others
this only reads what they say, and compares.
"""

from __future__ import annotations

import json
import logging
import pathlib
import re
from collections.abc import Iterator, Set
from typing import Any, NamedTuple

from rembert_jax.tokenization.model_file import TokenizerError
from rembert_jax.tokenization.pieces import PieceTable
from rembert_jax.tokenization.saved import CONFIG_FILE, MAX_SETTINGS_BYTES, SPECIAL_FILE, parse_json, read_settings_file

logger = logging.getLogger(__name__)

ADDED_FILE = "added_tokens.json"
ADDED_TOKENS = re.compile(rb'"added_tokens"\s*:\s*(?=\[)')


class Stated(NamedTuple):
    """A token that a file says is there; `id` is None where the file does not say which."""

    where: str
    content: str
    id: int | None


def check_added(folder: pathlib.Path, tokenizer: PieceTable, whole: Set[int], json_file: pathlib.Path | None) -> None:
    """Compares a tokenizer with what the files of its folder say of added tokens.

    Args:
      folder: where it was read from.
      tokenizer: to be compared.
      whole: ids of the pieces that it looks for in a text before it cuts it.
      json_file: a `tokenizer.json` that the tokenizer was not read from.

    Raises:
      TokenizerError: if a file names a token that the tokenizer lacks, or has under another id.
    """
    stated = [*_of_settings(folder), *(_of_json(json_file) if json_file else ())]
    ids = tokenizer.get_vocab() if stated else {}
    for where, content, number in stated:
        found = ids.get(content)
        if found is None or number not in (None, found):
            there = "no such piece" if found is None else f"id {found} for it"
            raise TokenizerError(
                f"{where} has the token {content!r}{'' if number is None else f' with id {number}'}, but "
                f"{tokenizer.model_file} has {there}; RemBertTokenizerFast reads added tokens from a tokenizer.json: have the "
                "program that added them save one, or take the entry away if no text needs it"
            )
        if found not in whole:
            logger.warning(
                "%s says that %r stays whole in every text; here it may be cut or joined like other text",
                where,
                content,
            )


def _of_settings(folder: pathlib.Path) -> Iterator[Stated]:
    path = folder / ADDED_FILE
    if path.is_file():
        for content, number in parse_json(path, read_settings_file(path)).items():
            yield _stated(str(path), content, number)
    for name in (CONFIG_FILE, SPECIAL_FILE):
        path = folder / name
        if not path.is_file():
            continue
        values = parse_json(path, read_settings_file(path))
        for number, token in _items(values.get("added_tokens_decoder"), "an object", f"{path}: added_tokens_decoder"):
            yield _stated(f"{path}: added_tokens_decoder", token, int(number) if number.isdecimal() else number)
        for key in ("additional_special_tokens", "extra_special_tokens"):
            for _, token in _items(values.get(key), "a list or an object", f"{path}: {key}"):
                yield _stated(f"{path}: {key}", token, None)


def _of_json(path: pathlib.Path) -> Iterator[Stated]:
    """The added tokens of a `tokenizer.json`, of which nothing else is read; the vocabulary comes after them."""
    with path.open("rb") as file:
        begin = file.read(MAX_SETTINGS_BYTES)
    found = ADDED_TOKENS.search(begin)
    if found is None:
        return
    try:
        tokens, _ = json.JSONDecoder().raw_decode(begin[found.end() :].decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(
            f"{path}: its added_tokens cannot be read ({error}), so that ids might differ; get it anew, or take it away"
        ) from None
    for token in tokens:
        yield _stated(f"{path}: added_tokens", token, token.get("id") if isinstance(token, dict) else None)


def _items(value: Any, expected: str, where: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    if value is None or (isinstance(value, list) and "list" in expected):
        return [("", item) for item in value or ()]
    raise TokenizerError(f"{where} is {value!r:.80}; expected {expected}")


def _stated(where: str, token: Any, number: Any) -> Stated:
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str) or not (number is None or type(number) is int):
        raise TokenizerError(
            f"{where}: found {token!r:.80} with id {number!r:.20}; expected a token and a whole number"
        )
    return Stated(where, content, number)
