"""Holds the picture of which module may import which, read from the imports themselves."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rembert_jax"

# Which parts of the package each part may import, itself apart. A new part needs a line here.
ALLOWED = {
    "errors": set(),
    "schema": {"errors"},
    "hub": {"errors"},
    "config": {"errors", "hub", "schema"},
    "losses": {"errors", "ops"},
    "ops": {"errors"},
    "sharding": {"errors"},
    "tree": set(),
    "interop": {"config", "errors", "hub", "schema", "tree"},
    "modeling": {"config", "errors", "interop", "ops", "sharding", "tree"},
    "tokenization": {"errors", "hub"},
    "data": {"errors", "tokenization"},
    "xtreme": {"data", "errors", "tokenization"},
    "tasks": {"data", "errors", "schema", "tokenization", "xtreme"},
    "reports": {"errors"},
}
INNER = set(ALLOWED)
ALLOWED["training"] = INNER
ALLOWED["experiments"] = INNER | {"training"}
# These look at everything and nothing looks at them.
OUTER = {"analysis", "tools"}
ALLOWED |= {part: INNER | OUTER | {"training", "experiments"} for part in OUTER}

# Parts that run in data workers or without an accelerator, and what they must not pull in.
WITHOUT_JAX = ("errors", "schema", "hub", "config", "tokenization", "data", "tasks", "xtreme")
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
FRAMEWORKS = {"tensorflow", "torch", "transformers", "jax.experimental.jax2tf"}  # The last one imports TensorFlow.

# Gives arrays of whichever of them its caller has, and imports it only then.
GIVES_TENSORS = "rembert_jax.tokenization.tensors"

# Slow or optional packages, and the module that is written against one of them.
SLOW = {
    "matplotlib",
    "tensorboardX",
    "tensorflow_datasets",
    "rembert_jax.data.synthetic_tfds",
    "jax.experimental.pallas",
}
LATE_IMPORTS = FRAMEWORKS | SLOW | {"wandb"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
PROGRAMS = [path for path in (ROOT / "train.py", *sorted((ROOT / "configs").rglob("*.py"))) if path.is_file()]


def imported(node):
    """Full names that an import statement gets; of `from package import module`, the module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, f"line {node.lineno}: relative import"
    names = [f"{node.module}.{alias.name}" for alias in node.names]
    return [name if name in MODULES else node.module for name in names]


def imports(path):
    """(name, whether inside a function) for every import of a file."""
    found = []

    def visit(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.Import, ast.ImportFrom)):
                found.extend((name, inside) for name in imported(child))
            visit(child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    visit(ast.parse(path.read_text(encoding="utf-8")), False)
    return [(name, inside) for name, inside in found if name != "__future__"]


IMPORTS = {module: imports(path) for module, path in MODULES.items()}


def part_of(module):
    return [*module.split("."), ""][1]


def is_within(name, packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_the_reader_sees_imports_of_every_form(tmp_path):
    file = tmp_path / "file.py"
    file.write_text(
        "from __future__ import annotations\nimport os.path\nfrom rembert_jax import config, schema\n"
        "from rembert_jax.config import RemBertConfig\n"
        "class A:\n    import json\n    def f(self):\n        if True:\n            from torch import nn\n"
    )
    assert imports(file) == [
        ("os.path", False),
        ("rembert_jax.config", False),
        ("rembert_jax.schema", False),
        ("rembert_jax.config", False),
        ("json", False),
        ("torch", True),
    ]


@pytest.mark.parametrize("module", [module for module in MODULES if part_of(module)])
def test_arrows_point_one_way(module):
    part = part_of(module)
    assert part in ALLOWED, f"{part} is new; say in ALLOWED what it may import"
    targets = {part_of(name) for name, _ in IMPORTS[module] if is_within(name, {"rembert_jax"})} - {part}
    assert targets <= ALLOWED[part], f"{module} imports {sorted(targets - ALLOWED[part])}"


def test_data_and_tasks_do_without_jax():
    offences = [
        (module, name)
        for module, names in IMPORTS.items()
        for name, _ in names
        if part_of(module) in WITHOUT_JAX and is_within(name, JAX) and module != GIVES_TENSORS
    ]
    assert offences == []


def test_only_the_checkpoint_module_imports_orbax():
    assert [m for m, names in IMPORTS.items() if any(is_within(n, {"orbax"}) for n, _ in names)] == [
        "rembert_jax.training.checkpoint"
    ]


def test_other_frameworks_are_imported_by_interop_only():
    offences = [
        (module, name)
        for module, names in IMPORTS.items()
        for name, _ in names
        if part_of(module) != "interop" and is_within(name, FRAMEWORKS) and module != GIVES_TENSORS
    ]
    assert offences == []


def test_the_program_is_apart_from_data_devices_and_checkpoints():
    strange = {"rembert_jax.training.checkpoint", "rembert_jax.training.feed", "rembert_jax.experiments", "grain"}
    reached, left = set(), ["rembert_jax.training.program"]
    while left:
        module = left.pop()
        reached.add(module)
        left += [name for name, _ in IMPORTS[module] if part_of(name) == "training" and name not in reached]
    found = {name for module in reached for name, _ in IMPORTS[module] if is_within(name, strange)}
    assert not found


def test_programs_import_training_and_config_files_at_most_the_sections():
    sweeps = {"rembert_jax.experiments.sweep"}
    sections = {"rembert_jax.config", "rembert_jax.schema", "rembert_jax.experiments.settings"}
    allowed = {
        "train.py": {"rembert_jax.errors", "rembert_jax.training", "rembert_jax.experiments"},
        "configs/common.py": sections,
        "configs/xtreme/common.py": sweeps | {"rembert_jax.xtreme.benchmark"},
    }
    assert PROGRAMS
    for path in PROGRAMS:
        targets = {name for name, _ in imports(path) if is_within(name, {"rembert_jax", *JAX})}
        strange = [name for name in targets if not is_within(name, allowed.get(str(path.relative_to(ROOT)), sweeps))]
        assert not strange, f"{path} imports {strange}"


def test_no_import_cycles():
    graph = {module: {name for name, _ in names if name in MODULES} for module, names in IMPORTS.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # Raises CycleError with the cycle.
    assert (
        order.index("rembert_jax.schema")
        < order.index("rembert_jax.config")
        < order.index("rembert_jax.training.trainer")
    )


def test_imports_inside_functions_are_of_slow_or_optional_packages():
    offences = [
        (module, name)
        for module, names in IMPORTS.items()
        for name, inside in names
        if inside and not is_within(name, LATE_IMPORTS | (JAX if module == GIVES_TENSORS else set()))
    ]
    assert offences == []


def test_what_gives_tensors_imports_their_makers_late():
    assert [name for name, inside in IMPORTS[GIVES_TENSORS] if not inside and is_within(name, JAX | FRAMEWORKS)] == []


def test_no_module_is_called_utils():
    assert [path for path in [*MODULES.values(), *PROGRAMS] if path.stem in ("utils", "util", "helpers", "misc")] == []


def test_training_starts_without_what_takes_seconds_to_import(tmp_path):
    code = (
        "import pathlib, sys; import rembert_jax.experiments.run; from rembert_jax.training.writers import MetricWriter; "
        f"MetricWriter(pathlib.Path({str(tmp_path)!r}), enabled=True).close(); "
        "print(*sys.modules, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert {"rembert_jax", "jax", "grain", "tensorboardX"} <= imported
    # PyTorch, wherever it is installed, would come along with tensorboardX.
    assert not imported & (FRAMEWORKS | {"tensorflow_datasets", "wandb", "matplotlib", "jax.experimental.pallas"})
