"""Tables of runs: rows, means, what is missing, comparison seed by seed, from folders as `train.py` leaves them."""

import csv
import json
import math
import pathlib
import shutil

import pytest

from rembert_jax.reports import collect, runs
from rembert_jax.reports.runs import ReportError
from rembert_jax.tools import collect as command

STAGES = ("pretrain", "tagging")


def write_run(folder, seed, loss, accuracy, *, width=32, rate=0.1, finished=STAGES, stages=STAGES, kind="tokens"):
    """What a run of two stages leaves, or one that stopped before some of them were finished."""
    folder.mkdir(parents=True)
    (folder / "experiment.json").write_text(json.dumps({"order": stages}))
    for stage in stages:
        (folder / stage).mkdir()
        training = stage == "pretrain"
        config = {
            "seed": seed,
            "model": {"width": width} if training else {},
            # A seed of something that the run does not use, beside one that is its own.
            "data": {"source": "text", "synthetic": {"seed": 7}, "world": {"seed": seed}} if training else None,
            "task": None if training else {"kind": kind, "path": f"pos/{{language}}-{seed}", "languages": ["qaa"]},
            "optimizer": {"learning_rate": rate},
            "training": {"steps": 4},
        }
        (folder / stage / "resolved_config.json").write_text(json.dumps(config))
        lines = [json.dumps({"step": step, "dev/average/loss": loss + 1.0 / step}) for step in (2, 4)]
        (folder / stage / "metrics.jsonl").write_text("\n".join(lines))
        if stage not in finished:
            break
        if training:
            result = {"test": {"average": {"loss": loss, "accuracy": 0.5}}, "metric": "accuracy", "seconds": 10.0}
        else:
            others = {"qab": {"accuracy": accuracy}, "qac": {"accuracy": accuracy + 0.1}}
            result = {"test": {"qaa": {"accuracy": 0.9}, **others}, "train_language": "qaa", "seconds": 5.0}
            result["metric"] = "accuracy"
        (folder / stage / "results.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def three_widths(tmp_path):
    """Two seeds each, named by what they are; the accuracies are chosen so that the means are plain."""
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", seed, 3.0 + seed, 0.40 + 0.1 * seed, width=8)
        write_run(tmp_path / f"b{seed}", seed, 2.0 + seed, 0.55 + 0.1 * seed, width=32)
        write_run(tmp_path / f"c{seed}", seed, 2.5 + seed, 0.45 + 0.2 * seed, width=128)
    return tmp_path


def test_rows_are_what_differs_and_cells_are_over_the_seeds(three_widths):
    table = collect.make_table(runs.find_runs(three_widths))
    assert table.row_names == ["stages.pretrain.model.width"], "neither seeds nor names of datasets that hold a seed"
    assert table.rows == [(8,), (32,), (128,)], "in the order of numbers"
    assert table.metrics == ["pretrain/average/loss", "tagging/zero-shot/accuracy"]
    assert collect.to_markdown(table).splitlines() == [
        "| width | pretrain/average/loss (nats) | tagging/zero-shot/accuracy (%) |",
        "| --- | --- | --- |",
        "| 8 | 3.50 ± 0.71 (2) | 50.0 ± 7.1 (2) |",
        "| 32 | **2.50 ± 0.71 (2)** | **65.0 ± 7.1 (2)** |",
        "| 128 | 3.00 ± 0.71 (2) | 60.0 ± 14.1 (2) |",
        "",
        "Mean ± standard deviation (number of runs: least to most); the best mean of a column in bold.",
    ]


def test_columns_metrics_and_pooled_settings(three_widths):
    for seed in (0, 1):
        write_run(three_widths / f"d{seed}", seed, 9.0, 0.1, width=8, rate=0.2)
    found = runs.find_runs(three_widths)
    table = collect.make_table(found, columns=["pretrain.optimizer.learning_rate"], metrics=["pretrain/*/accuracy"])
    assert table.metrics == ["pretrain/average/accuracy"] and table.columns == [(0.1,), (0.2,)]
    assert "tagging.optimizer.learning_rate" in " ".join(table.row_names), "which differs too"
    pooled = collect.make_table(found, rows=["width"], metrics=["pretrain/average/loss"])
    again = {f"{three_widths.name}/d{seed}": 9.0 for seed in (0, 1)}  # By name, since their seeds are there already.
    assert pooled.cells[(8,), (), "pretrain/average/loss"].values == {0: 3.0, 1: 4.0, **again}
    assert "- pooled, though different: stages.pretrain.optimizer.learning_rate" in collect.to_markdown(pooled)


def test_unfinished_failed_and_missing_runs_are_listed_and_not_counted(tmp_path):
    members = [{"width": width, "seed": seed} for width in (8, 32) for seed in (0, 1)]
    tmp_path.joinpath("sweep.json").write_text(json.dumps({"members": members}))
    write_run(tmp_path / "0", 0, 3.0, 0.5, width=8)
    write_run(tmp_path / "1", 1, 3.0, 0.5, width=8, finished=("pretrain",))
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "log.txt").write_text(
        "# 2026-01-01 first\nValueError: old\n# 2026-01-02 again\nfine\nTrainingError: no disk\n"
    )
    table = collect.make_table(runs.find_runs(tmp_path))
    text = collect.to_markdown(table)
    assert "| 8 | 3.00 (1) | 55.0 (1) |" in text and "| 32 | – | – |" in text
    assert text.splitlines()[-3:] == [
        "- not in the table: 1 (width=8, seed=1): unfinished: tagging, step 4 of 4",
        "- not in the table: 2 (width=32, seed=0): failed: TrainingError: no disk",
        "- not in the table: 3 (width=32, seed=1): not started",
    ]


