"""XTREME shrunken: official files, the shipped configs, and the scorer, one after the other."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest
from helpers import ROOT, with_changes

from rembert_jax.data import synthetic
from rembert_jax.experiments import run
from rembert_jax.tools import prepare_xtreme, xtreme_score
from rembert_jax.xtreme import files
from rembert_jax.xtreme.benchmark import IOB2, TASKS, UPOS

WORDS = synthetic.document("qaa", "train", 0).split()
LANGUAGES = {"en": "english", "de": "german", "fi": "finnish"}
CONFIGS = {task: {"xquad": "squad", "mlqa": "squad"}.get(task, task) for task in TASKS}
"""Task to the config that predicts it."""
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


def config_of(name, data, pretrained, languages):
    path = ROOT / "configs" / "xtreme" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"xtreme_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(f"data={data},init_from={pretrained},languages={languages},smoke").to_dict()
    changes = {}
    for stage, section in config["stages"].items():
        changes[f"stages.{stage}.task.max_length"] = 32  # What the small model has positions for.
        if "doc_stride" in section["task"].get("options", {}):
            sizes = {"doc_stride": 8, "max_query_length": 6}
            changes |= {f"stages.{stage}.task.options.{key}": value for key, value in sizes.items()}
    return with_changes(config, changes)


@pytest.mark.long
def test_every_task_trains_and_its_predictions_are_scored(data, pretrained, tmp_path, one_device, capsys):
    results = {}
    for name in sorted(set(CONFIGS.values())):
        languages = OTHERS.get(name, ("en", "de"))
        results |= run.run(config_of(name, data, pretrained[0], " ".join(languages)), tmp_path / "runs" / name)
    xtreme_score.main(["--predictions", str(tmp_path / "runs"), "--labels", str(data / "labels"), "--output",
                       str(tmp_path / "scores" / "results.json")])  # fmt: skip
    scored = json.loads((tmp_path / "scores" / "results.json").read_text())["tasks"]
    assert set(scored) == set(TASKS)
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


def test_predictions_of_two_runs_for_one_language_are_refused(tmp_path):
    for name in "ab":
        folder = tmp_path / name / "xnli" / "predictions"
        folder.mkdir(parents=True)
        (folder / "test-de.tsv").write_text("neutral\n")
    found = files.find(tmp_path / "a", TASKS["xnli"])
    assert found == {"de": pathlib.Path(tmp_path / "a" / "xnli" / "predictions" / "test-de.tsv")}
    with pytest.raises(files.FileError, match=r"is of xnli in 'de' too; leave one in the folder"):
        files.find(tmp_path, TASKS["xnli"])
