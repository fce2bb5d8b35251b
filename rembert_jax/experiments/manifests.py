"""The members of a sweep as something that a cluster runs."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from rembert_jax.errors import RemBertError

Command = Callable[[int | str], list[str]]
"""From the number of a member, or a variable that holds it, to the program and its arguments."""


def commands(command: Command, count: int) -> str:
    """A shell command a line for each member."""
    return "\n".join(shlex.join(command(index)) for index in range(count))


def slurm(command: Command, count: int, name: str, parallel: int | None) -> str:
    """A script for `sbatch` whose array has a task for each member.

    Args:
      command: what runs a member.
      count: number of members.
      name: of the job.
      parallel: members at a time at most; None for no limit.
    """
    limit = f"%{parallel}" if parallel else ""
    run = " ".join(
        '"$SLURM_ARRAY_TASK_ID"'.join(shlex.quote(part) if part else "" for part in argument.split("@"))
        if "@" in argument
        else shlex.quote(argument)
        for argument in command("@")
    )
    return "\n".join(
        [
            "#!/bin/bash",
            f"#SBATCH --job-name={name}",
            f"#SBATCH --array=0-{count - 1}{limit}",
            "#SBATCH --output=%x-%a.log",
            "#SBATCH --open-mode=append",
            "#SBATCH --requeue  # A member that is started again goes on from its last checkpoint.",
            "# Add what your cluster wants: --partition, --gres, --cpus-per-task, --mem, --time.",
            f"srun {run}",
        ]
    )


def job_set(command: Command, count: int, name: str, *, accelerator: str, topology: str, chips: int, image: str) -> str:
    """JobSet manifests for GKE, a TPU slice for each member, as YAML documents for `kubectl apply`.

    Args:
      command: what runs a member.
      count: number of members.
      name: of the job sets, with the member's number behind it.
      accelerator: GKE's name of the TPU, for example "tpu-v4-podslice" or "tpu-v6e-slice".
      topology: of the slice, for example "2x2x4".
      chips: of one host.
      image: container image with this checkout as its working directory.

    Raises:
      RemBertError: if the topology is none, or its chips do not fill hosts.
    """
    if not re.fullmatch(r"\d+(x\d+){1,2}", topology):
        raise RemBertError(f"--topology={topology}: expected chips by dimension, as 2x4 or 2x2x4")
    total = math.prod(map(int, topology.split("x")))
    if chips < 1 or total % chips:
        raise RemBertError(
            f"--topology={topology} has {total} chips, which hosts of --chips_per_host={chips} do not make up"
        )
    documents = [
        _job_set(command(index), f"{name}-{index}", accelerator, topology, total // chips, chips, image)
        for index in range(count)
    ]
    return yaml.safe_dump_all(documents, sort_keys=False).rstrip()


def _job_set(
    command: Sequence[str], name: str, accelerator: str, topology: str, hosts: int, chips: int, image: str
) -> dict[str, Any]:
    container = {
        "name": "train",
        "image": image,
        "command": list(command),
        "resources": {"limits": {"google.com/tpu": chips}},
    }
    pod = {
        "restartPolicy": "Never",
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": accelerator,
            "cloud.google.com/gke-tpu-topology": topology,
        },
        "containers": [container],
    }
    job = {"parallelism": hosts, "completions": hosts, "backoffLimit": 0, "template": {"spec": pod}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": name,
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "failurePolicy": {"maxRestarts": 10},  # Preempted or failed: all hosts go on from the last checkpoint.
            "replicatedJobs": [{"name": "slice", "replicas": 1, "template": {"spec": job}}],
        },
    }
