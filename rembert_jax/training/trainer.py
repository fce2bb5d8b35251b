"""`run(config, workdir)`: pre-training, fine-tuning, or several such stages in a row.

One run goes through the phases that the calls in `_run_stage` name. The same call on the same workdir goes on from the last
checkpoint, or returns at once what is already finished.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from rembert_jax import schema, sharding
from rembert_jax.config import RemBertConfig
from rembert_jax.data import mixture, pipeline
from rembert_jax.tokenization import RemBertTokenizer, train_vocabulary
from rembert_jax.tokenization.tokenizer import VOCABULARY_FILE
from rembert_jax.tokenization.vocabulary import sample_sentences
from rembert_jax.training import checkpoint, evaluators, jobs, plots, report, settings, timing, train_state
from rembert_jax.training.metrics import Sums
from rembert_jax.training.optimizer import learning_rate_schedule, make_optimizer
from rembert_jax.training.settings import ExperimentConfig
from rembert_jax.training.train_state import TrainState
from rembert_jax.training.train_step import make_train_step
from rembert_jax.training.writers import MetricWriter, Progress

logger = logging.getLogger(__name__)

RESULTS_FILE = "results.json"
CONFIG_FILE = "config.json"


class TrainingError(RuntimeError):
    """A run cannot start or go on."""


def run(config: Mapping[str, Any], workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Runs an experiment: one stage, or each of `config["stages"]` in `config["order"]`, in a sub-folder each, then the report.

    Args:
      config: a plain mapping as `configs/*.py` make it; "{workdir}" in its strings stands for `workdir`.
      workdir: folder for everything the run writes; created if needed.

    Returns:
      The results of the stage, or the results by stage.

    Raises:
      TrainingError, ValueError: what is wrong and what to change; nothing that was saved is lost.
    """
    folder = _make_workdir(workdir)
    _cache_compilations(folder)
    filled = _fill(config, str(folder))
    if "stages" not in filled:
        return _run_stage(settings.resolve(filled), folder)
    unknown = set(filled) - {"stages", "order", "report"}
    if unknown:
        raise schema.SchemaError(
            f"config: unknown key {sorted(unknown)[0]!r} beside stages; known: order, report, stages"
        )
    order = filled.get("order", [])
    if sorted(order) != sorted(filled["stages"]):
        raise schema.SchemaError(f"config.order {list(order)} does not name each of {list(filled['stages'])} once")
    # Everything is checked before the first stage starts.
    stages = {name: schema.from_mapping(ExperimentConfig, stage, name) for name, stage in filled["stages"].items()}
    comparisons = [schema.from_mapping(report.Comparison, item, "report") for item in filled.get("report", {}).values()]
    strange = {name for item in comparisons for name in (item.pretrained, item.scratch)} - set(stages)
    if strange:
        raise schema.SchemaError(f"config.report: no stage {sorted(strange)[0]!r}; expected one of {', '.join(stages)}")
    results = {name: _run_stage(stages[name], _make_workdir(folder / name)) for name in order}
    if comparisons and jax.process_index() == 0:
        report.write(comparisons, results, folder)
    return results


def _cache_compilations(folder: pathlib.Path) -> None:
    """Keeps compiled programs in the workdir, so that a resumed run or an equal stage starts at once.

    A directory that JAX is already told to use (JAX_COMPILATION_CACHE_DIR) is left alone.
    """
    if not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _fill(value: Any, workdir: str) -> Any:
    if isinstance(value, str):
        return value.replace("{workdir}", workdir)
    if isinstance(value, Mapping):
        return {key: _fill(item, workdir) for key, item in value.items()}
    return [_fill(item, workdir) for item in value] if isinstance(value, (list, tuple)) else value


def _make_workdir(workdir: str | os.PathLike[str]) -> pathlib.Path:
    folder = pathlib.Path(workdir).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise TrainingError(
            f"--workdir={workdir} cannot be written ({error.strerror}); choose another folder"
        ) from error
    return folder


