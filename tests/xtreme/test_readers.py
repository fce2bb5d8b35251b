"""Readers of the official files: each form, traps in it, and what is refused; and the real files with their counts."""

import csv
import json

import pytest
from helpers import ROOT

from rembert_jax.xtreme import conllu, files, readers
from rembert_jax.xtreme.benchmark import LASER_CODES, TASKS
from rembert_jax.xtreme.files import FileError

XNLI = TASKS["xnli"].labels
SHARED = ROOT.parent / "shared" / "data"


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_pairs_of_three_columns_keep_their_quotation_marks(tmp_path):
    path = write(tmp_path / "a.tsv", 'He said "no".\t"Never"\tneutral', 'plain\t"half\tcontradictory')
    records, remarks = readers.read_pairs(path, XNLI)
    assert records == [
        {"sentence1": 'He said "no".', "sentence2": '"Never"', "label": "neutral"},
        {"sentence1": "plain", "sentence2": '"half', "label": "contradiction"},
    ]
    assert remarks == []


def test_what_a_csv_writer_doubled_is_undone_and_said_so(tmp_path):
    rows = [['He said "no".', "never", "neutral"], ['"Oh"', "a b", "entailment"], ["x", 'y "z" ""', "neutral"]]
    with (tmp_path / "a.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)
    assert '"""Oh"""' in (tmp_path / "a.tsv").read_text()
    records, remarks = readers.read_pairs(tmp_path / "a.tsv", XNLI)
    assert [list(record.values()) for record in records] == rows
    assert remarks == ["3 fields were in quotes with their quotation marks doubled, as a csv writer does; undone"]


def test_text_that_only_looks_quoted_is_left_alone(tmp_path):
    records, remarks = readers.read_pairs(write(tmp_path / "a.tsv", '"Oh"\t"My"\tneutral'), XNLI)
    assert records[0]["sentence1"] == '"Oh"' and remarks == []


def test_the_published_file_of_xnli_holds_all_languages(tmp_path):
    header = "language gold_label a b c d sentence1 sentence2 e".replace(" ", "\t")
    path = write(
        tmp_path / "a.tsv",
        header,
        *("\t".join(f"{lang} neutral . . . . one-{lang} two .".split()) for lang in ("de", "en")),
    )
    (record,), _ = readers.read_pairs(path, XNLI, "de")
    assert record == {"sentence1": "one-de", "sentence2": "two", "label": "neutral"}


def test_the_published_files_of_pawsx_and_multinli(tmp_path):
    pawsx = write(tmp_path / "p.tsv", "id\tsentence1\tsentence2\tlabel", "1\ta\tb\t0", "2\tNS\tNS\t0")
    records, remarks = readers.read_pairs(pawsx, ("0", "1"))
    assert [record["label"] for record in records] == ["0", "0"]
    assert remarks == ["1 pairs hold 'NS' for a sentence that was not translated; XTREME keeps them"]
    multinli = write(tmp_path / "m.tsv", "premise\thypo\tlabel", "a\tb\tcontradictory")
    assert readers.read_pairs(multinli, XNLI)[0] == [{"sentence1": "a", "sentence2": "b", "label": "contradiction"}]


def test_panx_with_and_without_the_language(tmp_path):
    path = write(tmp_path / "a", "de:Bonn\tB-LOC", "de::\tO", "", "12:30\tO", "zh-yue:x\tI-PER", "", "")
    assert readers.read_panx(path) == [
        {"tokens": ["Bonn", ":"], "tags": ["B-LOC", "O"]},
        {"tokens": ["12:30", "x"], "tags": ["O", "I-PER"]},
    ]


SQUAD = {"data": [{"paragraphs": [{"context": "a cat", "qas": [
    {"id": "english-1", "question": "?", "answers": [{"text": "cat", "answer_start": 2}]},
    {"id": "finnish-2", "question": "??", "answers": [{"text": "a", "answer_start": 0}]},
]}]}]}  # fmt: skip


def test_squad_and_the_languages_of_tydiqa(tmp_path):
    path = write(tmp_path / "a.json", json.dumps(SQUAD))
    assert [record["id"] for record in readers.read_squad(path)] == ["english-1", "finnish-2"]
    (record,) = readers.read_squad(path, "finnish")
    assert record == {
        "id": "finnish-2", "question": "??", "context": "a cat", "answers": [{"text": "a", "answer_start": 0}],
    }  # fmt: skip


def test_sentences_of_retrieval(tmp_path):
    assert readers.read_bucc(write(tmp_path / "b", 'zh-1\t"a', "zh-2\tb\tc")) == [
        {"id": "zh-1", "text": '"a'}, {"id": "zh-2", "text": "b\tc"},
    ]  # fmt: skip
    sides = readers.read_tatoeba(write(tmp_path / "s", "eins ", "zwei"), write(tmp_path / "t", "one", "two"))
    assert sides[0][0] == {"id": "0", "text": "eins"} and sides[1][1] == {"id": "1", "text": "two"}


@pytest.mark.parametrize(
    ("read", "lines", "message"),
    [
        (lambda path: readers.read_pairs(path, XNLI), ["a\tb\tneutral", "a\tb"], "line 2: found 2 columns, expected 3"),
        (lambda path: readers.read_pairs(path, XNLI), ["a\tb\tmaybe"], "line 1: found label 'maybe', expected one of"),
        (readers.read_panx, ["de:a\tO", "de:b"], "line 2: found 1 columns, expected a token and its tag"),
        (readers.read_panx, ["de:a\tB-MISC"], "line 1: found tag 'B-MISC', expected one of B-LOC"),
        (readers.read_squad, ["{", "]"], "line 2: no JSON"),
        (readers.read_squad, ['{"data": [{"paragraphs": [{}]}]}'], "not in the form of SQuAD 1.1, KeyError"),
        (readers.read_squad, [json.dumps(SQUAD).replace(": 2}", ": 1}")], "question english-1: the context has ' ca' at 1"),
        (readers.read_squad, [json.dumps(SQUAD).replace("finnish-2", "english-1")], "question english-1 stands there more"),
        (readers.read_bucc, ["a b"], "line 1: expected an id, a tab and a sentence"),
        (readers.read_bucc, ["a\tb", "a\tc"], "line 2: id a stands in line 1 already"),
        (lambda path: readers.read_tatoeba(path, write(path.with_name("t"), "x", "y")), ["a"], "has 1 lines and .*t 2; exp"),
        (lambda path: conllu.read(path, "de", "official"), ["1\ta"], "line 1: found 2 columns, expected the 10"),
        (lambda path: conllu.read(path, "de", "official"), ["\t".join(["1-x", *"abcdefghi"])], "line 1: found '1-x', expected"),
    ],
)  # fmt: skip
def test_files_of_another_form_are_refused_with_their_place(tmp_path, read, lines, message):
    with pytest.raises(FileError, match=message):
        read(write(tmp_path / "file", *lines))


def conllu_file(path, *rows):
    """Rows of "id form upos head [enhanced]"."""
    lines = []
    for row in rows:
        number, form, upos, head, *deps = row.split(" ") if row else [""] * 4
        columns = [number, form.replace("~", " "), "_", upos, "_", "_", head, "_", (deps or ["_"])[0], "_"]
        lines.append("\t".join(columns) if row else "")
    return write(path, "# text = x", *lines)


def test_fused_tokens_take_the_tag_of_the_highest_word(tmp_path):
    path = conllu_file(
        tmp_path / "a", "1-2 del _ _", "1 de ADP 3", "2 el DET 3", "3 mar NOUN 0",  # Both hang on "mar": ADP ranks before DET.
        "4-5 dámelo _ _", "4 da VERB 3", "5 melo PRON 4", "6 ti~po NOUN 3",  # One is above the other.
    )  # fmt: skip
    (record,) = conllu.read(path, "es", "official")
    assert record["tokens"] == ["del", "mar", "dámelo", "tipo"] and record["tags"] == ["ADP", "NOUN", "VERB", "NOUN"]
    assert record["where"] == f"{path}:2"
    (plain,) = conllu.read(path, "es", "hf_compat")
    assert plain["tokens"] == ["de", "el", "mar", "da", "melo", "ti po"]


def test_ranks_differ_between_languages_and_enhanced_dependencies_count(tmp_path):
    rows = ("1-2 x _ _", "1 a ADV 3", "2 b PRON 3", "3 c VERB 0")
    tags = {
        lang: conllu.read(conllu_file(tmp_path / lang, *rows), lang, "official")[0]["tags"]
        for lang in ("it", "de", "es")
    }
    assert tags == {"it": ["ADV", "VERB"], "de": ["PRON", "VERB"], "es": ["PRON", "VERB"]}
    # By the enhanced graph "b" hangs on "a" too, so "a" has fewer ancestors, whatever their ranks.
    (record,) = conllu.read(conllu_file(tmp_path / "e", *rows[:2], "2 b PRON 3 1:dep|3:dep", rows[3]), "de", "official")
    assert record["tags"] == ["ADV", "VERB"]


def test_empty_nodes_hidden_text_and_joiners(tmp_path):
    path = conllu_file(
        tmp_path / "a", "1 a\u200cb NOUN 0", "1.1 ghost VERB _", "2 _ X 1", "3 c NOUN 1", "", "1 _ NOUN 0", "2 _ X 1",
    )  # fmt: skip
    (record,) = conllu.read(path, "fa", "official")
    assert record["tokens"] == ["ab", "_", "c"], "the second sentence has nothing but hidden text"
    assert [one["tokens"] for one in conllu.read(path, "fa", "hf_compat")] == [["a\u200cb", "c"]]


@pytest.mark.real_data
def test_real_files_have_the_counts_of_their_manifest():
    readers_of = {
        "xnli": lambda path: readers.read_pairs(path, XNLI)[0],
        "pawsx": lambda path: readers.read_pairs(path, ("0", "1"))[0],
        "ner": readers.read_panx,
        "udpos": lambda path: list(conllu.sentences(path)),
        "xquad": readers.read_squad,
        "mlqa": readers.read_squad,
        "tydiqa": readers.read_squad,
        "bucc2018": lambda path: files.read_pairs(path) if path.suffix == ".gold" else readers.read_bucc(path),
        "tatoeba": lambda path: files.read_lines(path),
    }
    checked = set()
    for line in (SHARED / "MANIFEST.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        name, count = line.split("\t")[:2]
        task = name.partition("/")[0]
        if task in readers_of and (SHARED / name).is_file():
            assert len(readers_of[task](SHARED / name)) == int(count.split()[0]), name
            checked.add(task)
    assert checked == set(readers_of)


@pytest.mark.real_data
def test_real_treebanks_are_fused_as_xtreme_s_own_preprocessing_left_them():
    found = {}
    for language in ("de", "en", "es", "zh"):
        official: dict[tuple[str, ...], list[str]] = {}
        for path in (SHARED / "udpos-xtreme" / language).glob("*.tsv"):
            for block in path.read_text(encoding="utf-8").split("\n\n"):
                rows = [line.split("\t") for line in block.splitlines()]
                official[tuple(row[0] for row in rows)] = [row[1] for row in rows]
        ours = [
            one
            for path in (SHARED / "udpos" / language).glob("*.conllu")
            for one in conllu.read(path, language, "official")
        ]
        both = [one for one in ours if tuple(one["tokens"]) in official]
        assert all(official[tuple(one["tokens"])] == one["tags"] for one in both)
        found[language] = len(both)
    assert found == {"de": 6, "en": 1015, "es": 145, "zh": 400}


@pytest.mark.real_data
def test_real_tatoeba_files_are_aligned():
    for folder in sorted((SHARED / "tatoeba").iterdir()):
        code = LASER_CODES[folder.name]
        readers.read_tatoeba(folder / f"tatoeba.{code}-eng.{code}", folder / f"tatoeba.{code}-eng.eng")
