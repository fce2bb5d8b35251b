"""Runs of several processes, one on each host of a pod: how they find each other, and what they have to agree on."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from rembert_jax import schema
from rembert_jax.errors import RemBertError

TIMEOUT = 300
"""Seconds in which all processes have to be there."""
HEARTBEAT = 100
"""Seconds after which a process of which nothing is heard counts as dead."""


class ProcessError(RemBertError):
    """The processes of a run cannot work together."""


def connect(
    address: str = "",
    count: int | None = None,
    index: int | None = None,
    *,
    timeout: int = TIMEOUT,
    heartbeat: int = HEARTBEAT,
) -> int:
    """Joins the processes of this run; to be called before JAX is asked for a device.

    On TPU pods, under SLURM and under Open MPI, JAX finds the others by itself; where there is nothing of the kind, and with a
    `count` of 1, the process stays alone. If not all have come in time, the process ends with a message: JAX would end it with
    a trace of C++.

    Args:
      address: "host:port" of the first process, which opens that port.
      count: of the processes.
      index: of this one, from 0.
      timeout: seconds to wait for the others.
      heartbeat: seconds after which another of which nothing is heard counts as dead, and this one ends too.

    Returns:
      The number of this process.

    Raises:
      ProcessError: if only some of the three are given, or such as do not fit together.
    """
    if count == 1:
        return 0
    given = {"coordinator_address": address or None, "num_processes": count, "process_id": index}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(missing) < 3:
        raise ProcessError(
            f"{', '.join(missing)}: missing; give all of {', '.join(f'--{name}' for name in given)}, or none"
        )
    if address and (not address.rpartition(":")[2].isdigit() or not address.rpartition(":")[0]):
        raise ProcessError(f"--coordinator_address={address}: expected host:port")
    if count is not None and index is not None and not 0 <= index < count:
        raise ProcessError(f"--process_id={index}: expected 0 to {count - 1}, as --num_processes={count}")
    with _ends_after(timeout, address, count, index), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # In Kubernetes without its Python package.
        try:
            jax.distributed.initialize(
                **given, initialization_timeout=timeout + 60, heartbeat_timeout_seconds=heartbeat
            )
        except ValueError as error:
            if address or "coordinator_address" not in str(error):
                raise ProcessError(f"the processes cannot be connected: {error}") from error
        except RuntimeError as error:
            raise ProcessError(
                f"the processes cannot be connected ({error}); give --coordinator_address, --num_processes and --process_id, "
                "or --num_processes=1 for a run by itself"
            ) from error
    return jax.process_index() if jax.distributed.is_initialized() else 0


def abandon(message: str) -> None:
    """Ends this process if it is one of several: an orderly end would wait for the others, and they for what it owes them."""
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        print(message, file=sys.stderr)
        print(
            f"process {jax.process_index()} of {jax.process_count()} ends, and so will the others; if it failed in talking to "
            "another, look at what that one says. Once it is mended, the same commands go on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


@contextlib.contextmanager
def _ends_after(timeout: int, address: str, count: int | None, index: int | None) -> Iterator[None]:
    """Ends this process with a message if what is done in the context takes longer than `timeout` seconds."""

    def end() -> None:
        who = "a process" if index is None else f"process {index} of {count}"
        if not index or _answers(address):
            problem = "the other processes have not all come"
            help = f"start {count or 'one on each host of the cluster'} of them, each with its own number"
        else:
            problem = f"no answer from the first process at {address}"
            help = "start the one with --process_id=0 there, and let the others reach that port"
        message = f"ProcessError: {who}: {problem} after {timeout} s; {help}; --connect_timeout sets how long to wait"
        print(message, file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(timeout, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError):
        return False
    return True


def gather(text: str) -> list[str]:
    """What each process says, in their order; all have to call this at the same place."""
    if jax.process_count() == 1:
        return [text]
    own = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(own), np.int32))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(own)] = own
    return [
        bytes(row[:size]).decode() for row, size in zip(multihost_utils.process_allgather(padded), sizes, strict=True)
    ]


def agree(facts: Mapping[str, Any]) -> None:
    """Checks that all processes have been given the same.

    Raises:
      ProcessError: in each of them, naming those that differ from the first one, and in what.
    """
    said = [json.loads(text) for text in gather(json.dumps(facts, sort_keys=True, default=str))]
    lines = [
        f"process {number}: {line}"
        for number, other in enumerate(said)
        for line in schema.differences(said[0], other, "")
    ]
    if lines:
        raise ProcessError(
            "processes differ from the first one; start all with the same command, code and packages\n  "
            + "\n  ".join(lines)
        )


def check_shared(folder: os.PathLike[str], name: str) -> None:
    """Checks that all processes see what the first one writes into a folder; `name` is what messages call it.

    Raises:
      ProcessError: in each of them, naming those that do not.
    """
    if jax.process_count() == 1:
        return
    probe = os.path.join(folder, f".seen-by-all-{gather(str(os.getpid()))[0]}")
    if jax.process_index() == 0:
        with open(probe, "x"):
            pass
    gather("written")
    blind = [str(number) for number, seen in enumerate(gather(str(os.path.exists(probe)))) if seen != "True"]
    if jax.process_index() == 0:
        os.remove(probe)
    if blind:
        raise ProcessError(
            f"{name}={folder}: processes {', '.join(blind)} do not see what the first one writes there; choose a folder that "
            "all hosts have in common (NFS, Filestore, Lustre, or a bucket mounted with gcsfuse)"
        )
