"""XTREME shrunken: official files, the shipped configs, and the scorer, one after the other."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import filelock
import numpy as np
import pytest
from helpers import ROOT, process_environment

from rembert_jax.data import synthetic
from rembert_jax.errors import RemBertError
from rembert_jax.experiments import run
from rembert_jax.tools import convert, prepare_xtreme, xtreme_run
from rembert_jax.training.settings import TrainingError
from rembert_jax.xtreme import files
from rembert_jax.xtreme.benchmark import IOB2, TASKS, UPOS

WORDS = synthetic.document("qaa", "train", 0).split()
LANGUAGES = {"en": "english", "de": "german", "fi": "finnish"}
LOOKED_UP = ("de", "fr")
OTHERS = {"tydiqa": ("en", "fi"), "bucc2018": LOOKED_UP, "tatoeba": LOOKED_UP}
"""Task to the languages that it is shrunken to, where these are not en and de."""


def words(rng, count):
    return [str(word) for word in rng.choice(WORDS, count)]


def pairs(rng, labels, header, columns, language=""):
    """Eight pairs in a published form: the columns of language, both sentences and label among as many as the header has."""
    rows = [header]
    for number in range(8):
        row = [""] * len(header)
        cells = (language, " ".join(words(rng, 5)), " ".join(words(rng, 4)), labels[number % len(labels)])
        for column, cell in zip(columns, cells, strict=True):
            if column is not None:
                row[column] = cell
        rows.append(row)
    return "".join("\t".join(row) + "\n" for row in rows)


def tagged(rng, tags, form):
    """Four sentences, the second of which is longer than a row; `form` writes a word, its tag and its number."""
    sentences = []
    for count in (3, 40, 2, 5):
        lines = [form(word, tags[number % len(tags)], number + 1) for number, word in enumerate(words(rng, count))]
        sentences.append("\n".join(lines) + "\n")
    return "\n".join(sentences)


def squad(rng, prefix, count):
    """Questions about contexts that are longer than a row."""
    paragraphs = []
    for number in range(count):
        before, answer, after = (" ".join(words(rng, size)) for size in (25, 2, 10))
        question = {"id": f"{prefix}-{number}", "question": " ".join(words(rng, 3))}
        question["answers"] = [{"text": answer, "answer_start": len(before) + 1}]
        paragraphs.append({"context": f"{before} {answer} {after}", "qas": [question]})
    return json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]})


def corpora(rng, language):
    """Name's end to content: sentences of BUCC, of which half have a translation that has the same words in another order."""
    sides, pairs = {language: [], "en": []}, []
    for number in range(12):
        text = words(rng, 6)
        sides[language].append(f"{language}-{number}\t{' '.join(text)}\n")
        if number % 2:
            text = words(rng, 6)
        else:
            pairs.append(f"{language}-{number}\ten-{number + 50}\n")
        sides["en"].append(f"en-{number + 50}\t{' '.join(reversed(text))}\n")
    sides["en"].append(f"en-99\t{sides['en'][0].partition(chr(9))[2]}")
    return {name: "".join(lines) for name, lines in sides.items()} | {"gold": "".join(pairs)}


XNLI_HEADER = ["language", "gold_label", "a", "b", "c", "d", "sentence1", "sentence2"]
PAWSX_HEADER = ["id", "sentence1", "sentence2", "label"]


