"""The whole benchmark: which runs the tasks of XTREME need, what is wrong with their data, and all of them one after the other.

Each is the run of a file of `configs/xtreme`, in a folder of its own; one that fails leaves the others.
"""

from __future__ import annotations

import ast
import dataclasses
import logging
import pathlib
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from rembert_jax import schema
from rembert_jax.data import sources
from rembert_jax.errors import RemBertError
from rembert_jax.experiments import retrieval, run, settings, stages, sweep, vocabulary, workdir
from rembert_jax.experiments.settings import ExperimentConfig
from rembert_jax.reports.runs import RESULTS_FILE
from rembert_jax.tasks import datasets
from rembert_jax.tasks.base import Task, family
from rembert_jax.tasks.retrieval import Retrieval
from rembert_jax.tokenization import RemBertTokenizer
from rembert_jax.training import hooks, timing
from rembert_jax.training.settings import TrainingError
from rembert_jax.xtreme import prepare
from rembert_jax.xtreme.benchmark import TASKS

logger = logging.getLogger(__name__)

TRAINED_BY = {"xquad": "squad", "mlqa": "squad"}
"""Task to the file of `configs/xtreme` that predicts it, where that has another name."""
UNTRAINED = ("bucc2018", "tatoeba")
FAILURE_FILE = "failure.txt"


@dataclasses.dataclass(frozen=True)
class Job:
    """The run of one config file.

    Attributes:
      name: of the file, and of the folder of the run.
      config: of the run.
      parsed: its stages.
    """

    name: str
    config: dict[str, Any]
    parsed: dict[str, ExperimentConfig]

    def is_finished(self, folder: pathlib.Path) -> bool:
        """Whether all its stages have results."""
        return all((folder / self.name / stage / RESULTS_FILE).is_file() for stage in self.parsed)


def plan(
    configs: pathlib.Path,
    arguments: Mapping[str, Any],
    tasks: Sequence[str],
    *,
    changes: Mapping[str, Any] = {},
    languages: Sequence[str] = (),
    allow_missing: bool = False,
) -> list[Job]:
    """The runs that tasks need, SQuAD's once for both of its tasks.

    Args:
      configs: folder of the config files.
      arguments: of each of them that knows it (`data`, `init_from`, `setting`, …).
      tasks: names of the benchmark's tasks.
      changes: settings of stages by their path ("training.batch_size"), for each stage that has them.
      languages: to test on, of those that a task has; empty for all.
      allow_missing: leave out languages of which there is no file.

    Raises:
      RemBertError: for an unknown setting, or if a task has no language left.
    """
    jobs = []
    used: set[str] = set()
    for name in dict.fromkeys(TRAINED_BY.get(task, task) for task in tasks):
        config = _load(configs / f"{name}.py", arguments)
        trained = [stage for stage in config["order"] if stage not in TASKS]
        config["order"] = [stage for stage in config["order"] if stage in tasks or stage in trained]
        config["stages"] = {stage: config["stages"][stage] for stage in config["order"]}
        for stage, section in config["stages"].items():
            used |= {path for path, value in changes.items() if _change(section, path, value)}
            if languages and stage in TASKS:
                section["task"]["test_languages"] = _chosen(stage, languages)
            if allow_missing:
                section["task"]["test_languages"] = _languages_with_files(stage, section["task"])
        jobs.append(Job(name, config, stages.parse(config)[0]))
    if unused := sorted(set(changes) - used):
        raise TrainingError(f"{unused[0]}: no stage has this setting; expected for example training.batch_size")
    return jobs


