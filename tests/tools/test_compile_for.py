"""Compilation for TPUs that are not there: what is told of a step, what is refused, and a small config against kept numbers."""

import importlib.util
import json
import sys

import pytest
from helpers import ROOT, run_process

from rembert_jax.experiments import settings
from rembert_jax.tools import compile_for
from rembert_jax.training.hlo import Collective

SMOKE = "configs/rembert.py:smoke"
KEPT = ROOT / "tests" / "data" / "compiled_v5e_2x4.json"
"""Of `SMOKE` with the mesh, rematerialisation and accumulation below, written by --output; libtpu 0.0.42."""
CHANGES = [
    "--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2", "--config.execution.remat=full",
    "--config.optimizer.accumulation=2",
]  # fmt: skip

with_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="no libtpu")


def compile_it(*arguments):
    return run_process([sys.executable, "-m", "rembert_jax.tools.compile_for", *arguments])


def report(**changes):
    values = {
        "topology": "v5e:4x4",
        "chips": 16,
        "mesh": {"data": 4, "fsdp": 4, "tensor": 1},
        "remat": "full",
        "accumulation": 2,
        "tokens": 65536,
        "seconds": 61.0,
        "arguments": 3 << 30,
        "temporaries": 12 << 30,
        "model_flops": int(16 * 197e12),
        "executed_flops": int(20 * 197e12),
        "collectives": {"all-gather": Collective(40, 150e9), "all-reduce": Collective(3, 50e9)},
        "memory_traffic": 0.5 * 819e9,
    }
    return compile_for.Report(**(values | changes))


def test_what_binds_a_step_worked_by_hand():
    found = report()
    assert found.bounds == pytest.approx({"compute": 1.25, "memory": 0.5, "interconnect": 1.0})
    assert found.binds == "compute" and found.best_mfu == pytest.approx(0.8) and found.fits
    assert report(memory_traffic=2.5 * 819e9).binds == "memory"
    slow = report(collectives={"all-gather": Collective(1, 400e9)})
    assert slow.binds == "interconnect" and slow.best_mfu == pytest.approx(0.5)
    assert not report(temporaries=(13 << 30) + 1).fits
    text = compile_for.describe(found)
    assert "3.00 GiB of arguments + 12.00 of temporaries = 15.00 of 16 GiB: fits" in text
    assert "all-gather: 40 calls, 150.00 GB sent by a chip" in text
    assert "at best 1,250 ms a step, 3,277 tokens/s a chip, MFU 80 %; compute binds" in text
    assert "DOES NOT FIT" in compile_for.describe(report(temporaries=14 << 30))


def test_of_the_fastest_the_one_is_best_that_leaves_memory_free_and_hides_least():
    full, free, slower = report(), report(temporaries=8 << 30), report(executed_flops=int(21 * 197e12))
    busy = report(temporaries=8 << 30, memory_traffic=0.9 * 819e9)
    assert compile_for.best([full, busy, free, slower]) is free
    assert compile_for.best([full, slower]) is full, "where none leaves a tenth"


@pytest.mark.parametrize("topology", ["v7:2x2", "v5e", "v5e:4", "v5e:2x2x2", "v4:8x8", "v4:0x2x2", "H100"])
def test_unknown_topologies_are_refused_with_the_known_ones(topology):
    with pytest.raises(compile_for.CompileError, match=r"expected one of v4:NxNxN, v5e:NxN, v5p:NxNxN, v6e:NxN"):
        compile_for.topology_devices(topology)


def test_without_libtpu_one_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(compile_for.CompileError, match=r"libtpu is not installed.*pip install '\.\[tpu\]'"):
        compile_for.topology_devices("v4:2x2x2")


@pytest.mark.parametrize(
    ("words", "message"), [("lockfile is held", "another process uses libtpu"), ("bad", "no such slice")]
)
def test_what_libtpu_says_is_explained(monkeypatch, words, message):
    def refuse(**options):
        raise RuntimeError(words)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(compile_for.topologies, "get_topology_desc", refuse)
    with pytest.raises(compile_for.CompileError, match=message):
        compile_for.topology_devices("v4:2x2x2")


def test_meshes_that_are_tried_use_all_chips_and_divide_the_batch():
    config = settings.resolve(
        {
            "tokenizer": {"vocab_size": 10},
            "data": {"source": "synthetic"},
            "optimizer": {"learning_rate": 1.0},
            "training": {"batch_size": 96, "steps": 1},
        }
    )
    tried = [mesh for tensor in (1, 2, 4) for mesh in compile_for.candidates(config, 64, tensor)]
    for mesh, orders in tried:
        assert mesh["data"] * mesh["fsdp"] * mesh["tensor"] == 64
        rows = mesh["data"] * mesh["fsdp"]
        assert [remat for remat, _ in orders[:3]] == ["none", "dots", "full"]
        assert all(96 % (rows * accumulation) == 0 for _, accumulation in orders)
    assert {mesh["tensor"] for mesh, _ in tried} == {2, 4}, "64 chips do not divide 96 rows"


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # In ml_collections.
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--topology=v5e:2x4", "--config.mesh.fdsp=2"],
            "--config.mesh.fdsp: the config file has no key 'fdsp' in config.mesh; it has data, fsdp, tensor",
        ),
        (["--topology=v5e:2x4", "--stage=pretrain"], "--stage=pretrain: no such stage"),
        (["--topology=v5e:2x4", "more"], "unexpected arguments: more"),
        ([], "--topology"),
    ],
)
def test_wrong_flags_end_it_with_one_line(arguments, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compile_for", f"--config={SMOKE}", *arguments])  # ml_collections reads it too.
    with pytest.raises(SystemExit) as end:
        compile_for.main()
    assert message in str(end.value) and str(end.value).count("\n") <= 1


@with_libtpu
@pytest.mark.long
def test_a_small_config_has_the_collectives_and_flops_that_it_had(tmp_path):
    output = tmp_path / "summary.json"
    # Neither the text nor the vocabulary is there.
    missing = [
        "--config.data.source=text",
        "--config.data.path=/nowhere/{language}",
        "--config.tokenizer.path=/nowhere",
    ]
    done = compile_it(f"--config={SMOKE}", "--topology=v5e:2x4", *CHANGES, *missing, f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert "mesh data 2 x fsdp 2 x tensor 2, remat full, accumulation 2" in done.stdout and ": fits" in done.stdout
    found, kept = json.loads(output.read_text()), json.loads(KEPT.read_text())
    for key in ("model_flops", "executed_flops", "arguments", "tokens"):
        assert found[key] == kept[key], key
    sent = {kind: one["sent_bytes"] for kind, one in found["collectives"].items()}
    before = {kind: one["sent_bytes"] for kind, one in kept["collectives"].items()}
    # Another compiler may choose other ones; twice as much is another program.
    assert sum(sent.values()) == pytest.approx(sum(before.values()), rel=0.25), (sent, before)


@with_libtpu
@pytest.mark.long
def test_a_stage_that_starts_from_another_needs_no_run_of_it():
    done = compile_it("--config=configs/quickstart.py:smoke", "--topology=v4:2x2x1", "--stage=topic_pretrained")
    assert done.returncode == 0, done.stderr
    assert "v4:2x2x1: 4 chips" in done.stdout


@with_libtpu
def test_a_mesh_that_does_not_divide_is_refused():
    done = compile_it(f"--config={SMOKE}", "--topology=v5e:2x4", "--config.mesh.data=3")
    assert done.returncode == 1 and "needs 3 devices, found 8" in done.stderr and done.stderr.count("\n") == 1, (
        done.stderr
    )
