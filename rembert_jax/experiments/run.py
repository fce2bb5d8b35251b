"""`run(config, workdir)`: pre-training, fine-tuning, or several such stages in a row.

The same call on the same workdir goes on from the last checkpoint, or returns at once what is already finished. A stage that
was made with another config or from another checkpoint than it would be now is made again; what it was is set aside.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import uuid
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np

from rembert_jax import schema, sharding, tree
from rembert_jax.data import pipeline, tokenized
from rembert_jax.experiments import (
    architecture,
    fine_tuning,
    pretraining,
    processes,
    retrieval,
    settings,
    stages,
    vocabulary,
    workdir,
)
from rembert_jax.experiments.settings import ExperimentConfig
from rembert_jax.experiments.stage import Stage
from rembert_jax.reports import plots, report
from rembert_jax.reports.runs import CONFIG_FILE, EXPERIMENT_FILE, RESULTS_FILE
from rembert_jax.tasks.base import family
from rembert_jax.training import checkpoint, hooks, timing, trainer
from rembert_jax.training.evaluators import Metrics
from rembert_jax.training.settings import TrainingError
from rembert_jax.training.train_state import TrainState
from rembert_jax.training.writers import MetricWriter, Progress, write_file

logger = logging.getLogger(__name__)


def run(
    config: Mapping[str, Any], folder: str | os.PathLike[str], *, shared: str | os.PathLike[str] = ""
) -> dict[str, Any]:
    """Runs an experiment: one stage, or each of `config["stages"]` in `config["order"]`, in a sub-folder each, then the report.

    Args:
      config: a plain mapping as `configs/*.py` make it; "{workdir}" in its strings stands for `folder`.
      folder: for everything the run writes; created if needed.
      shared: folder in which runs with the same `data` and `tokenizer` share vocabulary and tokenised text; for runs of one
        process. Empty shares nothing.

    Returns:
      The results of the stage, or the results by stage.

    Raises:
      RemBertError: what is wrong and what to change; nothing that was saved is lost.
      Stopped: the run was told to stop, and has saved.
    """
    processes.agree({"config": config, "workdir": os.fspath(folder), "versions": _versions()})
    root = workdir.make(folder)
    processes.check_shared(root, "--workdir")
    parsed, comparisons = stages.parse(config)
    several = "stages" in config
    filled, changed = {}, {}
    for name, stage in parsed.items():
        if lines := workdir.config_differences(root / name, stage):
            if not (several and stage.task):  # Pre-training is too dear to be done again for a slip of the pen.
                raise TrainingError(
                    f"{root / name} holds a run with another config; give the old values again or choose a new --workdir\n  "
                    + "\n  ".join(lines)
                )
            changed[root / name] = lines
        filled[root / name] = settings.resolve(workdir.fill(schema.to_mapping(stage), str(root)))
    stages.check_stages(_to_do(filled, changed), several)
    if several and jax.process_index() == 0:
        write_file(root / EXPERIMENT_FILE, schema.to_json({"order": list(parsed)}))
    common = pathlib.Path(shared).absolute() if os.fspath(shared) and jax.process_count() == 1 else None
    results = {}
    for name, stage in parsed.items():
        if lines := changed.get(root / name):
            workdir.set_aside(root / name, f"its config changed ({'; '.join(lines)})")
        results[name] = _run_stage(filled[root / name], stage, root / name, common)
    if comparisons and jax.process_index() == 0:
        report.write(comparisons, results, root)
    return results if several else results[""]


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")}


def _to_do(filled: Mapping[pathlib.Path, ExperimentConfig], changed: Any) -> dict[pathlib.Path, ExperimentConfig]:
    """The stages that will be trained: not finished, changed, or from a stage that will be trained or was."""
    found: dict[pathlib.Path, ExperimentConfig] = {}
    for folder, config in filled.items():
        source = pathlib.Path(config.source or os.devnull)
        trained = any(earlier in (source, *source.parents) for earlier in found)
        if not workdir.is_finished(folder) or folder in changed or trained or _outdated(config, folder):
            found[folder] = config
    return found


def _outdated(config: ExperimentConfig, folder: pathlib.Path) -> bool:
    """Whether a stage started from another checkpoint than it would now."""
    source, came_from = config.source, workdir.came_from(folder)
    if not came_from:
        return False
    try:
        return checkpoint.origin(checkpoint.find(source)) != came_from
    except checkpoint.CheckpointError:  # Which is no matter to a stage that is finished, and to others later.
        return False


def _run_stage(
    config: ExperimentConfig, saved: ExperimentConfig, folder: pathlib.Path, shared: pathlib.Path | None
) -> dict[str, Any]:
    """Runs a stage in its folder; `saved` is its config before "{workdir}" is filled in."""
    if _outdated(config, folder):
        workdir.set_aside(folder, "the run that it starts from is another one now")
    workdir.make(folder)
    if workdir.is_finished(folder):
        logger.info("%s is finished; remove %s to run it again", folder.name, folder / RESULTS_FILE)
        return workdir.read_json(folder / RESULTS_FILE)
    logger.info("%s: %s", folder.name, _kind(config))
    mesh = sharding.make_mesh(config.mesh)
    pretrained = checkpoint.find(config.source) if config.source else None
    texts = pipeline.open_sources(config.data, config.data.train_split) if config.data else {}
    tokenizer = vocabulary.open_tokenizer(config, folder, texts, shared)
    model_config = architecture.model_config(config, tokenizer, pretrained)
    if config.data:
        origin = vocabulary.text_origin(config.data)
        tokens = (
            tokenized.shared(texts, tokenizer, origin, shared) if shared and config.data.source != "tokens" else texts
        )
        stage = pretraining.prepare(config, model_config, tokenizer, texts, mesh, tokens)
    else:
        stage = _prepare_task(config)(config, model_config, tokenizer, mesh)
    manifest = {
        "run": processes.gather(uuid.uuid4().hex)[0],
        "source": checkpoint.origin(pretrained) if pretrained else None,
        "model": model_config.to_dict(),
        "architecture": type(stage.program.model).__name__,
        "labels": stage.labels,
        "tokenizer_sha256": tokenizer.sha256,
        "config": schema.to_mapping(saved),
        "versions": _versions(),
    }
    with stage.program.on_mesh():
        if config.predict_with:
            assert pretrained is not None
            return _predict_stage(config, folder, stage, manifest, pretrained)
        return _train_stage(config, folder, stage, manifest, pretrained)


def _prepare_task(config: ExperimentConfig) -> Callable[..., Stage]:
    assert config.task is not None
    if len(family(config.task.kind).sides) > 1:
        return retrieval.prepare
    return fine_tuning.prepare_prediction if config.predict_with else fine_tuning.prepare


def _kind(config: ExperimentConfig) -> str:
    return "pretraining" if config.data else "prediction" if config.predict_with else "fine-tuning"


def _predict_stage(
    config: ExperimentConfig, folder: pathlib.Path, stage: Stage, manifest: dict[str, Any], pretrained: pathlib.Path
) -> dict[str, Any]:
    """From the parameters of another run to the results."""
    stored = checkpoint.read_manifest(pretrained).get("labels")
    if stage.labels is not None and stored != stage.labels:
        raise TrainingError(
            f"{pretrained} was trained for the labels {', '.join(stored or []) or '(none)'}, and the task has "
            f"{', '.join(stage.labels)}; predict_with a run of this task"
        )
    stopwatch = timing.Stopwatch()
    params, loaded = checkpoint.load_pretrained(
        pretrained, stage.program.initial_params(), config.drop_top_layers, task_head=True
    )
    loaded.log()
    if jax.process_index() == 0:
        _save_config(folder, manifest["config"])
    return _finish(config, folder, stage, manifest, params, None, stopwatch)


def _train_stage(
    config: ExperimentConfig,
    folder: pathlib.Path,
    stage: Stage,
    manifest: dict[str, Any],
    pretrained: pathlib.Path | None,
) -> dict[str, Any]:
    """From the first state to the results."""
    training, first_process = config.training, jax.process_index() == 0
    assert stage.feed is not None
    with contextlib.ExitStack() as closing:
        closing.callback(stage.feed.close)
        store = checkpoint.CheckpointStore(folder / "checkpoints", training.keep_checkpoints)
        best = checkpoint.CheckpointStore(folder / "best", 1) if stage.select_by else None
        for opened in (best, store):
            if opened:
                closing.callback(opened.close)
        if store.latest_step is not None:
            manifest["run"] = store.manifest().get("run", manifest["run"])
        writer = MetricWriter(
            folder, enabled=first_process, wandb_project=training.wandb_project, config=manifest["config"]
        )
        closing.callback(writer.close)
        log = hooks.Log(stage.program, stage.feed, writer, Progress(first_process), training.log_every)
        save = hooks.Save(log, store, training.checkpoint_every, manifest)
        around = [
            hooks.Profile(folder / "profile", training.profile_steps),
            log,
            save,
        ]
        if stage.evaluate:
            evaluate = hooks.Evaluate(log, stage.evaluate, training.eval_every, best, stage.select_by, manifest)
            around.insert(-1, evaluate)
        state = _first_state(config, folder, stage, manifest, store, pretrained)
        if first_process:  # From here on the folder belongs to this config.
            _save_config(folder, manifest["config"])
        state = trainer.train(stage.program, stage.feed, state, [*around, hooks.Stop(save)])
        return _finish(config, folder, stage, manifest, state.params, best, log.stopwatch)


def _save_config(folder: pathlib.Path, config: Any) -> None:
    path, text = folder / CONFIG_FILE, schema.to_json(config)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_file(path, text)


def _first_state(
    config: ExperimentConfig,
    folder: pathlib.Path,
    stage: Stage,
    manifest: Mapping[str, Any],
    store: checkpoint.CheckpointStore,
    pretrained: pathlib.Path | None,
) -> TrainState:
    """The run's newest checkpoint, or a new state, with the parameters of `init_from` where that is set."""
    program = stage.program
    size = sum(leaf.size for leaf in jax.tree.leaves(program.state.params))
    logger.info("%s parameters on mesh %s", f"{size:,}", dict(program.mesh.shape))
    if store.latest_step is None:
        state = program.create()
        if config.init_from:
            assert pretrained is not None
            params, loaded = checkpoint.load_pretrained(pretrained, state.params, config.drop_top_layers)
            loaded.log()
            state = state.replace(params=params)
        return state
    saved = store.manifest()
    changed = [
        line for key in ("model", "tokenizer_sha256") for line in schema.differences(saved[key], manifest[key], key)
    ]
    if changed:
        raise TrainingError(
            f"{folder}/checkpoints/{store.latest_step} does not fit this run\n  " + "\n  ".join(changed)
        )
    logger.info("resuming from step %d of %s", store.latest_step, folder)
    assert stage.feed is not None
    state, position = store.restore(program.state, stage.feed.position)
    stage.feed.restore(position)
    return state


