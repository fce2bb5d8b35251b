"""Every config file: it loads, resolves strictly, describes a model that can be built, and its smoke variant runs."""

import dataclasses
import importlib.util
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from helpers import ROOT, run_process, train_command

from configs import common
from rembert_jax import schema, sharding
from rembert_jax.config import RemBertConfig
from rembert_jax.data import synthetic
from rembert_jax.data.pipeline import DataConfig
from rembert_jax.errors import RemBertError
from rembert_jax.experiments.settings import ExperimentConfig
from rembert_jax.modeling.models import RemBertForMaskedLM
from rembert_jax.reports import report
from rembert_jax.reports.plots import read_metrics
from rembert_jax.tasks.base import TaskConfig
from rembert_jax.training import checkpoint
from rembert_jax.training.optimizer import OptimizerConfig
from rembert_jax.training.settings import TrainingConfig

FILES = sorted(
    str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*.py") if path.name != "common.py"
)


def text_and_tags(folder: pathlib.Path) -> str:
    """Two languages of text and tags, and the arguments that name them."""
    for code in ("qaa", "qab"):
        for split, count in (("train", 80), ("dev", 20)):
            path = folder / "text" / code / f"{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            texts = [synthetic.document(code, split.replace("dev", "validation"), i) for i in range(count)]
            path.write_text("\n".join(texts), encoding="utf-8")
        for split in ("train", "dev", "test"):
            rows = []
            for i in range(8):
                words = zip(*synthetic.tagged_sentence(code, split.replace("dev", "validation"), i), strict=True)
                rows += [f"{n}\t{form}\t_\t{upos}" + "\t_" * 6 for n, (form, upos) in enumerate(words, 1)] + [""]
            path = folder / "tags" / code / f"{split}.conllu"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(rows), encoding="utf-8")
    return (
        f"text={folder}/text/{{language}}/{{split}}.txt,tags={folder}/tags/{{language}}/{{split}}.conllu,"
        "labelled=qaa,languages=qaa qab"
    )


def _text_tags_and_translations(folder: pathlib.Path) -> str:
    """The same with sentences that are translations of each other."""
    for code, sentences in synthetic.translations(4).items():
        path = folder / "parallel" / f"{code}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{n}\t{sentence}\n" for n, sentence in enumerate(sentences)), encoding="utf-8")
    return f"{text_and_tags(folder)},parallel={folder}/parallel/{{language}}.tsv,vocab=200"


DATA: dict[str, Callable[[pathlib.Path], str]] = {
    "quickstart.py": lambda folder: "",
    "ablations.py": text_and_tags,
    "output_embedding.py": lambda folder: "",
    "pretrain_synthetic.py": lambda folder: "",
    "pretrain_text.py": _text_tags_and_translations,
    "rembert.py": lambda folder: "",
    **{name: lambda folder: "data=prepared,init_from=run" for name in FILES if name.startswith("xtreme/")},
}
"""For each config file: what makes the data that it needs in a folder and returns the argument that names it."""
RUN_ELSEWHERE = {
    "ablations.py": "test_ablations.py",
    "output_embedding.py": "test_sweeps_page.py",
    **{name: "experiments/test_xtreme.py" for name in FILES if name.startswith("xtreme/")},
}
"""Those whose smoke variant another test file runs."""


def _load(name: str, arg: str) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location(f"config_{name.replace('/', '_')[:-3]}", ROOT / "configs" / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg).to_dict()


def _stages(config: dict[str, Any]) -> dict[str, ExperimentConfig]:
    parts = config["stages"] if "stages" in config else {"run": config}
    return {name: schema.from_mapping(ExperimentConfig, parts[name], name) for name in config.get("order", parts)}


def _arg(name: str, folder: pathlib.Path, smoke: bool) -> str:
    return ",".join(filter(None, ["smoke" if smoke else "", DATA[name](folder)]))