def _run_stage(config: ExperimentConfig, workdir: pathlib.Path) -> dict[str, Any]:
    resolved = schema.to_mapping(config)
    _check_resumable(workdir, resolved)
    if (workdir / RESULTS_FILE).is_file():
        logger.info("%s is finished; remove %s to run it again", workdir.name, workdir / RESULTS_FILE)
        return json.loads((workdir / RESULTS_FILE).read_text(encoding="utf-8"))
    logger.info("%s: %s", workdir.name, "pre-training" if config.data else "fine-tuning")
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(config.training.batch_size, mesh, config.optimizer.accumulation)
    source = config.init_from or config.model_from
    pretrained = checkpoint.find(source) if source else None
    texts = pipeline.open_sources(config.data, config.data.train_split, config.seed) if config.data else {}
    tokenizer = _open_tokenizer(config, workdir, source, texts)
    model_config = _model_config(config, tokenizer, pretrained)
    (workdir / CONFIG_FILE).write_text(schema.to_json(resolved), encoding="utf-8")
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(sharding.LOGICAL_RULES)):
        if config.data:
            job = jobs.pretraining(config, model_config, tokenizer, texts, mesh)
        else:
            job = jobs.fine_tuning(config, model_config, tokenizer, mesh)
        return _Run(config, workdir, mesh, model_config, tokenizer, job, pretrained).train()


def _check_resumable(workdir: pathlib.Path, resolved: Mapping[str, Any]) -> None:
    path = workdir / CONFIG_FILE
    if not path.is_file():
        return
    changed = settings.blocking_differences(json.loads(path.read_text(encoding="utf-8")), resolved)
    if changed:
        raise TrainingError(
            f"{workdir} holds a run with another config; give the old values again or choose a new --workdir\n  "
            + "\n  ".join(changed)
        )


def _open_tokenizer(
    config: ExperimentConfig, workdir: pathlib.Path, source: str, texts: Mapping[str, Sequence[str]]
) -> RemBertTokenizer:
    """The run's vocabulary: its own copy, the configured file, that of `init_from`, or a newly trained one."""
    own = workdir / VOCABULARY_FILE
    if not own.is_file() and jax.process_index() == 0:
        origin = config.tokenizer.path or (str(_run_folder(source) / VOCABULARY_FILE) if source else "")
        if origin:
            RemBertTokenizer(origin)
            shutil.copyfile(RemBertTokenizer(origin).model_file, own)
        elif config.data and config.tokenizer.vocab_size:
            shares = mixture.language_shares({lang: len(text) for lang, text in texts.items()}, config.data.alpha)
            total = min(config.tokenizer.sample_sentences, sum(map(len, texts.values())))
            train_vocabulary(
                sample_sentences(texts, shares, total, config.seed),
                own,
                vocab_size=config.tokenizer.vocab_size,
                character_coverage=config.tokenizer.character_coverage,
                user_defined_symbols=config.tokenizer.user_defined_symbols,
            )
        else:
            raise TrainingError(
                "no vocabulary: set tokenizer.path, or tokenizer.vocab_size to train one, or init_from a run that has one"
            )
    if jax.process_count() > 1:
        jax.experimental.multihost_utils.sync_global_devices("vocabulary")  # pyright: ignore
    tokenizer = RemBertTokenizer(own)
    logger.info("vocabulary of %d pieces, sha256 %s", tokenizer.vocab_size, tokenizer.sha256[:12])
    return tokenizer


def _run_folder(source: str) -> pathlib.Path:
    """The run's folder of a path that may name one of its checkpoints."""
    path = pathlib.Path(source)
    return next((folder for folder in (path, *path.parents[:2]) if (folder / VOCABULARY_FILE).is_file()), path)


