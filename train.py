"""Trains by a config: `python train.py --config=configs/quickstart.py --workdir=runs/quickstart`.

Single values are overridden on the command line, for example `--config.stages.pretrain.optimizer.learning_rate=1e-4`. The
same command again goes on where it stopped. `--sweep_index=3` runs one member of the sweep in the config file;
`python -m rembert_jax.tools.launch_sweep` runs them all.
"""

import os
import re
import signal
import sys
import traceback
from typing import Any

if (
    __name__ == "__main__"
    and sys.argv[0] in sys.orig_argv  # A command, and not a cell of a notebook.
    and sys.platform == "linux"
    and "GLIBC_TUNABLES" not in os.environ
):
    # On a CPU each step takes gigabytes from the operating system anew. In huge pages that is faster, by a tenth to a third of
    # the step (docs/performance.md), but the C library asks for them only if it is told so before the process starts.
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

from absl import app, flags
from ml_collections import config_flags

from rembert_jax.errors import RemBertError
from rembert_jax.experiments import compile_cache, config_flag, processes, run, sweep
from rembert_jax.training import hooks, writers

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with an optional :argument.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything that the run writes.")
_SWEEP_INDEX = flags.DEFINE_integer("sweep_index", None, "Member of the config file's sweep() to run, from 0.")
_SHARED = flags.DEFINE_string(
    "shared", None, "Folder for what several runs have in common: vocabulary, tokenised text."
)
_COMPILE_CACHE = flags.DEFINE_string(
    "compile_cache", "", "Folder for compiled programs, by default in the user's cache folder; off keeps none."
)
_COORDINATOR_ADDRESS = flags.DEFINE_string(
    "coordinator_address",
    "",
    "host:port of the first process of a run of several, where JAX does not find it by itself.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes the run has; 1 looks for no others.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
_CONNECT_TIMEOUT = flags.DEFINE_integer(
    "connect_timeout", processes.TIMEOUT, "Seconds to wait for the other processes."
)
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
    "heartbeat_timeout", processes.HEARTBEAT, "Seconds after which a process of which nothing is heard counts as dead."
)

_overrides: dict[str, Any] = {}
"""Values that the member of a sweep sets."""


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; whatever a config file or an override of it raises becomes one line."""
    with config_flag.explained(argv, flags.FLAGS):
        remaining = flags.FLAGS(_choose_member(argv))
        sweep.override(_CONFIG.value, _overrides)
        _CONFIG.value.to_dict()  # Only now is a file that cannot be read an error.
        return remaining


def _choose_member(argv: list[str]) -> list[str]:
    """With `--sweep_index`: the arguments of that member put to those of the config, its other values kept for later."""
    index, given = config_flag.given(argv, "sweep_index"), config_flag.given(argv, "config")
    if not re.fullmatch(r"-?\d+", index) or not given:  # absl has a message for what is no number.
        return argv
    member = sweep.choose(sweep.load_members(given), int(index))
    arguments, overrides = sweep.split(member, sweep.load_config(given))
    for name in overrides:
        if config_flag.given(argv, f"config.{name}"):
            raise sweep.SweepError(
                f"--config.{name}: the sweep sets it; leave the flag out, or change sweep() in {given}"
            )
    _overrides.update(overrides)
    chosen = sweep.with_arguments(given, arguments)
    return [chosen if arg == given else arg.replace(f"config={given}", f"config={chosen}", 1) for arg in argv]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    try:
        number = processes.connect(
            _COORDINATOR_ADDRESS.value,
            _NUM_PROCESSES.value,
            _PROCESS_ID.value,
            timeout=_CONNECT_TIMEOUT.value,
            heartbeat=_HEARTBEAT_TIMEOUT.value,
        )
        writers.log_to_terminal(number)
        compile_cache.keep_compiled(_COMPILE_CACHE.value)
        run.run(_CONFIG.value.to_dict(), _WORKDIR.value or "", shared=_SHARED.value or "")
    except hooks.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.signal_number)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except RemBertError as error:
        message = f"{type(error).__name__}: {error}"
        processes.abandon(message)
        sys.exit(message)
    except Exception:
        processes.abandon(traceback.format_exc())
        raise


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