def test_a_sweep_that_varies_only_the_seed_is_one_row(tmp_path):
    tmp_path.joinpath("sweep.json").write_text(json.dumps({"members": [{"seed": 0}, {"seed": 1}]}))
    for seed in (0, 1):
        write_run(tmp_path / str(seed), seed, 2.0 + seed, 0.5)
    assert collect.to_markdown(collect.make_table(runs.find_runs(tmp_path))).splitlines() == [
        "| metric | all runs |",
        "| --- | --- |",
        "| pretrain/average/loss (nats) | 2.50 ± 0.71 (2) |",
        "| tagging/zero-shot/accuracy (%) | 55.0 ± 0.0 (2) |",
        "",
        "Mean ± standard deviation (number of runs: least to most).",
    ]


def test_runs_with_a_report_show_its_columns_and_the_gain_over_the_better_of_two(tmp_path):
    tmp_path.joinpath("sweep.json").write_text(json.dumps({"members": [{"seed": seed} for seed in range(3)]}))
    for seed, (pretrained, scratch) in enumerate(((70.0, 40.0), (80.0, 60.0), (90.0, 50.0))):
        folder = write_run(tmp_path / str(seed), seed, 2.0, 0.5)
        columns = {"pre-trained": pretrained, "scratch": scratch, "no context": 50.0}
        (folder / "results.json").write_text(json.dumps({"Pairs": {"qaa": columns, "zero-shot": columns}}))
    table = collect.make_table(runs.find_runs(tmp_path))
    assert [(metric, table.cells[(), (), metric].text(1)) for metric in table.metrics] == [
        ("Pairs/zero-shot/pre-trained", "80.0 ± 10.0 (3: 70.0 to 90.0)"),
        ("Pairs/zero-shot/scratch", "50.0 ± 10.0 (3: 40.0 to 60.0)"),
        ("Pairs/zero-shot/no context", "50.0 ± 0.0 (3: 50.0 to 50.0)"),
        ("Pairs/zero-shot/gain", "26.7 ± 11.5 (3: 20.0 to 40.0)"),
        ("pretrain/average/loss", "2.0 ± 0.0 (3: 2.0 to 2.0)"),
    ]
    command.run(command.parser().parse_args([str(tmp_path)]))
    assert (tmp_path / "curves.png").stat().st_size > 0, "of the stage, though the first metrics are of a task"


def test_two_sweeps_are_told_apart_by_what_their_configs_say(tmp_path):
    for number, rate in enumerate((0.1, 0.2)):
        folder = tmp_path / f"sweep{number}"
        folder.mkdir()
        (folder / "sweep.json").write_text(json.dumps({"members": [{"stages.pretrain.model.width": 8, "seed": 0}]}))
        write_run(folder / "0", 0, 2.0 + number, 0.5, width=8, rate=rate)
    table = collect.make_table(runs.find_runs(tmp_path), metrics=["pretrain/average/loss"])
    assert [cell.mean for cell in table.cells.values()] == [2.0, 3.0]


def test_simple_runs_are_found_too(tmp_path):
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "resolved_config.json").write_text(json.dumps({"seed": seed, "optimizer": {"learning_rate": 0.1}}))
        (folder / "results.json").write_text(
            json.dumps({"test": {"average": {"loss": 2.0 + seed}}, "metric": "accuracy", "seconds": 1.0})
        )
    table = collect.make_table(runs.find_runs(tmp_path))
    assert table.metrics == ["average/loss"] and table.cells[(), (), "average/loss"].values == {0: 2.0, 1: 3.0}


