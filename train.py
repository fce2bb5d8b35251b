"""Trains by a config: `python train.py --config=configs/quickstart.py --workdir=runs/quickstart`.

Single values are overridden on the command line, for example `--config.optimizer.learning_rate=1e-4`. The same command
again goes on where it stopped.
"""

import sys

from absl import app, flags
from ml_collections import config_flags

from rembert_jax.training import trainer, writers

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with an optional :argument.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything that the run writes.")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; whatever a config file or an override of it raises becomes one line."""
    try:
        remaining = app.parse_flags_with_usage(argv)
        _ = _CONFIG.value  # A config file that cannot be read is reported only when it is asked for.
        return remaining
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        sys.exit(f"--config: {type(error).__name__}: {error}")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    writers.log_to_terminal()
    try:
        trainer.run(_CONFIG.value.to_dict(), _WORKDIR.value or "")
    except (ValueError, trainer.TrainingError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
