"""Compiles the training step of a config for TPUs that are not there, and says whether it fits and what bounds it.

    python -m rembert_jax.tools.compile_for --config=configs/rembert.py --topology=v4:8x8x8 --config.mesh.fsdp=32
    python -m rembert_jax.tools.compile_for --config=configs/rembert.py --topology=v5e:16x16 --search

Needs no TPU and no data, but libtpu, which runs on any Linux machine: pip install '.[tpu]'. The step is the one that `train.py`
would run there. Exit code 1: it does not fit. `--search` tries meshes, rematerialisation and micro-batches, and ends with the
flags of the best.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Before JAX is imported: this machine's own devices are not asked for, and libtpu not for a TPU, or for being alone.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v4-8")
os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")

import jax
from absl import flags
from jax.experimental import topologies
from ml_collections import config_flags

from rembert_jax import sharding
from rembert_jax.errors import RemBertError
from rembert_jax.experiments import architecture, config_flag, stages
from rembert_jax.experiments.settings import ExperimentConfig
from rembert_jax.training import hlo
from rembert_jax.training.chips import CHIPS, Chip
from rembert_jax.training.flops import executed_flops
from rembert_jax.training.program import Program

GIB = 2**30
TOO_LARGE = "RESOURCE_EXHAUSTED"
"""What the compiler says where it sees that a step does not fit."""


class CompileError(RemBertError):
    """A step cannot be compiled for a topology."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What is known of a compiled step.

    Attributes:
      topology, chips: "v4:8x8x8", 512.
      mesh, remat, accumulation: of the config.
      tokens: of a step.
      seconds: it took to compile.
      arguments, temporaries: bytes of one chip.
      model_flops, executed_flops: of a step, of all chips: what the model needs, and with what is computed again.
      collectives: kind to calls and bytes that one chip sends in a step.
      memory_traffic: bytes that one chip reads and writes in a step.
    """

    topology: str
    chips: int
    mesh: dict[str, int]
    remat: str
    accumulation: int
    tokens: int
    seconds: float
    arguments: int
    temporaries: int
    model_flops: int
    executed_flops: int
    collectives: dict[str, hlo.Collective]
    memory_traffic: float

    @property
    def chip(self) -> Chip:
        """What is published of it."""
        return CHIPS[self.topology.partition(":")[0]]

    @property
    def fits(self) -> bool:
        """Whether arguments and temporaries find room."""
        return self.arguments + self.temporaries <= self.chip.hbm_bytes

    @property
    def bounds(self) -> dict[str, float]:
        """Seconds of a step that each part of a chip needs at least, at its published rate."""
        sent = sum(collective.sent_bytes for collective in self.collectives.values())
        return {
            "compute": self.executed_flops / self.chips / self.chip.peak_flops,
            "memory": self.memory_traffic / self.chip.hbm_bandwidth,
            "interconnect": sent / self.chip.ici_bandwidth,
        }

    @property
    def binds(self) -> str:
        """Which of them takes longest."""
        return max(self.bounds, key=self.bounds.__getitem__)

    @property
    def best_mfu(self) -> float:
        """Share of the peak that the model's operations would have if all else were hidden behind what binds."""
        return self.model_flops / self.chips / self.chip.peak_flops / max(self.bounds.values())


def topology_devices(name: str) -> list[Any]:
    """The devices of a topology.

    Raises:
      CompileError: if libtpu is not installed or in use, or there is no such topology.
    """
    kind, _, shape = name.partition(":")
    chip = CHIPS.get(kind)
    if chip is None or not re.fullmatch(r"[1-9]\d*" + (chip.dimensions - 1) * r"x[1-9]\d*", shape):
        known = ", ".join(f"{name}:{'x'.join(c.dimensions * 'N')}" for name, c in CHIPS.items())
        raise CompileError(f"--topology={name}: expected one of {known}, as v4:8x8x8 or v5e:16x16")
    if importlib.util.find_spec("libtpu") is None:
        raise CompileError("libtpu is not installed; it also compiles where there is no TPU: pip install '.[tpu]'")
    # The two cores of a v4 chip are one device, as on real ones; libtpu's default for this chip alone is that they are two.
    options = {"chip_config_name": "megacore"} if kind == "v4" else {}
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except Exception as error:
        text = str(error).strip().splitlines()[0]
        if "lockfile" in str(error) or "already in use" in str(error):
            raise CompileError(f"another process uses libtpu ({text}); wait for it, or remove its lock file") from error
        raise CompileError(f"--topology={name}: libtpu knows no such slice ({text})") from error


