"""`run(config, workdir)`: pre-training, fine-tuning, or several such stages in a row.

One run goes through the phases that the calls in `_run_stage` name. The same call on the same workdir goes on from the last
checkpoint, or returns at once what is already finished.
"""

from __future__ import annotations

import logging
import math
import os
import pathlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from rembert_jax import schema, sharding, tree
from rembert_jax.config import RemBertConfig
from rembert_jax.data import pipeline, tokenized
from rembert_jax.reports import plots, report
from rembert_jax.reports.runs import CONFIG_FILE, EXPERIMENT_FILE, RESULTS_FILE
from rembert_jax.tokenization import RemBertTokenizer
from rembert_jax.training import checkpoint, evaluators, jobs, preparation, profiling, settings, timing, train_state
from rembert_jax.training.metrics import means
from rembert_jax.training.optimizer import frozen, learning_rate_schedule, make_optimizer
from rembert_jax.training.settings import ExperimentConfig, TrainingError
from rembert_jax.training.train_state import TrainState
from rembert_jax.training.train_step import Sums, make_train_step, with_frozen
from rembert_jax.training.writers import MetricWriter, Progress, write_file

logger = logging.getLogger(__name__)

READ_EVERY = 100
"""Steps after which, at the latest, losses are read from the device: until then the host runs ahead of it."""


def run(
    config: Mapping[str, Any], workdir: str | os.PathLike[str], *, shared: str | os.PathLike[str] = ""
) -> dict[str, Any]:
    """Runs an experiment: one stage, or each of `config["stages"]` in `config["order"]`, in a sub-folder each, then the report.

    Args:
      config: a plain mapping as `configs/*.py` make it; "{workdir}" in its strings stands for `workdir`.
      workdir: folder for everything the run writes; created if needed.
      shared: folder in which runs with the same `data` and `tokenizer` share vocabulary and tokenised text; for runs of one
        process. Empty shares nothing.

    Returns:
      The results of the stage, or the results by stage.

    Raises:
      RemBertError: what is wrong and what to change; nothing that was saved is lost.
    """
    folder = preparation.make_workdir(workdir)
    _cache_compilations()
    stages, comparisons = preparation.parse(config)
    filled = {}
    for name, stage in stages.items():
        preparation.check_resumable(folder / name, stage)
        filled[folder / name] = settings.resolve(preparation.fill_workdir(schema.to_mapping(stage), str(folder)))
    preparation.check_stages(filled)
    if "stages" in config and jax.process_index() == 0:
        write_file(folder / EXPERIMENT_FILE, schema.to_json({"order": list(stages)}))
    common = pathlib.Path(shared).absolute() if os.fspath(shared) and jax.process_count() == 1 else None
    results = {name: _run_stage(filled[folder / name], stage, folder / name, common) for name, stage in stages.items()}
    if comparisons and jax.process_index() == 0:
        report.write(comparisons, results, folder)
    return results if "stages" in config else results[""]


def _cache_compilations() -> None:
    """Keeps compiled programs in the user's cache folder, so that a resumed run or one like it starts at once.

    Not in the workdir, which people pass on: whoever could change a program there would have it run. A directory that JAX is
    already told to use (JAX_COMPILATION_CACHE_DIR) is left alone.
    """
    if not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache / "rembert_jax" / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _run_stage(
    config: ExperimentConfig, saved: ExperimentConfig, workdir: pathlib.Path, shared: pathlib.Path | None
) -> dict[str, Any]:
    """Runs a stage in its folder; `saved` is its config before "{workdir}" is filled in."""
    preparation.make_workdir(workdir)
    if (workdir / RESULTS_FILE).is_file():
        logger.info("%s is finished; remove %s to run it again", workdir.name, workdir / RESULTS_FILE)
        return preparation.read_json(workdir / RESULTS_FILE)
    logger.info("%s: %s", workdir.name, "pre-training" if config.data else "fine-tuning")
    mesh = sharding.make_mesh(config.mesh)
    source = config.init_from or config.model_from
    pretrained = checkpoint.find(source) if source else None
    texts = pipeline.open_sources(config.data, config.data.train_split) if config.data else {}
    tokenizer = preparation.open_tokenizer(config, workdir, texts, shared)
    model_config = preparation.model_config(config, tokenizer, pretrained)
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(sharding.LOGICAL_RULES)):
        if config.data:
            origin = preparation.text_origin(config.data)
            tokens = tokenized.shared(texts, tokenizer, origin, shared) if shared else texts
            job = jobs.pretraining(config, model_config, tokenizer, texts, mesh, tokens)
        else:
            job = jobs.fine_tuning(config, model_config, tokenizer, mesh)
        return _Run(config, saved, workdir, mesh, model_config, tokenizer, job, pretrained).train()


