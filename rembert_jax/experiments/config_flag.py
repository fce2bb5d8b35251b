"""The flag `--config` of everything that reads a config file, and its overrides `--config.KEY=value`: mistakes in one line."""

from __future__ import annotations

import contextlib
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from absl import flags

from rembert_jax.errors import RemBertError
from rembert_jax.experiments import sweep
from rembert_jax.schema import SchemaError

Stage = TypeVar("Stage")


@contextlib.contextmanager
def explained(arguments: Sequence[str], values: flags.FlagValues) -> Iterator[None]:
    """Ends the process with one line for whatever is wrong with the flags that are parsed inside.

    A config file that cannot be read is reported by absl only when the value of `--config` is asked for: do so inside too.

    Args:
      arguments: the command line.
      values: what parses it, with a config file as `--config`.
    """
    try:
        yield
    except RemBertError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except flags.Error as error:
        sys.exit(_brief(str(error)))
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        sys.exit(_missing(arguments) or _unknown_key(arguments, values) or f"--config: {type(error).__name__}: {error}")


def given(arguments: Sequence[str], name: str) -> str:
    """The value of a flag before flags are parsed, as "--name=value" or "--name", "value"; empty if it is not there."""
    found = re.search(rf"^--?{re.escape(name)}[=\n](.+)$", "\n".join(arguments), re.MULTILINE)
    return found[1] if found else ""


def choose_stage(stages: Mapping[str, Stage], name: str) -> str:
    """The stage that `--stage` names, or the first one if it is empty.

    Raises:
      SchemaError: if there is none of this name, with those there are.
    """
    if name and name not in stages:
        raise SchemaError(f"--stage={name}: no such stage; expected one of {', '.join(filter(None, stages)) or 'none'}")
    return name or next(iter(stages))


def _brief(message: str) -> str:
    """What a config file says of its arguments, without the traceback that `config_flags` puts before it."""
    last = message.strip().rpartition("\n")[2]
    refusal = re.match(r"(ValueError|rembert_jax\.[\w.]+): (.+)", last)
    return f"--config: {refusal[2]}" if refusal else f"{message.strip()}; see --help"


def _missing(arguments: Sequence[str]) -> str:
    """Names a config file that is not there."""
    file = given(arguments, "config").partition(":")[0]
    return "" if pathlib.Path(file).is_file() else f"--config={file}: there is no such file"


def _unknown_key(arguments: Sequence[str], values: flags.FlagValues) -> str:
    """Names the first override of a key that the config file does not have, and the keys that it has there."""
    try:
        config: Any = values["config"].parser.parse(given(arguments, "config"))
    except Exception:  # It is not the override that is wrong.
        return ""
    for name in re.findall(r"^--?config\.([\w.]+)", "\n".join(arguments), re.MULTILINE):
        try:
            sweep.value_of(config, name)
        except sweep.SweepError as error:
            return f"--config.{error}"
    return ""
