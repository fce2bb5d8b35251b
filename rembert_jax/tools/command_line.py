"""What the command lines over checkpoints share: the options of reading one, and how errors are shown."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

from rembert_jax.errors import RemBertError


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """The options that decide what becomes of a checkpoint's arrays while it is read."""
    add = parser.add_argument
    names = "cls, pooler, classifier, qa_outputs or a pattern"
    add("--num_labels", type=_positive, help="labels of a classifier that starts afresh")
    add("--init", nargs="+", default=[], metavar="NAME", help=f"start these afresh: {names}")
    add("--seed", type=int, default=0, help="for --init")
    pickled = "read the arrays in pytorch_model.bin where there are no safetensors"
    add("--allow_pickle", action="store_true", help=pickled)
    add("--revision", help="branch, tag or commit of a repository of the hub")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 1 on")
    return int(text)


def run(
    program: Callable[[argparse.Namespace], Any], parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> None:
    """Runs a program on the CPU; an error that we foresee is one message without a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    jax.config.update("jax_platforms", "cpu")  # The arrays go from file to file.
    try:
        program(parser.parse_args(arguments))
    except RemBertError as error:
        sys.exit(f"{type(error).__name__}: {error}")
