"""From published files of every form to one layout, its manifest and its labels; problems named."""

import json

import pytest
from helpers import ROOT

from rembert_jax.tools import prepare_xtreme, xtreme_score
from rembert_jax.xtreme import origins, prepare
from rembert_jax.xtreme.benchmark import TASKS
from rembert_jax.xtreme.files import FileError

SHARED = ROOT.parent / "shared" / "data"


def squad(*ids):
    answers = [{"text": "cat", "answer_start": 2}]
    questions = [{"id": name, "question": "?", "answers": answers} for name in ids]
    return json.dumps(
        {"version": "1", "data": [{"title": "t", "paragraphs": [{"context": "a cat", "qas": questions}]}]}
    )


ROWS = (
    ["1-2", "del", *"________"],
    ["1", "de", "_", "ADP", "_", "_", "3", "_", "_", "_"],
    ["2", "el", "_", "DET", "_", "_", "3", "_", "_", "_"],
    ["3", "mar", "_", "NOUN", "_", "_", "0", "_", "_", "_"],
)
CONLLU = "".join("\t".join(row) + "\n" for row in ROWS)
XNLI = (
    "language\tgold_label\ta\tb\tc\td\tsentence1\tsentence2\nde\tneutral\t\t\t\t\tx\ty\nen\tentailment\t\t\t\t\tx\ty\n"
)

# As their owners publish them, in the folders of their archives.
PUBLISHED = {
    "XNLI-1.0/xnli.test.tsv": XNLI,
    "XNLI-1.0/xnli.dev.tsv": XNLI,
    "XNLI-MT-1.0/multinli/multinli.train.en.tsv": "premise\thypo\tlabel\na\tb\tcontradictory\nc\td\tneutral\n",
    "x-final/de/test_2k.tsv": "id\tsentence1\tsentence2\tlabel\n1\ta\tb\t0\n2\tc\td\t1\n",
    "panx/de-test": "de:Bonn\tB-LOC\nde:.\tO\n\nde:x\tO\n",
    "ud-treebanks-v2.5/UD_Spanish-GSD/es_gsd-ud-test.conllu": CONLLU,
    "ud-treebanks-v2.5/UD_Spanish-AnCora/es_ancora-ud-test.conllu": CONLLU + "\n" + CONLLU,
    "squad/train-v1.1.json": squad("s1"),
    "xquad/xquad.de.json": squad("q1", "q2"),
    "MLQA_V1/test/test-context-de-question-de.json": squad("m1"),
    "MLQA_V1/test/test-context-de-question-en.json": squad("m2"),
    "tydiqa-goldp-v1.1-train.json": squad("english-1", "finnish-2"),
    "tydiqa-goldp-v1.1-dev/tydiqa-goldp-dev-finnish.json": squad("finnish-3"),
    "bucc/de-en.dev.de": "de-1\tx\nde-2\ty\n",
    "bucc/de-en.dev.en": "en-1\tx\n",
    "bucc/de-en.dev.gold": "de-1\ten-1\n",
    "tatoeba/tatoeba.deu-eng.deu": "zwei\neins\ndrei\n",
    "tatoeba/tatoeba.deu-eng.eng": "two\none\nthree\n",
}


def written(folder, contents):
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def prepared(tmp_path):
    source, output = written(tmp_path / "in", PUBLISHED), tmp_path / "out"
    return output, prepare.prepare(source, output)


def records(output, name):
    return prepare.read_records(output / f"{name}.array_record")


