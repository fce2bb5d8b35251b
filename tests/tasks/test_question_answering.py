"""Extractive answers: windows and spans worked by hand, exact substrings in every script, null answers, errors."""

import json

import numpy as np
import pytest
from helpers import ROOT, NumberTokenizer, real_tokenizer

from rembert_jax.data import sources
from rembert_jax.tasks import question_answering
from rembert_jax.tasks.base import TaskConfig, TaskError
from rembert_jax.tasks.question_answering import Answer, QuestionAnswering
from rembert_jax.tokenization import RemBertTokenizer, train_vocabulary
from rembert_jax.xtreme import readers

CLS, SEP = 2, 3
LOW = -100.0
REAL_DATA = ROOT.parent / "shared" / "data"


def _task(tokenizer=None, max_length=10, **options) -> QuestionAnswering:
    options = {"doc_stride": 2, "max_query_length": 2, "max_answer_length": 4} | options
    config = TaskConfig(
        kind="question_answering", source="jsonl", path="{language}.jsonl", train_language="en", test_languages=("en",),
        text_fields=("question", "context"), label_field="answers", max_length=max_length, options=options,
    )  # fmt: skip
    return QuestionAnswering(config, tokenizer or NumberTokenizer(), ())


def _example(context="10 11 12 13 14 15 16 17", answers=("13 14",), question="30 31", name="q"):
    found = [{"text": text, "answer_start": context.index(text)} for text in answers]
    return {"id": name, "question": question, "context": context, "answers": found, "where": "x.jsonl:3"}


def _targets(rows):
    return [(int(row["start_positions"]), int(row["end_positions"])) for row in rows]