def _finish(
    config: ExperimentConfig,
    folder: pathlib.Path,
    stage: Stage,
    manifest: Mapping[str, Any],
    params: Any,
    best: checkpoint.CheckpointStore | None,
    stopwatch: timing.Stopwatch,
) -> dict[str, Any]:
    """Tests the best parameters, or the last ones, and writes results and figures."""
    steps = chosen = 0 if config.predict_with else stage.program.total_steps
    if best:
        assert best.latest_step is not None
        chosen = best.latest_step
        params = best.restore({"params": params}, None)[0]["params"]
    test = stage.test(params, folder / "predictions")
    sizes = {name: int(np.prod(leaf.shape)) for name, leaf in tree.flatten(params).items()}
    head = sum(size for name, size in sizes.items() if name.startswith(f"{checkpoint.OUTPUT_HEAD}/"))
    results: dict[str, Any] = {
        "kind": _kind(config),
        "run": manifest["run"],
        "source": manifest["source"],
        "seed": config.seed,
        "steps": steps,
        "selected_step": chosen,
        "parameters": {"total": sum(sizes.values()), "output_head": head},
        "metric": stage.metric,
        "test": test,
        "baseline": stage.baseline(),
        "train_language": config.task.train_language if config.task else "",
        "seconds": round(stopwatch.elapsed(), 1),
    }
    if jax.process_index() == 0:
        write_file(folder / RESULTS_FILE, schema.to_json(results))
        _draw(folder, test, stage.metric)
        for line in report.pretraining_lines(folder.name, results) if config.data else ():
            logger.info(line)
    return results


def _draw(folder: pathlib.Path, test: Metrics, metric: str) -> None:
    if (folder / "metrics.jsonl").is_file():
        plots.plot_loss(folder / "metrics.jsonl", folder / "loss.png", folder.name)
    groups = {metric: {lang: 100 * values[metric] for lang, values in test.items()}}
    plots.plot_languages(groups, folder / "languages.png", folder.name, f"{metric} (%)")