def test_paired_comparison_worked_by_hand(three_widths):
    table = collect.make_table(runs.find_runs(three_widths))
    wide, narrow = collect.find_row(table, "width=128"), collect.find_row(table, "8")
    found = collect.compare(table, wide, narrow, (), "tagging/zero-shot/accuracy")
    # Differences of 5 and 15 points: mean 10, standard error 5, and 12.706 is Student's 97.5 % point of one degree.
    assert found.seeds == [0, 1]
    assert (found.mean, found.half_width) == pytest.approx((10.0, 63.53), abs=0.01)
    # The losses differ by the same in each seed, so though the seeds differ widely there is no doubt.
    same = collect.compare(table, wide, narrow, (), "pretrain/average/loss")
    assert (same.mean, same.half_width) == pytest.approx((-0.5, 0.0))


def test_one_seed_gives_no_interval(tmp_path):
    write_run(tmp_path / "a", 0, 3.0, 0.4, width=8)
    write_run(tmp_path / "b", 0, 2.0, 0.6, width=32)
    table = collect.make_table(runs.find_runs(tmp_path))
    assert math.isnan(collect.compare(table, (8,), (32,), (), "pretrain/average/loss").half_width)
    assert "+1.00 (one seed, no interval; 1 seeds)" in command.comparison(table, "8", "32")


def test_rows_without_a_common_seed_are_not_compared(tmp_path):
    write_run(tmp_path / "a", 0, 3.0, 0.4, width=8)
    write_run(tmp_path / "b", 1, 2.0, 0.6, width=32)
    table = collect.make_table(runs.find_runs(tmp_path))
    with pytest.raises(ReportError, match="width=8 and width=32 have no finished run with the same seed"):
        collect.compare(table, (8,), (32,), (), "pretrain/average/loss")


def test_the_command_writes_table_values_and_figures(three_widths, capsys):
    command.main([str(three_widths), "--compare", "width=32", "width=8"])
    text = capsys.readouterr().out
    assert "- tagging/zero-shot/accuracy: +15.0 (+15.0 to +15.0; 2 seeds)" in text
    assert (three_widths / "collected.md").read_text() == text
    for name in ("collected.png", "curves.png"):
        assert (three_widths / name).read_bytes().startswith(b"\x89PNG")
    with (three_widths / "collected.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 12
    assert lines[0] == {
        "stages.pretrain.model.width": "8",
        "seed": "0",
        "metric": "pretrain/average/loss",
        "value": "3.0",
    }


def test_curves_are_those_of_the_rows(three_widths):
    found = runs.find_runs(three_widths)
    groups, name = command.curves(collect.make_table(found), found, "pretrain")
    assert name == "dev/average/loss"
    assert groups["width=8"] == [[(2, 3.5), (4, 3.25)], [(2, 4.5), (4, 4.25)]]
    assert list(groups) == ["width=8", "width=32", "width=128"]


def refused(folder: pathlib.Path, *flags: str) -> str:
    with pytest.raises(SystemExit) as error:
        command.main([str(folder), *flags])
    return str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--metric", "f1"),
            "ReportError: --metric=f1: no run has it; known are pretrain/average/loss, pretrain/average/acc",
        ),
        (
            ("--columns", "depth"),
            "ReportError: setting 'depth' does not differ; what differs: stages.pretrain.model.width",
        ),
        (
            ("--compare", "width=8", "width=9"),
            "ReportError: 'width=9' names 0 rows, expected one of: width=8; width=32;",
        ),
    ],
)
def test_questions_without_an_answer_are_explained(three_widths, flags, message):
    assert refused(three_widths, *flags).startswith(message)


def test_folders_without_runs_and_runs_of_other_experiments_are_refused(tmp_path):
    assert "no run found; expected a --workdir of train.py" in refused(tmp_path)
    write_run(tmp_path / "a", 0, 3.0, 0.4)
    write_run(tmp_path / "b", 0, 3.0, 0.4, stages=("pretrain",), finished=("pretrain",))
    assert (
        f"{tmp_path}/a and {tmp_path}/b are runs of different experiments: pretrain (pre-training), tagging (tokens) and "
        "pretrain (pre-training); collect them one by one"
    ) in refused(tmp_path)
    shutil.rmtree(tmp_path / "b")
    write_run(tmp_path / "c", 0, 3.0, 0.4, kind="pairs")
    assert "tagging (tokens) and pretrain (pre-training), tagging (pairs); collect" in refused(tmp_path)


def test_damaged_files_are_named(tmp_path):
    write_run(tmp_path / "a", 0, 3.0, 0.4)
    (tmp_path / "a" / "pretrain" / "results.json").write_text("{")
    assert f"{tmp_path}/a/pretrain/results.json cannot be read" in refused(tmp_path)


def test_several_folders_need_a_place_to_write_to(tmp_path):
    assert "--output: with several folders" in refused(tmp_path, str(tmp_path))
