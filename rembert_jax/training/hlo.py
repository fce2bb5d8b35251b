"""What a compiled program sends to other devices and what it reads and writes in its memory, from its text."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[suf]\d+|bf16|f8\w+|c64)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "partition-id",
         "after-all", "iota", "opt-barrier", "copy-done", "slice-done", "custom-call"}  # fmt: skip
"""Instructions that move nothing by themselves, or whose parts are counted."""


@dataclasses.dataclass(frozen=True)
class Collective:
    """All runs of collectives of one kind in a program.

    Attributes:
      calls: of one device.
      sent_bytes: that one device sends, as a ring of the devices that take part does it.
    """

    calls: int
    sent_bytes: float


@dataclasses.dataclass(frozen=True)
class _Instruction:
    shape: str
    opcode: str
    rest: str

    @property
    def operands(self) -> list[str]:
        return _NAME.findall(self.rest.split("), ")[0])

    def called(self, key: str) -> str | None:
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.rest)
        return found[1] if found else None


class Program:
    """The instructions of a compiled program by computation, and how often each computation runs."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, dict[str, _Instruction]] = {}
        entry, current = "", ""
        for line in text.splitlines():
            if start := _COMPUTATION.match(line):
                current = start[1]
                self.computations[current] = {}
                entry = current if line.startswith("ENTRY") else entry
            elif current and (found := _INSTRUCTION.match(line)):
                self.computations[current][found[1]] = _Instruction(found[2], found[3], found[4])
        self.runs: dict[str, int] = {}
        self.scheduled: set[str] = set()
        """Computations whose instructions run one after the other, and are not parts of a kernel."""
        self._visit(entry, 1, scheduled=True)

    def _visit(self, name: str, runs: int, *, scheduled: bool) -> None:
        if name not in self.computations:
            return
        self.runs[name] = self.runs.get(name, 0) + runs
        if scheduled:
            self.scheduled.add(name)
        for instruction in self.computations[name].values():
            if instruction.opcode == "while":
                trips = self._trips(instruction.called("condition") or "")
                self._visit(instruction.called("body") or "", runs * trips, scheduled=scheduled)
                continue
            parts = ("calls", "true_computation", "false_computation")
            for key in ("to_apply",) if instruction.opcode == "call" else parts:
                if called := instruction.called(key):
                    whole = scheduled and instruction.opcode in ("call", "conditional", "async-start")
                    self._visit(called, runs, scheduled=whole)
            branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
            for called in _NAME.findall(branches[1]) if branches else []:
                self._visit(called, runs, scheduled=scheduled)

    def _trips(self, condition: str) -> int:
        """How often a loop runs: JAX's scans count from 0 to a constant."""
        constants = [
            int(found[1])
            for instruction in self.computations.get(condition, {}).values()
            if instruction.opcode == "constant" and (found := re.match(r"(\d+)\)", instruction.rest))
        ]
        if len(constants) != 1:
            raise ValueError(f"the loop with condition {condition} has no single constant to count to: {constants}")
        return constants[0]

    def _running(self) -> Iterator[tuple[str, int, str, _Instruction]]:
        for computation, runs in self.runs.items():
            for name, instruction in self.computations[computation].items():
                yield computation, runs, name, instruction

    def collectives(self) -> dict[str, Collective]:
        """By kind. One that is split into kernels, with work of others beside it, is one; they share channel and shape."""
        found: dict[tuple[str, str], tuple[int, float]] = {}
        for computation, runs, name, instruction in self._running():
            kind = instruction.opcode.removesuffix("-start")
            if kind not in _COLLECTIVES:
                continue
            channel = re.search(r"channel_id=(\d+)", instruction.rest)
            sent = runs * _sent(kind, instruction)
            if computation.startswith("all-reduce-scatter"):  # Of TPUs: each device keeps its part, and sends half.
                kind, sent = "reduce-scatter", sent / 2
            split = channel and computation not in self.scheduled
            key = kind, f"{channel and channel[1]} {_ARRAY.findall(instruction.shape)[0][:2]}" if split else name
            calls = max(found.get(key, (0, 0.0))[0], runs)
            found[key] = calls, max(found.get(key, (0, 0.0))[1], sent)
        return {
            kind: Collective(
                sum(calls for (k, _), (calls, _) in found.items() if k == kind),
                sum(sent for (k, _), (_, sent) in found.items() if k == kind),
            )
            for kind in dict.fromkeys(kind for kind, _ in found)
        }

    def memory_bytes(self) -> float:
        """What is read from and written to the device's main memory, as the kernels are scheduled.

        Of an operand that a kernel takes a slice of, the slice counts; arrays in faster memory do not.
        """
        total = 0.0
        for computation in self.scheduled:
            instructions = self.computations[computation]
            for instruction in instructions.values():
                if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
                    continue
                total += self.runs[computation] * self._moved(instruction, instructions)
        return total

    def _moved(self, instruction: _Instruction, around: dict[str, _Instruction]) -> float:
        if instruction.opcode == "slice-start":  # ((source), slice, context)
            source, part = (f"{t}[{s}]{layout}" for t, s, layout in _ARRAY.findall(instruction.shape)[:2])
            return _bytes(part, everywhere=True) * sum(_bytes(array) > 0 for array in (source, part))
        if instruction.opcode.endswith("-start"):  # (source, target, contexts)
            return _bytes(instruction.shape)
        sizes = [_bytes(around[name].shape) if name in around else 0.0 for name in instruction.operands]
        written = _bytes(instruction.shape)
        if instruction.opcode in ("dynamic-slice", "slice", "gather"):
            return 2 * written
        if instruction.opcode == "dynamic-update-slice":
            return 2 * sizes[1]
        for number, size in enumerate(sizes):
            read, updated = self._used(instruction.called("calls") or "", number, size)
            sizes[number] = read
            if updated is not None:  # In place: of what comes out, the rest was there before.
                written = max(0.0, written - size) + updated
        return sum(sizes) + written

    def _used(self, computation: str, number: int, size: float) -> tuple[float, float | None]:
        """Of an operand of a kernel: bytes read, and bytes written where it is updated in place.

        Args:
          computation: the kernel's.
          number: of the operand.
          size: of all of it.
        """
        inside = self.computations.get(computation, {})
        names = [n for n, i in inside.items() if i.opcode == "parameter" and int(i.rest.split(")")[0]) == number]
        read, updated = 0.0, None
        while names:
            name = names.pop()
            for inner, user in inside.items():
                if name not in user.operands:
                    continue
                if user.opcode == "bitcast":
                    names.append(inner)
                elif user.opcode in ("dynamic-slice", "slice", "gather"):
                    read += _bytes(user.shape, everywhere=True)
                elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                    updated = (updated or 0.0) + _bytes(inside[user.operands[1]].shape, everywhere=True)
                elif user.opcode == "fusion":
                    more, changed = self._used(user.called("calls") or "", user.operands.index(name), size)
                    read += more
                    updated = updated if changed is None else (updated or 0.0) + changed
                else:
                    read = size
        return (min(read, size), updated) if inside else (size, None)


