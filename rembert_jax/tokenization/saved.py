"""`tokenizer_config.json` and `special_tokens_map.json`: what is read from them, checked, and what is written.

These files come from strangers too. Only the keys below are looked at, each with its type; nothing else of a file reaches
a constructor. Keys that other programs write for themselves are passed over, unknown ones are logged.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pathlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from rembert_jax.tokenization.model_file import TokenizerError, read_file

logger = logging.getLogger(__name__)

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
MAX_SETTINGS_BYTES = 4 << 20
# Other programs write "no limit" as 10**30.
NO_LIMIT = 10**9

SPECIAL_NAMES = ("pad", "unk", "cls", "sep", "mask")
SIDES = ("right", "left")
INPUT_NAMES = ("input_ids", "token_type_ids", "attention_mask")
# transformers 5 makes the class of this name from tokenizer.json as it stands; its RemBERT class takes BUILT_IN_UNKNOWN for
# the unknown piece, whatever that file says.
TOKENIZER_CLASS = "PreTrainedTokenizerFast"
BUILT_IN_UNKNOWN = 2
# Of other programs, or said by the vocabulary already.
PASSED_OVER = {
    "added_tokens_decoder", "additional_special_tokens", "backend", "bos_token", "eos_token",
    "extra_special_tokens", "is_local", "local_files_only", "name_or_path", "processor_class",
    "special_tokens_map_file", "tokenizer_class", "tokenizer_file", "unk_id", "vocab_file",
}  # fmt: skip


def _is_token(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("content"), str))


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_length(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) or hasattr(value, "__index__")  # As NumPy's whole numbers have.
    return is_number and not isinstance(value, bool) and value >= 1 and value == value // 1


def _is_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and "input_ids" in value and all(isinstance(name, str) for name in value)


# Each with a check of its value and the words for what it should be; for keys of files and for keywords alike.
_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "do_lower_case": (_is_bool, "true or false"),
    "keep_accents": (_is_bool, "true or false"),
    "add_prefix_space": (_is_bool, "true or false"),
    "clean_up_tokenization_spaces": (_is_bool, "true or false"),
    "remove_space": (lambda value: value is True, "true, since no RemBERT tokenizer keeps outer spaces"),
    "split_special_tokens": (lambda value: value is False, "false; give split_special_tokens=True in the call"),
    "model_max_length": (_is_length, "a whole number of at least 1"),
    "model_input_names": (_is_names, 'a list of names, "input_ids" among them'),
    "padding_side": (lambda value: value in SIDES, "right or left"),
    "truncation_side": (lambda value: value in SIDES, "right or left"),
    **{f"{name}_token": (_is_token, 'a string, or an object with a string "content"') for name in SPECIAL_NAMES},
}


def _wrong(name: str, value: Any) -> str:
    """What is wrong with the value of a key; empty where it is right."""
    is_right, expected = _KEYS[name]
    return "" if is_right(value) else f"{name}={value!r:.80}; expected {expected}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """What a tokenizer is told besides its vocabulary.

    Attributes:
      do_lower_case, keep_accents: as in RemBERT's own files; None leaves it to `tokenizer.json`, and else means that text
        is left as it is. Only the fast tokenizer can change letters.
      add_prefix_space: None, or what the vocabulary must say.
      model_max_length: used where a call truncates or pads to a length that it does not give; None for no limit, which
        other programs write as a huge number.
      model_input_names: which of `INPUT_NAMES` a call gives unless it says otherwise.
      padding_side, truncation_side: "right" or "left", where padding is put and what is cut.
      clean_up_tokenization_spaces: whether decoding takes away the space before `.`, `?`, `!`, `,` and English endings.
      special: name ("pad", "unk", "cls", "sep", "mask") to piece, where it is not one of the usual ones.
    """

    do_lower_case: bool | None = None
    keep_accents: bool | None = None
    add_prefix_space: bool | None = None
    model_max_length: int | None = None
    model_input_names: Sequence[str] = INPUT_NAMES
    padding_side: Literal["right", "left"] = "right"
    truncation_side: Literal["right", "left"] = "right"
    clean_up_tokenization_spaces: bool = False
    special: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _KEYS and not (value is None and field.default is None):
                if reason := _wrong(field.name, value):
                    raise TokenizerError(f"{reason}{' or None' * (field.default is None)}")
        object.__setattr__(self, "model_input_names", tuple(self.model_input_names))
        if self.model_max_length is not None:
            length = int(self.model_max_length)
            object.__setattr__(self, "model_max_length", length if length < NO_LIMIT else None)
        if not isinstance(self.special, Mapping):
            raise TokenizerError(f"special={self.special!r:.80}: expected a mapping such as {{'mask': '<mask>'}}")
        if strange := sorted(map(str, set(self.special) - set(SPECIAL_NAMES))):
            raise TokenizerError(f"special={strange}: unknown names; expected some of {', '.join(SPECIAL_NAMES)}")
        if wrong := [name for name, piece in self.special.items() if not isinstance(piece, str) or not piece]:
            raise TokenizerError(
                f"special: {wrong[0]!r} is {self.special[wrong[0]]!r:.80}; expected a piece, as a string"
            )


def parse_json(path: pathlib.Path, content: bytes) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      TokenizerError: naming the file, if it is not UTF-8, not JSON, cut off, too deep, or no object.
    """
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"{path}: byte {error.object[error.start]:#04x} at {error.start} is not UTF-8; save the file as UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        raise TokenizerError(
            f"{path}: not JSON ({error}); the file is truncated or something else: get it anew"
        ) from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: found a JSON {type(value).__name__}, expected an object")
    return value


