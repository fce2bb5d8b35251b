"""Exported models in processes that cannot import this package, against JAX: SavedModels in TensorFlow, StableHLO in JAX."""

import importlib.util
import json
import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT

from rembert_jax import save_pretrained
from rembert_jax.errors import RemBertError
from rembert_jax.interop import exported
from rembert_jax.modeling.models import MODELS
from rembert_jax.tools import export
from rembert_jax.tree import flatten

TENSORFLOW = importlib.util.find_spec("tensorflow") is not None
FLATBUFFERS = importlib.util.find_spec("flatbuffers") is not None
without_flatbuffers = pytest.mark.skipif(not FLATBUFFERS, reason="not installed: pip install flatbuffers")
LABELS = {"sequence_classification": 3, "token_classification": 5}
OUTPUTS = {
    "base": {"last_hidden_state": "[batch, length, 16]", "pooler_output": "[batch, 16]"},
    "masked_lm": {"logits": "[batch, length, 48]"},
    "causal_lm": {"logits": "[batch, length, 48]"},
    "sequence_classification": {"logits": "[batch, 3]"},
    "multiple_choice": {"logits": "[batch, choices]"},
    "token_classification": {"logits": "[batch, length, 5]"},
    "question_answering": {"start_logits": "[batch, length]", "end_logits": "[batch, length]"},
}
SHAPES = ((3, 7), (2, 12))
CHOICES = (2, 4)

# Each export as `python -m` runs it, all of them in one process: imports take longer than exports.
EXPORT = """
import contextlib, io, json, runpy, sys
printed = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["export", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        runpy.run_module("rembert_jax.tools.export", run_name="__main__")
    printed.append(text.getvalue())
print(json.dumps(printed))
"""

# Runs the lines that the export printed: all but the last to load the model, the last one for each input.
RUN = """
import json, sys
blocked, jobs = json.loads(sys.argv[1])
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
try:
    import rembert_jax
    sys.exit("this package can be imported")
except ImportError:
    import numpy as np
reports = {}
for head, (load, call, inputs, results) in jobs.items():
    scope, reports[head] = {}, {}
    exec(load, scope)
    for path, result in zip(inputs, results):
        scope |= np.load(path)
        try:
            exec(call, scope)
        except Exception as error:
            reports[head]["error"] = f"{type(error).__name__}: {error}; {error.__cause__}"
        else:
            np.savez(result, **{name: np.asarray(value) for name, value in scope["outputs"].items()})
    if "tf" in scope:
        function = scope["serve"]
        reports[head] |= {
            "inputs": {k: [v.dtype.name, len(v.shape)] for k, v in function.structured_input_signature[1].items()},
            "outputs": {k: v.shape.as_list() for k, v in function.structured_outputs.items()},
            "variables": sorted(v.name for v in function.variables),
        }
print(json.dumps(reports))
"""


def make_inputs(head, index):
    """Text, padding at the right and at the left, both token types."""
    rng = np.random.default_rng(index)
    batch, length = SHAPES[index]
    shape = (batch, CHOICES[index], length) if head == "multiple_choice" else (batch, length)
    mask = np.ones(shape, np.int32)
    mask[0, ..., 4:] = 0
    mask[1, ..., :2] = 0
    ids = np.where(mask > 0, rng.integers(3, 48, shape), 0).astype(np.int32)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": rng.integers(0, 2, shape).astype(np.int32)}


class Case:
    """One model in a folder of transformers, inputs on disk (the last one too long), and what JAX computes from them."""

    def __init__(self, head, folder, config, random_params):
        self.head, self.folder = head, folder
        fields = {"num_labels": LABELS[head]} if head in LABELS else {}
        self.model = MODELS[head](config, **fields)
        ones = jnp.ones((1, 1, 2) if head == "multiple_choice" else (1, 2), jnp.int32)
        self.params = random_params(self.model, ones)
        save_pretrained(self.model, self.params, folder)
        apply = jax.jit(lambda params, inputs: self.model.apply({"params": params}, **inputs))
        self.inputs, self.expected = [], []
        for index in range(len(SHAPES)):
            inputs = make_inputs(head, index)
            output = apply(self.params, inputs)
            self._add(inputs)
            self.expected.append({name: np.asarray(getattr(output, name)) for name in OUTPUTS[head]})
        self._add({name: np.ones((*array.shape[:-1], 13), np.int32) for name, array in inputs.items()})

    def _add(self, inputs):
        self.inputs.append(self.folder / f"inputs-{len(self.inputs)}.npz")
        np.savez(self.inputs[-1], **inputs)

    def command(self, format, output=None):
        return ["--format", format, "--input", str(self.folder), "--output", str(self.folder / (output or format))]

    def worst(self, results):
        """Largest difference between what JAX computed here and what the other process did."""
        differences = []
        for path, expected in zip(results, self.expected[: len(results)], strict=True):
            with np.load(path) as found:
                assert set(found) == set(expected), self.head
                for name, value in expected.items():
                    assert found[name].shape == value.shape and np.abs(value).max() > 0.1, (self.head, name)
                    differences.append(np.abs(found[name] - value).max())
        return max(differences)


