"""Reads folders of runs: settings, results, curves, and how far each has come."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rembert_jax.errors import RemBertError
from rembert_jax.reports.plots import read_metrics

CONFIG_FILE, RESULTS_FILE, METRICS_FILE = "resolved_config.json", "results.json", "metrics.jsonl"
EXPERIMENT_FILE = "experiment.json"
"""In the folder of a run of several stages: their names, in order."""
SWEEP_FILE = "sweep.json"
"""In the folder of a sweep: config, flags and the settings of each member."""
LOG_FILE = "log.txt"
"""What a member of a sweep said."""

ERROR_LINE = re.compile(r"^(?:[\w.]*(?:Error|Exception|Interrupt)\b|--config).*", re.MULTILINE)


class ReportError(RemBertError):
    """Runs cannot be put into one table."""


@dataclasses.dataclass
class Run:
    """A run, finished or not.

    Attributes:
      folder: its workdir.
      name: how it is called in tables.
      stages: stage to folder, in order; the name of the only stage of a simple run is empty.
      settings: dotted name to value, without seeds.
      seed: the one that all its stages share; None if it is unknown or they differ.
      metrics: "stage/language/metric" to the value in the results of finished stages, and "task/language/column" to that in
        the report of the whole run.
      main: by finished stage the metric that it reports.
      status: empty for a finished run, else what it lacks.
      sweep: folder of the sweep that it is a member of, if it is.
      varied: what that sweep sets for it, without the seed.
    """

    folder: pathlib.Path
    name: str
    stages: dict[str, pathlib.Path]
    settings: dict[str, Any]
    seed: int | None
    metrics: dict[str, float]
    status: str
    sweep: pathlib.Path | None = None
    varied: dict[str, Any] = dataclasses.field(default_factory=dict)
    main: dict[str, str] = dataclasses.field(default_factory=dict)

    def series(self, stage: str) -> dict[str, list[tuple[int, float]]]:
        """Curves of a stage by name: (step, value)."""
        return _series(self.stages[stage])


def find_runs(folder: pathlib.Path) -> list[Run]:
    """The runs in a folder: itself, the members of its sweep, or what its sub-folders hold.

    Raises:
      ReportError: if there is none, or a file of a run is damaged.
    """
    runs = _find(folder, folder.name or str(folder))
    if not runs:
        raise ReportError(
            f"{folder}: no run found; expected a --workdir of train.py or launch_sweep, or a folder of such"
        )
    return runs


def _find(folder: pathlib.Path, name: str) -> list[Run]:
    if (folder / SWEEP_FILE).is_file():
        members = _read(folder / SWEEP_FILE)["members"]
        return [_member(folder / str(index), str(index), member) for index, member in enumerate(members)]
    if (folder / EXPERIMENT_FILE).is_file() or (folder / CONFIG_FILE).is_file():
        return [_read_run(folder, name)]
    if not folder.is_dir():
        return []
    children = sorted(path for path in folder.iterdir() if path.is_dir())
    return [run for child in children for run in _find(child, f"{name}/{child.name}" if name else child.name)]


def _read(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} cannot be read ({error}); restore it, or leave this run out") from error


def _member(folder: pathlib.Path, name: str, member: Mapping[str, Any]) -> Run:
    if (folder / EXPERIMENT_FILE).is_file() or (folder / CONFIG_FILE).is_file():
        run = _read_run(folder, name)
    else:
        run = Run(folder, name, {}, {}, None, {}, failure(folder / LOG_FILE) or "not started")
    varied = {key: _plain(value) for key, value in member.items() if key != "seed"}
    return dataclasses.replace(run, seed=member.get("seed", run.seed), sweep=folder.parent, varied=varied)


def _read_run(folder: pathlib.Path, name: str) -> Run:
    simple = not (folder / EXPERIMENT_FILE).is_file()
    order = [""] if simple else _read(folder / EXPERIMENT_FILE)["order"]
    stages = {stage: folder / stage for stage in order}
    configs = {stage: _read(path / CONFIG_FILE) for stage, path in stages.items() if (path / CONFIG_FILE).is_file()}
    results = {stage: _read(path / RESULTS_FILE) for stage, path in stages.items() if (path / RESULTS_FILE).is_file()}
    settings: dict[str, Any] = {}
    for stage, config in configs.items():
        settings |= _flat(config, f"stages.{stage}" if stage else "")
    settings, seed = _without_seed(settings)
    metrics = {name: value for stage, result in results.items() for name, value in _metrics(stage, result).items()}
    if not simple and (folder / RESULTS_FILE).is_file():
        metrics |= _report_metrics(_read(folder / RESULTS_FILE))
    main = {stage: result.get("metric", "accuracy") for stage, result in results.items()}  # Older runs have no other.
    return Run(folder, name, stages, settings, seed, metrics, _status(folder, stages, configs, results), main=main)


def _flat(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}.{key}" if prefix else key
        flat |= _flat(value, name) if isinstance(value, Mapping) else {name: _plain(value)}
    return flat


def _plain(value: Any) -> Any:
    return tuple(_plain(item) for item in value) if isinstance(value, list) else value


def _without_seed(settings: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """Settings without the seed of the run, wherever it stands, also in the name of a dataset; and the seed, if it is one."""
    found = {value for name, value in settings.items() if re.fullmatch(r"(stages\.[^.]+\.)?seed", name)}
    if len(found) != 1:
        return dict(settings), None
    (seed,) = found
    number = re.compile(rf"(?<!\d){seed}(?!\d)")
    rest = {
        name: number.sub("{seed}", value) if isinstance(value, str) else value
        for name, value in settings.items()
        if not (name.rpartition(".")[2] == "seed" and value == seed)
    }
    return rest, seed


def _metrics(stage: str, result: Mapping[str, Any]) -> dict[str, float]:
    """Every metric of a stage's test, the mean over languages without labels, and the seconds it took."""
    test = result["test"]
    labelled = result.get("train_language")
    others = [values for language, values in test.items() if language not in (labelled, "average")]
    if labelled and others:
        names = [name for name in others[0] if all(name in values for values in others)]
        test = {**test, "zero-shot": {name: sum(values[name] for values in others) / len(others) for name in names}}
    prefix = f"{stage}/" if stage else ""
    found = {f"{prefix}{language}/{name}": value for language, values in test.items() for name, value in values.items()}
    return found | {f"{prefix}seconds": result["seconds"]}