class _Run:
    """One stage from its initial state to its results."""

    def __init__(
        self,
        config: ExperimentConfig,
        saved: ExperimentConfig,
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
            "architecture": type(job.model).__name__,
            "labels": job.labels,
            "tokenizer_sha256": tokenizer.sha256,
            "config": schema.to_mapping(saved),
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
        self.compile_seconds: dict[str, float] = {}  # Until they are logged.
        self.profile = profiling.Profile(workdir / "profile", config.training.profile_steps)
        self.peak = profiling.peak_flops(mesh.devices.flatten())

    def train(self) -> dict[str, Any]:
        """Goes through all remaining steps and returns the results."""
        try:
            state = self._first_state()
            if self.first_process:  # From here on the folder belongs to this config.
                self._save_config()
            results = self._finish(self._loop(state))
        finally:
            self.profile.close()
            self.writer.close()
            self.store.close()
            if self.best:
                self.best.close()
            self.job.train_iterator.close()
        return results

    def _save_config(self) -> None:
        path, text = self.workdir / CONFIG_FILE, schema.to_json(self.manifest["config"])
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_file(path, text)

    def _first_state(self) -> TrainState:
        """The run's newest checkpoint, or a new state, with the parameters of `init_from` where that is set."""
        abstract = train_state.abstract(self.job.init, self.tx, self.shardings)
        size = sum(leaf.size for leaf in jax.tree.leaves(abstract.params))
        logger.info("%s parameters on mesh %s", f"{size:,}", dict(self.mesh.shape))
        if self.store.latest_step is not None:
            return self._restore(abstract)
        state = train_state.create(self.job.init, self.tx, self.config.seed, self.shardings)
        if self.config.init_from:
            assert self.pretrained is not None
            params, loaded = checkpoint.load_pretrained(self.pretrained, state.params, self.config.drop_top_layers)
            loaded.log()
            state = state.replace(params=params)
        return state

    def _restore(self, abstract: TrainState) -> TrainState:
        step, saved = self.store.latest_step, self.store.manifest()
        changed = [
            line
            for key in ("model", "tokenizer_sha256")
            for line in schema.differences(saved[key], self.manifest[key], key)
        ]
        if changed:
            raise TrainingError(f"{self.workdir}/checkpoints/{step} does not fit this run\n  " + "\n  ".join(changed))
        logger.info("resuming from step %d of %s", step, self.workdir)
        return self.store.restore(abstract, self.job.train_iterator)

    def _due(self, every: int, step: int) -> bool:
        return step == self.job.total_steps or (every > 0 and step % every == 0)

    def _loop(self, state: TrainState) -> TrainState:
        training, total = self.config.training, self.job.total_steps
        objective = self.job.objective
        if self.config.optimizer.freeze:
            objective = with_frozen(objective, lambda params: frozen(self.config.optimizer, params))
        step_fn = jax.jit(
            make_train_step(
                objective,
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
        window: list[Sums] = []  # Of the steps since the last log, on the device until they are read.
        tokens, start = 0, int(state.step)
        for step in range(start + 1, total + 1):
            batch = next(self.job.train_iterator)
            self.model_config.check_ids(batch)
            tokens += _count_tokens(batch) * jax.process_count()
            self.profile.before(step)
            called = self.stopwatch.elapsed()
            state, sums = step_fn(state, sharding.to_global(batch, self.mesh))
            window.append(sums)
            self.profile.after(step, sums)
            if step == start + 1:
                # Whoever calls waits for the compiler, and for nothing else.
                compiling = self.stopwatch.elapsed() - called
                jax.block_until_ready(sums)
                logger.info(
                    "first step after %.1f s, %.1f of them for compiling it", self.stopwatch.elapsed(), compiling
                )
                self.compile_seconds = {"time/compile_seconds": compiling}
                self.stopwatch.tick(step)
                tokens = 0
            log, evaluate, save = (
                self._due(every, step) for every in (training.log_every, training.eval_every, training.checkpoint_every)
            )
            if log or evaluate or save or len(window) % READ_EVERY == 0:
                window = jax.device_get(window)
                self._check_finite(step, window)
            if log:
                self._log(step, window, tokens)
                window, tokens = [], 0
            with self.stopwatch.paused():
                if evaluate:
                    self._evaluate(step, state)
                if save:
                    checkpoint.check_state(state)
                    self.store.save(step, state, self.job.train_iterator, self.manifest)
        self.store.wait()
        return state

    def _check_finite(self, last: int, window: list[Sums]) -> None:
        """Stops at the first step of a window ending at `last` of which something is not finite, once all is written."""
        good = next((i for i, sums in enumerate(window) if not sums["finite"]), len(window))
        if good == len(window):
            return
        self.store.wait()
        step, saved = last - len(window) + good + 1, self.store.latest_step
        if good:
            self.writer.write(step - 1, _train_values(window[:good]))
        values = _train_values(window[good : good + 1])
        self.writer.write(step, values)
        self.progress.clear()
        found = ", ".join(f"{name} {values[f'train/{name}']:.4g}" for name in ("loss", "grad_norm", "learning_rate"))
        kept = f" with init_from={self.workdir}, where step {saved} is saved," if saved else ""
        raise TrainingError(
            f"step {step}: {found} (not finite); the update was not made. Look at the data of this step, or choose a new "
            f"--workdir{kept} and lower optimizer.learning_rate or lengthen optimizer.warmup_steps"
        )

    def _log(self, step: int, window: list[Sums], tokens: int) -> None:
        values = _train_values(window)
        line = f"loss {values['train/loss']:.3f}  accuracy {100 * values['train/accuracy']:.1f} %"
        timed = step - self.stopwatch.marked_step
        seconds = self.stopwatch.tick(step)
        if timed:
            speed = tokens / (seconds * timed)
            values |= {"time/tokens_per_second": speed, "time/seconds_per_step": seconds}
            line += f"  {speed:,.0f} tokens/s"
            if self.peak:
                values["time/mfu"] = self.job.step_flops / seconds / self.peak
                line += f"  MFU {100 * values['time/mfu']:.1f} %"
        self.writer.write(step, values | self.compile_seconds)
        self.compile_seconds = {}
        total = self.job.total_steps
        remaining = timing.format_seconds(seconds * (total - step))
        self.progress.show(f"step {step}/{total}  {line}  ETA {remaining}", final=step == total)

    def _evaluate(self, step: int, state: TrainState) -> None:
        metrics = self.job.evaluate(state.params)
        self.writer.write(step, evaluators.flat("dev", metrics))
        self.progress.clear()
        shown = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in metrics["average"].items())
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
        sizes = {name: int(np.prod(leaf.shape)) for name, leaf in tree.flatten(params).items()}
        head = sum(size for name, size in sizes.items() if name.startswith(f"{checkpoint.OUTPUT_HEAD}/"))
        results: dict[str, Any] = {
            "kind": "pretraining" if self.config.data else "fine-tuning",
            "seed": self.config.seed,
            "steps": self.job.total_steps,
            "selected_step": chosen,
            "parameters": {"total": sum(sizes.values()), "output_head": head},
            "test": test,
            "baseline": self.job.baseline(),
            "train_language": self.config.task.train_language if self.config.task else "",
            "seconds": round(self.stopwatch.elapsed(), 1),
        }
        if self.first_process:
            write_file(self.workdir / RESULTS_FILE, schema.to_json(results))
            self._draw(test)
            for line in report.pretraining_lines(self.workdir.name, results) if self.config.data else ():
                logger.info(line)
        return results

    def _draw(self, test: evaluators.Metrics) -> None:
        name = self.workdir.name
        plots.plot_loss(self.workdir / "metrics.jsonl", self.workdir / "loss.png", name)
        groups = {"accuracy": {lang: 100 * values["accuracy"] for lang, values in test.items()}}
        plots.plot_languages(groups, self.workdir / "languages.png", name, "accuracy (%)")


def _train_values(window: list[Sums]) -> dict[str, float]:
    """What is logged of some steps: means, and the rest of the last one."""
    last = {name: float(window[-1][name]) for name in ("grad_norm", "learning_rate")}
    return {f"train/{name}": value for name, value in {**means(window), **last}.items()}


def _count_tokens(batch: Mapping[str, np.ndarray]) -> int:
    """Tokens that are not padding."""
    mask = batch["segment_ids"] if "segment_ids" in batch else batch["attention_mask"]
    return int(np.count_nonzero(mask))