@pytest.fixture(scope="module")
def made(made_once, tiny_config, random_params):
    """The cases, and what each export printed by format and head."""

    def fill(root):
        cases = {head: Case(head, root / head, tiny_config, random_params) for head in MODELS}
        (root / "made").write_bytes(pickle.dumps((cases, export_all(cases))))

    return pickle.loads((made_once("exported", fill) / "made").read_bytes())


@pytest.fixture(scope="module")
def cases(made):
    return made[0]


@pytest.fixture(scope="module")
def printed(made):
    return made[1]


def run_python(code, argument, cwd):
    command = [sys.executable, "-c", code, json.dumps(argument)]
    # Compiling takes longer than running.
    flags = {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    environment = {**os.environ, **flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def export_all(cases):
    commands = {}
    for format in [*["stablehlo"] * FLATBUFFERS, *["savedmodel"] * TENSORFLOW]:
        for head, case in cases.items():
            commands[format, head] = case.command(format)
    if FLATBUFFERS:
        fresh = [
            "--head",
            "sequence_classification",
            "--num_labels",
            "4",
            "--init",
            "classifier",
            "pooler",
            "--seed",
            "1",
        ]
        commands["stablehlo", "fresh"] = [*cases["base"].command("stablehlo", "fresh"), *fresh]
    return dict(zip(commands, run_python(EXPORT, list(commands.values()), ROOT), strict=True))


def run_exported(cases, texts, blocked, tmp_path, shapes):
    """What the process that ran the exported models reports, and the files with their outputs."""
    results = {head: [str(tmp_path / f"{head}-{i}.npz") for i in range(3)] for head in cases}
    jobs = {}
    for head, case in cases.items():
        *load, call = [line.strip() for line in texts[head].partition("load and run it:\n")[2].splitlines()]
        inputs = [str(path) for path in case.inputs[: shapes[head]]]
        jobs[head] = ["\n".join(load), call, inputs, results[head][: shapes[head]]]
    reports = run_python(RUN, (["rembert_jax", *blocked], jobs), tmp_path)
    return reports, {head: [path for path in results[head] if os.path.exists(path)] for head in cases}


def check_printed(head, text):
    shape = "int32[batch, choices, length]" if head == "multiple_choice" else "int32[batch, length]"
    assert text.startswith(f"wrote {MODELS[head].__name__} to ")
    for line in (
        *(f"  {name}: {shape}" for name in ("input_ids", "attention_mask", "token_type_ids")),
        *(f"  -> {name}: float32{kind}" for name, kind in OUTPUTS[head].items()),
        "  where length <= 12",
    ):
        assert line in text.splitlines(), (head, line)


@pytest.mark.skipif(not TENSORFLOW, reason="TensorFlow is not installed: pip install '.[tensorflow]'")
def test_savedmodels_in_tensorflow_agree_with_jax(cases, printed, tmp_path):
    texts = {head: printed["savedmodel", head] for head in cases}
    shapes = dict.fromkeys(cases, 3)
    reports, results = run_exported(cases, texts, ("jax", "jaxlib", "flax"), tmp_path, shapes)
    for head, case in cases.items():
        report, rank = reports[head], 3 if head == "multiple_choice" else 2
        check_printed(head, texts[head])
        assert report["inputs"] == {name: ["int32", rank] for name in exported.INPUTS}
        sizes = {name: kind.strip("[]").split(", ") for name, kind in OUTPUTS[head].items()}
        assert report["outputs"] == {k: [int(n) if n.isdigit() else None for n in v] for k, v in sizes.items()}
        assert report["variables"] == sorted(f"{name}:0" for name in flatten(case.params)), "parameters are variables"
        assert report["error"].startswith("InvalidArgumentError") and "length <= 12" in report["error"]
        worst = case.worst(results[head])
        print(f"{head}: largest difference {worst:.1e}")
        assert worst < 1e-5, f"{head}: {worst}"
        assert not holds_parameters(case, case.folder / "savedmodel" / "saved_model.pb")


@without_flatbuffers
def test_stablehlo_in_a_process_without_this_package_agrees_with_jax(cases, printed, tmp_path):
    texts = {head: printed["stablehlo", head] for head in cases}
    shapes = {head: 3 if head in ("base", "multiple_choice") else 1 for head in cases}
    reports, results = run_exported(cases, texts, ("flax", "tensorflow"), tmp_path, shapes)
    for head in ("base", "multiple_choice"):
        assert reports[head]["error"].startswith("ValueError") and "length <= 12" in reports[head]["error"]
    for head, case in cases.items():
        check_printed(head, texts[head])
        worst = case.worst(results[head])
        print(f"{head}: largest difference {worst:.1e}")
        assert worst < 1e-6, f"{head}: {worst}"
        folder = case.folder / "stablehlo"
        assert {file.name for file in folder.iterdir()} == {"model.jax_export", "params.safetensors", "signature.json"}
        assert not holds_parameters(case, folder / "model.jax_export")
        signature = json.loads((folder / "signature.json").read_text())
        assert signature["arguments"] == [*sorted(flatten(case.params)), *exported.INPUTS]
        assert signature["outputs"] == {name: f"float32{kind}" for name, kind in OUTPUTS[head].items()}
        assert signature["platforms"] == ["cpu", "cuda", "tpu"] and signature["constraint"] == "length <= 12"


def holds_parameters(case, file):
    largest = max(flatten(case.params).values(), key=lambda array: array.size)
    return np.asarray(largest).tobytes() in file.read_bytes()


@without_flatbuffers
def test_head_that_starts_afresh(printed):
    assert "  -> logits: float32[batch, 4]" in printed["stablehlo", "fresh"].splitlines()


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        export.main(arguments)
    message = f"{stop.value.code} {capsys.readouterr().err}"
    assert "Traceback" not in message
    return message


def test_missing_packages_are_one_line(cases, tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "jax.experimental.jax2tf", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    paths = ("--input", str(cases["base"].folder), "--output", str(tmp_path / "out"))
    message = fails(capsys, "--format", "savedmodel", *paths)
    assert "pip install '.[tensorflow]'" in message and "--format stablehlo" in message
    assert "pip install flatbuffers" in fails(capsys, "--format", "stablehlo", *paths)
    assert not (tmp_path / "out").exists()


@without_flatbuffers
def test_bad_command_lines(cases, tmp_path, capsys):
    source, output = cases["masked_lm"].folder, str(tmp_path / "out")
    stablehlo = ("--format", "stablehlo", "--output", output)
    assert "invalid choice: 'ner'" in fails(capsys, *stablehlo, "--input", str(source), "--head", "ner")
    assert "no such folder" in fails(capsys, *stablehlo, "--input", str(tmp_path / "nowhere"))
    message = fails(capsys, *stablehlo, "--input", str(source), "--num_labels", "3")
    assert "--num_labels is of --head sequence_classification and token_classification, not of masked_lm" in message
    labels = ("--head", "token_classification", "--num_labels", "0")
    assert "--num_labels: '0', expected" in fails(capsys, *stablehlo, "--input", str(source), *labels)
    taken = ("--format", "stablehlo", "--input", str(source), "--output", str(source))
    assert "exists already" in fails(capsys, *taken)
    below_a_file = ("--format", "stablehlo", "--input", str(source), "--output", str(source / "config.json" / "x"))
    assert "cannot be created" in fails(capsys, *below_a_file)
    assert not (tmp_path / "out").exists()


@without_flatbuffers
def test_folders_that_cannot_be_exported(cases, tmp_path, capsys):
    config = json.loads((cases["base"].folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["RemBertForPreTraining"]}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"no pickle")
    command = ("--format", "stablehlo", "--input", str(tmp_path), "--output", str(tmp_path / "out"))
    message = fails(capsys, *command)
    assert "architecture 'RemBertForPreTraining' is none of ours; name one of --head base, masked_lm" in message
    assert "--allow_pickle" in fails(capsys, *command, "--head", "base")
    assert "pytorch_model.bin" in fails(capsys, *command, "--head", "base", "--allow_pickle")


@without_flatbuffers
def test_parameters_of_another_model(cases, tmp_path):
    with pytest.raises(RemBertError, match=r"^qa_outputs/bias: parameters have no such array, .* \(2,\);"):
        exported.export_stablehlo(
            cases["question_answering"].model, {"rembert": cases["base"].params}, tmp_path / "out"
        )


def test_nothing_is_left_of_an_export_that_fails(tmp_path):
    with pytest.raises(OSError, match="full"), exported.new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("half")
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []
