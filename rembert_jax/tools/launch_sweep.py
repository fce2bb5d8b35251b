"""Runs every member of a sweep on this machine, or prints what runs them on a cluster.

    python -m rembert_jax.tools.launch_sweep --config=configs/output_embedding.py --workdir=runs/width --parallel=2

Member k is `train.py --config=… --sweep_index=k --workdir=WORKDIR/k`, with its output in WORKDIR/k/log.txt. All members are
checked before the first one starts. The same command again goes on where it stopped, and tries again what failed. Further
flags (`--config.KEY=value`) go to every member. `rembert_jax.tools.collect WORKDIR` makes one table of them all.

With `--print=list` the commands are printed and nothing is run; with `--print=slurm` a job array for sbatch; with
`--print=gke` a JobSet for kubectl.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live

from rembert_jax import schema
from rembert_jax.errors import RemBertError
from rembert_jax.experiments import manifests, stages, sweep
from rembert_jax.experiments import workdir as folders
from rembert_jax.reports.runs import LOG_FILE, RESULTS_FILE, SWEEP_FILE, failure
from rembert_jax.training import timing
from rembert_jax.training.writers import write_file

PROGRAM = pathlib.Path(__file__).absolute().parents[2] / "train.py"


@dataclasses.dataclass
class Launch:
    """A sweep in its folder.

    Attributes:
      specification: "FILE" or "FILE:ARGUMENTS".
      members: the settings of each.
      results: of each member, the files that it has written when it is finished.
      workdir: as it was given; it may lie on another machine if nothing is run here.
      flags: for every member.
    """

    specification: str
    members: list[sweep.Member]
    results: list[list[str]]
    workdir: str
    flags: list[str]

    def folder(self, index: int) -> pathlib.Path:
        """That of a member."""
        return pathlib.Path(self.workdir).absolute() / str(index)

    def arguments(self, index: int | str, workdir: str | pathlib.Path, *, share: bool = True) -> list[str]:
        """Those of `train.py` for a member; the index may stand for a variable of a script."""
        shared = [f"--shared={workdir}/shared"] if share else []
        return [
            f"--config={self.specification}",
            f"--sweep_index={index}",
            f"--workdir={workdir}/{index}",
            *shared,
            *self.flags,
        ]

    def is_finished(self, index: int) -> bool:
        """Whether a member has the results of each stage, and its report if it makes one."""
        return all((self.folder(index) / name).is_file() for name in self.results[index])


def prepare(specification: str, workdir: str, flags: Sequence[str]) -> Launch:
    """Checks every member of a sweep, starting nothing.

    Raises:
      RemBertError: naming the member and what is wrong with it.
    """
    members, results = sweep.load_members(specification), []
    common = _flag_overrides(flags)
    for index, member in enumerate(members):
        try:
            if twice := sorted(set(common) & set(member)):
                raise sweep.SweepError(f"--config.{twice[0]}: the sweep sets it; leave the flag out, or change sweep()")
            config = sweep.member_config(specification, member)
            for name in common:  # Their values are checked by `train.py`, which knows how to read them.
                sweep.value_of(config, name)
            parsed, comparisons = stages.parse(config.to_dict())
            written = [str(pathlib.PurePath(stage, RESULTS_FILE)) for stage in parsed]
            results.append(written + [RESULTS_FILE] * bool(comparisons))
        except RemBertError as error:
            raise sweep.SweepError(f"member {index} ({sweep.describe(member)}): {error}") from error
    return Launch(specification, members, results, workdir, list(flags))


def _flag_overrides(flags: Sequence[str]) -> dict[str, str]:
    """The keys that flags override; anything but `--config.KEY=value` is refused."""
    found = {}
    for flag in flags:
        match = re.fullmatch(r"--config\.([\w.]+)=(.*)", flag, re.DOTALL)
        if not match:
            raise sweep.SweepError(f"{flag}: expected --config.KEY=value, which goes to every member; see --help")
        found[match[1]] = match[2]
    return found


def claim(launch: Launch) -> None:
    """Makes the folder the sweep's own, or checks that it is.

    A sweep that has grown at its end goes on; a changed one does not, since numbers stand for members.

    Raises:
      SweepError: if the folder holds another sweep.
    """
    workdir = pathlib.Path(launch.workdir)
    path = workdir / SWEEP_FILE
    wanted = json.loads(
        schema.to_json({"config": launch.specification, "flags": launch.flags, "members": launch.members})
    )
    if path.is_file():
        old = folders.read_json(path)
        count = len(old["members"])
        old["members"], grown = dict(enumerate(old["members"])), dict(enumerate(wanted["members"][:count]))
        if changed := schema.differences(old, {**wanted, "members": grown}):
            raise sweep.SweepError(
                f"{workdir} holds another sweep; choose another --workdir\n  " + "\n  ".join(changed)
            )
    folders.make(workdir)
    write_file(path, schema.to_json(wanted))


class _Running:
    """A member in a process of its own."""

    def __init__(self, launch: Launch, index: int) -> None:
        self.index, self.log = index, launch.folder(index) / LOG_FILE
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"# {time.strftime('%Y-%m-%d %H:%M:%S')} {sweep.describe(launch.members[index])}\n")
            log.flush()
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), *launch.arguments(index, self.log.parent.parent)], stdout=log, stderr=log
            )

    def last_line(self) -> str:
        """Of what the member has said."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 2000))
            lines = re.split(r"[\r\n]+", log.read().decode("utf-8", "replace").strip())
        return lines[-1]