def test_every_config_file_is_run_by_a_test():
    assert set(FILES) == set(DATA), "say in DATA how the smoke variant of a config file gets its data"


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_config_resolves_and_fits_its_model(name, smoke, tmp_path):
    config = _load(name, _arg(name, tmp_path, smoke))
    stages = _stages(config)
    assert sorted(config.get("order", stages)) == sorted(stages)
    for item in config.get("report", {}).values():
        comparison = schema.from_mapping(report.Comparison, item, "report")
        assert {comparison.pretrained, comparison.scratch} <= set(stages)
    sharding.make_mesh(next(iter(stages.values())).mesh)
    positions = 0
    for stage in stages.values():
        if not stage.source:
            vocab_size = stage.tokenizer.vocab_size or 250_300
            fields = {"vocab_size": vocab_size, "bos_token_id": 2, "eos_token_id": 3, **stage.model}
            model_config = RemBertConfig.from_dict(fields)
            positions = model_config.max_position_embeddings
            model = RemBertForMaskedLM(model_config, stage.execution)
            shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
            size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
            assert size == model_config.parameter_counts()["pre_training"]
        length = stage.data.seq_length if stage.data else stage.task.max_length
        assert length <= (positions or 512), "stages that start from another one share its model"


@pytest.mark.parametrize("name", FILES)
def test_smoke_variant_is_shorter(name, tmp_path):
    whole, smoke = (_stages(_load(name, _arg(name, tmp_path, flag))) for flag in (False, True))
    assert list(smoke) == list(whole)[: len(smoke)]
    assert all(0 < smoke[stage].training.steps <= 10 for stage in smoke if smoke[stage].data)


@pytest.mark.parametrize("name", FILES)
def test_every_key_is_there_to_be_overridden(name, tmp_path):
    sections = {"data": DataConfig, "task": TaskConfig, "optimizer": OptimizerConfig, "training": TrainingConfig}
    config = _load(name, _arg(name, tmp_path, smoke=False))
    for stage in config["stages"].values() if "stages" in config else [config]:
        for section, kind in sections.items():
            if section in stage:
                assert set(stage[section]) == {field.name for field in dataclasses.fields(kind)}
        if not (stage["init_from"] or stage["model_from"] or stage["predict_with"]):
            left_out = {field.name for field in dataclasses.fields(RemBertConfig)} - set(stage["model"])
            assert left_out == set(common.FROM_VOCABULARY)