def test_published_archives_are_found_and_read(prepared):
    output, manifest = prepared
    assert {name: file["records"] for name, file in manifest["files"].items() if file["records"]} == {
        "squad/train-en": 1, "pawsx/test-de": 2, "xnli/train-en": 2, "xnli/dev-de": 1, "xnli/dev-en": 1, "xnli/test-de": 1,
        "xnli/test-en": 1, "panx/test-de": 2, "udpos/test-es": 3, "bucc2018/dev-de.source": 2, "bucc2018/dev-de.english": 1,
        "tatoeba/test-de.source": 3, "tatoeba/test-de.english": 3, "xquad/test-de": 2, "mlqa/test-de": 1,
        "tydiqa/train-en": 1, "tydiqa/test-fi": 1,
    }  # fmt: skip
    assert "xnli/test-ar is empty" in manifest["problems"]["xnli"], "the file for all languages has none of Arabic"
    assert records(output, "xnli/test-de") == [{"sentence1": "x", "sentence2": "y", "label": "neutral"}]
    assert records(output, "tydiqa/train-en")[0]["id"] == "english-1", "the training set of all languages, English only"
    assert records(output, "mlqa/test-de")[0]["id"] == "m1", "context and question in the same language"
    assert records(output, "udpos/test-es") == [{"tokens": ["del", "mar"], "tags": ["ADP", "NOUN"]}] * 3
    assert len(manifest["files"]["udpos/test-es"]["from"]) == 2, "all treebanks of a language"
    assert json.loads((output / "manifest.json").read_text()) == manifest


def test_tatoeba_is_sorted_as_xtreme_hands_it_out_and_labelled_with_the_lines_of_the_source(prepared):
    output, _ = prepared
    assert [record["text"] for record in records(output, "tatoeba/test-de.english")] == ["one", "three", "two"]
    labels = (output / "labels" / "tatoeba" / "test-de.tsv").read_text().split()
    sources = [record["text"] for record in records(output, "tatoeba/test-de.source")]
    assert [sources[int(label)] for label in labels] == ["eins", "drei", "zwei"]
    assert [record["translations"] for record in records(output, "tatoeba/test-de.english")] == [["1"], ["2"], ["0"]]


def test_sentences_of_bucc_know_what_they_translate(tmp_path, prepared):
    assert records(prepared[0], "bucc2018/dev-de.english") == [{"id": "en-1", "text": "x", "translations": ["de-1"]}]
    corpora = {"de-en.dev.de": "de-1\tx\nde-2\ty\n", "de-en.dev.en": "en-1\tx\nen-2\ty\n"}
    manifest = prepare.prepare(written(tmp_path / "hidden", corpora), tmp_path / "a", ["bucc2018"])
    assert manifest["problems"]["bucc2018"][0] == (
        "bucc2018/dev-de.english says of no sentence whose translation it is: the file of pairs (.gold) is not there"
    )
    source = written(tmp_path / "wrong", {**corpora, "de-en.dev.gold": "de-1\ten-2\nde-2\ten-7\n"})
    with pytest.raises(FileError, match=r"dev\.gold: the pair de-2 en-7: no sentence has the id en-7"):
        prepare.prepare(source, tmp_path / "b", ["bucc2018"])


def test_problems_are_named_with_where_the_data_comes_from(prepared):
    problems = prepared[1]["problems"]
    assert problems["tydiqa"][0] == "tydiqa/train-en has 1 records, expected 3696"
    assert "tydiqa/test-fi has 1 records, expected 782" in problems["tydiqa"]
    assert problems["xquad"][-2].startswith("nothing found for test-en, test-es, test-el, ")
    assert (
        problems["udpos"][-1].startswith("comes from https://lindat.mff.cuni.cz/") and "355 MB" in problems["udpos"][-1]
    )
    assert "dev-fr, dev-ru, dev-zh, test-de" in problems["bucc2018"][-2]
    assert not any("dev-de" in text for text in problems["panx"]), "development sets are wanted in English"


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("xnli/test-de.tsv", "a\tb\tneutral\nc\td\tneutral\n", "xnli/test-de has only the label 'neutral': a file"),
        ("panx/test-de.tsv", "a\tO\nb\tO\n", "panx/test-de has only the label 'O': a file whose labels are"),
        ("panx/test-de.tsv", "", "panx/test-de is empty"),
        ("xquad/xquad.de.json", squad("q").replace('"cat"', '""'), "xquad/test-de has 1 questions without an answer: "),
    ],
)  # fmt: skip
def test_hidden_labels_and_empty_files_are_named(tmp_path, name, text, problem):
    manifest = prepare.prepare(written(tmp_path / "in", {name: text}), tmp_path / "out", [name.partition("/")[0]])
    found = [text for texts in manifest["problems"].values() for text in texts]
    assert any(text.startswith(problem) for text in found), found