def official_files(rng):
    """Name to content, as the archives of their owners hold them."""
    labels = TASKS["xnli"].labels
    found = {
        "XNLI-MT-1.0/multinli/multinli.train.en.tsv": pairs(rng, labels, ["premise", "hypo", "label"], (None, 0, 1, 2)),
        "squad/train-v1.1.json": squad(rng, "s", 4),
        "squad/dev-v1.1.json": squad(rng, "d", 3),
        "tydiqa-goldp-v1.1-train.json": squad(rng, "english", 4),
    }
    for split in ("dev", "test"):
        parts = [pairs(rng, labels, XNLI_HEADER, (0, 6, 7, 1), language).partition("\n") for language in ("en", "de")]
        found[f"XNLI-1.0/xnli.{split}.tsv"] = parts[0][0] + "\n" + "".join(rows for _, _, rows in parts)
    for split, name in (("train", "train"), ("dev", "dev_2k"), ("test", "test_2k")):
        for language in ("en", "de") if split == "test" else ("en",):
            found[f"x-final/{language}/{name}.tsv"] = pairs(rng, ("0", "1"), PAWSX_HEADER, (None, 1, 2, 3))
            found[f"panx/{language}-{split}"] = tagged(
                rng, IOB2, lambda word, tag, _, lg=language: f"{lg}:{word}\t{tag}"
            )
            found[f"ud-treebanks-v2.5/UD_{language}-X/{language}_x-ud-{split}.conllu"] = tagged(
                rng, UPOS, lambda word, tag, n: "\t".join([str(n), word, "_", tag, *"__0___"])
            )
    for language in ("en", "de"):
        found[f"xquad/xquad.{language}.json"] = squad(rng, f"x{language}", 3)
        found[f"MLQA_V1/test/test-context-{language}-question-{language}.json"] = squad(rng, f"m{language}", 3)
    for language, code in zip(LOOKED_UP, ("deu", "fra"), strict=True):
        for split in ("sample", "training"):
            for end, text in corpora(rng, language).items():
                found[f"bucc2018/{language}-en/{language}-en.{split}.{end}"] = text
        lines = [" ".join(words(rng, 5)) for _ in range(9)]
        found[f"tatoeba/v1/tatoeba.{code}-eng.{code}"] = "".join(f"{line}\n" for line in lines)
        found[f"tatoeba/v1/tatoeba.{code}-eng.eng"] = "".join(f"{line} x\n" for line in lines)
    for language in ("en", "fi"):
        found[f"tydiqa-goldp-v1.1-dev/tydiqa-goldp-dev-{LANGUAGES[language]}.json"] = squad(rng, LANGUAGES[language], 3)
    return found


SMALL = ["task.max_length=32", "task.options.doc_stride=8", "task.options.max_query_length=6"]
"""What the small model has positions for."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The output of `tools.prepare_xtreme` for two languages of each task."""
    folder = tmp_path_factory.mktemp("xtreme")
    for name, text in official_files(np.random.default_rng(0)).items():
        path = folder / "downloaded" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    prepare_xtreme.main(["--input", str(folder / "downloaded"), "--output", str(folder / "prepared")])
    return folder / "prepared"


def command(data, checkpoint, workdir, *flags):
    given = [f"--checkpoint={checkpoint}", f"--data={data}", f"--workdir={workdir}", "--smoke", "--allow_missing"]
    return xtreme_run.parser().parse_args([*given, "--compile_cache=off", "--set", *SMALL, *flags])


@pytest.mark.long
def test_the_benchmark_is_run_stopped_and_goes_on_and_what_fails_leaves_the_rest(
    data, pretrained, tmp_path, one_device, capsys, monkeypatch, caplog
):
    options = command(data, pretrained[0], tmp_path / "runs")
    real, started = run.run, []

    def stopped(config, folder):
        started.append(folder.name)
        if folder.name == "panx":
            raise OSError(28, "No space left on device")
        if folder.name == "tatoeba":
            raise KeyboardInterrupt
        return real(config, folder)

    monkeypatch.setattr(run, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        xtreme_run.run(options)
    assert started == ["pawsx", "xnli", "panx", "udpos", "bucc2018", "tatoeba"]
    assert "No space left on device" in (tmp_path / "runs" / "panx" / "failure.txt").read_text()

    started.clear()
    monkeypatch.setattr(run, "run", lambda config, folder: started.append(folder.name) or real(config, folder))
    assert xtreme_run.run(options)
    assert started == ["panx", "tatoeba", "squad", "tydiqa"], "what was not finished"
    assert not (tmp_path / "runs" / "panx" / "failure.txt").exists()
    results = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("results.json")}
    scored = results["scores"]["tasks"]
    assert set(scored) == set(TASKS) and "| **this run** |" in capsys.readouterr().out
    for task in TASKS:
        languages = OTHERS.get(task, ("en", "de"))
        assert set(scored[task]["languages"]) == set(languages)
        for language in languages:
            own = results[task]["test"][language]
            for metric in TASKS[task].metrics:
                assert scored[task]["languages"][language][metric] == pytest.approx(100 * own[metric]), (task, language)
    assert results["squad"]["selected_step"] > 0 and results["mlqa"]["kind"] == "prediction"
    assert results["xquad"]["source"]["run"] == results["mlqa"]["source"]["run"] == results["squad"]["run"]
    layers = json.loads((tmp_path / "runs" / "bucc2018" / "bucc2018" / "predictions" / "layers.json").read_text())
    by_layer = [layers["dev"]["average"][f"f1_{layer}"] for layer in range(3)]
    assert layers["layer"] == int(np.argmax(by_layer)) and set(layers["thresholds"]) == set(LOOKED_UP)
    accuracies = results["tatoeba"]["test"]["average"]
    assert accuracies["accuracy"] == accuracies["accuracy_2"] and "accuracy_0" in accuracies
    # An encoder's embedding finds the same words in another order, and hence its own copy.
    assert by_layer[0] > 0.6 and accuracies["accuracy_0"] > 0.6

    started.clear()
    assert xtreme_run.run(options) and not started, "everything is finished"
    with pytest.raises(TrainingError, match=r"is of another command; .*\n  seed: 0 -> 1"):
        xtreme_run.run(command(data, pretrained[0], tmp_path / "runs", "--seed=1"))