@pytest.mark.parametrize("name", FILES)
def test_docstring_holds_a_command_that_names_the_file(name):
    text = (ROOT / "configs" / name).read_text(encoding="utf-8").split('"""')[1]
    assert (
        "launch_sweep" if name == "output_embedding.py" else "python train.py"
    ) in text and f"configs/{name}" in text


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long, pytest.mark.smoke] if name == "quickstart.py" else pytest.mark.slow)
        for name in FILES
        if name not in RUN_ELSEWHERE
    ],
)
def test_smoke_variant_runs(name, tmp_path):
    target = f"configs/{name}:{_arg(name, tmp_path, smoke=True)}"
    workdir = tmp_path / "run"
    config = _load(name, _arg(name, tmp_path, smoke=True))
    # One layer is enough here and compiles faster; the flags also show that single values can be overridden.
    parts = {f"stages.{name}.": part for name, part in config["stages"].items()} if "stages" in config else {"": config}
    flags = [f"--config.{prefix}model.num_hidden_layers=1" for prefix, part in parts.items() if part.get("data")]
    result = run_process(train_command(target, workdir, *flags))
    assert result.returncode == 0, result.stderr
    outcomes = {}
    for stage, given in _stages(config).items():
        folder = workdir / stage if "stages" in config else workdir
        outcome = outcomes[stage] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        assert (folder / "loss.png").is_file()
        losses = dict(read_metrics(folder / "metrics.jsonl")["train/loss"])
        assert max(losses) == outcome["steps"] == (given.training.steps or outcome["steps"]) > 0
        assert all(0.0 <= values.get("accuracy", 0.0) <= 1.0 for values in outcome["test"].values())
        if given.data:
            pieces = checkpoint.read_manifest(checkpoint.find(folder))["model"]["vocab_size"]
            # At first all pieces are about equally likely.
            assert losses[min(losses)] == pytest.approx(math.log(pieces), abs=0.5)
            assert 1.0 < outcome["test"]["average"]["loss"] < losses[min(losses)] + 0.2
            assert 1.0 < outcome["baseline"]["average"]["loss"] < math.log(pieces)
        else:
            assert set(outcome["test"]) == {*given.task.test_languages, "average"}
            files = {f"test-{language}.tsv" for language in given.task.test_languages}
            assert {path.name for path in (folder / "predictions").iterdir()} == files
    for item in config.get("report", {}).values():
        rows = json.loads((workdir / "results.json").read_text(encoding="utf-8"))[item["title"]]
        trained, scratch = (outcomes[item[name]] for name in ("pretrained", "scratch"))
        for language in trained["test"].keys() - {"average"}:
            expected = [part[language]["accuracy"] for part in (trained["test"], scratch["test"], trained["baseline"])]
            assert list(rows[language].values()) == pytest.approx([100 * value for value in expected])
            text = " | ".join(f"{100 * value:.1f}" for value in expected)
            assert text in (workdir / "results.md").read_text(encoding="utf-8")
        others = [row for language, row in rows.items() if language not in ("zero-shot", trained["train_language"])]
        mean = sum(row["pre-trained"] for row in others) / len(others)
        assert rows["zero-shot"]["pre-trained"] == pytest.approx(mean) and f"{mean:.1f}" in result.stdout


def test_one_seed_sets_every_seed_of_the_quickstart():
    stages = _stages(_load("quickstart.py", "seed=7"))
    assert {stage.seed for stage in stages.values()} == {7} and stages["pretrain"].data.synthetic.seed == 7
    assert all(stage.task.path.endswith("/{language}-7") for stage in stages.values() if stage.task)
    with pytest.raises(ValueError, match="config argument 'seed=x': expected int as in seed=0"):
        _load("quickstart.py", "seed=x")
    with pytest.raises(RemBertError, match="seed=-1: expected 0 or more"):
        _load("quickstart.py", "seed=-1")


def test_text_config_goes_on_from_another_run():
    stage = _load("pretrain_text.py", "text=a/{language}/{split}.txt,init_from=runs/first,seed=3")["stages"]["pretrain"]
    assert stage["init_from"] == "runs/first" and stage["model"] == {} and stage["tokenizer"]["vocab_size"] == 0
    assert stage["seed"] == 3


def test_text_config_without_text_says_what_to_give():
    with pytest.raises(ValueError, match=r"needs your text: --config='configs/pretrain_text\.py:text=DATA"):
        _load("pretrain_text.py", "")


def test_arguments_follow_the_types_of_the_defaults():
    args = common.parse_arg("steps=5,name=a b,smoke,rate=2,path=a=b", steps=1, name="", smoke=False, rate=0.5, path="")
    assert vars(args) == {"steps": 5, "name": "a b", "smoke": True, "rate": 2.0, "path": "a=b"}
    assert vars(common.parse_arg("smoke=false", smoke=True)) == {"smoke": False}
    assert vars(common.parse_arg(None, steps=1)) == vars(common.parse_arg("", steps=1)) == {"steps": 1}


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("step=5", "config argument 'step' is unknown; known: steps, smoke"),
        ("steps", "config argument 'steps' needs a value, as steps=1"),
        ("steps=many", "config argument 'steps=many': expected int as in steps=1"),
        ("smoke=yes", "'smoke=yes': expected smoke, smoke=true or smoke=false"),
    ],
)
def test_wrong_arguments_are_explained(arg, message):
    with pytest.raises(ValueError, match=message):
        common.parse_arg(arg, steps=1, smoke=False)