def run(launch: Launch, parallel: int, console: Console, stop: threading.Event) -> list[int]:
    """Runs the members that are not finished, `parallel` at a time, and returns those that failed.

    Raises:
      KeyboardInterrupt: once `stop` is set and the members that run have ended.
    """
    waiting = [index for index in range(len(launch.members)) if not launch.is_finished(index)]
    done, failed = len(launch.members) - len(waiting), []
    running: list[_Running] = []
    start, made, overall = time.monotonic(), 0, f"{done} of {len(launch.members)} finished"
    console.print(f"{len(launch.members)} members, {done} of them finished, {parallel} at a time, in {launch.workdir}")
    with Live(console=console, refresh_per_second=2, transient=True) as live:
        try:
            while waiting or running:
                while waiting and len(running) < parallel:
                    running.append(_Running(launch, waiting.pop(0)))
                    if not console.is_terminal:
                        console.print(_line(launch, running[-1].index, "started"))
                if stop.wait(0.2):
                    raise KeyboardInterrupt
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    made += 1
                    fine = one.process.returncode == 0 and launch.is_finished(one.index)
                    done, failed = done + fine, failed + [one.index] * (not fine)
                    said = "finished" if fine else _reason(one.log)
                    console.print(_line(launch, one.index, said))
                    seconds = (time.monotonic() - start) / made * (len(waiting) + len(running))
                    overall = _overall(launch, done, failed, seconds)
                    console.print(overall)
                live.update("\n".join([*(_line(launch, one.index, one.last_line()) for one in running), overall]))
        finally:
            for one in running:  # Only if this program is stopped; what they have saved is kept.
                one.process.terminate()
            for one in running:
                one.process.wait()
    return sorted(failed)


def text_of(launch: Launch, options: argparse.Namespace) -> str:
    """The commands or manifests that `--print` asks for."""

    def command(index: int | str) -> list[str]:
        share = options.form != "gke"  # The hosts of a cloud share no folder that can be locked.
        return ["python", "train.py", *launch.arguments(index, launch.workdir, share=share)]

    count, name = len(launch.members), pathlib.Path(launch.specification.partition(":")[0]).stem.replace("_", "-")
    if options.form == "list":
        return manifests.commands(command, count)
    if options.form == "slurm":
        return manifests.slurm(command, count, name, options.parallel)
    return manifests.job_set(
        command,
        count,
        name,
        accelerator=options.accelerator,
        topology=options.topology,
        chips=options.chips_per_host,
        image=options.image,
    )


def _line(launch: Launch, index: int, text: str) -> str:
    return f"{index} ({sweep.describe(launch.members[index])}): {text}"


def _overall(launch: Launch, done: int, failed: list[int], seconds_left: float) -> str:
    rest = f", about {timing.format_seconds(seconds_left)} left" if seconds_left else ""
    bad = f", {len(failed)} failed" if failed else ""
    return f"{done} of {len(launch.members)} finished{bad}{rest}"


def _reason(log: pathlib.Path) -> str:
    """The last error that a member's log names, and where the log is."""
    return f"{failure(log) or 'failed and named no error'} (see {log})"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        "rembert_jax.tools.launch_sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--config", required=True, help="config file with a function sweep(), with an optional :argument")
    add("--workdir", required=True, help="folder for all members, a numbered folder each")
    add("--parallel", type=int, metavar="N", help="members at a time; by default 1, and in a job array all")
    add("--print", dest="form", choices=("list", "slurm", "gke"), help="print what runs the members, and run nothing")
    add("--accelerator", default="tpu-v4-podslice", help="for gke: TPU of a member")
    add("--topology", default="2x2x1", help="for gke: chips of a member's slice")
    add("--chips_per_host", type=int, default=4, help="for gke")
    add("--image", default="IMAGE", help="for gke: container image")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; an error that we foresee is one message without a traceback."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    options, flags = parser().parse_known_args(arguments)
    try:
        if options.parallel is not None and options.parallel < 1:
            raise sweep.SweepError(f"--parallel={options.parallel}: expected at least 1")
        launch = prepare(options.config, options.workdir, flags)
        if options.form:
            print(text_of(launch, options))
            return
        claim(launch)
        stop = threading.Event()  # And no exception: it might come while a member is started, and lose it.
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        failed = run(launch, options.parallel or 1, console, stop)
    except RemBertError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
    if failed:
        names = "\n".join(f"  {_line(launch, index, _reason(launch.folder(index) / LOG_FILE))}" for index in failed)
        sys.exit(f"{len(failed)} of {len(launch.members)} members failed; the same command tries them again\n{names}")


if __name__ == "__main__":
    main()