def _report_metrics(tables: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """What `report.write` found for each task, as shares, and `gain`: pre-trained less the better of the other columns."""
    found = {}
    for title, rows in tables.items():
        for language, columns in rows.items():
            shares = {name: value / 100 for name, value in columns.items()}
            others = [value for name, value in shares.items() if name != "pre-trained"]
            shares["gain"] = shares["pre-trained"] - max(others)
            found |= {f"{title}/{language}/{name}": value for name, value in shares.items()}
    return found


def _status(
    folder: pathlib.Path,
    stages: Mapping[str, pathlib.Path],
    configs: Mapping[str, Any],
    results: Mapping[str, Any],
) -> str:
    missing = [stage for stage in stages if stage not in results]
    if not missing:
        return ""
    if error := failure(folder / LOG_FILE):
        return error
    stage = missing[0]
    where = f"{stage}, " if stage else ""
    steps = [step for points in _series(stages[stage]).values() for step, _ in points]
    total = configs.get(stage, {}).get("training", {}).get("steps")
    return f"unfinished: {where}step {max(steps, default=0)}" + (f" of {total}" if total else "")


def _series(stage: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    return read_metrics(stage / METRICS_FILE) if (stage / METRICS_FILE).is_file() else {}


def failure(log: pathlib.Path) -> str:
    """The error with which a member of a sweep ended, read from its log; empty if it names none after its last start."""
    if not log.is_file():
        return ""
    last_start = re.split(r"^# \d{4}-.*$", log.read_text(encoding="utf-8", errors="replace"), flags=re.MULTILINE)[-1]
    found = ERROR_LINE.findall(last_start)
    return f"failed: {found[-1]}" if found else ""


def check_alike(runs: Sequence[Run]) -> None:
    """Raises ReportError if two runs are of different experiments: of other stages, or of stages that do something else."""
    started = [run for run in runs if run.stages]
    for run in started:
        one, other = _describe(started[0]), _describe(run)
        if any(one.get(stage, what) != what for stage, what in other.items()) or list(started[0].stages) != list(
            run.stages
        ):
            raise ReportError(
                f"{started[0].folder} and {run.folder} are runs of different experiments: {_words(started[0])} and "
                f"{_words(run)}; collect them one by one"
            )


def _describe(run: Run) -> dict[str, str]:
    """What each stage does, of those that have started."""
    found = {}
    for stage in run.stages:
        prefix = f"stages.{stage}." if stage else ""
        if kind := run.settings.get(f"{prefix}task.kind"):
            found[stage] = kind
        elif f"{prefix}data.source" in run.settings:
            found[stage] = "pre-training"
    return found


def _words(run: Run) -> str:
    kinds = _describe(run)
    return ", ".join(" ".join(filter(None, [stage, f"({kinds.get(stage, 'not started')})"])) for stage in run.stages)
