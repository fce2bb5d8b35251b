"""Labels of the artificial tasks: they say what the grammar says, and cannot be told without the context."""

from collections import Counter

import pytest

from rembert_jax.data import synthetic_tasks
from rembert_jax.data.synthetic import split_of
from rembert_jax.data.synthetic_world import LANGUAGES, language, world

COUNT = 300


def examples(make, code="qaa", split="train", count=COUNT):
    return [make(code, split, index) for index in range(count)]


def content(sentence, code):
    """The concepts that a sentence speaks of, of suffixing and bare forms."""
    tongue = language(code, 0)
    stems = {stem: index for index, pair in tongue.synonyms.items() for stem in pair}
    found = []
    for word in sentence.removesuffix(".").split():
        for form in ("", *tongue.affixes.values()):
            stem = word.removesuffix(form) if form else word
            if stem in stems:
                found.append(stems[stem])
                break
    return found


def test_a_claim_follows_contradicts_or_is_about_something_else():
    denial = language("qaa", 0).word("not")[0]
    seen = Counter()
    for one in examples(synthetic_tasks.entailment):
        first, second = one["sentence1"], one["sentence2"]
        same = (denial in first.split()) == (denial in second.split())
        seen[one["label"], same] += 1
        topics = [{world(0).concepts[index].topic for index in content(text, "qaa")} for text in (first, second)]
        if one["label"] == "neutral":
            assert not topics[0] & topics[1], one
        else:
            assert same == (one["label"] == "entailment"), one
            assert topics[0] & topics[1], one
        words = [set(text.removesuffix(".").split()) for text in (first, second)]
        function = {word for word, _ in map(language("qaa", 0).word, ("they", "the", "not"))}
        assert words[0] & words[1] <= function, "no content word in common"
    # Neither the second sentence's denial alone nor the equality alone tells the label.
    assert all(seen[label, equal] > 60 for label, equal in (("entailment", True), ("contradiction", False)))
    assert min(seen["neutral", True], seen["neutral", False]) > 30


def test_what_a_name_is_its_neighbour_tells():
    cities = {city for topic in world(0).cities for city in topic}
    family = {names[1] for topic in world(0).people for names in topic}
    as_family, as_city = Counter(), Counter()
    for code in LANGUAGES:
        for one in examples(synthetic_tasks.entities, code, count=100):
            before = "O"
            for token, tag in zip(one["tokens"], one["tags"], strict=True):
                assert tag != "O" or token not in cities | family, one
                assert not tag.startswith("I-") or before == f"B-{tag[2:]}", one
                as_family[tag] += token in family
                as_city[tag] += token in cities
                before = tag
    assert {tag for tag, count in as_family.items() if count} == {"I-PER", "B-ORG"}
    assert {tag for tag, count in as_city.items() if count} == {"B-LOC", "I-ORG"}
    assert min(as_family["I-PER"], as_family["B-ORG"], as_city["B-LOC"], as_city["I-ORG"]) > 60


@pytest.mark.parametrize("code", LANGUAGES)
def test_an_answer_stands_in_its_text_behind_what_is_asked_for(code):
    kinds = Counter()
    for one in examples(synthetic_tasks.question, code, count=100):
        (answer,) = one["answers"]
        start = answer["answer_start"]
        assert one["context"][start : start + len(answer["text"])] == answer["text"]
        sentences = [set(sentence.split()) for sentence in one["context"].removesuffix(".").split(". ")]
        asked = set(one["question"].split())
        matching = [words for words in sentences if asked <= words]
        assert len(matching) == 1 and answer["text"] in matching[0], one
        kinds[answer["text"].isdecimal()] += 1
    assert min(kinds.values()) > 20


def test_the_same_questions_are_answered_otherwise_in_other_texts():
    answers = {}
    for one in examples(synthetic_tasks.question, count=600):
        answers.setdefault(one["question"], set()).add(one["answers"][0]["text"])
    asked_for_prices = [found for found in answers.values() if all(text.isdecimal() for text in found)]
    assert len(asked_for_prices) == 18 and min(map(len, asked_for_prices)) > 5


def test_splits_share_nothing_and_all_is_a_function_of_its_arguments():
    for make, key in ((synthetic_tasks.entailment, "sentence1"), (synthetic_tasks.question, "context")):
        assert examples(make, count=20) == examples(make, count=20)
        for split in ("train", "validation", "test"):
            assert {split_of(one[key]) for one in examples(make, split=split, count=20)} == {split}


def test_corpora_hold_each_pair_once_and_nothing_else_together():
    english, others = [f"e{number}" for number in range(10)], [f"o{number}" for number in range(10)]
    sources, targets = synthetic_tasks.corpora(english, others, 4, seed=0)
    assert len(sources) == len(targets) == 7
    by_id = {record["id"]: record["text"][1:] for record in sources}
    pairs = [(by_id[name], record["text"][1:]) for record in targets for name in record["translations"]]
    assert sorted(pairs) == [(str(number), str(number)) for number in range(4)]
    singles = [{record["text"][1:] for record in side} - {one for one, _ in pairs} for side in (sources, targets)]
    assert singles == [{"4", "6", "8"}, {"5", "7", "9"}]
