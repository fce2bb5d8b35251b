"""scripts/: what they would run, and whether ShellCheck, Kubernetes and JobSet take them."""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest
import yaml
from helpers import ROOT

SCRIPTS = ROOT / "scripts"
SHELL = [*sorted(SCRIPTS.glob("*.sh")), SCRIPTS / "slurm.sbatch", ROOT / ".ci" / "run"]
CONFIG = "--config=configs/rembert.py:text=/bucket/text/{language}/{split}.txt"


def output(*command, code=0, **environment):
    """Standard output of a script, which must not need anything that is not here."""
    plain = {"PATH": "/usr/bin:/bin", **environment}
    done = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    shellcheck = pathlib.Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("without the extra clusters")
    done = subprocess.run([shellcheck, path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def tpu_slice(*arguments, **environment):
    settings = {"BUCKET": "b", "NAME": "n", "ZONE": "z", **environment}
    return [
        shlex.split(line) for line in output(SCRIPTS / "tpu_slice.sh", "--dry_run", *arguments, **settings).splitlines()
    ]


def test_a_slice_is_booked_and_given_back():
    (book,) = tpu_slice("book", TYPE="v5litepod-256", RUNTIME="r", BOOKING="--reserved")
    assert book[:5] == ["gcloud", "compute", "tpus", "queued-resources", "create"]
    assert {"--node-id=n", "--zone=z", "--accelerator-type=v5litepod-256", "--runtime-version=r", "--reserved"} <= set(
        book
    )
    (release,) = tpu_slice("release")
    assert release[3:6] == ["queued-resources", "delete", "n"] and "--force" in release


def test_training_starts_on_every_host_of_a_slice_with_the_arguments_as_they_are(tmp_path):
    *_, mount, install, start = tpu_slice("train", CONFIG, "--config.mesh.fsdp=16")
    assert (
        "--worker=all" in start
        and "gcsfuse --implicit-dirs --rename-dir-limit" in mount[-1]
        and ".[tpu]" in install[-1]
    )
    remote = start[-1].removeprefix("--command=")
    # What a host would run, with an interpreter that shows its arguments.
    (tmp_path / "rembert_jax" / "env" / "bin").mkdir(parents=True)
    python = tmp_path / "rembert_jax" / "env" / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    subprocess.run(["bash", "-c", f"{remote} wait"], cwd=tmp_path, check=True, timeout=60)
    shown = (tmp_path / "rembert_jax" / "train.log").read_text().splitlines()
    assert shown == ["train.py", "--workdir=/bucket/runs/n", CONFIG, "--config.mesh.fsdp=16"]


def test_a_slice_needs_a_bucket_and_a_command():
    assert "BUCKET is empty" in output(SCRIPTS / "tpu_slice.sh", "--dry_run", "book", code=2)
    assert "scripts/tpu_slice.sh book" in output(SCRIPTS / "tpu_slice.sh", code=2, BUCKET="b")
    assert "scripts/tpu_slice.sh book" in output(SCRIPTS / "tpu_slice.sh", "fly", code=2, BUCKET="b")


def test_slurm_runs_a_process_for_each_gpu_and_queues_again_what_was_stopped(tmp_path):
    script = ["bash", SCRIPTS / "slurm.sbatch"]
    shown = shlex.split(output(*script, CONFIG, "--workdir=/shared/run", DRY_RUN="1"))
    assert shown == ["srun", "--kill-on-bad-exit=1", "env/bin/python", "train.py", CONFIG, "--workdir=/shared/run"]
    assert "sbatch --nodes=4" in output(*script, code=2)
    for name, text in (("srun", "exit $CODE"), ("scontrol", f'echo "$@" >> {tmp_path}/asked')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    for code in (0, 1, 143):
        done = subprocess.run(
            [*script, CONFIG],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "CODE": str(code), "SLURM_JOB_ID": "7"},
            check=False,
        )
        assert done.returncode == code
    assert (tmp_path / "asked").read_text() == "requeue 7\n", "once, for 143"


# Of JobSet's own schema (its custom resource definition, v1alpha2): the fields used here, and no others.
JOBSET = {"apiVersion", "kind", "metadata", "spec"}
SPEC = {
    "failurePolicy",
    "network",
    "replicatedJobs",
    "startupPolicy",
    "successPolicy",
    "suspend",
    "ttlSecondsAfterFinished",
}
REPLICATED = {"name", "replicas", "template", "dependsOn", "groupName"}


@pytest.fixture
def jobset():
    return yaml.safe_load((SCRIPTS / "gke_jobset.yaml").read_text())


def test_jobset_has_the_fields_of_its_definition(jobset):
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and jobset["kind"] == "JobSet"
    assert set(jobset) <= JOBSET and set(jobset["spec"]) <= SPEC
    assert set(jobset["spec"]["failurePolicy"]) <= {"maxRestarts", "restartStrategy", "rules"}
    (job,) = jobset["spec"]["replicatedJobs"]
    assert set(job) <= REPLICATED and set(job["template"]) <= {"metadata", "spec"}


def test_job_and_pods_fit_the_schema_of_kubernetes(jobset):
    validate = pytest.importorskip("kubernetes_validate", reason="without the extra clusters")
    (job,) = jobset["spec"]["replicatedJobs"]
    manifest = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}, **job["template"]}
    validate.validate(manifest, "1.32", strict=True)
    manifest["spec"]["template"]["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(validate.ValidationError):
        validate.validate(manifest, "1.32", strict=True)


def test_pods_of_the_jobset_run_the_same_command_on_all_hosts(jobset):
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["parallelism"] == spec["completions"] == 16 * 16 // container["resources"]["limits"]["google.com/tpu"]
    assert spec["backoffLimit"] == 0 and pod["restartPolicy"] == "Never", "all hosts start again together"
    assert container["command"][:2] == ["python", "train.py"] and CONFIG in container["command"]
    mounted = pathlib.PurePath(container["volumeMounts"][0]["mountPath"])
    assert f"--workdir={mounted}/runs/rembert" in container["command"]
    assert container["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]


def test_every_script_is_described():
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert all(f"scripts/{name}" in page for name in os.listdir(SCRIPTS))
