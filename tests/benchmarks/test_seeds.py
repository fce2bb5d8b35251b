"""Several seeds of one experiment: which are run, what is written of them, and that finished ones are not run again."""

import json
import sys
from types import SimpleNamespace

import pytest
from helpers import run_process

from benchmarks import seeds


@pytest.mark.parametrize(("text", "expected"), [("0-3", [0, 1, 2, 3]), ("7", [7]), ("1-2, 9", [1, 2, 9])])
def test_seeds_are_ranges_and_numbers(text, expected):
    assert seeds.parse_seeds(text) == expected


@pytest.mark.parametrize("text", ["", "a", "1,1", "3-1", "-2", "0-2,2"])
def test_other_seeds_are_refused(text):
    with pytest.raises(ValueError, match=f"--seeds={text}: "):
        seeds.parse_seeds(text)


def _table(pretrained, scratch):
    columns = {"pre-trained": pretrained, "scratch": scratch, "no context": 50.0}
    return {"Pairs": {"qaa": {**columns, "pre-trained": 99.0}, "zero-shot": columns}}


TABLES = {0: _table(70.0, 40.0), 5: _table(80.0, 60.0), 9: _table(90.0, 50.0)}


def test_mean_deviation_and_worst_worked_by_hand():
    assert seeds.language_rows(TABLES) == [
        ["language", "Pairs, pre-trained", "Pairs, scratch", "Pairs, no context"],
        ["qaa", "99.0 ± 0.0", "50.0 ± 10.0", "50.0 ± 0.0"],
        ["mean, no labels", "80.0 ± 10.0", "50.0 ± 10.0", "50.0 ± 0.0"],
    ]
    assert seeds.gain_rows(TABLES)[1] == [
        "Pairs", "80.0 ± 10.0", "70.0 (seed 0)", "30.0 ± 10.0", "20.0 (seed 5)", "30.0 ± 10.0", "20.0 (seed 0)",
    ]  # fmt: skip


def test_pretraining_beside_what_no_training_reaches():
    results = {
        seed: {
            "test": {"average": {"loss": 1.0 + seed, "accuracy": 0.5, "retrieval_0": 0.25}},
            "baseline": {"average": {"loss": 4.0, "retrieval_0": 0.01}},
        }
        for seed in (0, 2)
    }
    assert seeds.pretraining_rows(results) == [
        ["held-out text", "pre-trained", "untrained"],
        ["loss (untrained: frequencies of words)", "2.00 ± 1.41", "4.00 ± 0.00"],
        ["masked tokens right (%)", "50.0 ± 0.0", "–"],
        ["translations found, layer 0 (%)", "25.0 ± 0.0", "1.0 ± 0.0"],
    ]


def _finished(folder, seed):
    """What a finished run of `train.py` leaves; its config is not looked at where `train.py` itself is not run."""
    (folder / "pretrain").mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(TABLES[seed]))
    values = {"average": {"loss": 1.0, "accuracy": 0.5}}
    (folder / "pretrain" / "results.json").write_text(json.dumps({"test": values, "baseline": values}))
    (folder / "pretrain" / "metrics.jsonl").write_text('{"step": 5, "dev/average/loss": 1.0}\n')
    return folder


def test_report_writes_tables_values_and_figures(tmp_path):
    text = seeds.report({seed: _finished(tmp_path / f"seed_{seed}", seed) for seed in TABLES}, tmp_path)
    assert text.startswith("Seeds: 0, 5, 9.") and "| Pairs | 80.0 ± 10.0 | 70.0 (seed 0) |" in text
    assert (tmp_path / "seeds.md").read_text() == text + "\n"
    assert set(json.loads((tmp_path / "seeds.json").read_text())) == {"0", "5", "9"}
    for name in ("seeds.png", "loss.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_failed_seed_is_named_and_the_others_are_reported(tmp_path, monkeypatch, capsys):
    def run(config, folder, seed, flags):
        assert (config, flags) == ("configs/x.py:smoke", ["--config.a=1"])
        if seed != 5:
            _finished(folder, seed)
        return int(seed == 5)

    monkeypatch.setattr(seeds, "run_seed", run)
    command = ["seeds.py", "--config=configs/x.py:smoke", f"--workdir={tmp_path}", "--seeds=0,5,9", "--config.a=1"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="failed: 5; the same command tries them again"):
        seeds.main()
    out = capsys.readouterr().out
    assert "Seeds: 0, 9." in out and f"seed 5: failed, see {tmp_path}/seed_5/log.txt" in out


def test_command_of_a_seed(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(
        seeds.subprocess, "run", lambda command, **_: commands.append(command) or SimpleNamespace(returncode=0)
    )
    seeds.run_seed("configs/a.py", tmp_path / "one", 3, [])
    seeds.run_seed("configs/a.py:text={x}/y,smoke", tmp_path / "two", 4, ["--config.b=2"])
    assert [command[2:] for command in commands] == [
        ["--config=configs/a.py:seed=3", f"--workdir={tmp_path}/one"],
        ["--config=configs/a.py:text={x}/y,smoke,seed=4", f"--workdir={tmp_path}/two", "--config.b=2"],
    ]


def test_command_line_says_which_log_to_read(tmp_path):
    command = [sys.executable, "benchmarks/seeds.py", "--config=configs/quickstart.py:smoke=maybe", "--seeds=3"]
    done = run_process([*command, f"--workdir={tmp_path}"], tmp_path / "compiled")
    assert done.returncode == 1 and f"seed 3: failed, see {tmp_path}/seed_3/log.txt" in done.stdout
    assert "'smoke=maybe': expected smoke" in (tmp_path / "seed_3" / "log.txt").read_text()
