"""Normalisation, exact match and F1 of answers: vectors worked by hand for each rule and language."""

import pytest

from rembert_jax.xtreme import answers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat, a dog!", "cat dog"),
        ("theatre an-other", "theatre another"),  # Punctuation goes first, so "an-other" holds no article any more.
        ("«Der Hund»", "«der hund»"),  # Only ASCII punctuation, only English articles, in every language.
        ("İstanbul", "i̇stanbul"),
        ("...", ""),
    ],
)
def test_squad_normalises_every_language_as_english(text, expected):
    assert answers.normalise_squad(text) == expected
    assert answers.normaliser("xquad", "de")(text) == answers.normaliser("tydiqa", "ko")(text) == expected


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "“The” Cat’s a dog—an owl", "cats dogan owl"),
        ("es", "La casa, el perro y los gatos", "casa perro y gatos"),
        ("de", "Der Hund und die Katze eines Mannes", "hund und katze mannes"),
        ("vi", "Những con mèo của tôi là", "con mèo tôi"),
        ("hi", "द बिल्ली।", "द बिल्ली"),  # No articles; the danda is punctuation.
        ("ar", "الكتاب في البيت", "كتاب في بيت"),
        ("ar", "بالكتاب", "ب كتاب"),  # The official pattern cuts the article out of the middle of a word too.
        ("zh", "北京，2008年 Olympic", "北 京 2008 年 olympic"),
        ("zh", "第29届奥运会", "第 29 届 奥 运 会"),
    ],
)
def test_mlqa_normalises_by_language(language, text, expected):
    assert answers.normaliser("mlqa", language)(text) == expected


@pytest.mark.parametrize(
    ("predicted", "gold", "expected"),
    [
        ("a b c", "b c d", 2 / 3),
        ("a a b", "a", 2 * (1 / 3) / (1 / 3 + 1)),  # Each token counts as often as both have it.
        ("x", "y", 0.0),
        ("", "", 0.0),  # As officially: nothing in common, though it is an exact match.
        ("", "a", 0.0),
    ],
)
def test_overlap_worked_by_hand(predicted, gold, expected):
    assert answers.f1(predicted, gold) == pytest.approx(expected)


def test_the_best_of_the_gold_answers_counts():
    assert answers.score_answer("the big cat", ["a dog", "big cat"], answers.normalise_squad) == (1.0, 1.0)
    exact, overlap = answers.score_answer("big", ["dog", "the big cat"], answers.normalise_squad)
    assert (exact, overlap) == (0.0, pytest.approx(2 / 3))
    assert answers.score_answer("...", ["the"], answers.normalise_squad) == (1.0, 0.0)


def test_questions_without_prediction_count_as_wrong():
    gold = {"1": ["cat"], "2": ["dog"], "3": ["a big owl"]}
    total = answers.counts(gold, {"1": "Cat", "3": "owl"}, answers.normalise_squad).sum(0)
    found = {name: float(value) for name, value in answers.metrics(total).items()}
    assert found == pytest.approx({"exact_match": 1 / 3, "f1": (1 + 2 / 3) / 3})


def test_chinese_is_matched_character_by_character_in_mlqa_only():
    mlqa, xquad = answers.normaliser("mlqa", "zh"), answers.normaliser("xquad", "zh")
    assert answers.score_answer("北京市", ["北京"], mlqa) == (0.0, pytest.approx(0.8))
    assert answers.score_answer("北京市", ["北京"], xquad) == (0.0, 0.0)