def make_program(config: ExperimentConfig, devices: Sequence[Any], steps: Mapping[str, ExperimentConfig]) -> Program:
    """The program of a stage on these devices, once its shapes are known to fit them; `steps` are the stages before it.

    Raises:
      RemBertError: naming the mesh size, the batch or the setting that does not fit.
    """
    mesh = sharding.make_mesh(config.mesh, devices)
    models: dict[pathlib.Path, Any] = {}
    for name, earlier in steps.items():
        models[pathlib.Path("{workdir}", name)] = architecture.expected_model(_without_files(earlier), models)
    model = architecture.expected_model(_without_files(config), models)
    stages.check_shapes(config, model, mesh)
    return stages.make_program(config, model, mesh)


def _without_files(config: ExperimentConfig) -> ExperimentConfig:
    """With the number of pieces in place of a vocabulary that is not on this machine."""
    tokenizer = config.tokenizer
    if tokenizer.vocab_size and tokenizer.path and not pathlib.Path(tokenizer.path).exists():
        return dataclasses.replace(config, tokenizer=dataclasses.replace(tokenizer, path=""))
    return config


def compile_step(config: ExperimentConfig, program: Program, topology: str) -> Report:
    """Compiles and measures.

    Raises:
      CompileError: with the compiler's own words, where it finds out before the end that the step does not fit.
    """
    begin = time.perf_counter()
    try:
        compiled = program.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        raise CompileError(str(error).strip().splitlines()[0]) from error
    seconds = time.perf_counter() - begin
    memory, text = compiled.memory_analysis(), hlo.Program(compiled.as_text())
    with program.on_mesh():
        executed = executed_flops(jax.make_jaxpr(program.step)(program.state, program.batch))
    batch = program.batch["input_ids"]
    return Report(
        topology=topology,
        chips=program.mesh.size,
        mesh=dict(program.mesh.shape),
        remat=config.execution.remat,
        accumulation=config.optimizer.accumulation,
        tokens=math.prod(batch.shape),
        seconds=seconds,
        # The new state takes the place of the old one.
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        model_flops=program.step_flops,
        executed_flops=executed,
        collectives=text.collectives(),
        memory_traffic=text.memory_bytes(),
    )


def describe(report: Report) -> str:
    """A report as text."""
    chip, total = report.chip, report.arguments + report.temporaries
    mesh = " x ".join(f"{name} {size}" for name, size in report.mesh.items())
    lines = [
        f"{report.topology}: {report.chips} chips, mesh {mesh}, remat {report.remat}, "
        f"accumulation {report.accumulation}; compiled in {report.seconds:.0f} s",
        f"  one chip: {report.arguments / GIB:.2f} GiB of arguments + {report.temporaries / GIB:.2f} of temporaries = "
        f"{total / GIB:.2f} of {chip.hbm_bytes / GIB:.0f} GiB: {'fits' if report.fits else 'DOES NOT FIT'}",
        f"  a step: {report.tokens:,} tokens, {report.model_flops / 1e12:,.1f} TFLOP of the model, "
        f"{report.executed_flops / report.model_flops:.2f}x that executed",
    ]
    lines += [
        f"  {kind}: {found.calls:,} calls, {found.sent_bytes / 1e9:.2f} GB sent by a chip"
        for kind, found in sorted(report.collectives.items())
    ]
    bounds = ", ".join(f"{name} {1000 * seconds:,.0f} ms" for name, seconds in report.bounds.items())
    lines += [
        f"  at least: {bounds}",
        f"  at best {1000 * max(report.bounds.values()):,.0f} ms a step, "
        f"{report.tokens / max(report.bounds.values()) / report.chips:,.0f} tokens/s a chip, "
        f"MFU {100 * report.best_mfu:.0f} %; {report.binds} binds",
    ]
    return "\n".join(lines)