def _bytes(shape: str, *, everywhere: bool = False) -> float:
    """Of the arrays in a shape that are in main memory, or of all."""
    total = 0.0
    for kind, sizes, layout in _ARRAY.findall(shape):
        if everywhere or not re.search(r"S\([1-9]", layout):
            bits = 8 if kind == "pred" else int(re.search(r"\d+", kind)[0])  # pyright: ignore[reportOptionalSubscript]
            total += bits / 8 * math.prod(int(size) for size in sizes.split(",") if size)
    return total


def _sent(kind: str, instruction: _Instruction) -> float:
    """Bytes that each device sends in a ring."""
    arrays = [_bytes(f"{t}[{s}]") for t, s, _ in _ARRAY.findall(instruction.shape)]
    if kind == "collective-permute":
        return max(arrays, default=0.0) if instruction.opcode.endswith("-start") else sum(arrays)
    group = _group(instruction.rest)
    if kind == "all-gather":
        whole = max(arrays, default=0.0) if instruction.opcode.endswith("-start") else sum(arrays)
        return whole * (group - 1) / group
    if kind == "reduce-scatter":
        return sum(arrays) * (group - 1)
    return (2 if kind == "all-reduce" else 1) * sum(arrays) * (group - 1) / group


def _group(rest: str) -> int:
    """Devices that take part together."""
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(found[2])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return found[1].count(",") + 1
    raise ValueError(f"replica_groups of a collective are not understood: {rest[:200]}")
