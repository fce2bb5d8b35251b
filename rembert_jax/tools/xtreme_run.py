"""From a checkpoint to XTREME's table: fine-tunes, predicts and scores all nine tasks, or some of them.

    python -m rembert_jax.tools.xtreme_run --checkpoint=runs/pretrained --data=xtreme --workdir=runs/xtreme

The checkpoint is a run of this package, a folder of transformers or the id of a repository of the hub; the data is what
`tools.prepare_xtreme` wrote. Each run is that of a file of configs/xtreme in WORKDIR/NAME; SQuAD is trained on once for XQuAD
and MLQA. All data is checked before the first step, and everything that is wrong with it is listed. A run that fails leaves the
others; the same command goes on where it stopped, and tries again what failed. At the end WORKDIR/scores holds the official
scores: results.json, results.md and two figures.

--dry_run lists what would be trained, on what, for how many steps, and the hours by a few steps measured here.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import signal
import sys
from collections.abc import Sequence

import filelock
import jax

from rembert_jax import schema
from rembert_jax.errors import RemBertError
from rembert_jax.experiments import compile_cache, estimate, processes, workdir, xtreme
from rembert_jax.experiments.xtreme import Job
from rembert_jax.tools import convert, xtreme_score
from rembert_jax.training import checkpoint, hooks, timing, writers
from rembert_jax.training.settings import TrainingError
from rembert_jax.xtreme.benchmark import TASKS

CONFIGS = pathlib.Path(__file__).absolute().parents[2] / "configs" / "xtreme"
COMMAND_FILE = "xtreme_run.json"
"""In the workdir: what decides its results."""


def run(options: argparse.Namespace) -> bool:
    """Does what the command line says; whether every run succeeded.

    Raises:
      RemBertError: naming what is wrong, before the first step.
    """
    root = workdir.make(options.workdir)
    lock = filelock.FileLock(root / ".xtreme_run.lock")
    try:
        if jax.process_index() == 0:
            lock.acquire(blocking=False)
        return _run_locked(options, root)
    except filelock.Timeout:
        raise TrainingError(
            f"{root}: another xtreme_run works here; wait for it, or choose another --workdir"
        ) from None
    finally:
        lock.release()


def _run_locked(options: argparse.Namespace, root: pathlib.Path) -> bool:
    _check_command(options, root)
    if not any((options.data / task).is_dir() for task in TASKS):
        raise TrainingError(
            f"--data={options.data}: no folder of any task there, as {next(iter(TASKS))}; give what "
            "python -m rembert_jax.tools.prepare_xtreme has written"
        )
    arguments = {
        "data": str(options.data.absolute()),
        "init_from": _encoder(options, root),
        "setting": options.setting,
        "seed": options.seed,
        "smoke": options.smoke,
    }
    jobs = xtreme.plan(
        options.configs,
        arguments,
        [task for task in TASKS if task in options.tasks or "all" in options.tasks],
        changes=xtreme.parse_changes(options.set),
        languages=options.languages,
        allow_missing=options.allow_missing,
    )
    if wrong := xtreme.problems(jobs, root):
        raise TrainingError("\n  ".join([f"{len(wrong)} problems; nothing was started", *wrong]))
    if options.dry_run:
        print(_table(estimate.work(jobs, root, measure=not options.no_estimate)))
        return True
    if jax.process_index() == 0:
        writers.write_file(root / COMMAND_FILE, schema.to_json(_command(options)))
    weights: dict[str, float] = {}
    for one in estimate.work(jobs, root):
        # A row costs three times as much to train on as to predict.
        weights[one.job] = weights.get(one.job, 0.0) + 3.0 * one.steps * one.batch_size + one.predicts
    failures = xtreme.run_all(jobs, root, weights)
    if jax.process_index() == 0:
        _score(options, root, jobs)
        for name, reason in failures.items():
            print(f"{name} failed: {reason}", file=sys.stderr)
        if failures:
            print("the same command tries again what failed", file=sys.stderr)
    return not failures


def _command(options: argparse.Namespace) -> dict[str, str]:
    """What decides the results."""
    names = ("checkpoint", "revision", "data", "setting", "seed", "set", "smoke")
    return {name: str(getattr(options, name)) for name in names}


def _check_command(options: argparse.Namespace, root: pathlib.Path) -> None:
    """Refuses to mix two checkpoints, data sets or settings in one table."""
    file = root / COMMAND_FILE
    if file.is_file() and (changed := schema.differences(workdir.read_json(file), _command(options))):
        raise TrainingError(
            f"{root} is of another command; give the old values again or choose another --workdir\n  "
            + "\n  ".join(changed)
        )


def _encoder(options: argparse.Namespace, root: pathlib.Path) -> str:
    """The checkpoint as a run of this package; one of transformers is converted into the workdir, once."""
    try:
        checkpoint.find(options.checkpoint)
        return str(pathlib.Path(options.checkpoint).absolute())
    except checkpoint.CheckpointError as error:
        folder = pathlib.Path(options.checkpoint)
        is_hub_id = (
            not folder.exists() and options.checkpoint.count("/") <= 1 and not options.checkpoint.startswith(".")
        )
        if not (is_hub_id or (folder / "config.json").is_file()):
            raise TrainingError(
                f"--checkpoint={options.checkpoint}: neither a run nor a folder of transformers nor the id of a repository "
                f"({error})"
            ) from error
    # Of its own name, lest a dry run of one checkpoint serve another.
    name = hashlib.sha256(f"{options.checkpoint} {options.revision}".encode()).hexdigest()[:12]
    target = root / f"encoder-{name}"
    if jax.process_index() == 0 and not _is_checkpoint(target):
        _convert(options, target)
    processes.gather("")
    return str(target)


def _convert(options: argparse.Namespace, target: pathlib.Path) -> None:
    """Leaves the encoder, without whatever head it has; a pooler that is not there starts afresh, as it does in a task."""
    given = ["--from=hf", "--to=jax", "--head=base", f"--input={options.checkpoint}", f"--output={target}"]
    given += [f"--revision={options.revision}"] if options.revision else []
    reading = convert.parser().parse_args([*given, "--drop", "cls", "classifier", "qa_outputs"])
    opened = convert.OPENERS["hf"](reading)
    if not any("pooler" in name for name in opened.source.shapes):
        reading.init = ["pooler"]
    convert.convert(reading)


def _is_checkpoint(folder: pathlib.Path) -> bool:
    try:
        checkpoint.find(folder)
    except checkpoint.CheckpointError:
        return False
    return True


def _table(works: Sequence[estimate.Work]) -> str:
    """What is to be done, as a table in Markdown."""
    lines = ["| run | stage | trains on | steps | predicts | languages | time |", "| --- " * 7 + "|"]
    for one in works:
        took = timing.format_seconds(float("nan") if one.seconds is None else one.seconds)
        numbers = f"{one.trains_on or '':,} | {one.steps or '':,}" if one.steps else " | "
        lines.append(f"| {one.job} | {one.stage} | {numbers} | {one.predicts:,} | {one.languages} | {took} |")
    if works and all(one.seconds is not None for one in works):
        device = jax.devices()[0].device_kind
        total = timing.format_seconds(sum(one.seconds or 0.0 for one in works))
        lines.append(f"\n{total} on {jax.device_count()} x {device}, by three steps of each kind, all rows full.")
    return "\n".join(lines) if works else "everything is finished"


def _score(options: argparse.Namespace, root: pathlib.Path, jobs: Sequence[Job]) -> None:
    """Official scores of what is finished."""
    if not any(job.is_finished(root) for job in jobs):
        return
    given = [f"--predictions={root}", f"--labels={options.data / 'labels'}"]
    given += [f"--output={root / 'scores' / 'results.json'}", f"--name={options.name}"]
    print(xtreme_score.run(xtreme_score.parser().parse_args(given)), end="")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        "rembert_jax.tools.xtreme_run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--checkpoint", required=True, help="a run, a folder of transformers, or the id of a repository of the hub")
    add("--revision", help="branch, tag or commit of a repository of the hub")
    add("--data", required=True, type=pathlib.Path, help="what tools.prepare_xtreme wrote")
    add("--workdir", required=True, help="folder for everything that is written")
    add("--tasks", nargs="+", default=["all"], choices=("all", *TASKS), metavar="TASK", help=f"of {', '.join(TASKS)}")
    add("--languages", nargs="+", default=[], metavar="LANGUAGE", help="to test on; by default all of each task's")
    add(
        "--allow_missing", action="store_true", help="leave out languages without a test file; the table is then a part"
    )
    add("--setting", default="rembert", help="of configs/xtreme: rembert, ablations or xtreme")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="for each stage that has it, as in mesh.fsdp=8")
    add("--seed", type=int, default=0, help="of order, dropout and new heads")
    add("--name", default="this run", help="how the model is called in tables")
    add("--dry_run", action="store_true", help="list what would be done, and start nothing")
    add("--no_estimate", action="store_true", help="--dry_run without measuring steps")
    add("--smoke", action="store_true", help="a step or two of each, for tests")
    add("--configs", type=pathlib.Path, default=CONFIGS, help="folder of the config files")
    add("--compile_cache", default="", help="folder for compiled programs, as of train.py; off keeps none")
    add("--coordinator_address", default="", help="as of train.py, for several processes; so are the next two")
    add("--num_processes", type=int)
    add("--process_id", type=int)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; an error that we foresee is one message without a traceback."""
    options = parser().parse_args(arguments)
    try:
        number = processes.connect(options.coordinator_address, options.num_processes, options.process_id)
        writers.log_to_terminal(number)
        compile_cache.keep_compiled(options.compile_cache)
        succeeded = run(options)
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
    sys.exit(0 if succeeded else 1)


def _restart_with_huge_pages() -> None:
    """Starts the command again with huge pages, unless it has them or is no command: as train.py does, and for its reasons."""
    if (
        sys.platform == "linux"
        and "GLIBC_TUNABLES" not in os.environ
        and "rembert_jax.tools.xtreme_run" in sys.orig_argv
    ):
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    _restart_with_huge_pages()
    main()