def test_what_is_wrong_with_any_task_is_listed_before_the_first_step(
    data, pretrained, tmp_path, one_device, monkeypatch
):
    monkeypatch.setattr(run, "run", None)
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    (broken / "xnli" / "test-de.array_record").unlink()
    (broken / "tatoeba" / "test-fr.english.array_record").write_bytes(b"nothing")
    (broken / "squad" / "dev-en.array_record").unlink()
    options = command(broken, pretrained[0], tmp_path / "runs")
    options.allow_missing, options.languages = False, ["en", "de", "fr"]
    with pytest.raises(TrainingError) as refused:
        xtreme_run.run(options)
    lines = str(refused.value).splitlines()
    for expected in (
        "xnli: no file for language 'de', split 'test'",
        "no example for language 'fr', split 'test'",
        "squad: no file for language 'en', split 'dev'",
        "squad: its data comes from https://",
    ):
        assert sum(expected in line for line in lines) == 1, str(refused.value)
    assert any(
        line.startswith("  tatoeba: ") and "test-fr.english.array_record: no array_record" in line for line in lines
    )
    assert lines[0].endswith(f"{len(lines) - 1} problems; nothing was started")
    assert not list((tmp_path / "runs").glob("*/"))


def test_another_folder_than_that_of_the_data_is_one_problem(pretrained, tmp_path):
    with pytest.raises(
        TrainingError, match=rf"^--data={tmp_path}: no folder of any task there, .*prepare_xtreme has written$"
    ):
        xtreme_run.run(command(tmp_path, pretrained[0], tmp_path / "runs"))