def candidates(
    config: ExperimentConfig, chips: int, tensor: int
) -> Iterator[tuple[dict[str, int], list[tuple[str, int]]]]:
    """Meshes, each with (remat, accumulation) from the fastest to the smallest, of which the first that fits is the best."""
    rows = config.training.batch_size
    for fsdp in (8, 16, 32, 64, 128, 256):
        if chips % (fsdp * tensor) or rows % (chips // tensor):
            continue
        data = chips // (fsdp * tensor)
        most = rows // (data * fsdp)
        orders = [(remat, 2**k) for k in range(most.bit_length()) for remat in ("none", "dots", "full")]
        yield {"data": data, "fsdp": fsdp, "tensor": tensor}, [order for order in orders if most % order[1] == 0]


def search(config: ExperimentConfig, topology: str, steps: Mapping[str, ExperimentConfig]) -> Report:
    """The report of the best mesh, rematerialisation and accumulation; says what it tries.

    Raises:
      CompileError: if nothing fits.
    """
    devices = topology_devices(topology)
    for tensor in (1, 2, 4):  # Which costs exchanges in every layer: only where nothing fits without.
        found: list[Report] = []
        for mesh, orders in candidates(config, len(devices), tensor):
            for remat, accumulation in orders:
                changed = _changed(config, mesh, remat, accumulation)
                try:
                    report = compile_step(changed, make_program(changed, devices, steps), topology)
                except RemBertError as error:
                    print(f"{topology}: {mesh} remat {remat} accumulation {accumulation}: {error}", flush=True)
                    if TOO_LARGE in str(error):
                        continue
                    break
                print(describe(report), flush=True)
                if report.fits:
                    found.append(report)
                    break
        if found:
            return best(found)
    raise CompileError(f"{topology}: no mesh, rematerialisation and micro-batch of this step fits; take more chips")


def best(found: Sequence[Report]) -> Report:
    """The fastest; of those within a hundredth of it, the one with least to hide that leaves a tenth of the memory free."""
    fastest = max(report.best_mfu for report in found)
    near = [report for report in found if report.best_mfu >= 0.99 * fastest]
    roomy = [report for report in near if report.arguments + report.temporaries <= 0.9 * report.chip.hbm_bytes]
    return min(roomy or near, key=lambda report: sum(report.bounds.values()))


def _changed(config: ExperimentConfig, mesh: Mapping[str, int], remat: Any, accumulation: int) -> ExperimentConfig:
    return dataclasses.replace(
        config,
        mesh=sharding.MeshConfig(**mesh),
        execution=dataclasses.replace(config.execution, remat=remat),
        optimizer=dataclasses.replace(config.optimizer, accumulation=accumulation),
    )


def _parse(arguments: Sequence[str]) -> tuple[dict[str, Any], Any]:
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", None, "Config file, with an optional :argument.", values)
    known = ", ".join(CHIPS)
    flags.DEFINE_string(
        "topology", None, f"Slice of TPUs, as v4:8x8x8 or v5e:16x16; known: {known}.", flag_values=values
    )
    flags.DEFINE_string("stage", "", "Stage of the config, by default its first one.", flag_values=values)
    flags.DEFINE_bool("search", False, "Look for the best mesh, rematerialisation and micro-batch.", flag_values=values)
    flags.DEFINE_string("output", "", "JSON file to write.", flag_values=values)
    flags.mark_flags_as_required(["config", "topology"], values)
    with config_flag.explained(arguments, values):
        rest = values(["compile_for", *arguments])
        if len(rest) > 1:
            raise CompileError(f"unexpected arguments: {' '.join(rest[1:])}")
        return values.flag_values_dict(), config.value.to_dict()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; ends the process with 0 if the step fits, else with 1."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    values, mapping = _parse(arguments)
    try:
        parsed, _ = stages.parse(mapping)
        name = config_flag.choose_stage(parsed, values["stage"])
        config, before = parsed[name], dict(list(parsed.items())[: list(parsed).index(name)])
        topology = values["topology"]
        if values["search"]:
            report = search(config, topology, before)
            print("\nbest:")
        else:
            report = compile_step(config, make_program(config, topology_devices(topology), before), topology)
    except RemBertError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(describe(report))
    if values["search"]:
        prefix = f"--config.stages.{name}" if name else "--config"
        sizes = [f"{prefix}.mesh.{axis}={size}" for axis, size in report.mesh.items()]
        rest = [f"{prefix}.execution.remat={report.remat}", f"{prefix}.optimizer.accumulation={report.accumulation}"]
        print(" ".join([*sizes, *rest]))
    if values["output"]:
        summary = dataclasses.asdict(report) | {
            "bounds": report.bounds,
            "best_mfu": report.best_mfu,
            "fits": report.fits,
        }
        pathlib.Path(values["output"]).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if report.fits else 1)


if __name__ == "__main__":
    main()