def test_the_other_protocol_keeps_the_words(tmp_path):
    prepare.prepare(written(tmp_path / "in", PUBLISHED), tmp_path / "out", ["udpos"], "hf_compat")
    assert records(tmp_path / "out", "udpos/test-es")[0]["tokens"] == ["de", "el", "mar"]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["protocol"] == "hf_compat"
    own = written(tmp_path / "own", {"udpos/test-es.tsv": "del\tADP\n"})
    with pytest.raises(
        ValueError, match="XTREME's own files hold tokens of its protocol; prepare hf_compat from CoNLL-U"
    ):
        prepare.prepare(own, tmp_path / "out2", ["udpos"], "hf_compat")


def test_the_command_prints_counts_remarks_and_problems(tmp_path, capsys):
    source = written(tmp_path / "in", {"xnli/test-de.tsv": '"a ""b"""\tc\tneutral\nd\te\tentailment\n'})
    prepare_xtreme.main([f"--input={source}", f"--output={tmp_path / 'out'}", "--tasks", "xnli"])
    text = capsys.readouterr().out
    assert text.startswith("xnli: 1 files, 2 records\n\nRemarks:\n- xnli/test-de: 1 fields were in quotes")
    assert (
        "Problems of xnli:\n- xnli/test-de has 2 records, expected 5010\n- nothing found for train-en, dev-en, test-ar"
        in text
    )
    prepare_xtreme.main(["--sources"])
    text = capsys.readouterr().out
    assert "bucc2018 (licence: of the shared task): XTREME's dev is the sample" in text
    assert "  https://dl.fbaipublicfiles.com/MLQA/MLQA_V1.zip  sha256 246e8089933d" in text


def test_fetching_goes_on_with_the_other_tasks(tmp_path, capsys, monkeypatch):
    def fetch(origin, folder):
        if "xquad" not in origin.files[0][0]:
            raise origins.FetchError(f"{origin.files[0][0]}: gone")
        written(folder, {"xquad.de.json": squad("q1")})

    monkeypatch.setattr(origins, "fetch", fetch)
    options = [f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--fetch", "--tasks", "mlqa", "xquad"]
    prepare_xtreme.main(options)
    text = capsys.readouterr().out
    assert "fetching mlqa\n  https://dl.fbaipublicfiles.com/MLQA/MLQA_V1.zip: gone\nfetching xquad\n" in text
    assert "xquad: 1 files, 1 records" in text


def test_folders_without_any_of_it_are_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"FileError: .*no file of XTREME found; looked for xnli/train-\{lang\}"):
        prepare_xtreme.main([f"--input={tmp_path}", f"--output={tmp_path / 'out'}"])


@pytest.mark.real_data
def test_real_data_of_all_tasks_is_prepared_and_scores_itself(tmp_path, capsys):
    manifest = prepare.prepare(SHARED, tmp_path / "xtreme")
    assert {name.partition("/")[0] for name in manifest["files"]} == set(TASKS)
    right = {name: manifest["files"][name]["records"] for name in ("mlqa/dev-en", "tydiqa/train-en", "tydiqa/test-fi")}
    assert right == {"mlqa/dev-en": 1148, "tydiqa/train-en": 3696, "tydiqa/test-fi": 782}
    assert not any("has only the label" in text for texts in manifest["problems"].values() for text in texts)
    labels = tmp_path / "xtreme" / "labels"
    for path in list(labels.glob("*/*.json")):  # Predictions are ids and answers.
        questions = json.loads(path.read_text())["data"][0]["paragraphs"][0]["qas"]
        target = tmp_path / "p" / path.relative_to(labels)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps({one["id"]: one["answers"][0]["text"] for one in questions}))
    for path in labels.glob("*/*.tsv"):
        target = tmp_path / "p" / path.relative_to(labels)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    output = tmp_path / "results.json"
    xtreme_score.main([f"--predictions={tmp_path / 'p'}", f"--labels={labels}", f"--output={output}"])
    scores = {name: result["score"] for name, result in json.loads(output.read_text())["tasks"].items()}
    assert scores == pytest.approx(
        dict.fromkeys(("pawsx", "xnli", "panx", "udpos", "tatoeba", "xquad", "tydiqa"), 100.0)
    )