def test_windows_worked_by_hand():
    # Ten tokens less [CLS], two of the question and two [SEP] leave five of the context.
    rows = _task().rows(_example())
    assert [row["input_ids"].tolist() for row in rows] == [
        [CLS, 30, 31, SEP, 10, 11, 12, 13, 14, SEP],
        [CLS, 30, 31, SEP, 12, 13, 14, 15, 16, SEP],
        [CLS, 30, 31, SEP, 14, 15, 16, 17, SEP],
    ]
    assert rows[0]["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    # The third window has the answer's second half only, and points at [CLS].
    assert _targets(rows) == [(7, 8), (5, 6), (0, 0)]


def test_windows_may_stand_side_by_side():
    rows = _task(doc_stride=5).rows(_example())
    assert [row["input_ids"].tolist()[4:-1] for row in rows] == [[10, 11, 12, 13, 14], [15, 16, 17]]


def test_a_long_question_is_cut_and_a_short_one_leaves_more_room():
    rows = _task().rows(_example(question="30 31 32 33"))
    assert rows[0]["input_ids"].tolist()[:4] == [CLS, 30, 31, SEP]
    rows = _task().rows(_example(question="30"))
    assert [len(row["input_ids"]) for row in rows] == [10, 10] and rows[1]["input_ids"].tolist()[3:5] == [12, 13]


def _outputs(task, example, *best):
    """Logits that are low everywhere but for (window, start, end, logit) by the context's tokens."""
    rows = task.rows(example)
    length = task.config.max_length + 2
    found = [{name: np.full(length, LOW, np.float32) for name in ("start_logits", "end_logits")} for _ in rows]
    for window, start, end, logit in best:
        first = len(task._question(example)) + 2 - window * task.options.doc_stride
        found[window]["start_logits"][first + start] = found[window]["end_logits"][first + end] = logit
    return rows, found


def test_the_best_span_of_all_windows_is_the_answer():
    task, example = _task(), _example()
    found = task.merge(example, *_outputs(task, example, (0, 1, 2, 3.0), (1, 3, 5, 4.0)))
    assert found[0] == Answer("13 14 15", 8.0) and Answer("11 12", 6.0) in found
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert len({one.text for one in found}) == len(found), "each text once, by its best score"


def test_an_answer_may_be_a_single_token():
    task, example = _task(), _example()
    assert task.merge(example, *_outputs(task, example, (0, 2, 2, 3.0)))[0] == Answer("12", 6.0)


def test_of_equal_spans_the_first_in_the_text_is_taken():
    words = [str(number) for number in range(10, 60)]
    task, example = _task(max_length=60, n_best=1), _example(context=" ".join(words), answers=("10",))
    rows, (output,) = _outputs(task, example)
    for name in output:
        output[name][4 + 25 :] = 1.0  # Twenty-five tokens are before the first of those that are the best.
    assert task.merge(example, rows, [output]) == [Answer("35", 2.0)]


def test_spans_that_end_before_they_begin_or_are_too_long_are_none():
    task, example = _task(max_answer_length=2), _example()
    found = task.merge(example, *_outputs(task, example, (0, 3, 1, 9.0), (0, 2, 2, 1.0)))
    assert all(len(one.text.split()) <= 2 for one in found)
    # The end at 11 joins no start but its own and the one before; the best of them has a low start.
    assert found[0].text in {"12", "13"} or found[0].score < 9.0


@pytest.mark.parametrize(("longest", "expected"), [(3, "11 12 13"), (2, "12 13")])
def test_an_answer_may_be_just_as_long_as_allowed(longest, expected):
    task, example = _task(max_answer_length=longest), _example()
    found = task.merge(example, *_outputs(task, example, (0, 1, 3, 9.0), (0, 2, 3, 8.0)))
    assert found[0].text == expected


def test_where_no_span_is_possible_there_is_no_answer():
    task, example = _task(n_best=1), _example(context="10 11", answers=("11",))
    rows, (output,) = _outputs(task, example, (0, 0, 1, 1.0))
    output["start_logits"][5], output["end_logits"][4] = 50.0, 50.0  # The best start lies behind the best end.
    (found,) = task.merge(example, rows, [output])
    assert found == Answer("", 2 * LOW)


def test_only_the_best_ends_are_joined_and_kept():
    task, example = _task(n_best=1), _example()
    assert task.merge(example, *_outputs(task, example, (0, 1, 2, 3.0))) == [Answer("11 12", 6.0)]


def test_logits_outside_of_the_window_do_not_count():
    task, example = _task(n_best=2), _example(context="10 11", answers=("11",))
    rows, (output,) = _outputs(task, example, (0, 0, 1, 1.0))
    for name in output:
        output[name][[0, 1, 2, 3, 6, 7, 8]] = 50.0  # [CLS], question, [SEP]s and padding.
    assert task.merge(example, rows, [output])[0] == Answer("10 11", 2.0)


@pytest.mark.parametrize(("threshold", "expected"), [(0.0, ""), (3.9, ""), (4.0, "10 11"), (4.1, "10 11")])
def test_no_answer_needs_a_better_score(threshold, expected):
    task, example = _task(null_answers=True, null_threshold=threshold), _example(context="10 11", answers=())
    rows, (output,) = _outputs(task, example, (0, 0, 1, 1.0))
    output["start_logits"][0] = output["end_logits"][0] = 3.0  # 6 against 2.
    found = task.merge(example, rows, [output])
    assert found[0].text == expected and {Answer("", 6.0), Answer("10 11", 2.0)} <= set(found)
    assert _targets(rows) == [(0, 0)]
    metrics = task.metrics([example], [found], "en")
    assert metrics == dict.fromkeys(("f1", "exact_match"), float(not expected))


def test_no_answer_is_as_likely_as_in_the_window_that_least_says_so():
    task, example = _task(null_answers=True), _example(answers=())
    rows, outputs = _outputs(task, example, (1, 3, 5, 2.0))
    for output, value in zip(outputs, (5.0, 1.0, 3.0), strict=True):
        output["start_logits"][0] = output["end_logits"][0] = value
    found = task.merge(example, rows, outputs)
    assert found[0] == Answer("13 14 15", 4.0) and Answer("", 2.0) in found


def test_tokens_that_only_touch_an_answer_are_no_part_of_it():
    offsets = [(0, 0), (0, 2), (2, 4), (4, 6)]
    assert question_answering._token_span(offsets, 2, 4) == (2, 2)
    assert question_answering._token_span(offsets, 1, 5) == (1, 3)
    assert question_answering._token_span(offsets, 6, 7) is None


def test_scores_are_those_of_the_scripts():
    task = _task()
    examples = [_example(answers=("13 14", "10 11 12")), _example(answers=("17",))]
    found = task.metrics(examples, [[Answer("10 11", 0.0)], [Answer("17", 0.0)]], "en")
    assert found == pytest.approx({"f1": (0.8 + 1.0) / 2, "exact_match": 0.5})
    german = _example(context="die Stadt", answers=("die Stadt",), question="was")
    assert _task(normalisation="mlqa").metrics([german], [[Answer("Stadt", 0.0)]], "de")["exact_match"] == 1.0
    assert _task().metrics([german], [[Answer("Stadt", 0.0)]], "de")["exact_match"] == 0.0


def test_files_of_predictions():
    task, example = _task(), _example(name="é1")
    ranked = [Answer("13", 2.0), Answer("14", 1.0)]
    assert task.to_text([example], [ranked]) == '{\n "é1": "13"\n}\n'
    details = task.details([example], [ranked])
    assert "é1" in details and json.loads(details) == {
        "é1": [{"text": "13", "score": 2.0}, {"text": "14", "score": 1.0}]
    }


def test_baseline_is_where_answers_usually_stand():
    train = [_example(answers=(text,)) for text in ("12 13", "14", "12 13")]
    guess = _task().baseline(train)
    assert guess(_example(question="99"))[0].text == "12 13"
    assert guess(_example(context="20 21 22 23", answers=("20",)))[0].text == "21 22"
    first = _task().baseline([_example(answers=("12 13", "16"))])
    assert first(_example(question="99"))[0].text == "12 13", "of several answers the first counts"
    last = _task().baseline([_example(answers=("16 17",))])
    assert last(_example(context="20 21", answers=("20",)))[0].text == "21", "no more than there is"
    none = _task(null_answers=True).baseline([_example(answers=())])
    assert none(_example(context="20 21", answers=("20",)))[0].text == "20", "the first token where none is answered"


CONTEXTS = {
    "zh": ("北京是中华人民共和国的首都,位于华北平原的北部边缘。", "华北平原"),
    "th": ("กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย", "เมืองหลวง"),
    "ja": ("東京は日本の首都であり、世界最大級の都市です。", "日本の首都"),
    "en": ("The  city of Łódź (pop. 670,000) – half-way.", "Łódź (pop."),
}


@pytest.mark.parametrize("language", CONTEXTS)
def test_answers_are_exact_substrings_in_every_script(tmp_path, language):
    context, answer = CONTEXTS[language]
    train_vocabulary(
        iter([text for text, _ in CONTEXTS.values()] * 8), tmp_path / "v.model", vocab_size=94, character_coverage=1.0
    )
    task = _task(
        RemBertTokenizer(tmp_path / "v.model"), max_length=24, doc_stride=8, max_query_length=4, max_answer_length=60
    )
    example = _example(context=context, answers=(answer,), question="?")
    rows = task.rows(example)
    (best,) = {
        task.merge(example, rows, _pointing(rows, number))[0].text
        for number, row in enumerate(rows)
        if row["start_positions"] > 0
    }
    # Pieces may be longer than the answer; what comes back is cut out of the context.
    assert answer in best and best in context


def _pointing(rows, number):
    """Logits of a model that has learnt one of the rows."""
    found = [{name: np.full(24, LOW, np.float32) for name in ("start_logits", "end_logits")} for _ in rows]
    for name, target in (("start_logits", "start_positions"), ("end_logits", "end_positions")):
        found[number][name][int(rows[number][target])] = 5.0
    return found


def test_offsets_are_those_of_the_ids(tmp_path):
    tokenizer = real_tokenizer()
    for text in ("", "a ﬁ½ x  y", "Éa\u200b你"):
        ids, offsets = tokenizer.encode_with_offsets(text)
        assert ids == tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert len(offsets) == len(ids) and all(0 <= begin <= end <= len(text) for begin, end in offsets)
    with pytest.raises(ValueError, match="text"):
        tokenizer.encode_with_offsets(3)


@pytest.mark.real_data
@pytest.mark.parametrize("path", ["xquad/zh", "xquad/ar", "tydiqa/sw", "mlqa/es", "mlqa/zh"])
def test_gold_spans_of_real_questions_give_the_answers_back(tmp_path, path):
    (file,) = list((REAL_DATA / path).glob("*.json"))[:1]
    everything = readers.read_squad(file)
    contexts = sorted({question["context"] for question in everything})
    train_vocabulary(iter(contexts), tmp_path / "v.model", vocab_size=4000, character_coverage=1.0)
    questions = everything[:150]
    task = _task(
        RemBertTokenizer(tmp_path / "v.model"),
        max_length=384,
        doc_stride=128,
        max_query_length=64,
        max_answer_length=300,
    )
    task.check_examples(questions)
    found = []
    for question in questions:
        rows = task.rows(question)
        learnt = [number for number, row in enumerate(rows) if row["start_positions"] > 0]
        outputs = [{n: np.full(384, LOW, np.float32) for n in ("start_logits", "end_logits")} for _ in rows]
        for name, target in (("start_logits", "start_positions"), ("end_logits", "end_positions")):
            outputs[learnt[0]][name][int(rows[learnt[0]][target])] = 5.0
        found.append(task.merge(question, rows, outputs))
    metrics = task.metrics(questions, found, path[-2:])
    assert metrics["f1"] > 0.9, metrics


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"answers": [{"text": "99", "answer_start": 0}]},
            r"x\.jsonl:3: the context has '10' at 0, expected the answer '99'",
        ),
        ({"answers": [{"text": "", "answer_start": 0}]}, r"expected the answer ''"),
        ({"answers": []}, r"x\.jsonl:3: a question without an answer; set task\.options\.null_answers"),
        ({"id": 5}, r"x\.jsonl:3: no string under 'id'"),
    ],
)
def test_wrong_questions_are_named_before_training(changes, message):
    with pytest.raises(TaskError, match=message):
        _task().check_examples([_example(name="other"), {**_example(), **changes}])


def test_an_id_that_stands_there_twice_is_named():
    with pytest.raises(TaskError, match=r"x\.jsonl:3: id 'q' is that of x\.jsonl:3 already"):
        _task().check_examples([_example(), _example()])


def test_answers_may_be_as_tfds_has_them():
    example = _example() | {"answers": sources.to_python({"text": np.array([b"13 14"]), "answer_start": np.array([9])})}
    assert _targets(_task().rows(example))[0] == (7, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"doc_stride": 6}, r"doc_stride=6: a window has 5 tokens \(max_length=10 less max_query_length=2 and 3\)"),
        ({"n_best": 0}, "n_best=0: expected at least 1"),
        ({"normalisation": "x"}, "^task.options.normalisation: found 'x', expected one of 'squad', 'mlqa'"),
    ],
)
def test_senseless_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        _task(**changes)