def _checked(path: pathlib.Path, values: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The known keys of a file that have a value."""
    strange = sorted(key for key, value in values.items() if value and key not in PASSED_OVER and key not in keys)
    if strange:
        logger.warning("%s: unknown keys are ignored: %s", path, ", ".join(strange))
    found = {key: values[key] for key in keys if values.get(key) is not None}
    for key, value in found.items():
        if reason := _wrong(key, value):
            raise TokenizerError(f"{path}: {reason}")
    return found


def _tokens(values: Mapping[str, Any]) -> dict[str, str]:
    """Piece of each special name."""
    given = {name: values.get(f"{name}_token") for name in SPECIAL_NAMES}
    return {name: v if isinstance(v, str) else v["content"] for name, v in given.items() if v is not None}


def read_settings(folder: pathlib.Path) -> TokenizerSettings:
    """Settings from the two files in a folder, of which either or both may be absent.

    Raises:
      TokenizerError: naming the file, if it cannot be read, a value has a wrong type, or the two contradict each other.
    """
    config_file, special_file = folder / CONFIG_FILE, folder / SPECIAL_FILE
    config: dict[str, Any] = {}
    special: dict[str, str] = {}
    if config_file.is_file():
        config = _checked(config_file, parse_json(config_file, read_settings_file(config_file)), tuple(_KEYS))
        special = _tokens(config)
    if special_file.is_file():
        names = tuple(f"{name}_token" for name in SPECIAL_NAMES)
        more = _tokens(_checked(special_file, parse_json(special_file, read_settings_file(special_file)), names))
        for name in sorted(special.keys() & more.keys()):
            if special[name] != more[name]:
                raise TokenizerError(
                    f"{special_file}: {name}_token is {more[name]!r}, but {CONFIG_FILE} says {special[name]!r}; "
                    "make them agree, or take one away"
                )
        special |= more
    names = [field.name for field in dataclasses.fields(TokenizerSettings)]
    return TokenizerSettings(special=special, **{name: config[name] for name in names if name in config})


def warn_of_version_5(folder: pathlib.Path, unk_id: int) -> None:
    """Tells where the RemBERT class of transformers 5, if the folder names it, gives a model something else than we do."""
    path = folder / CONFIG_FILE
    values = parse_json(path, read_settings_file(path)) if path.is_file() else {}
    found = values.get("tokenizer_class")
    if not values or found == TOKENIZER_CLASS:
        return
    if unk_id != BUILT_IN_UNKNOWN:
        logger.warning(
            "%s: the unknown piece has id %d, but transformers 5 takes %d for it in a folder whose tokenizer_class is %r, and "
            "so reads another piece for every unknown character; save_pretrained writes a folder that it reads right",
            folder,
            unk_id,
            BUILT_IN_UNKNOWN,
            found,
        )
    if "backend" in values and values.get("model_input_names") is None:
        logger.warning(
            "%s was written by transformers 5, which gives no token_type_ids for it: a model of pairs that was trained there "
            "saw none, and scores otherwise with those that are given here; for such a model give "
            "model_input_names=['input_ids', 'attention_mask']",
            folder,
        )


def read_settings_file(path: pathlib.Path) -> bytes:
    """The content of a small JSON file."""
    return read_file(path, MAX_SETTINGS_BYTES, "a JSON file of tokenizer settings")


def write_file(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that appears complete or not at all."""
    # A name of its own: several processes may save to one folder.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_settings(folder: pathlib.Path, settings: TokenizerSettings) -> list[pathlib.Path]:
    """Writes both files, for `read_settings` and for other programs; `settings` must be complete."""
    tokens: dict[str, Any] = {f"{name}_token": settings.special[name] for name in SPECIAL_NAMES}
    flags = {"lstrip": True, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    # It takes the space to its left with it.
    tokens["mask_token"] = {"__type": "AddedToken", "content": settings.special["mask"], **flags}
    tokens |= {"bos_token": settings.special["cls"], "eos_token": settings.special["sep"]}
    config = {
        **copy.deepcopy(tokens),
        "tokenizer_class": TOKENIZER_CLASS,
        "model_input_names": list(settings.model_input_names),
        "do_lower_case": bool(settings.do_lower_case),
        "keep_accents": settings.keep_accents is not False,
        "add_prefix_space": settings.add_prefix_space is not False,
        "remove_space": True,
        "padding_side": settings.padding_side,
        "truncation_side": settings.truncation_side,
        "clean_up_tokenization_spaces": settings.clean_up_tokenization_spaces,
    }
    if settings.model_max_length is not None:
        config["model_max_length"] = settings.model_max_length
    del tokens["mask_token"]["__type"]  # Only the first file tells what kind of object it holds.
    for name, value in ((CONFIG_FILE, config), (SPECIAL_FILE, tokens)):
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
        write_file(folder / name, f"{text}\n".encode())
    return [folder / CONFIG_FILE, folder / SPECIAL_FILE]