def _load(file: pathlib.Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A config with those of the arguments that it knows."""
    known = {"data", "init_from", "seed", "smoke", *([] if file.stem in UNTRAINED else ["setting"])}
    wanted = {name: value for name, value in arguments.items() if name in known and value}
    given = [name if value is True else f"{name}={value}" for name, value in wanted.items()]
    return sweep.load_config(f"{file}:{','.join(given)}").to_dict()


def _change(section: dict[str, Any], path: str, value: Any) -> bool:
    """Sets a value of a stage if it has it; whether it has."""
    *parents, name = path.split(".")
    if section.get("predict_with") and parents[:1] in (["training"], ["optimizer"]) and "batch_size" not in name:
        return False  # Nothing is trained there.
    for parent in parents:
        section = section.get(parent, {})
    if name not in section:
        return False
    section[name] = value
    return True


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """ "training.batch_size=8" and the like as path to value."""
    found = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise TrainingError(f"--set {text}: expected KEY=VALUE, as in mesh.fsdp=8")
        try:
            found[path] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            found[path] = value
    return found


def _chosen(stage: str, languages: Sequence[str]) -> tuple[str, ...]:
    known = {language for task in TASKS.values() for language in task.languages}
    if strange := [language for language in languages if language not in known]:
        raise TrainingError(f"--languages {strange[0]}: no task has it; expected some of {', '.join(sorted(known))}")
    found = tuple(language for language in TASKS[stage].languages if language in languages)
    if not found:
        raise TrainingError(f"--languages: {stage} has none of them; it has {', '.join(TASKS[stage].languages)}")
    return found


def _languages_with_files(stage: str, task: Mapping[str, Any]) -> tuple[str, ...]:
    def is_there(language: str) -> bool:
        try:
            paths = sources.find_files(task["path"], language, task["test_split"], side="source")
        except sources.SourceError:
            return False
        read = datasets.FILES[task["source"]]  # A file may be there and hold nothing of the language.
        return any(len(read(path, language)) for path in paths)

    if stage not in TASKS:
        return task["test_languages"]
    found = tuple(language for language in task["test_languages"] if is_there(language))
    if not found:
        raise TrainingError(f"{stage}: no language has a test file; nothing matches {task['path']}")
    if left := [language for language in task["test_languages"] if language not in found]:
        logger.warning("%s: no file for %s", stage, ", ".join(left))
    return found


def problems(jobs: Sequence[Job], folder: pathlib.Path) -> list[str]:
    """All that is wrong with settings and data of the runs that are not finished, each with the stage it is of."""
    tokenizer, found = tokenizer_of(jobs), []
    for job in jobs:
        if job.is_finished(folder):
            continue
        texts = [
            f"{stage}: {text}" for stage, config in job.parsed.items() for text in _data_problems(config, tokenizer)
        ]
        try:
            stages.check_stages(filled(job, folder))
        except RemBertError as error:
            settings_too = str(error).removeprefix("stage ")
            texts += [settings_too] if settings_too not in texts else []
        found += dict.fromkeys(texts)  # SQuAD's development set is its test set too.
        lacking = [stage for stage in job.parsed if any(text.startswith(f"{stage}: no file for") for text in texts)]
        found += [f"{stage}: its data comes from {prepare.origin_of(stage)}" for stage in lacking]
    return found


def filled(job: Job, folder: pathlib.Path) -> dict[pathlib.Path, ExperimentConfig]:
    """The stages of a run by their folders, with "{workdir}" filled in."""
    root = folder / job.name
    return {
        root / stage: settings.resolve(workdir.fill(schema.to_mapping(config), str(root)))
        for stage, config in job.parsed.items()
    }


def tokenizer_of(jobs: Sequence[Job]) -> RemBertTokenizer:
    """That of the checkpoint, which all runs start from."""
    config = next(config for job in jobs for config in job.parsed.values() if "{workdir}" not in config.source)
    return RemBertTokenizer.from_pretrained(vocabulary.run_folder(config.source))


def _data_problems(config: ExperimentConfig, tokenizer: RemBertTokenizer) -> list[str]:
    """What opening and checking each file of a stage says."""
    assert config.task is not None
    task, found = datasets.open_task(config.task, tokenizer), []
    for split, language in sets(config):
        try:
            open_set(task, split, language)
        except RemBertError as error:
            found.append(str(error))
    return found


def sets(config: ExperimentConfig) -> list[tuple[str, str]]:
    """Split and language of all that a stage reads."""
    task = config.task
    assert task is not None
    tests = [(task.test_split, language) for language in task.test_languages]
    if len(family(task.kind).sides) > 1:
        return [*((task.dev_split, language) for language in task.test_languages if task.dev_split), *tests]
    if config.predict_with:
        return tests
    return [(split, task.train_language) for split in (task.train_split, task.dev_split) if split] + tests


def open_set(task: Task, split: str, language: str) -> list[Any]:
    """The examples of each side, checked."""
    config = task.config
    limit = config.max_train_examples if split == config.train_split else config.max_eval_examples
    if isinstance(task, Retrieval):
        return list(retrieval.open_sides(task, split, language))
    examples = datasets.open_examples(config, language, split, limit)
    task.check_examples(examples)
    return [examples]


def run_all(jobs: Sequence[Job], folder: pathlib.Path, weights: Mapping[str, float]) -> dict[str, str]:
    """Runs what is not finished, one after the other.

    Args:
      jobs: to run.
      folder: in which each has its own.
      weights: how much work each is, in any unit, for the time that is left.

    Returns:
      The name of each run that failed, and why; it is also in the `FAILURE_FILE` of its folder.

    Raises:
      Stopped: the program was told to stop, and has saved.
    """
    failures: dict[str, str] = {}
    began, done = time.perf_counter(), 0.0
    for number, job in enumerate(jobs, start=1):
        place = folder / job.name
        if job.is_finished(folder):
            logger.info("%s is finished (%d of %d)", job.name, number, len(jobs))
            continue
        logger.info("%s (%d of %d)", job.name, number, len(jobs))
        try:
            run.run(job.config, place)
            (place / FAILURE_FILE).unlink(missing_ok=True)
        except hooks.Stopped:
            raise
        except Exception as error:
            failures[job.name] = f"{type(error).__name__}: {error}"
            logger.error("%s failed: %s", job.name, failures[job.name])
            text = failures[job.name] if isinstance(error, RemBertError) else traceback.format_exc()
            _write_failure(place, text)
        done += weights.get(job.name, 0.0)
        left = sum(weights.get(other.name, 0.0) for other in jobs[number:] if not other.is_finished(folder))
        if left and done:
            rest = (time.perf_counter() - began) * left / done
            logger.info("%d of %d runs done, about %s left", number, len(jobs), timing.format_seconds(rest))
    return failures


def _write_failure(place: pathlib.Path, text: str) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / FAILURE_FILE).write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:  # A full disk, perhaps what it failed of.
        logger.error("%s: cannot be written (%s)", place / FAILURE_FILE, error.strerror)