def test_a_dry_run_says_what_would_be_done_and_does_nothing(data, pretrained, tmp_path, one_device, capsys):
    options = command(data, pretrained[0], tmp_path / "runs", "--dry_run", "--tasks", "xquad", "tatoeba")
    assert xtreme_run.run(options)
    rows = {line.split("|")[2].strip(): line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")}
    assert set(rows) == {"stage", "---", "tatoeba", "squad", "xquad"}, "and not mlqa"
    examples = json.loads((data / "manifest.json").read_text())["files"]
    cells = [cell.strip() for cell in rows["tatoeba"].split("|")]
    assert cells[5] == str(2 * 2 * examples["tatoeba/test-de.source"]["records"]) and cells[6] == "2"
    cells = [cell.strip() for cell in rows["squad"].split("|")]
    assert int(cells[4]) == int(cells[3]) // 4, "steps of four rows, once through"
    assert re.fullmatch(r"\d+:\d\d", cells[7])
    assert not list((tmp_path / "runs").glob("*/"))


@pytest.mark.parametrize("head", [["--head=base", "--init", "pooler", "--drop", "cls"], []])
def test_a_folder_of_transformers_is_a_checkpoint_too(data, pretrained, tmp_path, one_device, head):
    convert.main(["--from=jax", "--to=hf", f"--input={pretrained[0]}", f"--output={tmp_path / 'hf'}", *head])
    for checkpoint, workdir in ((tmp_path / "hf", "runs"), (pretrained[0], "own")):
        options = command(data, checkpoint, tmp_path / workdir, "--tasks", "tatoeba")
        options.set = SMALL[:1]
        assert xtreme_run.run(options)
    for language in LOOKED_UP:
        name = f"tatoeba/tatoeba/predictions/test-{language}.tsv"
        assert (tmp_path / "runs" / name).read_text() == (tmp_path / "own" / name).read_text()


def test_a_dry_run_of_one_checkpoint_does_not_serve_another(data, pretrained, tmp_path, one_device):
    for number, head in enumerate(([], ["--head=base", "--init", "pooler", "--drop", "cls"])):
        output = tmp_path / f"hf{number}"
        convert.main(["--from=jax", "--to=hf", f"--input={pretrained[0]}", f"--output={output}", *head])
        options = command(data, output, tmp_path / "runs", "--tasks", "tatoeba", "--dry_run", "--no_estimate")
        options.set = SMALL[:1]
        assert xtreme_run.run(options)
        assert len(list((tmp_path / "runs").glob("encoder-*"))) == number + 1


def test_commands_that_make_no_sense_are_refused(data, pretrained, tmp_path, one_device):
    for flags, message in (
        (("--set", "training.batchsize=3"), r"training\.batchsize: no stage has this setting"),
        (("--set", "mesh"), "--set mesh: expected KEY=VALUE"),
        (("--setting=large",), "setting=large: expected one of rembert"),
        (("--languages", "xx"), "--languages xx: no task has it; expected some of af, ar"),
        (("--languages", "en"), "--languages: bucc2018 has none of them; it has de, fr, ru, zh"),
    ):
        with pytest.raises(RemBertError, match=message):
            xtreme_run.run(command(data, pretrained[0], tmp_path / "runs", *flags))
    with pytest.raises(
        RemBertError, match=r"--checkpoint=\./nowhere: neither a run nor a folder of transformers nor the id"
    ):
        xtreme_run.run(command(data, "./nowhere", tmp_path / "runs"))
    with (
        filelock.FileLock(tmp_path / "runs" / ".xtreme_run.lock"),
        pytest.raises(TrainingError, match="another xtreme_run"),
    ):
        xtreme_run.run(command(data, pretrained[0], tmp_path / "runs"))


@pytest.mark.skipif(sys.platform != "linux", reason="only there")
def test_the_command_starts_again_with_huge_pages_unless_the_c_library_is_told_otherwise(tmp_path, monkeypatch):
    """A module that Python imports at each start prints what the C library was told."""
    (tmp_path / "sitecustomize.py").write_text("import os; print(os.environ.get('GLIBC_TUNABLES'))\n")
    environment = {name: value for name, value in process_environment().items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-m", "rembert_jax.tools.xtreme_run", "--tasks=none"]
    environment["PYTHONPATH"] = str(tmp_path)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["None", "glibc.malloc.hugetlb=1"] and "invalid choice: 'none'" in done.stderr
    monkeypatch.setattr(sys, "orig_argv", command)
    monkeypatch.setenv("GLIBC_TUNABLES", "other")
    monkeypatch.setattr(os, "execv", lambda *arguments: pytest.fail("started again"))
    xtreme_run._restart_with_huge_pages()


def test_predictions_of_two_runs_for_one_language_are_refused(tmp_path):
    for name in "ab":
        folder = tmp_path / name / "xnli" / "predictions"
        folder.mkdir(parents=True)
        (folder / "test-de.tsv").write_text("neutral\n")
    found = files.find(tmp_path / "a", TASKS["xnli"])
    assert found == {"de": pathlib.Path(tmp_path / "a" / "xnli" / "predictions" / "test-de.tsv")}
    with pytest.raises(files.FileError, match=r"is of xnli in 'de' too; leave one in the folder"):
        files.find(tmp_path, TASKS["xnli"])