def _model_config(
    config: ExperimentConfig, tokenizer: RemBertTokenizer, pretrained: pathlib.Path | None
) -> RemBertConfig:
    """Architecture from the checkpoint (if any), section `model`, and the tokenizer's size and special ids.

    Raises:
      TrainingError: if the vocabulary is not the one of the checkpoint, or contradicts section `model`.
    """
    base: dict[str, Any] = {}
    if pretrained is not None:
        manifest = checkpoint.read_manifest(pretrained)
        base = dict(manifest["model"])
        if manifest["tokenizer_sha256"] != tokenizer.sha256:
            raise TrainingError(
                f"{tokenizer.model_file} (sha256 {tokenizer.sha256[:12]}) is not the vocabulary of {pretrained} "
                f"(sha256 {manifest['tokenizer_sha256'][:12]}); leave tokenizer.path empty to use the checkpoint's own"
            )
    fixed = {
        "vocab_size": tokenizer.vocab_size,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    for name, value in fixed.items():
        if config.model.get(name, value) != value:
            raise TrainingError(
                f"model.{name}={config.model[name]}, but the vocabulary {tokenizer.model_file} has {value}; "
                "leave the key out, it is read from the vocabulary"
            )
    return RemBertConfig.from_dict({**base, **config.model, **fixed})


class _Run:
    """One stage from its initial state to its results."""

    def __init__(
        self,
        config: ExperimentConfig,
        workdir: pathlib.Path,
        mesh: Mesh,
        model_config: RemBertConfig,
        tokenizer: RemBertTokenizer,
        job: jobs.Job,
        pretrained: pathlib.Path | None,
    ) -> None:
        self.config, self.workdir, self.mesh, self.job = config, workdir, mesh, job
        self.model_config, self.pretrained = model_config, pretrained
        self.tx = make_optimizer(config.optimizer, job.total_steps)
        self.schedule = learning_rate_schedule(config.optimizer, job.total_steps)
        self.shardings = train_state.state_shardings(job.init, self.tx, mesh)
        self.first_process = jax.process_index() == 0
        self.manifest = {
            "model": model_config.to_dict(),
            "tokenizer_sha256": tokenizer.sha256,
            "config": schema.to_mapping(config),
            "versions": {name: metadata.version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")},
        }
        self.store = checkpoint.CheckpointStore(workdir / "checkpoints", config.training.keep_checkpoints)
        self.best = checkpoint.CheckpointStore(workdir / "best", 1) if job.select_by else None
        self.writer = MetricWriter(
            workdir,
            enabled=self.first_process,
            wandb_project=config.training.wandb_project,
            config=self.manifest["config"],
        )
        self.progress = Progress(self.first_process)
        self.stopwatch = timing.Stopwatch()

    def train(self) -> dict[str, Any]:
        """Goes through all remaining steps and returns the results."""
        try:
            state = self._loop(self._restore(self._initial_state()))
            results = self._finish(state)
        finally:
            self.writer.close()
            self.store.close()
            if self.best:
                self.best.close()
            self.job.train_iterator.close()
        return results

    def _initial_state(self) -> TrainState:
        state = train_state.create(self.job.init, self.tx, self.config.seed, self.shardings)
        if self.config.init_from and self.store.latest_step is None:
            assert self.pretrained is not None
            params, loaded = checkpoint.load_pretrained(self.pretrained, state.params)
            loaded.log()
            state = state.replace(params=params)
        size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        logger.info("%s parameters on mesh %s", f"{size:,}", dict(self.mesh.shape))
        return state

    def _restore(self, state: TrainState) -> TrainState:
        step = self.store.latest_step
        if step is None:
            return state
        saved = self.store.manifest()
        changed = [
            line
            for key in ("model", "tokenizer_sha256")
            for line in schema.differences(saved[key], self.manifest[key], key)
        ]
        if changed:
            raise TrainingError(f"{self.workdir}/checkpoints/{step} does not fit this run\n  " + "\n  ".join(changed))
        logger.info("resuming from step %d of %s", step, self.workdir)
        return self.store.restore(state, self.job.train_iterator)

    def _due(self, every: int, step: int) -> bool:
        return step == self.job.total_steps or (every > 0 and step % every == 0)

    def _loop(self, state: TrainState) -> TrainState:
        training, total = self.config.training, self.job.total_steps
        step_fn = jax.jit(
            make_train_step(
                self.job.objective,
                self.tx,
                seed=self.config.seed,
                accumulation=self.config.optimizer.accumulation,
                schedule=self.schedule,
            ),
            donate_argnums=0,
            # Left to itself the partitioner may place the new state otherwise, and then neither donation nor the compiled
            # step fits the next call.
            out_shardings=(self.shardings, None),
        )
        window, tokens = Sums(), 0
        start = int(state.step)
        for step in range(start + 1, total + 1):
            batch = next(self.job.train_iterator)
            tokens += _count_tokens(batch) * jax.process_count()
            state, sums = step_fn(state, sharding.to_global(batch, self.mesh))
            self._check_finite(step, sums)
            window.add(sums)
            if step == start + 1:
                logger.info("first step after %.1f s", self.stopwatch.elapsed())
                self.stopwatch.tick(step)
                tokens = 0
            elif self._due(training.log_every, step):
                self._log(step, window, tokens, sums)
                window, tokens = Sums(), 0
            with self.stopwatch.paused():
                if self._due(training.eval_every, step):
                    self._evaluate(step, state)
                if self._due(training.checkpoint_every, step):
                    checkpoint.check_state(state)
                    self.store.save(step, state, self.job.train_iterator, self.manifest)
        self.store.wait()
        return state

    def _check_finite(self, step: int, sums: Mapping[str, Any]) -> None:
        if bool(sums["finite"]):
            return
        loss, norm = float(sums["loss"]), float(sums["grad_norm"])
        self.writer.write(step, {"train/loss": loss, "train/grad_norm": norm})
        self.progress.clear()
        raise TrainingError(
            f"step {step}: loss {loss}, gradient norm {norm} (not finite); the update was not made and nothing was saved "
            f"since step {self.store.latest_step}. Lower optimizer.learning_rate, lengthen optimizer.warmup_steps, or "
            "look at the data of this step"
        )

    def _log(self, step: int, window: Sums, tokens: int, sums: Mapping[str, Any]) -> None:
        before = self.stopwatch.marked_step
        seconds = self.stopwatch.tick(step)
        speed = tokens / (seconds * (step - before)) if step > before else math.nan
        means = window.means()
        values = {f"train/{name}": value for name, value in means.items()}
        values |= {"train/grad_norm": float(sums["grad_norm"]), "train/learning_rate": float(sums["learning_rate"])}
        values |= {"time/tokens_per_second": speed, "time/seconds_per_step": seconds}
        self.writer.write(step, values)
        remaining = timing.format_seconds(seconds * (self.job.total_steps - step))
        self.progress.show(
            f"step {step}/{self.job.total_steps}  loss {means['loss']:.3f}  accuracy {100 * means['accuracy']:.1f} %  "
            f"{speed:,.0f} tokens/s  ETA {remaining}",
            final=step == self.job.total_steps,
        )

    def _evaluate(self, step: int, state: TrainState) -> None:
        metrics = self.job.evaluate(state.params)
        self.writer.write(step, evaluators.flat("dev", metrics))
        self.progress.clear()
        shown = "  ".join(f"{name} {value:.3f}" for name, value in metrics["average"].items())
        logger.info("step %d, held out: %s", step, shown)
        if self.job.select_by and self.best:
            language, name = self.job.select_by
            value = metrics[language][name]
            best = self.best.manifest()["score"] if self.best.latest_step is not None else -math.inf
            if value > best:
                self.best.save(step, {"params": state.params}, None, {**self.manifest, "score": value})
                self.best.wait()

    def _finish(self, state: TrainState) -> dict[str, Any]:
        params, chosen = state.params, self.job.total_steps
        if self.best:
            assert self.best.latest_step is not None
            chosen = self.best.latest_step
            params = self.best.restore({"params": params}, None)["params"]
        test = self.job.test(params)
        sizes = {name: int(np.prod(leaf.shape)) for name, leaf in checkpoint.flatten(params).items()}
        head = sum(size for name, size in sizes.items() if name.startswith(f"{checkpoint.OUTPUT_HEAD}/"))
        results: dict[str, Any] = {
            "kind": "pretraining" if self.config.data else "fine-tuning",
            "steps": self.job.total_steps,
            "selected_step": chosen,
            "parameters": {"total": sum(sizes.values()), "output_head": head},
            "test": test,
            "baseline": dict(self.job.baseline),
            "train_language": self.config.task.train_language if self.config.task else "",
            "seconds": round(self.stopwatch.elapsed(), 1),
        }
        if self.first_process:
            self._draw(test)
            partial = self.workdir / f"{RESULTS_FILE}.partial"
            partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            partial.replace(self.workdir / RESULTS_FILE)
        return results

    def _draw(self, test: evaluators.Metrics) -> None:
        name = self.workdir.name
        plots.plot_loss(self.workdir / "metrics.jsonl", self.workdir / "loss.png", name)
        groups = {"accuracy": {lang: 100 * values["accuracy"] for lang, values in test.items()}}
        plots.plot_languages(groups, self.workdir / "languages.png", name, "accuracy (%)")


def _count_tokens(batch: Mapping[str, np.ndarray]) -> int:
    """Tokens that are not padding."""
    mask = batch["segment_ids"] if "segment_ids" in batch else batch["attention_mask"]
    return int(np.count_nonzero(mask))
